"""`/admin/ledger`: whether the sums that are kept are those of the entries, and making them anew."""

from datetime import timedelta

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from windvane.core.usage_report import Difference
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import Permission, concerns, needs
from windvane.gateway.control_plane.times import EPOCH
from windvane.gateway.control_plane.usage_forms import UsageTotals, sums

DIFFERENCES_MAX = 1_000
"""More are counted, and not told."""
SUBJECT = "usage_daily"
"""How the log calls what is made anew."""


class SumsThatDiffer(BaseModel):
    """One day of one key, team, user, tags, provider, model and route; `""` is none."""

    day: str
    key: str
    team: str
    user: str
    tags: str
    provider: str
    model: str
    route: str
    kept: UsageTotals = Field(description="as it stands, and as reports tell it")
    found: UsageTotals = Field(description="by adding up the entries again")


class Verification(BaseModel):
    agrees: bool = Field(description="the sums are those of the entries")
    differences_total: int
    differences: list[SumsThatDiffer] = Field(description=f"the first {DIFFERENCES_MAX:,}")
    refused_entries: int = Field(
        description="entries that the ledger could not take, in no sum: see set_aside.jsonl"
    )


class Rebuilt(BaseModel):
    mended: int = Field(description="sums that were not those of their entries")


def add_ledger(app: FastAPI, engine: Engine) -> None:
    """The routes."""

    @app.get(
        "/admin/ledger/verification",
        tags=["ledger"],
        summary="Whether the sums are those of the entries: reads the whole ledger",
        openapi_extra=needs(Permission.ADMIN),
        responses=schemas.errors(403, 503),
    )
    async def verify_ledger() -> Verification:
        found = await engine.ledger.verify()
        return Verification(
            agrees=not found,
            differences_total=len(found),
            differences=[_shown(each) for each in found[:DIFFERENCES_MAX]],
            refused_entries=await engine.ledger.refused(),
        )

    @app.post(
        "/admin/ledger/rebuild",
        tags=["ledger"],
        summary="Make the sums anew from the entries",
        openapi_extra=needs(Permission.ADMIN),
        responses=schemas.errors(400, 403, 408, 413, 415, 503),
    )
    async def rebuild_ledger(request: Request) -> Rebuilt:
        concerns(request, SUBJECT)
        found = await engine.ledger.verify()
        await engine.ledger.rebuild()
        return Rebuilt(mended=len(found))


def _shown(difference: Difference) -> SumsThatDiffer:
    day, key, team, user, tags, provider, model, route = difference.place
    return SumsThatDiffer(
        day=(EPOCH + timedelta(days=day)).date().isoformat(),
        key=key,
        team=team,
        user=user,
        tags=tags,
        provider=provider,
        model=model,
        route=route,
        kept=UsageTotals(**sums(difference.kept)),
        found=UsageTotals(**sums(difference.found)),
    )
