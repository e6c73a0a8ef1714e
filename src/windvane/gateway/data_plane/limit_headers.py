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


def limit_headers(exchange: Exchange) -> HeaderList:
    """What this exchange tells of limits; nothing for most."""
    headers: HeaderList = []
    if exchange.rates is not None:
        requests, tokens = exchange.rates
        headers += _rate(requests, b"requests", b"req-minute")
        headers += _rate(tokens, b"tokens", b"tokens-minute")
    if exchange.queued_s:
        headers.append((b"x-windvane-queued-ms", b"%.1f" % (exchange.queued_s * MS_PER_S)))
    if exchange.clamped_to is not None:
        headers.append((b"x-windvane-max-tokens", b"%d" % exchange.clamped_to))
    return headers


def _rate(standing: RateStanding | None, unit: bytes, mistral_unit: bytes) -> HeaderList:
    if standing is None:
        return []
    limit, remaining = b"%d" % standing.limit, b"%d" % standing.remaining
    return [
        (b"x-ratelimit-limit-" + unit, limit),
        (b"x-ratelimit-remaining-" + unit, remaining),
        (b"x-ratelimit-reset-" + unit, duration(standing.reset_us)),
        (b"x-ratelimit-limit-" + mistral_unit, limit),
        (b"x-ratelimit-remaining-" + mistral_unit, remaining),
    ]


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
    mistral_unit = b"req-minute" if limit.what == "requests" else b"tokens-minute"
    return _rate(standing, limit.what.encode(), mistral_unit)
