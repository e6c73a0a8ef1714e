"""What the control plane answers, as pydantic models, for validation and for the documentation."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field


class Health(BaseModel):
    status: str = Field(description="`ok`, or `draining` while the server stops")
    version: str
    models: int = Field(description="model names that can be asked for")
    routes: int


class Alive(BaseModel):
    status: str = "ok"


class ProviderStatus(BaseModel):
    name: str
    kind: str
    configured: bool
    healthy: bool
    api_base: str = Field(description="its address as configured; never a credential")
    deployments: list["DeploymentStatus"]


class DeploymentStatus(BaseModel):
    """One deployment that has been asked at least once."""

    id: str
    model: str
    breaker: str
    requests: int
    failures: int
    last_error: str | None
    last_error_at_us: int | None


class AttemptRecord(BaseModel):
    attempt_id: str
    number: int
    provider: str
    model: str
    resolved_model: str
    outcome: str
    status: int | None
    certainty: str = Field(description="exact, estimated or assumed")
    cost_nano_usd: int | None = Field(description="null when the price is unknown")
    hold_nano_usd: int | None = Field(description="the worst case that was held for it")
    saved_nano_usd: int | None = Field(description="what a hit or a join would have cost")
    saved_tokens: int | None = Field(description="what it would have used")
    saved_us: int | None = Field(description="how long its caller did not wait")
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    started_at_us: int
    latency_us: int | None
    first_chunk_us: int | None
    upstream_request_id: str | None


class RequestRecord(BaseModel):
    """A request on the ledger: its attempts, oldest first. Where nobody was asked, one that has no
    provider says what became of the request."""

    request_id: str
    client_request_id: str | None
    key: str
    team: str | None
    user: str | None
    tags: list[str]
    route: str | None
    requested_model: str
    reason: str
    stream: bool
    cost_nano_usd: int | None
    cost_usd: str | None
    hold_nano_usd: int | None = Field(description="the worst cases of all attempts together")
    saved_nano_usd: int
    cache: str = Field(description="what the cache did for it: hit, joined, miss or bypass")
    attempts: list[AttemptRecord]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    error: ErrorBody
    request_id: str


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, as a route documents them."""
    return {
        status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase}
        for status in statuses
    }
