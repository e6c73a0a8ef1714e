"""That all breakers are at rest is kept beside them: it must never differ from what they say."""

from hypothesis import given
from hypothesis import strategies as st

from windvane.core import breaker
from windvane.core.deployment import Deployment
from windvane.core.faults import Fault, FaultKind, Retry, Source
from windvane.engine.health import HealthBook

DEPLOYMENTS = [Deployment(id=f"p/{name}", provider="p", model=name) for name in "ab"]
FAULT = Fault(
    kind=FaultKind.UPSTREAM_ERROR,
    source=Source.UPSTREAM,
    message="it failed",
    status=502,
    retry=Retry.OTHER,
    upstream_status=500,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sent", "succeeded", "failed", "released"]),
            st.sampled_from(DEPLOYMENTS),
            st.floats(0, 100),
        ),
        max_size=60,
    )
)
def test_all_is_well_when_no_breaker_has_anything_to_say(steps):
    book, now_s = HealthBook(), 0.0
    for step, deployment, later_s in steps:
        now_s += later_s
        if step == "sent":
            book.sent(deployment, now_s)
        elif step == "succeeded":
            book.succeeded(deployment)
        elif step == "failed":
            book.failed(deployment, FAULT, now_s, 0)
        else:
            book.released(deployment)
        said = [book.of(each).breaker for each in DEPLOYMENTS]
        assert book.is_all_well == all(each == breaker.CLOSED for each in said)
