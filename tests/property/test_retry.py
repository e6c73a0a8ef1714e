"""`next_step` answers every question, and never with a wait that nobody has."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.faults import Fault, FaultKind, Retry, Source
from windvane.core.retry import RetryPolicy, Stop, TryNext, TrySame, next_step

SECONDS = st.floats(0, 1_000, allow_nan=False)
POLICY = st.builds(
    RetryPolicy,
    attempts_max=st.integers(1, 10),
    attempts_per_deployment_max=st.integers(1, 10),
    backoff_base_s=st.floats(0, 5),
    backoff_max_s=st.floats(0, 60),
    wait_max_s=st.floats(0, 120),
)
FAULT = st.builds(
    Fault,
    kind=st.sampled_from(FaultKind),
    source=st.sampled_from(Source),
    message=st.just("m"),
    status=st.just(502),
    retry=st.sampled_from(Retry),
    retry_after_s=st.none() | SECONDS,
)


@settings(deadline=None, max_examples=150)
@given(
    POLICY,
    FAULT,
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    SECONDS,
    st.integers(0, 99),
)
def test_a_step_is_always_one_that_may_be_taken(
    policy: RetryPolicy,
    fault: Fault,
    attempts: int,
    here: int,
    has_next: bool,
    remaining_s: float,
    seed: int,
) -> None:
    step = next_step(
        policy,
        fault,
        attempts=attempts,
        attempts_here=here,
        has_next=has_next,
        remaining_s=remaining_s,
        rng=Random(seed),
    )
    is_over = fault.retry is Retry.NEVER or attempts >= policy.attempts_max or remaining_s <= 0
    if isinstance(step, TrySame):
        assert fault.retry is Retry.SAME
        assert here < policy.attempts_per_deployment_max
        assert (fault.retry_after_s or 0) <= step.wait_s <= min(remaining_s, policy.wait_max_s)
    elif isinstance(step, TryNext):
        assert has_next
    else:
        assert step == Stop()
        assert is_over or not has_next
    assert not is_over or step == Stop()
