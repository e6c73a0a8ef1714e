"""What the memory tier evicts is worth less than what LRU would have evicted, on seeded traces."""

import pytest
from benchmarks.eviction import CAPACITIES, OPPOSED, TRACES, score, scores_of, trace_of
from benchmarks.policies import Fifo, Lru, Ours

from windvane.stores.memory.cache import entry_size

REQUESTS = 15_000


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_hits_more_and_saves_more_dollars_than_lru(name: str, seed: int) -> None:
    trace = trace_of(name, seed, REQUESTS)
    whole = sum(entry_size(key, data) for key, data, _ in set(trace))
    for share in CAPACITIES:
        room = int(whole * share)
        ours, lru = score(Ours(room), trace), score(Lru(room), trace)
        assert ours.hits > lru.hits, share
        assert ours.dollars > lru.dollars, share


def test_at_two_percent_of_room_it_saves_eight_points_more() -> None:
    """The target of the plan, on the mean of all traces."""
    gains = []
    for name in TRACES:
        trace = trace_of(name, 3, REQUESTS)
        room = int(sum(entry_size(key, data) for key, data, _ in set(trace)) * 0.02)
        gains.append(score(Ours(room), trace).dollars - score(Lru(room), trace).dollars)
    assert sum(gains) / len(gains) > 0.08


def test_the_baselines_are_what_they_are_called() -> None:
    trace = trace_of("Zipf 0.9", 1, REQUESTS)
    room = int(sum(entry_size(key, data) for key, data, _ in set(trace)) * 0.02)
    assert score(Lru(room), trace).hits > score(Fifo(room), trace).hits
    everything = 1 << 40
    assert score(Lru(everything), trace) == score(Ours(everything), trace) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACES)
def test_it_hits_more_and_saves_more_than_lru_on_the_whole_trace(name: str) -> None:
    scores = scores_of(trace_of(name, 1))
    for share in CAPACITIES:
        ours, lru = scores["ours", share], scores["LRU", share]
        assert ours.hits > lru.hits, share
        assert ours.dollars > lru.dollars, share


@pytest.mark.slow
@pytest.mark.parametrize("name", OPPOSED)
def test_where_nothing_hits_more_than_lru_ours_saves_more_all_the_same(name: str) -> None:
    scores = scores_of(trace_of(name, 1))
    for share in CAPACITIES:
        ours, lru = scores["ours", share], scores["LRU", share]
        assert lru.hits - 0.06 < ours.hits < lru.hits, share
        assert ours.dollars > lru.dollars, share
