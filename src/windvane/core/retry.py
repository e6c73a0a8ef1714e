"""What to do after a failed attempt: a pure question, apart from the machine that asks it.

Laws:
1. Nothing is tried again once the caller has been sent a byte (the engine does not ask then).
2. A deployment is retried only for faults that its own recovery mends, and only after a wait.
3. Another deployment is tried at once: its health is unrelated. The first choice, which is the
   cheapest, gets its second chance before that when the wait is short; the others do not, so that
   all candidates are reached within `attempts_max`.
4. A wait is never longer than what is left of the exchange, nor than `wait_max_s`.
5. With no time left nobody is asked: the question would be paid for, and its answer not awaited.

Back-off is decorrelated jitter, `min(cap, uniform(base, 3 x previous))`; the provider's own
Retry-After wins when it is longer. Source: AWS Builders' Library, "Timeouts, retries and backoff".
"""

import math
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from windvane.core.faults import Fault, FaultKind, Retry, Source
from windvane.core.principal import MODEL

SHORT_WAIT_S = 0.5
"""A longer wait is worth another model."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of trying again. Seconds."""

    attempts_max: Annotated[int, Meta(ge=1, le=20)] = 4
    attempts_per_deployment_max: Annotated[int, Meta(ge=1, le=10)] = 2
    backoff_base_s: Annotated[float, Meta(gt=0)] = 0.1
    backoff_max_s: Annotated[float, Meta(gt=0)] = 10.0
    wait_max_s: Annotated[float, Meta(ge=0, le=600)] = 60.0


class TrySame(msgspec.Struct, frozen=True):
    """Ask the same deployment again after `wait_s`."""

    wait_s: float


class TryNext(msgspec.Struct, frozen=True):
    """Ask the next candidate, now."""


class Stop(msgspec.Struct, frozen=True):
    """Tell the caller."""


Step = TrySame | TryNext | Stop


def next_step(
    policy: RetryPolicy,
    fault: Fault,
    *,
    attempts: int,
    attempts_here: int,
    has_next: bool,
    remaining_s: float,
    rng: Random,
) -> Step:
    """Decide after `fault`. `attempts_here` counts those at the deployment that failed."""
    if fault.retry is Retry.NEVER or attempts >= policy.attempts_max or remaining_s <= 0:
        return Stop()
    wait_s = backoff_s(policy, fault, attempts_here, rng)
    may_wait = (
        fault.retry is Retry.SAME
        and attempts_here < policy.attempts_per_deployment_max
        and wait_s <= min(policy.wait_max_s, remaining_s)
    )
    is_first_choice = attempts == attempts_here
    if has_next and not (may_wait and is_first_choice and wait_s <= SHORT_WAIT_S):
        return TryNext()
    return TrySame(wait_s) if may_wait else Stop()


def backoff_s(policy: RetryPolicy, fault: Fault, attempts_here: int, rng: Random) -> float:
    """How long to wait before asking the same deployment again."""
    widest = policy.backoff_base_s * 3 ** max(attempts_here, 1)
    jittered = min(policy.backoff_max_s, rng.uniform(policy.backoff_base_s, widest))
    return max(jittered, fault.retry_after_s or 0.0)


_WAITS = frozenset((FaultKind.RATE_LIMITED, FaultKind.BUDGET_EXCEEDED))
_UNFIT = frozenset((FaultKind.INVALID_REQUEST, FaultKind.FORBIDDEN))


def more_helpful(before: Fault, last: Fault) -> Fault:
    """Which of two candidates' faults the caller is told, when neither has given an answer.

    The last, as a rule. But that a request cannot be told to one, or paid for there, tells nothing of
    another that can be; that one may not be asked now tells nothing of another that has failed; and of two
    limits, one of this gateway's holds whichever model is asked, unless it is a model's; else the caller is
    told of the one that is free first, and of two of one budget, of the one that takes less.
    """
    if _is_unfit(before) is not _is_unfit(last):
        return before if _is_unfit(last) else last
    if last.kind not in _WAITS:
        return last
    if before.kind not in _WAITS:
        return before if last.source is Source.GATEWAY else last
    if _budget(last) is not None and _budget(last) == _budget(before):
        # They were refused one after the other: how long until it renews is a little less for the last.
        return min(last, before, key=_needed)
    return min(last, before, key=_distance)


def _is_unfit(fault: Fault) -> bool:
    """Whether a request was not sent to one provider for what it asks; another may take it."""
    return fault.source is Source.CLIENT and fault.retry is Retry.OTHER and fault.kind in _UNFIT


def _budget(fault: Fault) -> tuple[str, str] | None:
    """Which budget has refused, if one has."""
    limit = fault.limit if fault.kind is FaultKind.BUDGET_EXCEEDED else None
    return None if limit is None else (limit.scope, limit.period)


def _needed(fault: Fault) -> int:
    return 0 if fault.limit is None else fault.limit.needed or 0


def _distance(fault: Fault) -> tuple[bool, float]:
    """How far a limit is from what the caller should be told: whether others may be free before it, and
    how long until it is."""
    limit, wait_s = fault.limit, fault.retry_after_s
    is_one_models = limit is None or limit.scope.startswith(f"{MODEL}:")
    return is_one_models, math.inf if wait_s is None else wait_s
