"""Error answers, classified: the table most providers share, and what they add to it.

Statuses and their meaning: Mistral's error glossary and captured bodies, OpenAI's error reference.
An error status is not billed by either, but a timeout on the way says nothing of what was done.
"""

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

from windvane.core.faults import Fault, FaultKind, Retry, Source
from windvane.providers.provider import Headers
from windvane.wire.errors import UpstreamError, read_error

RETRY_AFTER_MAX_S = 3_600.0
"""A longer Retry-After is not a pause but a refusal."""

_Row = tuple[FaultKind, Source, Retry, int]

_BY_STATUS: dict[int, _Row] = {
    # status: kind, whose fault, what helps, what our caller is told
    400: (FaultKind.INVALID_REQUEST, Source.CLIENT, Retry.NEVER, 400),
    401: (FaultKind.FORBIDDEN, Source.UPSTREAM, Retry.OTHER, 502),
    402: (FaultKind.PAYMENT_REQUIRED, Source.UPSTREAM, Retry.OTHER, 402),
    403: (FaultKind.FORBIDDEN, Source.UPSTREAM, Retry.OTHER, 403),
    404: (FaultKind.NOT_FOUND, Source.UPSTREAM, Retry.OTHER, 404),
    408: (FaultKind.TIMEOUT, Source.UPSTREAM, Retry.SAME, 504),
    409: (FaultKind.UPSTREAM_ERROR, Source.UPSTREAM, Retry.SAME, 502),
    413: (FaultKind.TOO_LARGE, Source.CLIENT, Retry.NEVER, 413),
    422: (FaultKind.INVALID_REQUEST, Source.CLIENT, Retry.NEVER, 422),
    429: (FaultKind.RATE_LIMITED, Source.UPSTREAM, Retry.SAME, 429),
    500: (FaultKind.UPSTREAM_ERROR, Source.UPSTREAM, Retry.SAME, 502),
    502: (FaultKind.UPSTREAM_ERROR, Source.UPSTREAM, Retry.SAME, 502),
    503: (FaultKind.OVERLOADED, Source.UPSTREAM, Retry.SAME, 503),
    504: (FaultKind.TIMEOUT, Source.UPSTREAM, Retry.SAME, 504),
    529: (FaultKind.OVERLOADED, Source.UPSTREAM, Retry.SAME, 503),
}

_MAYBE_BILLED = frozenset((408, 504))
"""Somebody in between gave up waiting: the model may have answered, and billed."""

_BY_CODE: dict[str, _Row] = {
    "1500": (FaultKind.NOT_FOUND, Source.UPSTREAM, Retry.OTHER, 404),
    "invalid_model": (FaultKind.NOT_FOUND, Source.UPSTREAM, Retry.OTHER, 404),
    "model_not_found": (FaultKind.NOT_FOUND, Source.UPSTREAM, Retry.OTHER, 404),
    "3051": (FaultKind.CONTEXT_TOO_LONG, Source.CLIENT, Retry.OTHER, 400),
    "context_length_exceeded": (FaultKind.CONTEXT_TOO_LONG, Source.CLIENT, Retry.OTHER, 400),
    "content_filter": (FaultKind.CONTENT_FILTERED, Source.CLIENT, Retry.NEVER, 400),
    "content_policy_violation": (FaultKind.CONTENT_FILTERED, Source.CLIENT, Retry.NEVER, 400),
    "insufficient_quota": (FaultKind.RATE_LIMITED, Source.UPSTREAM, Retry.OTHER, 429),
    "3505": (FaultKind.OVERLOADED, Source.UPSTREAM, Retry.OTHER, 503),
    "service_tier_capacity_exceeded": (FaultKind.OVERLOADED, Source.UPSTREAM, Retry.OTHER, 503),
}
"""Codes and types that say more than their status."""


def classify(status: int, headers: Headers, body: bytes, now_s: float) -> Fault:
    """The fault an error answer stands for. `now_s` is UTC, for dates in Retry-After."""
    said = read_error(body)
    kind, source, retry, shown = _row(status, said)
    return Fault(
        kind=kind,
        source=source,
        retry=retry,
        status=shown,
        message=f"the provider answered {status}: {_shown(status, said)}",
        code=_code(status, said),
        param=said.param,
        retry_after_s=retry_after_s(headers, now_s),
        upstream_status=status,
        billed=status in _MAYBE_BILLED or 520 <= status < 529,
    )


def _shown(status: int, said: UpstreamError) -> str:
    """The provider's words, but for those about our credential, which may quote it."""
    return "it refused the gateway's credential" if status == 401 else said.message


def _row(status: int, said: UpstreamError) -> _Row:
    for name in (said.code, said.type):
        if name is not None and name in _BY_CODE:
            return _BY_CODE[name]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return FaultKind.INVALID_REQUEST, Source.CLIENT, Retry.NEVER, 400
    return FaultKind.UPSTREAM_ERROR, Source.UPSTREAM, Retry.OTHER, 502


def _code(status: int, said: UpstreamError) -> str | None:
    if status == 401:
        return "upstream_credential_refused"
    return said.code


def retry_after_s(headers: Headers, now_s: float) -> float | None:
    """What the provider asks us to wait: `retry-after-ms`, then `Retry-After` as seconds or date.

    Nonsense (negative, not a number, more than an hour) counts as silence.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _sane(milliseconds / 1000)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _seconds(text)
    if seconds is not None:
        return _sane(seconds)
    try:
        day = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    if day.tzinfo is None:  # RFC 9110: a date without a zone is UTC
        day = day.replace(tzinfo=UTC)
    return _sane(day.timestamp() - now_s)


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _sane(seconds: float) -> float | None:
    if not math.isfinite(seconds) or not 0 <= seconds <= RETRY_AFTER_MAX_S:
        return None
    return seconds
