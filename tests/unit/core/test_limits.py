"""Rates by GCRA: exact waits, refunds, debts, and which terms apply to whom."""

import pytest

from windvane.core.limits import Gcra, Left, RateLease, RateTable, RateTerms, Share, Slots, least
from windvane.core.principal import Scope

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
NOW_US = 7 * MINUTE_US


def share_of(bucket: Gcra, units: int, now_us: int = NOW_US) -> Share:
    """Units that are there to take."""
    share = bucket.take(units, now_us)
    assert share is not None
    return share


def taken(bucket: Gcra, units: int, now_us: int) -> int:
    """The mark of units that are there to take, and will be corrected."""
    mark = share_of(bucket, units, now_us)[2]
    bucket.open.append(mark)
    return mark


def told(bucket: Gcra, now_us: int) -> Left | None:
    """What somebody who takes nothing is told of it."""
    return least([(bucket, 0, 0, bucket._level(now_us))])


def test_a_burst_goes_at_once_and_the_next_waits_for_its_share() -> None:
    bucket = Gcra(60, 10)
    for _ in range(10):
        assert bucket.wait_us(1, NOW_US) == 0
        bucket.take(1, NOW_US)
    assert bucket.wait_us(1, NOW_US) == SECOND_US
    assert bucket.wait_us(1, NOW_US + SECOND_US - 1) == 1
    assert bucket.wait_us(1, NOW_US + SECOND_US) == 0


@pytest.mark.parametrize("limit", [1, 7, 59, 60, 61, 99_991, 1_000_003])
def test_a_wait_is_exact_whatever_the_limit(limit: int) -> None:
    bucket = Gcra(limit, 1)
    bucket.take(1, NOW_US)
    wait_us = bucket.wait_us(1, NOW_US)
    assert wait_us == -(-MINUTE_US // limit)
    assert bucket.wait_us(1, NOW_US + wait_us - 1) == 1
    assert bucket.wait_us(1, NOW_US + wait_us) == 0


def test_a_minute_of_asking_gets_the_burst_and_the_limit() -> None:
    bucket, taken = Gcra(100, 20), 0
    for now_us in range(NOW_US, NOW_US + MINUTE_US + 1, 100_000):
        if bucket.wait_us(1, now_us) == 0:
            bucket.take(1, now_us)
            taken += 1
    # Looking only each 100 ms may cost the last one.
    assert taken in (100 + 20 - 1, 100 + 20)


def test_no_limit_is_never() -> None:
    assert Gcra(0).wait_us(1, NOW_US) is None
    assert Gcra(0).take(1, NOW_US) is None
    assert told(Gcra(0), NOW_US) == (0, 0, 0)


def test_more_than_the_burst_goes_alone_and_leaves_a_debt() -> None:
    bucket = Gcra(60, 10)
    bucket.take(1, NOW_US)
    assert bucket.wait_us(50, NOW_US) == SECOND_US
    bucket.take(50, NOW_US + SECOND_US)
    assert bucket.left(NOW_US + SECOND_US) == 0
    assert bucket.wait_us(1, NOW_US + SECOND_US) == 41 * SECOND_US


def test_what_was_not_used_comes_back() -> None:
    bucket = Gcra(60, 10)
    mark = taken(bucket, 10, NOW_US)
    bucket.correct(10, 4, mark, NOW_US)
    assert bucket.left(NOW_US) == 6


def test_what_has_leaked_does_not_come_back() -> None:
    bucket = Gcra(60, 10)
    mark = taken(bucket, 10, NOW_US)
    later_us = NOW_US + 8 * SECOND_US
    bucket.correct(10, 0, mark, later_us)
    assert bucket.left(later_us) == 10
    bucket.take(10, later_us)
    assert bucket.wait_us(1, later_us) == SECOND_US


def test_a_second_refund_does_not_give_back_what_the_first_already_moved() -> None:
    """Two reservations, the first given back at once; by the time the second is, it has leaked, and
    the burst that was taken since must not be given back in its stead."""
    bucket = Gcra(60, 100)
    first, second = taken(bucket, 50, NOW_US), taken(bucket, 50, NOW_US)
    bucket.correct(50, 0, first, NOW_US)
    later_us = NOW_US + 50 * SECOND_US
    assert bucket.wait_us(100, later_us) == 0
    bucket.take(100, later_us)
    bucket.correct(50, 0, second, later_us)
    assert bucket.left(later_us) == 0
    assert bucket.wait_us(1, later_us) == SECOND_US


@pytest.mark.parametrize("order", ["first to last", "last to first", "inside out"])
def test_what_was_not_used_comes_back_in_whatever_order_it_is_known(order: str) -> None:
    """A refund moves those taken later nearer to their leaking, and none that were taken before."""
    bucket, count = Gcra(6_000, 6_000), 10
    marks = [taken(bucket, 500, NOW_US) for _ in range(count)]
    places = list(range(count))
    if order == "last to first":
        places.reverse()
    elif order == "inside out":
        places.sort(key=lambda place: abs(place - count // 2))
    later_us = NOW_US + SECOND_US
    for place in places:
        bucket.correct(500, 0, marks[place], later_us)
    assert bucket.left(later_us) == 6_000


def test_what_a_long_request_did_not_use_comes_back_behind_many_short_ones() -> None:
    bucket = Gcra(100_000)
    long = taken(bucket, 50_000, NOW_US)
    for number in range(10):
        now_us = NOW_US + number * SECOND_US // 2
        bucket.correct(5_000, 25, taken(bucket, 5_000, now_us), now_us)
    end_us = NOW_US + 6 * SECOND_US
    bucket.correct(50_000, 50, long, end_us)
    assert bucket.left(end_us) == 100_000 - 250


def test_what_was_not_used_comes_back_however_often() -> None:
    bucket = Gcra(60, 10)
    for _ in range(3):
        mark = taken(bucket, 10, NOW_US)
        bucket.correct(10, 0, mark, NOW_US)
        assert bucket.left(NOW_US) == 10


def test_overuse_is_a_debt() -> None:
    bucket = Gcra(60, 10)
    mark = taken(bucket, 1, NOW_US)
    bucket.correct(1, 15, mark, NOW_US)
    assert bucket.left(NOW_US) == 0
    assert bucket.wait_us(1, NOW_US) == 6 * SECOND_US
    assert told(bucket, NOW_US) == (60, 0, 15_000)


def test_a_bucket_that_is_empty_again_is_idle() -> None:
    bucket = Gcra(60)
    bucket.take(2, NOW_US)
    assert not bucket.is_idle(NOW_US + 2 * SECOND_US - 1)
    assert bucket.is_idle(NOW_US + 2 * SECOND_US)


def test_a_lease_gives_its_slot_back_and_corrects_its_tokens_once() -> None:
    slots, tokens, requests = Slots(3), Gcra(600, 100), Gcra(60, 10)
    slots.running = 1
    lease = RateLease((slots,), (share_of(requests, 1),), NOW_US, (share_of(tokens, 80),))
    assert slots.running == 1
    lease.end(30, NOW_US)
    lease.end(30, NOW_US)
    assert slots.running == 0
    assert tokens.left(NOW_US) == 70
    assert requests.left(NOW_US) == 9


def test_a_lease_of_no_use_took_nothing() -> None:
    slots, tokens, requests = Slots(3), Gcra(600, 100), Gcra(60, 10)
    slots.running = 1
    lease = RateLease((slots,), (share_of(requests, 1),), NOW_US, (share_of(tokens, 80),))
    lease.give_back(NOW_US)
    assert slots.running == 0
    assert tokens.left(NOW_US) == 100
    assert requests.left(NOW_US) == 10


def test_of_several_rates_that_one_is_told_of_which_least_is_left() -> None:
    wide, narrow = Gcra(600, 100), Gcra(60, 10)
    shares = [share_of(wide, 8), share_of(narrow, 8)]
    assert least(shares) == least(shares[::-1]) == told(narrow, NOW_US) == (60, 2, 8_000)
    assert least([]) is None


def test_what_is_told_is_what_was_left_when_it_was_taken() -> None:
    bucket = Gcra(600, 100)
    share = share_of(bucket, 10)
    share_of(bucket, 80)
    assert least([share]) == (600, 90, 1_000)


def test_a_changed_limit_keeps_what_was_taken() -> None:
    bucket = Gcra(60, 10)
    taken(bucket, 8, NOW_US)
    bucket.change(600, 100, NOW_US + 2 * SECOND_US)
    assert told(bucket, NOW_US + 2 * SECOND_US) == (600, 94, 600)
    bucket.change(6, 5, NOW_US + 2 * SECOND_US)
    assert bucket.left(NOW_US + 2 * SECOND_US) == 0
    assert bucket.wait_us(1, NOW_US + 2 * SECOND_US) == 20 * SECOND_US
    bucket.change(0, None, NOW_US + 2 * SECOND_US)
    assert bucket.wait_us(1, NOW_US + 90 * SECOND_US) is None
    bucket.change(60, None, NOW_US + 90 * SECOND_US)
    assert bucket.left(NOW_US + 90 * SECOND_US) == 54


@pytest.mark.parametrize("limit", [6, 60, 61, 6_000])
def test_what_was_not_used_comes_back_after_a_change_too(limit: int) -> None:
    bucket = Gcra(60, 100)
    first, second = taken(bucket, 10, NOW_US), taken(bucket, 20, NOW_US)
    bucket.correct(10, 5, first, NOW_US)
    bucket.change(limit, 100, NOW_US)
    bucket.correct(20, 1, second, NOW_US)
    assert bucket.left(NOW_US) == 94


def test_a_scope_has_its_own_terms_and_for_the_rest_those_of_its_kind() -> None:
    table = RateTable(
        {
            Scope("key:*"): RateTerms(requests_per_minute=60, concurrency=4),
            Scope("key:big"): RateTerms(requests_per_minute=600),
            Scope("team:none"): RateTerms(),
        }
    )
    any_key, big = table.of(Scope("key:x")), table.of(Scope("key:big"))
    assert any_key is not None
    assert any_key.requests_per_minute == 60
    assert big == RateTerms(requests_per_minute=600, concurrency=4)
    assert table.of(Scope("team:none")) is None
    assert table.of(Scope("global")) is None


def test_changed_terms_make_another_table() -> None:
    table = RateTable({Scope("key:a"): RateTerms(concurrency=1)})
    changed = table.replaced({Scope("key:a"): None, Scope("key:b"): RateTerms(concurrency=2)})
    assert changed.of(Scope("key:a")) is None
    assert changed.of(Scope("key:b")) == RateTerms(concurrency=2)
    assert table.of(Scope("key:a")) == RateTerms(concurrency=1)
    assert table.replaced({Scope("key:a"): None}).is_empty


def test_when_all_has_leaked_away_each_share_is_closed_by_its_own_mark() -> None:
    bucket = Gcra(60)
    shares = [bucket.take(1, at_us) for at_us in (0, 1_000)]
    marks = [share[2] for share in shares if share is not None]
    bucket.open += marks
    later_us = 600_000_000
    bucket.correct(1, 1, marks[1], later_us)
    assert bucket.open == marks[:1]
    bucket.correct(1, 1, marks[0], later_us)
    assert not bucket.open
