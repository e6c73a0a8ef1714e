"""What is counted late, or as what is left of others, comes out as if each had been counted at once."""

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.stores.test_ledger import entry
from tests.unit.telemetry.test_logs import ENDED, OTHER

from windvane.core.events import AttemptSettled, ExchangeEnded
from windvane.telemetry.metrics import DURATION_BUCKETS_S, FRESH_MAX, Metrics

SETTLED = entry(1, provider="p", model="m")
FAILED = entry(2, provider="p", model="m", outcome="timeout")
SECONDS = st.sampled_from((0.0, 0.01, 0.0100001, 5.12, 81.92, 1e6)) | st.floats(0, 100)
ENDS = st.builds(
    lambda model, status, cached, duration_s: msgspec.structs.replace(
        ENDED, model=model, status=status, cache_status=cached, duration_s=duration_s
    ),
    st.sampled_from(("", "m", "n")),
    st.sampled_from((200, 200, 400, 499)),
    st.sampled_from(("hit", "miss", "bypass")),
    SECONDS,
)


def samples(metrics: Metrics, family: str) -> dict[tuple[str, ...], float]:
    """The samples of a family, by name and labels."""
    (found,) = (each for each in metrics.collect() if each.name == family)
    return {(one.name, *one.labels.values()): one.value for one in found.samples}


def durations(ends: list[ExchangeEnded]) -> dict[tuple[str, ...], float]:
    """The samples of their durations, one value after another."""
    name, expected = "windvane_request_duration_seconds", {}
    bounds = [*map(str, DURATION_BUCKETS_S), "+Inf"]
    for model in {each.model for each in ends}:
        mine = [each.duration_s for each in ends if each.model == model]
        places = Counter(bisect_left(DURATION_BUCKETS_S, each) for each in mine)
        counts = accumulate(places[place] for place in range(len(bounds)))
        label = model or "none"
        for bound, count in zip(bounds, counts, strict=True):
            expected[f"{name}_bucket", label, bound] = float(count)
        expected[f"{name}_count", label] = float(len(mine))
        expected[f"{name}_sum", label] = sum(mine)
    return expected


def counted(end: ExchangeEnded) -> str:
    """Who asked a provider is not served by the cache, whatever it was given."""
    return "miss" if end.attempts and end.cache_status == "hit" else end.cache_status


@given(st.lists(ENDS, max_size=20), st.integers(0, 20))
def test_the_counts_are_those_of_all_requests_whenever_they_are_asked_for(
    ends: list[ExchangeEnded], asked_after: int
) -> None:
    metrics = Metrics()
    for place, end in enumerate(ends):
        if place == asked_after:
            metrics.totals()
            list(metrics.collect())
        metrics.on(end)
    assert samples(metrics, "windvane_request_duration_seconds") == durations(ends)
    assert samples(metrics, "router_requests") == {
        ("router_requests_total", model or "none", str(status)): count
        for (model, status), count in Counter((end.model, end.status) for end in ends).items()
    }
    assert metrics.cache_lookups() == Counter(map(counted, ends))


def test_no_more_values_are_kept_than_are_looked_at_together() -> None:
    metrics = Metrics()
    for place in range(3 * FRESH_MAX):
        model = "m" if place % 3 else "n"
        metrics.on(
            msgspec.structs.replace(
                ENDED, model=model, is_stream=True, first_chunk_s=0.1, queued_s=1.0
            )
        )
        kept = [metrics._overhead, metrics._queued]
        for each in metrics._exchanges.values():
            assert each.first_chunks is not None
            kept += [each.durations, each.first_chunks]
        assert all(len(histogram.fresh) < FRESH_MAX for histogram in kept)
    assert metrics._overhead.count == 3 * FRESH_MAX


def test_attempts_are_added_up_together_and_are_never_many() -> None:
    metrics, count = Metrics(), 0
    for is_refresh in (False, True):
        end = msgspec.structs.replace(ENDED, is_refresh=is_refresh)
        for _ in range(2 * FRESH_MAX):
            for attempt in (SETTLED, FAILED):
                metrics.on(AttemptSettled(attempt))
                count += 1
            metrics.on(end)
            assert len(metrics._settled) <= 2 * FRESH_MAX
        assert metrics.totals()["attempts_total"] == count


def test_whoever_asks_is_told_of_every_attempt_that_is_settled() -> None:
    metrics, hit = Metrics(), msgspec.structs.replace(SETTLED, outcome="hit", saved_tokens=7)
    for asked in range(1, 3):
        for settled in (SETTLED, FAILED, hit):
            metrics.on(AttemptSettled(settled))
        # As text first: no other question has looked at them.
        for family, labels, each in (
            ("windvane_upstream_attempts", ("p", "m", "ok"), 1),
            ("windvane_upstream_attempts", ("p", "m", "timeout"), 1),
            ("windvane_saved_tokens", ("hit",), 7),
        ):
            assert samples(metrics, family)[f"{family}_total", *labels] == each * asked
        assert metrics.totals()["attempts_total"] == 2 * asked


@given(st.lists(ENDS, max_size=5), st.lists(st.sampled_from((200, 400, 401)), max_size=5))
def test_what_never_became_an_exchange_adds_to_the_requests_and_passes_the_cache_by(
    ends: list[ExchangeEnded], others: list[int]
) -> None:
    metrics, alone = Metrics(), Metrics()
    for end in ends:
        metrics.on(end)
        alone.on(end)
    for status in others:
        metrics.on(msgspec.structs.replace(OTHER, status=status))
    expected = Counter(samples(alone, "router_requests"))
    expected.update(("router_requests_total", "none", str(status)) for status in others)
    assert samples(metrics, "router_requests") == expected
    assert metrics.totals()["requests_total"] == sum(metrics.cache_lookups().values())
    assert metrics.cache_lookups() == Counter([*map(counted, ends), *("bypass" for _ in others)])
    for family in ("windvane_request_duration_seconds", "windvane_overhead_seconds"):
        assert samples(metrics, family) == samples(alone, family)
