"""How loud a request is in the log: what failed is a warning, what callers wish or do wrong is not."""

import logging

import msgspec
import pytest

from windvane.core.events import ExchangeEnded, RequestEnded
from windvane.telemetry.logs import LINES_MAX, MINUTE_US, JsonFormatter, RequestLog, TextFormatter

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


OTHER = RequestEnded(
    request_id="a", endpoint="/v1/models", status=401, fault="unauthenticated",
    code="missing_api_key", at_us=0,
)  # fmt: skip


@pytest.mark.parametrize("event", [OTHER, msgspec.structs.replace(ENDED, status=401, fault="x")])
def test_a_caller_in_a_loop_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, event: ExchangeEnded | RequestEnded
) -> None:
    """Nor does it hide others; and how much was not said is said when the minute is over."""
    caplog.set_level(logging.DEBUG)
    log = RequestLog()
    for number in range(LINES_MAX + 480):
        log.on(msgspec.structs.replace(event, at_us=MINUTE_US + number))
    assert [record.levelno for record in caplog.records] == (
        [logging.INFO] * LINES_MAX + [logging.DEBUG] * 480
    )
    caplog.clear()
    log.on(msgspec.structs.replace(event, status=400, at_us=2 * MINUTE_US - 1))
    log.on(msgspec.structs.replace(event, at_us=2 * MINUTE_US))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "request"),
        (logging.INFO, "480 more requests ended with 401"),
        (logging.INFO, "request"),
    ]


def test_a_full_disk_is_not_filled_by_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What is refused before anybody is asked is told a few times; what a provider did, each time."""
    caplog.set_level(logging.INFO)
    log = RequestLog()
    refused = msgspec.structs.replace(ENDED, status=503, fault="internal", attempts=0)
    for number in range(LINES_MAX + 429):
        log.on(msgspec.structs.replace(refused, at_us=MINUTE_US + number))
    assert len(caplog.records) == LINES_MAX
    for _ in range(LINES_MAX + 1):
        log.on(msgspec.structs.replace(refused, attempts=1, at_us=MINUTE_US + 500))
    assert len(caplog.records) == 2 * LINES_MAX + 1
    caplog.clear()
    log.on(msgspec.structs.replace(refused, at_us=2 * MINUTE_US))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "429 more requests ended with 503"),
        (logging.WARNING, "request"),
    ]


def test_of_what_never_became_an_exchange_a_line_tells_the_endpoint_and_the_code() -> None:
    record = logging.makeLogRecord({"msg": "request", "levelname": "INFO", "event": OTHER})
    line = TextFormatter().format(record)
    assert line.endswith("request a /v1/models 401 unauthenticated (missing_api_key)")
    said = msgspec.json.decode(JsonFormatter().format(record))
    assert said["endpoint"] == "/v1/models" and said["code"] == "missing_api_key"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_key_that_is_pasted_as_a_model_is_not_logged(
    caplog: pytest.LogCaptureFixture, formatter: logging.Formatter
) -> None:
    caplog.set_level(logging.DEBUG)
    event = msgspec.structs.replace(
        ENDED, requested_model="sk-wv-0123456789", status=404, fault="not_found"
    )
    RequestLog().on(event)
    said = formatter.format(caplog.records[0])
    assert "0123456789" not in said and "sk-***" in said


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_name_with_a_word_that_ends_like_a_key_begins_is_logged_whole(
    formatter: logging.Formatter,
) -> None:
    event = msgspec.structs.replace(ENDED, requested_model="flask-embedding-v2")
    record = logging.makeLogRecord({"msg": "request", "levelname": "INFO", "event": event})
    assert "flask-embedding-v2" in formatter.format(record)
