"""Periods in UTC, accounts, and which terms apply to whom."""

from datetime import UTC, datetime, timedelta

import pytest

from windvane.core.budgets import (
    US_PER_DAY,
    Account,
    BudgetTable,
    BudgetTerms,
    Period,
    bounds,
    hold,
    settle,
    standing_of,
    tightest,
)
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL, Scope

KEY = Scope("key:a")
NOW_US = 20_777 * US_PER_DAY + 5


def us(year: int, month: int, day: int, hour: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, 0, second, tzinfo=UTC).timestamp()) * 1_000_000


def terms(**limits: int) -> BudgetTerms:
    return BudgetTerms(**{name: NanoUsd(limit) for name, limit in limits.items()})


def account(limit: int | None, spent: int = 0, period: Period = Period.DAILY) -> Account:
    return Account(KEY, period, NOW_US, limit, spent)


@pytest.mark.parametrize(
    ("period", "at_us", "begins", "ends"),
    [
        (Period.DAILY, us(2026, 11, 20, 12), us(2026, 11, 20), us(2026, 11, 21)),
        (Period.DAILY, us(2026, 11, 20), us(2026, 11, 20), us(2026, 11, 21)),
        (Period.DAILY, us(2026, 11, 21) - 1, us(2026, 11, 20), us(2026, 11, 21)),
        (Period.MONTHLY, us(2026, 11, 30, 23), us(2026, 11, 1), us(2026, 12, 1)),
        (Period.MONTHLY, us(2026, 12, 31, 23), us(2026, 12, 1), us(2027, 1, 1)),
        (Period.MONTHLY, us(2027, 1, 1), us(2027, 1, 1), us(2027, 2, 1)),
        (Period.MONTHLY, us(2027, 1, 1) - 1, us(2026, 12, 1), us(2027, 1, 1)),
        (Period.MONTHLY, us(2028, 2, 29, 23), us(2028, 2, 1), us(2028, 3, 1)),
        (Period.MONTHLY, us(2100, 2, 28), us(2100, 2, 1), us(2100, 3, 1)),
        # The summer time of nobody moves a UTC day.
        (Period.DAILY, us(2026, 3, 29, 1), us(2026, 3, 29), us(2026, 3, 30)),
        (Period.TOTAL, us(2026, 11, 20), 0, None),
    ],
)
def test_a_period_has_bounds(period: Period, at_us: int, begins: int, ends: int | None) -> None:
    assert bounds(period, at_us) == (begins, ends)


@pytest.mark.parametrize("period", [Period.DAILY, Period.MONTHLY])
def test_periods_follow_each_other_without_gap_or_overlap(period: Period) -> None:
    at_us = us(2023, 12, 30)
    begins, ends = bounds(period, at_us)
    for _ in range(1_500 if period is Period.DAILY else 60):
        assert ends is not None and bounds(period, ends - 1) == (begins, ends)
        following = bounds(period, ends)
        assert following[0] == ends
        begins, ends = following
    assert begins > at_us + timedelta(days=1_400).total_seconds() * 1_000_000


def test_all_hold_or_none() -> None:
    rich, poor, watched = account(100), account(10, spent=4), account(None)
    assert hold((rich, poor, watched), 7) is poor
    assert [each.held for each in (rich, poor, watched)] == [0, 0, 0]
    assert hold((rich, poor, watched), 6) is None
    assert [each.held for each in (rich, poor, watched)] == [6, 6, 6]
    settle((rich, poor, watched), 6, 5)
    assert [(each.spent, each.held) for each in (rich, poor, watched)] == [(5, 0), (9, 0), (5, 0)]


def test_the_last_nano_dollar_may_be_held_and_not_one_more() -> None:
    one = account(10)
    assert hold((one,), 10) is None
    assert hold((one,), 1) is one
    assert hold((one,), 0) is None


def test_what_is_left_is_never_negative() -> None:
    assert account(10, spent=12).left == 0
    assert account(None, spent=12).left is None


def test_the_tightest_is_the_one_with_the_least_left() -> None:
    a, b = account(100, spent=95), account(10)
    assert tightest((a, b, account(None))) is a
    assert tightest((account(None),)) is None


def test_a_changed_limit_is_told_of_by_what_is_spent_of_it() -> None:
    one = account(10, spent=10)
    one.alerted_permille = 1000
    one.set_limit(10)
    assert one.alerted_permille == 1000
    one.set_limit(20)
    assert one.alerted_permille == 500
    one.set_limit(None)
    assert (one.limit, one.alerted_permille) == (None, 500)


def test_a_standing_says_what_is_used_and_when_it_renews() -> None:
    one = account(1_000, spent=300)
    hold((one,), 200)
    said = standing_of(one)
    assert (said.left_nano_usd, said.used_permille) == (500, 500)
    assert said.renews_at_us == said.starts_at_us + US_PER_DAY
    assert standing_of(account(0)).used_permille == 1000


def test_terms_are_a_scopes_own_and_for_the_rest_its_kinds() -> None:
    table = BudgetTable(
        {
            Scope("key:*"): terms(daily=1, total=2),
            KEY: terms(daily=10),
            Scope("team:t"): terms(monthly=3),
            GLOBAL: terms(total=9),
        }
    )
    assert table.of(KEY) == terms(daily=10, total=2)
    assert table.of(Scope("key:b")) == terms(daily=1, total=2)
    assert table.of(Scope("key:with:colon")) == terms(daily=1, total=2)
    assert table.of(Scope("team:u")) is None
    assert table.of(Scope("team:t")) == terms(monthly=3)
    assert table.of(GLOBAL) == terms(total=9)


def test_a_table_is_replaced_and_never_changed() -> None:
    table = BudgetTable({KEY: terms(daily=10), GLOBAL: BudgetTerms()})
    assert list(table.terms) == [KEY], "terms that say nothing are none"
    other = table.replaced({KEY: None, Scope("key:b"): terms(total=1)})
    assert other.of(KEY) is None and other.of(Scope("key:b")) == terms(total=1)
    assert table.of(KEY) == terms(daily=10)
    assert BudgetTable({}).is_empty and not table.is_empty


def test_limits_are_those_that_are_set() -> None:
    assert terms(daily=0, total=5).limits() == [(Period.DAILY, 0), (Period.TOTAL, 5)]
    assert BudgetTerms().is_empty and not terms(daily=0).is_empty
