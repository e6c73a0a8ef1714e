"""What is done after a failed attempt, as a table."""

from random import Random

import msgspec
import pytest

from windvane.core.faults import Fault, FaultKind, LimitReached, Retry, Source
from windvane.core.retry import (
    RetryPolicy,
    Step,
    Stop,
    TryNext,
    TrySame,
    backoff_s,
    more_helpful,
    next_step,
)

POLICY = RetryPolicy()


def fault(retry: Retry, retry_after_s: float | None = None) -> Fault:
    return Fault(
        kind=FaultKind.UPSTREAM_ERROR,
        source=Source.UPSTREAM,
        message="m",
        status=502,
        retry=retry,
        retry_after_s=retry_after_s,
    )


def ask(
    retry: Retry,
    *,
    attempts: int = 1,
    here: int = 1,
    has_next: bool = False,
    remaining_s: float = 600.0,
    retry_after_s: float | None = None,
    policy: RetryPolicy = POLICY,
) -> Step:
    return next_step(
        policy,
        fault(retry, retry_after_s),
        attempts=attempts,
        attempts_here=here,
        has_next=has_next,
        remaining_s=remaining_s,
        rng=Random(7),
    )


CASES: list[tuple[str, Step | type[TrySame], dict[str, object]]] = [
    ("a fault that nothing mends stops", Stop(), {"retry": Retry.NEVER, "has_next": True}),
    (
        "a fault of this deployment goes to the next",
        TryNext(),
        {"retry": Retry.OTHER, "has_next": True},
    ),
    ("a fault of this deployment without a next stops", Stop(), {"retry": Retry.OTHER}),
    ("a passing fault is tried again here", TrySame, {"retry": Retry.SAME}),
    ("a short wait here is better than the next", TrySame, {"retry": Retry.SAME, "has_next": True}),
    (
        "a long wait here is worse than the next",
        TryNext(),
        {"retry": Retry.SAME, "has_next": True, "retry_after_s": 2.0},
    ),
    (
        "a long wait is taken when there is no next",
        TrySame(2.0),
        {"retry": Retry.SAME, "retry_after_s": 2.0},
    ),
    (
        "enough tries here: the next",
        TryNext(),
        {"retry": Retry.SAME, "here": 2, "attempts": 2, "has_next": True},
    ),
    (
        "enough tries here and no next: stop",
        Stop(),
        {"retry": Retry.SAME, "here": 2, "attempts": 2},
    ),
    ("enough tries in all: stop", Stop(), {"retry": Retry.SAME, "attempts": 4, "has_next": True}),
    (
        "the last try but one may go on",
        TryNext(),
        {"retry": Retry.OTHER, "attempts": 3, "has_next": True},
    ),
    (
        "no time left for the wait: stop",
        Stop(),
        {"retry": Retry.SAME, "retry_after_s": 5.0, "remaining_s": 4.9},
    ),
    (
        "just time enough for the wait",
        TrySame(5.0),
        {"retry": Retry.SAME, "retry_after_s": 5.0, "remaining_s": 5.0},
    ),
    (
        "longer than we are willing to wait: stop",
        Stop(),
        {"retry": Retry.SAME, "retry_after_s": 61.0},
    ),
    (
        "no time left at all: nobody is asked",
        Stop(),
        {"retry": Retry.SAME, "remaining_s": 0.0, "has_next": True},
    ),
]


@pytest.mark.parametrize(
    ("expected", "given"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_step_after_a_fault(expected: Step | type[TrySame], given: dict[str, object]) -> None:
    step = ask(**given)  # type: ignore[arg-type]
    if isinstance(expected, type):
        assert isinstance(step, expected)
        assert POLICY.backoff_base_s <= step.wait_s <= POLICY.backoff_base_s * 3  # type: ignore[union-attr]
    else:
        assert step == expected


def test_the_providers_own_wait_wins_when_it_is_longer() -> None:
    assert backoff_s(POLICY, fault(Retry.SAME, 7.5), 1, Random(1)) == 7.5
    assert backoff_s(POLICY, fault(Retry.SAME, 0.001), 1, Random(1)) >= POLICY.backoff_base_s


def test_waits_widen_with_each_try_and_are_capped() -> None:
    widest = [
        max(backoff_s(POLICY, fault(Retry.SAME), n, Random(s)) for s in range(200))
        for n in (1, 2, 3, 40)
    ]
    assert widest == sorted(widest)
    assert widest[0] <= 0.3 < widest[1] <= 0.9 < widest[2]
    assert widest[3] == POLICY.backoff_max_s


def test_two_dice_give_two_waits() -> None:
    assert len({backoff_s(POLICY, fault(Retry.SAME), 1, Random(seed)) for seed in range(50)}) == 50


def refusal(
    wait_s: float | None,
    scope: str | None = None,
    *,
    kind: FaultKind = FaultKind.RATE_LIMITED,
    source: Source = Source.GATEWAY,
) -> Fault:
    limit = None
    if scope is not None:
        limit = LimitReached(scope=scope, what="requests", period="minute", limit=1, used=1, left=0)
    return Fault(
        kind=kind, source=source, message="m", status=429, retry_after_s=wait_s, limit=limit
    )


def unfit(kind: FaultKind, status: int) -> Fault:
    return Fault(kind=kind, source=Source.CLIENT, message="m", status=status, retry=Retry.OTHER)


def budget(needed: int, wait_s: float | None) -> Fault:
    """One budget's refusals, each of its own moment."""
    limit = LimitReached(
        scope="key:one", what="budget", period="daily", limit=9, used=6, left=3, needed=needed
    )
    return msgspec.structs.replace(BUDGET, retry_after_s=wait_s, limit=limit)


CANNOT_SAY = unfit(FaultKind.INVALID_REQUEST, 400)
UNPRICEABLE = unfit(FaultKind.FORBIDDEN, 403)
BARRED = refusal(600.0)
FAILED = fault(Retry.OTHER)
BUDGET = refusal(5_000.0, "key:one", kind=FaultKind.BUDGET_EXCEEDED, source=Source.CLIENT)
SPENT = refusal(None, "key:one", kind=FaultKind.BUDGET_EXCEEDED, source=Source.CLIENT)
MODELS_RATE = refusal(20.0, "model:small", source=Source.CLIENT)


@pytest.mark.parametrize(
    ("before", "last", "told"),
    [
        (BUDGET, BARRED, BUDGET),
        (SPENT, BARRED, SPENT),
        (BARRED, BUDGET, BUDGET),
        (MODELS_RATE, refusal(3_163.0), MODELS_RATE),
        (refusal(3_163.0), MODELS_RATE, MODELS_RATE),
        (MODELS_RATE, refusal(2.0), refusal(2.0)),
        (refusal(700.0), BARRED, BARRED),
        (BUDGET, FAILED, FAILED),
        (FAILED, BARRED, FAILED),
        (FAILED, BUDGET, BUDGET),
        (FAILED, fault(Retry.SAME, 3.0), fault(Retry.SAME, 3.0)),
        (FAILED, CANNOT_SAY, FAILED),
        (CANNOT_SAY, FAILED, FAILED),
        (CANNOT_SAY, BARRED, BARRED),
        (BARRED, UNPRICEABLE, BARRED),
        (BUDGET, UNPRICEABLE, BUDGET),
        (CANNOT_SAY, UNPRICEABLE, UNPRICEABLE),
        (budget(5, 80_000.2), budget(7, 80_000.1), budget(5, 80_000.2)),
        (budget(7, 80_000.2), budget(5, 80_000.1), budget(5, 80_000.1)),
        (budget(7, None), budget(5, 80_000.1), budget(5, 80_000.1)),
    ],
)
def test_of_two_failures_the_caller_is_told_the_one_that_helps(
    before: Fault, last: Fault, told: Fault
) -> None:
    assert more_helpful(before, last) == told
