"""Headers that tell a caller of limits: its own rates, a wait for the provider's, a shortened answer.

`x-ratelimit-*` come in OpenAI's spelling and in Mistral's: each SDK's users look for their own.
"""

from windvane.core.exchange import Exchange
from windvane.core.faults import Fault
from windvane.core.limits import RateStanding
from windvane.gateway.data_plane.asgi import HeaderList

US_PER_MS = 1_000
MS_PER_S = 1_000
S_PER_MINUTE = 60


def _form(unit: bytes, mistral_unit: bytes) -> bytes:
    names = [
        b"x-ratelimit-limit-" + unit,
        b"x-ratelimit-remaining-" + unit,
        b"x-ratelimit-reset-" + unit,
        b"x-ratelimit-limit-" + mistral_unit,
        b"x-ratelimit-remaining-" + mistral_unit,
    ]
    return b"".join(name + b": %b\r\n" for name in names)


_REQUESTS = _form(b"requests", b"req-minute")
_TOKENS = _form(b"tokens", b"tokens-minute")
"""Forms of the headers of a rate: written in one go, for each answer under one has them."""


def limit_lines(exchange: Exchange) -> bytes:
    """What this exchange tells of limits, as it goes over the wire; nothing for most."""
    lines = b""
    if exchange.rates is not None:
        requests, tokens = exchange.rates
        if requests is not None:
            lines = _filled(_REQUESTS, requests)
        if tokens is not None:
            lines += _filled(_TOKENS, tokens)
    if exchange.queued_s:
        lines += b"x-windvane-queued-ms: %.1f\r\n" % (exchange.queued_s * MS_PER_S)
    if exchange.clamped_to is not None:
        lines += b"x-windvane-max-tokens: %d\r\n" % exchange.clamped_to
    return lines


def _filled(form: bytes, standing: RateStanding) -> bytes:
    limit, remaining = b"%d" % standing.limit, b"%d" % standing.remaining
    return form % (limit, remaining, duration(standing.reset_us), limit, remaining)


def duration(us: int) -> bytes:
    """A duration as OpenAI writes it: `20ms`, `1s`, `6m0s`; rounded up."""
    ms = -(-us // US_PER_MS)
    if ms < MS_PER_S:
        return b"%dms" % ms
    seconds = -(-ms // MS_PER_S)
    if seconds < S_PER_MINUTE:
        return b"%ds" % seconds
    return b"%dm%ds" % divmod(seconds, S_PER_MINUTE)


def refused_rate_headers(fault: Fault) -> HeaderList:
    """`x-ratelimit-*` of the limit that refused."""
    limit = fault.limit
    if limit is None or limit.what not in ("requests", "tokens"):
        return []
    standing = RateStanding(
        limit=limit.limit,
        remaining=limit.left,
        reset_us=int((fault.retry_after_s or 0) * MS_PER_S * US_PER_MS),
    )
    lines = _filled(_REQUESTS if limit.what == "requests" else _TOKENS, standing)
    return [
        (name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines())
    ]
