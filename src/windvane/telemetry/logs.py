"""Logs: one line an event, of declared fields only, so that no prompt and no secret can be in one.

A library must not set up logging; `configure` is called by `windvane serve` alone.
"""

import logging
import sys
from http import HTTPStatus

import msgspec

from windvane.core.events import Event, ExchangeEnded
from windvane.core.faults import FaultKind
from windvane.ports.observer import Kinds

_log = logging.getLogger("windvane.requests")


class RequestLog:
    """Observes the engine: failures as warnings, what callers did wrong (or wished for: 504 when no
    answer is stored) as information, and the rest at level debug, refusals by a limit among it: a
    caller in a loop must not fill the log.

    A line for each good request would cost more than relaying it; the ledger has them all.
    """

    hears: Kinds = frozenset((ExchangeEnded,))

    def on(self, event: Event) -> None:
        if not isinstance(event, ExchangeEnded):
            return
        if event.fault is None and not _log.isEnabledFor(logging.DEBUG):
            return
        level = _level(event)
        if _log.isEnabledFor(level):
            what = "refresh for" if event.is_refresh else "request"
            _log.log(level, what, extra={"event": event})


def _level(event: ExchangeEnded) -> int:
    if event.fault is None or event.status == HTTPStatus.TOO_MANY_REQUESTS:
        return logging.DEBUG
    is_callers = 400 <= event.status < 500 or event.fault == FaultKind.NOT_FOUND
    return logging.INFO if is_callers else logging.WARNING


class TextFormatter(logging.Formatter):
    """For people: time, level, message, and a request's main facts."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        event = getattr(record, "event", None)
        if not isinstance(event, ExchangeEnded):
            return _one_line(line)
        fault = f" {event.fault}" if event.fault else ""
        return _one_line(
            f"{line} {event.request_id} {event.requested_model} -> {event.model or '-'}"
            f" {event.status}{fault} {event.duration_s * 1000:.0f}ms ({event.reason or '-'})"
        )


class JsonFormatter(logging.Formatter):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if isinstance(event, ExchangeEnded):
            said |= msgspec.structs.asdict(event)
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def _one_line(text: str) -> str:
    """Without control characters: a caller's model name is in it."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def configure(level: str, format_name: str) -> None:
    """Send windvane's and the server's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
