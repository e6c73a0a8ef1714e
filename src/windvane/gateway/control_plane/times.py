"""Moments as operators write and read them: RFC 3339 texts, in UTC when they are ours."""

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def utc_text(at_us: int) -> str:
    """Microseconds since 1970 as a text."""
    moment = EPOCH + at_us * _US
    return moment.isoformat().replace("+00:00", "Z")


def utc_text_or_none(at_us: int | None) -> str | None:
    return None if at_us is None else utc_text(at_us)


def moment_us(text: str) -> int:
    """A text as microseconds since 1970. Raises ValueError when it is no RFC 3339 moment."""
    if not _MOMENT.fullmatch(text):
        raise ValueError("must be a moment as 2026-12-31T23:59:59Z, with its offset from UTC")
    return (datetime.fromisoformat(text.upper()) - EPOCH) // _US
