"""How loud a request is in the log: what failed is a warning, what callers wish or do wrong is not."""

import logging

import msgspec
import pytest

from windvane.core.events import ExchangeEnded
from windvane.telemetry.logs import RequestLog

ENDED = ExchangeEnded(
    request_id="a", model="m", provider="p", route="auto", status=200, reason="r", key_id="k",
    requested_model="auto", attempts=1, models_tried=("m",), is_stream=False, cache_status="miss",
    duration_s=1.0, overhead_s=0.1, first_chunk_s=None, cost_nano_usd=1, fault=None, at_us=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "fault", "level"),
    [
        (200, None, logging.DEBUG),
        (499, None, logging.DEBUG),
        (429, "rate_limited", logging.DEBUG),
        (429, "budget_exceeded", logging.DEBUG),
        (400, "invalid_request", logging.INFO),
        (404, "not_found", logging.INFO),
        (504, "not_found", logging.INFO),  # only-if-cached, and nothing is stored
        (504, "timeout", logging.WARNING),
        (502, "forbidden", logging.WARNING),
        (503, "overloaded", logging.WARNING),
        (500, "internal", logging.WARNING),
    ],
)
def test_a_request_is_logged_by_whose_doing_its_end_was(
    caplog: pytest.LogCaptureFixture, status: int, fault: str | None, level: int
) -> None:
    caplog.set_level(logging.DEBUG)
    RequestLog().on(msgspec.structs.replace(ENDED, status=status, fault=fault))
    assert [record.levelno for record in caplog.records] == [level]
