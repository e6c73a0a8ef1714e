"""Logs: one line an event, of declared fields only, so that no prompt and no secret can be in one.

A library must not set up logging; `configure` is called by `windvane serve` alone.
"""

import logging
import re
import sys
from http import HTTPStatus

import msgspec

from windvane.core.events import Event, ExchangeEnded, RequestEnded
from windvane.core.faults import FaultKind
from windvane.ports.observer import Kinds, Observer

_log = logging.getLogger("windvane.requests")


LINES_MAX = 20
"""Of requests that callers got wrong, or for which nobody was asked, so many a minute are told, for each
status."""
MINUTE_US = 60_000_000

_CALLERS = frozenset((FaultKind.NOT_FOUND.value, FaultKind.INVALID_REQUEST.value))
"""Faults that are a caller's doing, whatever their status: nothing stored, a request that came twice."""


class RequestLog(Observer):
    """Observes the engine: failures as warnings, what callers did wrong (or wished for: 504 when no
    answer is stored) as information, and the rest at level debug, refusals by a limit among it.

    A caller in a loop must not fill the log, nor must a disk that is full already: beyond `LINES_MAX` a
    minute of one status, what callers do wrong, and what is refused before anybody was asked, goes to level
    debug as well, and when the minute is over the next line tells how many there were.

    A line for each good request would cost more than relaying it; the ledger has them all.
    """

    hears: Kinds = frozenset((ExchangeEnded, RequestEnded))

    def __init__(self) -> None:
        self._minute_began_us = 0
        self._wrong: dict[int, int] = {}
        """What callers got wrong since then, or nobody was asked for, by status."""

    def on(self, event: Event) -> None:
        if not isinstance(event, (ExchangeEnded, RequestEnded)):
            return
        if event.fault is None and not _log.isEnabledFor(logging.DEBUG):
            return
        level = _level(event.status, event.fault)
        is_unasked = isinstance(event, ExchangeEnded) and not event.attempts
        is_of_many = level == logging.INFO or (level == logging.WARNING and is_unasked)
        if is_of_many and self._count(event.status, event.at_us) > LINES_MAX:
            level = logging.DEBUG
        if _log.isEnabledFor(level):
            is_refresh = isinstance(event, ExchangeEnded) and event.is_refresh
            what = "refresh for" if is_refresh else "request"
            _log.log(level, what, extra={"event": event})

    def _count(self, status: int, at_us: int) -> int:
        """Count one more of these; return how many of its status there were in this minute.

        A minute begins with the first after the last one, and ends when the wall clock is set.
        """
        if not 0 <= at_us - self._minute_began_us < MINUTE_US:
            for before, count in self._wrong.items():
                if count > LINES_MAX:
                    level = logging.INFO if before < 500 else logging.WARNING
                    _log.log(level, "%d more requests ended with %d", count - LINES_MAX, before)
            self._minute_began_us = at_us
            self._wrong.clear()
        count = self._wrong[status] = self._wrong.get(status, 0) + 1
        return count


def _level(status: int, fault: str | None) -> int:
    if fault is None or status == HTTPStatus.TOO_MANY_REQUESTS:
        return logging.DEBUG
    return logging.INFO if 400 <= status < 500 or fault in _CALLERS else logging.WARNING


class TextFormatter(logging.Formatter):
    """For people: time, level, message, and a request's main facts."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        event = getattr(record, "event", None)
        if not isinstance(event, (ExchangeEnded, RequestEnded)):
            return _one_line(line)
        fault = f" {event.fault}" if event.fault else ""
        if isinstance(event, RequestEnded):
            return _one_line(
                f"{line} {event.request_id} {event.endpoint} {event.status}{fault}"
                f" ({event.code or '-'})"
            )
        return _one_line(
            f"{line} {event.request_id} {_no_key(event.requested_model)} -> {event.model or '-'}"
            f" {event.status}{fault} {event.duration_s * 1000:.0f}ms ({event.reason or '-'})"
        )


_KEY = re.compile(r"(?:sk-wv-|(?<![^\W_])sk-)[\w-]{8,}")
"""Of others' not in the midst of a word: `flask-embedding-v2` is a name."""


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
        if isinstance(event, (ExchangeEnded, RequestEnded)):
            said |= msgspec.structs.asdict(event)
        if isinstance(event, ExchangeEnded):
            said["requested_model"] = _no_key(event.requested_model)
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def _no_key(name: str) -> str:
    """A model's name as a caller has said it, unless it is a key that was pasted in its place."""
    return _KEY.sub("sk-***", name)


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
