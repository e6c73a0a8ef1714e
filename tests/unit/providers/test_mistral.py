"""Mistral's error answers, as published in its documentation or captured in public reports."""

from typing import Any

import msgspec
import pytest

from windvane.core import breaker
from windvane.core.faults import Fault
from windvane.providers.mistral import PROVIDER

Row = tuple[int, Any, dict[str, str], tuple[str, str, int], str]


def error(
    message: Any, type_: str | None = None, code: str | int | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "object": "error",
        "message": message,
        "type": type_,
        "param": None,
        "code": code,
        **more,
    }


UNPROCESSABLE = {
    "type": "extra_forbidden",
    "loc": ["body", "max_completion_tokens"],
    "msg": "Extra inputs are not permitted",
    "input": 32000,
}
RATE = error("Rate limit exceeded", "rate_limited", "1300", raw_status_code=429)
CAPACITY = error(
    "Service tier capacity exceeded for this model.", "service_tier_capacity_exceeded", "3505"
)
SERVER = error("...", "server_error")
GUARDRAIL = {
    "error": {"message": "Content blocked by guardrail", "status": 403},
    "guardrails": {"results": {}},
}
GUARDRAIL_BROKEN = {
    "object": "Error",
    "message": "Request blocked due to error in guardrail evaluation and block_on_error is set to True.",
    "type": "invalid_request_error",
    "code": 3201,
}
NO_ALLOWANCE = {"x-ratelimit-limit-req-minute": "0", "x-ratelimit-remaining-req-minute": "0"}
NO_MONTH = {"x-ratelimit-remaining-tokens-month": "0"}
LEFT = {"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"}

ROWS: list[Row] = [
    (
        400,
        error("Invalid model: X", "invalid_model", "1500"),
        {},
        ("not_found", "other", 404),
        "Invalid model: X",
    ),
    (
        400,
        error(
            "Prompt contains 9 tokens ..., too large for model with 8 maximum context length",
            "invalid_request_prompt",
            "3051",
        ),
        {},
        ("context_too_long", "other", 400),
        "too large for model",
    ),
    (
        400,
        error(
            "Tool call id was X but must be a-z, A-Z, 0-9, with a length of 9.",
            "invalid_function_call",
            "3280",
        ),
        {},
        ("invalid_request", "never", 400),
        "length of 9",
    ),
    (
        400,
        error(
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
            "invalid_request_message_order",
            "3230",
        ),
        {},
        ("invalid_request", "never", 400),
        "Expected last role",
    ),
    (401, {"detail": "Unauthorized"}, {}, ("forbidden", "other", 502), "credential"),
    (
        401,
        {"message": "Unauthorized", "request_id": "0f"},
        {},
        ("forbidden", "other", 502),
        "it refused the gateway's credential",
    ),
    (402, None, {}, ("payment_required", "other", 402), "not JSON"),
    (403, GUARDRAIL, {}, ("content_filtered", "never", 403), "Content blocked by guardrail"),
    (403, GUARDRAIL_BROKEN, {}, ("content_filtered", "never", 403), "guardrail evaluation"),
    (403, error("Model not in your plan"), {}, ("forbidden", "other", 403), "not in your plan"),
    (404, None, {}, ("not_found", "other", 404), "not JSON"),
    (
        422,
        {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]},
        {},
        ("invalid_request", "never", 422),
        "messages: Field required",
    ),
    (
        422,
        error({"detail": [UNPROCESSABLE]}, "invalid_request_error"),
        {},
        ("invalid_request", "never", 422),
        "max_completion_tokens: Extra inputs are not permitted",
    ),
    (
        422,
        {
            "object": "Error",
            "detail": [{**UNPROCESSABLE, "loc": ["body", "tools"], "input": []}],
            "message": [{"type": "extra_forbidden"}],
            "type": "invalid_request_error",
            "code": 3001,
        },
        {},
        ("invalid_request", "never", 422),
        "tools: Extra inputs are not permitted",
    ),
    (429, RATE, {}, ("rate_limited", "same", 429), "Rate limit exceeded"),
    (429, RATE, LEFT, ("rate_limited", "same", 429), "Rate limit exceeded"),
    (429, RATE, NO_ALLOWANCE, ("rate_limited", "other", 429), "no allowance"),
    (
        429,
        {"object": "error", "type": "rate_limited", "code": "1300"},
        NO_MONTH,
        ("rate_limited", "other", 429),
        "month",
    ),
    (429, CAPACITY, {}, ("overloaded", "other", 503), "capacity exceeded"),
    (503, CAPACITY, {}, ("overloaded", "other", 503), "capacity exceeded"),
    (500, SERVER, {}, ("upstream_error", "same", 502), "..."),
    (502, SERVER, {}, ("upstream_error", "same", 502), "..."),
    (503, SERVER, {}, ("overloaded", "same", 503), "..."),
    (504, SERVER, {}, ("timeout", "same", 504), "..."),
]


def fault_of(status: int, body: Any, headers: dict[str, str]) -> Fault:
    return PROVIDER.classify(
        status, headers, b"<html>" if body is None else msgspec.json.encode(body), 0.0
    )


@pytest.mark.parametrize(("status", "body", "headers", "expected", "words"), ROWS)
def test_every_known_answer(
    status: int, body: Any, headers: dict[str, str], expected: tuple[str, str, int], words: str
) -> None:
    fault = fault_of(status, body, headers)
    assert (fault.kind.value, fault.retry.value, fault.status) == expected
    assert words in fault.message
    assert fault.upstream_status == status


@pytest.mark.parametrize("headers", [NO_ALLOWANCE, NO_MONTH])
def test_a_limit_that_no_wait_mends_is_not_waited_for(headers: dict[str, str]) -> None:
    fault = fault_of(429, RATE, {**headers, "retry-after": "5"})
    assert (fault.retry_after_s, fault.code) == (None, "insufficient_quota")
    assert fault_of(429, RATE, {**LEFT, "retry-after": "5"}).retry_after_s == 5.0


@pytest.mark.parametrize("body", [GUARDRAIL, GUARDRAIL_BROKEN])
def test_what_a_guardrail_blocks_says_nothing_of_the_providers_health(body: Any) -> None:
    assert breaker.failed(breaker.CLOSED, fault_of(403, body, {}), 0.0) is breaker.CLOSED
