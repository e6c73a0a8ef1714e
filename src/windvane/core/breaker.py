"""A circuit breaker as a table and pure steps.

It opens after `failures_to_open` failures in a row, stays open for a time that doubles up to a
minute, then lets one probe through; the probe's success closes it. Only a provider's own failures
count: a caller's mistake or a rate limit says nothing of its health.
"""

from enum import StrEnum

import msgspec

from windvane.core.faults import Fault, FaultKind, Source

FAILURES_TO_OPEN = 5
OPEN_BASE_S = 1.0
OPEN_MAX_S = 60.0
DOUBLINGS_MAX = 6
"""Enough to come to `OPEN_MAX_S`."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one deployment's breaker; a value, replaced by each step."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    opened: int = 0
    until_s: float = 0.0


CLOSED = Breaker()

_SICK = frozenset(
    (
        FaultKind.UPSTREAM_ERROR,
        FaultKind.OVERLOADED,
        FaultKind.TIMEOUT,
        FaultKind.CONNECT_FAILED,
        FaultKind.STREAM_BROKEN,
        FaultKind.FORBIDDEN,
    )
)


def admits(breaker: Breaker, now_s: float) -> bool:
    """Whether a request may go; an open breaker whose time is over admits one, as its probe."""
    return breaker.state is BreakerState.CLOSED or (
        breaker.state is BreakerState.OPEN and now_s >= breaker.until_s
    )


def admitted(breaker: Breaker, now_s: float) -> Breaker:
    """The breaker after a request went."""
    if breaker.state is BreakerState.OPEN and now_s >= breaker.until_s:
        return msgspec.structs.replace(breaker, state=BreakerState.HALF_OPEN)
    return breaker


def told(breaker: Breaker, now_s: float) -> BreakerState:
    """What an onlooker is told: half open once its rest is over, though nobody may come to try it; and
    open while one tries, since no other may go."""
    if breaker.state is BreakerState.CLOSED:
        return BreakerState.CLOSED
    return BreakerState.HALF_OPEN if admits(breaker, now_s) else BreakerState.OPEN


def succeeded(breaker: Breaker) -> Breaker:
    """The breaker after an answer."""
    return breaker if breaker is CLOSED else CLOSED


def failed(breaker: Breaker, fault: Fault, now_s: float) -> Breaker:
    """The breaker after a fault."""
    if fault.source is not Source.UPSTREAM or fault.kind not in _SICK:
        return released(breaker)
    if breaker.state is BreakerState.OPEN:
        return breaker  # it failed a request sent before it opened, or as a last resort
    failures = breaker.failures + 1
    if breaker.state is BreakerState.CLOSED and failures < FAILURES_TO_OPEN:
        return msgspec.structs.replace(breaker, failures=failures)
    wait_s = min(OPEN_BASE_S * 2 ** min(breaker.opened, DOUBLINGS_MAX), OPEN_MAX_S)
    return Breaker(
        state=BreakerState.OPEN,
        failures=failures,
        opened=breaker.opened + 1,
        until_s=now_s + wait_s,
    )


def released(breaker: Breaker) -> Breaker:
    """The breaker after a request that told nothing of health: a probe may be made again."""
    if breaker.state is BreakerState.HALF_OPEN:
        return msgspec.structs.replace(breaker, state=BreakerState.OPEN)
    return breaker
