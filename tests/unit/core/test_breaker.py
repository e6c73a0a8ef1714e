"""The breaker's steps, on a clock that is a number."""

import pytest

from windvane.core import breaker
from windvane.core.breaker import CLOSED, FAILURES_TO_OPEN, OPEN_MAX_S, Breaker, BreakerState
from windvane.core.faults import Fault, FaultKind, Source

SICK = (
    FaultKind.UPSTREAM_ERROR,
    FaultKind.OVERLOADED,
    FaultKind.TIMEOUT,
    FaultKind.CONNECT_FAILED,
    FaultKind.STREAM_BROKEN,
    FaultKind.FORBIDDEN,
)


def fault(kind: FaultKind = FaultKind.UPSTREAM_ERROR, source: Source = Source.UPSTREAM) -> Fault:
    return Fault(kind=kind, source=source, message="m", status=502)


def opened(now_s: float = 0.0) -> Breaker:
    state = CLOSED
    for _ in range(FAILURES_TO_OPEN):
        state = breaker.failed(state, fault(), now_s)
    return state


def test_it_opens_at_the_last_of_the_failures_in_a_row_and_not_before() -> None:
    state = CLOSED
    for _ in range(FAILURES_TO_OPEN - 1):
        state = breaker.failed(state, fault(), 10.0)
        assert breaker.admits(state, 10.0)
    state = breaker.failed(state, fault(), 10.0)
    assert state.state is BreakerState.OPEN
    assert not breaker.admits(state, 10.999)
    assert breaker.admits(state, 11.0)


def test_one_success_forgets_all_failures() -> None:
    state = CLOSED
    for _ in range(FAILURES_TO_OPEN - 1):
        state = breaker.failed(state, fault(), 0.0)
    state = breaker.failed(breaker.succeeded(state), fault(), 0.0)
    assert (state.state, state.failures) == (BreakerState.CLOSED, 1)
    assert breaker.succeeded(CLOSED) is CLOSED


def test_an_onlooker_is_told_whether_a_request_may_go() -> None:
    state = opened(0.0)
    assert breaker.told(CLOSED, 5.0) is BreakerState.CLOSED
    assert breaker.told(state, 0.999) is BreakerState.OPEN
    assert breaker.told(state, 1.0) is BreakerState.HALF_OPEN
    assert breaker.told(breaker.admitted(state, 1.0), 5.0) is BreakerState.OPEN


def test_one_probe_goes_through_and_no_second() -> None:
    state = breaker.admitted(opened(), 5.0)
    assert state.state is BreakerState.HALF_OPEN
    assert not breaker.admits(state, 1e9)
    assert breaker.succeeded(state) == CLOSED


def test_a_request_sent_while_it_is_open_is_no_probe() -> None:
    state = opened(0.0)
    assert breaker.admitted(state, 0.5) is state
    assert breaker.admitted(CLOSED, 0.5) is CLOSED


def test_each_failed_probe_doubles_the_wait_up_to_a_minute_for_ever() -> None:
    state, now_s, waits = opened(0.0), 0.0, []
    for _ in range(1_500):
        waits.append(state.until_s - now_s)
        now_s = state.until_s
        state = breaker.failed(breaker.admitted(state, now_s), fault(), now_s)
    assert waits[:8] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, OPEN_MAX_S, OPEN_MAX_S]
    assert waits[-1] == OPEN_MAX_S


def test_late_failures_of_requests_sent_before_it_opened_do_not_lengthen_the_wait() -> None:
    state = opened(0.0)
    for _ in range(50):
        state = breaker.failed(state, fault(), 0.1)
    assert state.until_s == 1.0


@pytest.mark.parametrize("kind", list(FaultKind))
def test_only_a_providers_own_failures_count(kind: FaultKind) -> None:
    after = breaker.failed(CLOSED, fault(kind), 0.0)
    assert after.failures == (1 if kind in SICK else 0)
    assert breaker.failed(CLOSED, fault(kind, Source.CLIENT), 0.0).failures == 0
    assert breaker.failed(CLOSED, fault(kind, Source.GATEWAY), 0.0).failures == 0


def test_a_probe_that_told_nothing_may_be_made_again() -> None:
    probing = breaker.admitted(opened(0.0), 1.0)
    for state in (
        breaker.released(probing),
        breaker.failed(probing, fault(FaultKind.RATE_LIMITED), 1.0),
    ):
        assert state.state is BreakerState.OPEN
        assert breaker.admits(state, 1.0)
    assert breaker.released(CLOSED) is CLOSED
