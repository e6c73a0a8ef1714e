"""Rates against brute force: every window that ends at an admission is looked at, however long."""

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.limits import Gcra, Share, least
from windvane.core.upstream_limits import Window

MINUTE_US = 60_000_000


class Ask(NamedTuple):
    """A request: when it comes after the last, what it reserves and uses, and when that is known."""

    after_us: int
    reserved: int
    used: int
    took_us: int


def asks(units_max: int, gap_max_us: int) -> st.SearchStrategy[list[Ask]]:
    units = st.integers(1, units_max)
    times = st.integers(0, gap_max_us) | st.sampled_from([0, 0, 1])
    took = st.integers(0, 3 * gap_max_us)
    return st.lists(st.builds(Ask, times, units, st.integers(0, 2 * units_max), took), max_size=40)


class Event(NamedTuple):
    at_us: int
    asked: list[int]
    """Index of a request that comes; empty when it is corrected."""
    index: int


def timeline(plan: list[Ask]) -> Iterator[Event]:
    events: list[tuple[int, int, int]] = []
    now_us = 1
    for index, ask in enumerate(plan):
        now_us += ask.after_us
        events += [(now_us, 0, index), (now_us + ask.took_us, 1, index)]
    for at_us, is_end, index in sorted(events):
        yield Event(at_us, [] if is_end else [index], index)


def check(used: list[tuple[int, int]], now_us: int, limit: int, burst: int) -> None:
    """No window that ends now holds more than `burst + limit x minutes`."""
    total = 0
    for at_us, units in reversed(used):
        total += units
        assert total * MINUTE_US <= burst * MINUTE_US + limit * (now_us - at_us)


def check_told(bucket: Gcra, share: Share, now_us: int) -> None:
    """Who takes a share is told what is left, and in which millisecond there is nothing to wait for."""
    left = least([share])
    assert left is not None
    limit, remaining, reset_ms = left
    assert (limit, remaining) == (bucket.limit, bucket.left(now_us))
    assert bucket.is_idle(now_us + reset_ms * 1_000)
    assert not bucket.is_idle(now_us + (reset_ms - 1) * 1_000)


def play(bucket: Gcra, plan: list[Ask]) -> None:
    """By final usage, late corrections included; debts are repaid before more is admitted."""
    sums: dict[int, tuple[int, int]] = {}
    debts: list[tuple[int, int]] = []
    marks: dict[int, int] = {}
    for now_us, comes, index in timeline(plan):
        ask = plan[index]
        if comes:
            wait_us = bucket.wait_us(ask.reserved, now_us)
            assert wait_us is not None
            share = bucket.take(ask.reserved, now_us)
            assert (share is not None) == (wait_us == 0)
            if share is not None:
                check_told(bucket, share, now_us)
                _, _, marks[index], _ = share
                bucket.open.append(marks[index])
                sums[index] = (now_us, ask.reserved)
                check(sorted([*sums.values(), *debts]), now_us, bucket.limit, bucket.burst)
            else:
                assert bucket.wait_us(ask.reserved, now_us + wait_us) == 0
                assert bucket.wait_us(ask.reserved, now_us + wait_us - 1) == 1
        elif index in marks:
            bucket.correct(ask.reserved, ask.used, marks.pop(index), now_us)
            at_us, _ = sums[index]
            sums[index] = (at_us, min(ask.used, ask.reserved))
            if ask.used > ask.reserved:
                debts.append((now_us, ask.used - ask.reserved))
        assert 0 <= bucket.left(now_us) <= bucket.burst


class _Plain:
    """Each share has a place of its own, at which it has leaked away; nothing is clever about it."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._end = 0

    def take(self, index: int, units: int, ticks: int) -> None:
        self._end = self._places[index] = max(self._end, ticks) + units * MINUTE_US

    def correct(self, index: int, taken: int, used: int, ticks: int) -> None:
        unleaked = self._places.pop(index) - ticks
        if used >= taken:
            self._end = max(self._end, ticks) + (used - taken) * MINUTE_US
        elif unleaked > 0:
            back = min((taken - used) * MINUTE_US, unleaked)
            self._end -= back
            for later in self._places:
                self._places[later] -= back if later > index else 0

    def level(self, ticks: int) -> int:
        return max(self._end - ticks, 0)


@settings(deadline=None, max_examples=400)
@given(asks(9, MINUTE_US // 30), st.integers(1, 120))
def test_what_is_taken_and_returned_is_what_a_plain_reckoning_says(
    plan: list[Ask], limit: int
) -> None:
    bucket, plain = Gcra(limit, 1_000_000), _Plain()
    marks: dict[int, int] = {}
    for event in timeline(plan):
        ask, ticks = plan[event.index], event.at_us * limit
        if event.asked:
            share = bucket.take(ask.reserved, event.at_us)
            assert share is not None
            marks[event.index] = share[2]
            bucket.open.append(share[2])
            plain.take(event.index, ask.reserved, ticks)
        else:
            bucket.correct(ask.reserved, ask.used, marks.pop(event.index), event.at_us)
            plain.correct(event.index, ask.reserved, ask.used, ticks)
        assert bucket._level(event.at_us) == plain.level(ticks)
        assert len(bucket.open) == len(marks)


@settings(deadline=None, max_examples=400)
@given(st.data(), st.integers(1, 300), st.integers(1, 60))
def test_no_window_holds_more_than_a_burst_and_its_share(
    data: st.DataObject, limit: int, burst: int
) -> None:
    play(Gcra(limit, burst), data.draw(asks(burst, 4 * MINUTE_US // limit)))


def crowded(rng: Random, burst: int, unit_us: int) -> list[Ask]:
    """Requests that come as fast as they are let, reserve much, use little, and say so late."""
    return [
        Ask(
            after_us=rng.choice((0, 0, unit_us // 2, unit_us, 3 * unit_us)),
            reserved=(reserved := rng.randint(1, burst)),
            used=rng.choice((0, 0, reserved // 2, reserved, reserved + 1)),
            took_us=rng.randint(0, 2 * burst) * unit_us // 2,
        )
        for _ in range(30)
    ]


@pytest.mark.parametrize("burst", [2, 4, 8])
def test_refunds_in_a_crowd_admit_no_burst(burst: int) -> None:
    for seed in range(600):
        plan = crowded(Random(seed), burst, MINUTE_US // 60)
        play(Gcra(60, burst), plan)


class Careless(Gcra):
    """Gives back by the mark alone, forgetting what was given back in between."""

    __slots__ = ()

    def correct(self, taken: int, used: int, mark: int, now_us: int) -> None:
        super().correct(taken, used, mark, now_us)
        self._returned = 0


def test_the_crowd_finds_a_careless_refund() -> None:
    """The negative control: the same plans catch what the bucket did before its marks were mended."""
    with pytest.raises(AssertionError):
        for seed in range(600):
            play(Careless(60, 4), crowded(Random(seed), 4, MINUTE_US // 60))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 300), st.integers(1, 60), st.lists(st.integers(0, 10**8), max_size=60))
def test_a_caller_who_waits_as_told_is_never_refused_twice(
    limit: int, burst: int, gaps: list[int]
) -> None:
    bucket, now_us = Gcra(limit, burst), 5
    taken: list[tuple[int, int]] = []
    for gap in gaps:
        now_us += gap
        now_us += bucket.wait_us(1, now_us) or 0
        assert bucket.wait_us(1, now_us) == 0
        bucket.take(1, now_us)
        taken.append((now_us, 1))
        check(taken, now_us, limit, burst)


@settings(deadline=None, max_examples=400)
@given(st.data(), st.integers(1, 60), st.sampled_from([1_000_000, MINUTE_US]))
def test_no_period_of_an_upstream_holds_more_than_its_limit(
    data: st.DataObject, limit: int, period_us: int
) -> None:
    """However the provider cuts its minutes; and whoever waits as told is admitted, not before."""
    plan = data.draw(asks(limit, 2 * period_us // limit))
    window = Window(limit, period_us)
    sums: dict[int, tuple[int, int]] = {}
    debts: list[tuple[int, int]] = []
    shares = {}
    for now_us, comes, index in timeline(plan):
        ask = plan[index]
        if comes:
            wait_us = window.wait_us(ask.reserved, now_us)
            share = window.take_now(ask.reserved, now_us)
            assert (share is not None) == (wait_us == 0)
            if share is not None:
                shares[index] = share
                sums[index] = (now_us, ask.reserved)
                now = [u for at, u in [*sums.values(), *debts] if at > now_us - period_us]
                assert sum(now) <= limit
            else:
                later = deepcopy(window)
                assert later.wait_us(ask.reserved, now_us + wait_us - 1) == 1
                assert later.wait_us(ask.reserved, now_us + wait_us) == 0
        elif index in shares:
            window.correct(shares.pop(index)[1], ask.used - ask.reserved, now_us)
            at_us, _ = sums[index]
            sums[index] = (at_us, min(ask.used, ask.reserved))
            if ask.used > ask.reserved:
                debts.append((now_us, ask.used - ask.reserved))
