"""What each has had of an upstream, and what is kept for others: by example, and equal to a plain sum."""

from random import Random

import pytest

from windvane.core.priority import Priority
from windvane.core.shares import KEPT_MAX_US, PARTIES_MAX, SLOT_US, SPARE, Portion, Shares
from windvane.core.upstream_limits import MINUTE_US

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
SECOND_US = 1_000_000
LATER_US = SLOT_US
"""By when it has been worked out what is kept for whom."""


def after(*had: tuple[str, Priority, int]) -> Shares:
    """What was had at 0, each thing by a request of its own."""
    shares = Shares()
    for tenant, priority, cost_us in had:
        shares.take(tenant, priority, cost_us, 0)
    return shares


def test_one_who_is_alone_leaves_nothing_free() -> None:
    assert after(("hog", NORMAL, MINUTE_US)).kept_us("hog", NORMAL, SECOND_US, LATER_US) == 0


def test_within_its_share_nobody_leaves_anything_free() -> None:
    shares = after(("modest", NORMAL, SECOND_US), ("hog", NORMAL, 29 * SECOND_US))
    assert shares.kept_us("hog", NORMAL, SECOND_US, LATER_US) == 0
    assert shares.kept_us("new", NORMAL, MINUTE_US, LATER_US) == 0
    assert shares.kept_us("hog", NORMAL, SECOND_US + 1, LATER_US) > 0


@pytest.mark.parametrize("had_us", [SECOND_US, 4 * SECOND_US, 20 * SECOND_US])
def test_beyond_it_what_the_modest_need_is_left_free_and_a_little_more(had_us: int) -> None:
    shares = after(("modest", NORMAL, had_us), ("hog", NORMAL, 40 * SECOND_US))
    kept_us = min(had_us // 2 + SPARE * SECOND_US, KEPT_MAX_US)
    assert shares.kept_us("hog", NORMAL, SECOND_US, LATER_US) == kept_us


def test_for_one_who_takes_more_than_half_of_its_share_nothing_is_kept() -> None:
    shares = after(("other", NORMAL, 31 * SECOND_US), ("hog", NORMAL, 31 * SECOND_US))
    assert shares.kept_us("hog", NORMAL, SECOND_US, LATER_US) == 0


def test_a_class_leaves_nothing_free_for_those_below() -> None:
    for hog, modest, is_kept in ((HIGH, NORMAL, False), (NORMAL, HIGH, True), (LOW, LOW, True)):
        shares = after(("modest", modest, SECOND_US), ("hog", hog, 50 * SECOND_US))
        assert (shares.kept_us("hog", hog, SECOND_US, LATER_US) > 0) is is_kept


def test_what_was_never_sent_was_not_had() -> None:
    shares = after(("modest", NORMAL, SECOND_US))
    portion = shares.take("hog", NORMAL, 50 * SECOND_US, 0)
    shares.correct(portion, 0, SECOND_US)
    assert shares.had_us("hog", NORMAL) == 0
    assert shares.kept_us("hog", NORMAL, SECOND_US, LATER_US) == 0


def test_who_has_left_is_forgotten_after_two_minutes() -> None:
    shares = after(("modest", NORMAL, SECOND_US))
    for now_us, is_kept in ((MINUTE_US, True), (2 * MINUTE_US + SLOT_US, False)):
        shares.take("hog", NORMAL, 50 * SECOND_US, now_us)
        assert (shares.kept_us("hog", NORMAL, SECOND_US, now_us) > 0) is is_kept
    shares.kept_us("hog", NORMAL, 0, 9 * MINUTE_US)
    assert not shares._had and not shares._before
    assert shares._present == [0, 0, 0]


def test_beyond_a_thousand_they_count_as_one() -> None:
    shares = Shares()
    for number in range(2 * PARTIES_MAX):
        shares.take(f"t{number}", NORMAL, 1, 0)
    assert len(shares._had) == PARTIES_MAX + 1
    assert shares.had_us("t9", NORMAL) == 1
    assert shares.had_us("t1999", NORMAL) == PARTIES_MAX


@pytest.mark.parametrize("seed", range(5))
def test_what_was_had_is_what_a_plain_sum_says(seed: int) -> None:
    rng, shares, now_us = Random(seed), Shares(), 0
    had: list[tuple[int, Portion]] = []
    for _ in range(3_000):
        now_us += int(rng.expovariate(1 / 500_000)) * rng.choice((1, 1, 1, 20))
        tenant, priority = rng.choice("abcd"), rng.choice(list(Priority))
        had.append((now_us, shares.take(tenant, priority, rng.randint(0, 9), now_us)))
        shares.correct(rng.choice(had)[1], rng.randint(0, 9), now_us)
        tenant, priority = rng.choice("abcd"), rng.choice(list(Priority))
        lately_us = sum(
            portion.cost_us
            for at_us, portion in had
            if portion.part.had.party == priority + tenant
            and at_us - at_us % SLOT_US + SLOT_US + 2 * MINUTE_US > now_us - now_us % SLOT_US
        )
        assert shares.had_us(tenant, priority) == lately_us
