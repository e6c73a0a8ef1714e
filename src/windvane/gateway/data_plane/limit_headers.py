"""Headers that tell a caller of limits: its own rates, a wait for the provider's, a shortened answer.

`x-ratelimit-*` come in OpenAI's spelling and in Mistral's: each SDK's users look for their own.
"""

from functools import lru_cache
from math import ceil

import msgspec

from windvane.core.exchange import Exchange
from windvane.core.faults import Fault
from windvane.core.limits import TICKS_PER_UNIT, Left, Share, least
from windvane.gateway.data_plane.asgi import HeaderList

MS_PER_S = 1_000
S_PER_MINUTE = 60
FORMS_MAX = 1_024
"""Limits whose headers are kept written out but for what is left: one for each pair of limits."""
DURATIONS_MAX = 65_536
"""Those up to a minute, by the millisecond."""
_SHORT = [b"%dms" % ms for ms in range(MS_PER_S)]
"""Those below a second. Most are: what is left of a rate is seldom all used."""

_encode = msgspec.json.Encoder().encode
"""It writes an integer at less cost than a form does."""


def _form_of(unit: str, mistral_unit: str, limit: int) -> str:
    """The headers of a rate, but for what is left, when all is free again, and what is left."""
    return (
        f"x-ratelimit-limit-{unit}: {limit}\r\n"
        f"x-ratelimit-limit-{mistral_unit}: {limit}\r\n"
        f"x-ratelimit-remaining-{unit}: %b\r\n"
        f"x-ratelimit-reset-{unit}: %b\r\n"
        f"x-ratelimit-remaining-{mistral_unit}: %b\r\n"
    )


@lru_cache(FORMS_MAX)
def _form(requests: int | None, tokens: int | None) -> bytes:
    """The form of the headers of one rate, or of both: written in one go, for each answer has them."""
    form = ""
    if requests is not None:
        form = _form_of("requests", "req-minute", requests)
    if tokens is not None:
        form += _form_of("tokens", "tokens-minute", tokens)
    return form.encode()


def _rate_lines(requests: Left | None, tokens: Left | None) -> bytes:
    if requests is None or tokens is None:
        one = tokens if requests is None else requests
        if one is None:
            return b""
        limit, left, reset_ms = one
        form = _form(None, limit) if requests is None else _form(limit, None)
        shown = _encode(left)
        return form % (shown, duration(reset_ms), shown)
    limit, left, reset_ms = requests
    tokens_limit, tokens_left, tokens_reset_ms = tokens
    shown, tokens_shown = _encode(left), _encode(tokens_left)
    return _form(limit, tokens_limit) % (
        shown,
        duration(reset_ms),
        shown,
        tokens_shown,
        duration(tokens_reset_ms),
        tokens_shown,
    )


def _lines_of_one_each(requests: Share, tokens: Share) -> bytes:
    """As `_rate_lines` writes what is `least` of one rate of each kind, in half the time: whoever has
    rates mostly has these two, and each of its answers tells of them."""
    bucket, _, _, level = requests
    tokens_bucket, _, _, tokens_level = tokens
    try:
        reset_ms = (level - 1) // bucket.ticks_per_ms + 1
        tokens_reset_ms = (tokens_level - 1) // tokens_bucket.ticks_per_ms + 1
    except ZeroDivisionError:  # it was changed to none meanwhile
        return _rate_lines(least((requests,)), least((tokens,)))
    room, tokens_room = bucket.full - level, tokens_bucket.full - tokens_level
    shown = _encode(room // TICKS_PER_UNIT if room > 0 else 0)
    tokens_shown = _encode(tokens_room // TICKS_PER_UNIT if tokens_room > 0 else 0)
    return _form(bucket.limit, tokens_bucket.limit) % (
        shown,
        _SHORT[reset_ms] if reset_ms < MS_PER_S else _in_seconds(reset_ms),
        shown,
        tokens_shown,
        _SHORT[tokens_reset_ms] if tokens_reset_ms < MS_PER_S else _in_seconds(tokens_reset_ms),
        tokens_shown,
    )


def limit_lines(exchange: Exchange) -> bytes:
    """What this exchange tells of limits, as it goes over the wire; nothing for most."""
    lease, lines = exchange.lease, b""
    if lease is not None and (tokens := lease.tokens) is not None:
        requests = lease.requests
        if len(requests) == len(tokens) == 1:
            lines = _lines_of_one_each(requests[0], tokens[0])
        else:
            lines = _rate_lines(least(requests), least(tokens))
    if exchange.queued_s:
        lines += b"x-windvane-queued-ms: %.1f\r\n" % (exchange.queued_s * MS_PER_S)
    if exchange.clamped_to is not None:
        lines += b"x-windvane-max-tokens: %d\r\n" % exchange.clamped_to
    return lines


def duration(ms: int) -> bytes:
    """A duration as OpenAI writes it: `20ms`, `1s`, `6m0s`; rounded up."""
    return _SHORT[ms] if ms < MS_PER_S else _in_seconds(ms)


@lru_cache(DURATIONS_MAX)
def _in_seconds(ms: int) -> bytes:
    seconds = -(-ms // MS_PER_S)
    return b"%ds" % seconds if seconds < S_PER_MINUTE else b"%dm%ds" % divmod(seconds, S_PER_MINUTE)


def refused_rate_headers(fault: Fault) -> HeaderList:
    """`x-ratelimit-*` of the limit that refused."""
    limit = fault.limit
    if limit is None or limit.what not in ("requests", "tokens"):
        return []
    reset_ms = ceil((fault.retry_after_s or 0) * MS_PER_S)
    left = limit.limit, limit.left, reset_ms
    lines = _rate_lines(left, None) if limit.what == "requests" else _rate_lines(None, left)
    return [
        (name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines())
    ]
