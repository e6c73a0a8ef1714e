"""Error answers classified: every status, code and header of the shared table."""

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest

from windvane.core.faults import Fault
from windvane.providers.fault_map import RETRY_AFTER_MAX_S, classify, retry_after_s

NOW_S = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC).timestamp()


def fault_of(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Fault:
    return classify(
        status, headers or {}, b"" if body is None else msgspec.json.encode(body), NOW_S
    )


SAID_OF_OURS = {401: "it refused the gateway's credential"}
"""The provider's own words about our credential may quote it."""
MAYBE_BILLED = (408, 504, 520)
"""Somebody on the way gave up; what the model did, and billed, is not known."""


def summary(fault: Fault) -> tuple[str, str, str, int]:
    return fault.kind.value, fault.source.value, fault.retry.value, fault.status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, ("invalid_request", "client", "never", 400)),
        (401, ("forbidden", "upstream", "other", 502)),
        (402, ("payment_required", "upstream", "other", 402)),
        (403, ("forbidden", "upstream", "other", 403)),
        (404, ("not_found", "upstream", "other", 404)),
        (405, ("invalid_request", "client", "never", 400)),
        (408, ("timeout", "upstream", "same", 504)),
        (409, ("upstream_error", "upstream", "same", 502)),
        (413, ("too_large", "client", "never", 413)),
        (415, ("invalid_request", "client", "never", 400)),
        (422, ("invalid_request", "client", "never", 422)),
        (429, ("rate_limited", "upstream", "same", 429)),
        (451, ("invalid_request", "client", "never", 400)),
        (500, ("upstream_error", "upstream", "same", 502)),
        (501, ("upstream_error", "upstream", "other", 502)),
        (502, ("upstream_error", "upstream", "same", 502)),
        (503, ("overloaded", "upstream", "same", 503)),
        (504, ("timeout", "upstream", "same", 504)),
        (520, ("upstream_error", "upstream", "other", 502)),
        (529, ("overloaded", "upstream", "same", 503)),
        (304, ("upstream_error", "upstream", "other", 502)),
    ],
)
def test_a_status_alone(status: int, expected: tuple[str, str, str, int]) -> None:
    fault = fault_of(status)
    assert summary(fault) == expected
    said = "the provider's answer is not JSON"
    assert fault.message == f"the provider answered {status}: {SAID_OF_OURS.get(status, said)}"
    assert fault.upstream_status == status
    assert fault.billed is (status in MAYBE_BILLED)


def openai(code: str | None, type_: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": "m", "type": type_, "param": "p", "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, openai("model_not_found"), ("not_found", "upstream", "other", 404)),
        (400, openai("context_length_exceeded"), ("context_too_long", "client", "other", 400)),
        (400, openai("content_filter"), ("content_filtered", "client", "never", 400)),
        (400, openai("content_policy_violation"), ("content_filtered", "client", "never", 400)),
        (429, openai("rate_limit_exceeded", "requests"), ("rate_limited", "upstream", "same", 429)),
        (
            429,
            openai("insufficient_quota", "insufficient_quota"),
            ("rate_limited", "upstream", "other", 429),
        ),
        (429, openai(None, "insufficient_quota"), ("rate_limited", "upstream", "other", 429)),
        (401, openai("invalid_api_key"), ("forbidden", "upstream", "other", 502)),
        (500, openai(None, "server_error"), ("upstream_error", "upstream", "same", 502)),
    ],
)
def test_a_code_says_more_than_its_status(
    status: int, body: Any, expected: tuple[str, str, str, int]
) -> None:
    fault = fault_of(status, body)
    assert summary(fault) == expected
    assert fault.message == f"the provider answered {status}: {SAID_OF_OURS.get(status, 'm')}"
    assert fault.param == "p"


def test_a_refused_credential_of_ours_is_not_told_as_the_callers() -> None:
    assert fault_of(401, openai("invalid_api_key")).code == "upstream_credential_refused"
    assert fault_of(404, openai("model_not_found")).code == "model_not_found"


def http_date(offset_s: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW_S + offset_s, UTC), usegmt=True)


RETRY_AFTER: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "5"}, 5.0),
    ({"retry-after": " 5 "}, 5.0),
    ({"retry-after": "0.25"}, 0.25),
    ({"retry-after": "3600"}, RETRY_AFTER_MAX_S),
    ({"retry-after": "3601"}, None),
    ({"retry-after": "-1"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "9" * 400}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "6m0s"}, None),
    ({"retry-after": http_date(30)}, 30.0),
    ({"retry-after": http_date(-30)}, None),
    ({"retry-after": http_date(7200)}, None),
    ({"retry-after": "Fri, 20 Nov 2026 13:00:30 +0100"}, 30.0),
    ({"retry-after": "Fri, 20 Nov 2026 12:00:30 -0000"}, 30.0),
    ({"retry-after": "Fri, 20 Nov 2026 12:00:30"}, 30.0),
    ({"retry-after": "Fri Nov 20 12:00:30 2026"}, 30.0),
    ({"retry-after": "Fri, 99 Nov 2026 12:00:30 GMT"}, None),
    ({"retry-after": "Mon, 01 Jan 0001 00:00:00 GMT"}, None),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
    ({"retry-after-ms": "inf"}, None),
    ({"retry-after-ms": "3600001"}, None),
]


@pytest.mark.parametrize(("headers", "wait_s"), RETRY_AFTER)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_retry_after_in_all_its_forms_wherever_the_gateway_stands(
    headers: dict[str, str], wait_s: float | None, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after_s(headers, NOW_S) == wait_s
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_wait_reaches_the_fault() -> None:
    assert fault_of(429, headers={"retry-after": "7"}).retry_after_s == 7.0
    assert fault_of(503, headers={"retry-after-ms": "70"}).retry_after_s == 0.07
