"""A gateway that starts with a wrong clock, which is then put right, gives no day and no month twice.

The ledger is the real one, and what it says of each day is the judge.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.entries import PLAIN_ENTRY

from windvane.assembly import open_budgets
from windvane.core.budgets import US_PER_DAY, BudgetTable, BudgetTerms, Period, bounds
from windvane.core.ledger import LedgerEntry
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL, Scope
from windvane.core.usage_report import UsageQuery
from windvane.ports.stores import Journal, LedgerStore
from windvane.stores.memory import MemoryBudgets, MemoryLedger
from windvane.stores.sqlite import SqliteLedger

HOUR_US = US_PER_DAY // 24
NOON_US = int(datetime(2026, 6, 20, 12, tzinfo=UTC).timestamp()) * 1_000_000
KEY, TEAM = Scope("key:k"), Scope("team:t")
DAILY, MONTHLY = 40, 90
TABLE = BudgetTable(
    {
        GLOBAL: BudgetTerms(daily=NanoUsd(DAILY), monthly=NanoUsd(MONTHLY)),
        KEY: BudgetTerms(daily=NanoUsd(DAILY)),
        Scope("team:*"): BudgetTerms(monthly=NanoUsd(MONTHLY)),
    }
)
COST = 7


class Gateway:
    """Spends whenever it is let, and writes it down."""

    def __init__(self, journal: Journal, ledger: LedgerStore) -> None:
        self.journal = journal
        self.ledger = ledger
        self.budgets = MemoryBudgets(TABLE)
        self.count = 0

    async def boot(self, now_us: int) -> None:
        self.budgets = await open_budgets(TABLE, self.ledger, now_us)
        # As metrics do, soon after the start.
        self.budgets.standings(now_us)

    async def spend_all(self, now_us: int) -> None:
        """Until a budget refuses; then what the accounts say is what the ledger says."""
        while self.budgets.hold(f"a{self.count}", (GLOBAL, KEY, TEAM), COST, now_us) is None:
            self.budgets.settle(f"a{self.count}", COST)
            self.journal.settle(_entry(self.count, now_us))
            self.count += 1
        for account in self.budgets.accounts((GLOBAL, KEY, TEAM), now_us):
            since_us, until_us = bounds(account.period, now_us)
            spent = await self.ledger.spent(account.scope, since_us, until_us)
            assert account.spent == spent, account


def _entry(number: int, now_us: int) -> LedgerEntry:
    return msgspec.structs.replace(
        PLAIN_ENTRY,
        attempt_id=f"a{number}",
        request_id=f"r{number}",
        started_at_us=now_us,
        team="t",
        cost_nano_usd=COST,
    )


def _memory(_: Path) -> tuple[Journal, LedgerStore]:
    ledger = MemoryLedger()
    return ledger, ledger


def _sqlite(folder: Path) -> tuple[Journal, LedgerStore]:
    ledger = SqliteLedger(folder)
    return ledger.journal, ledger


@pytest.mark.parametrize("opened", [_memory, _sqlite])
@pytest.mark.parametrize("asks_meanwhile", [False, True])
@pytest.mark.parametrize(
    "off_us",
    [
        pytest.param(-HOUR_US, id="an hour behind"),
        pytest.param(-14 * HOUR_US, id="behind, over midnight"),
        pytest.param(-US_PER_DAY, id="a day behind"),
        pytest.param(-40 * US_PER_DAY, id="months behind"),
        pytest.param(-NOON_US, id="at the beginning of time"),
        pytest.param(US_PER_DAY, id="a day ahead"),
        pytest.param(40 * US_PER_DAY, id="months ahead"),
    ],
)
async def test_a_clock_that_is_wrong_at_the_start_gives_no_period_twice(
    opened: Callable[[Path], tuple[Journal, LedgerStore]],
    asks_meanwhile: bool,
    off_us: int,
    tmp_path: Path,
) -> None:
    gateway = Gateway(*opened(tmp_path))
    await gateway.boot(NOON_US)
    await gateway.spend_all(NOON_US)
    await gateway.boot(NOON_US + off_us)
    if asks_meanwhile:
        await gateway.spend_all(NOON_US + off_us)
    for passed_us in (HOUR_US, 0, US_PER_DAY, 2 * US_PER_DAY, 11 * US_PER_DAY):
        await gateway.spend_all(NOON_US + passed_us)
    by_day = await _spent_by_day(gateway.ledger)
    assert max(by_day.values()) <= DAILY, by_day
    by_month = {month: _of_month(by_day, month) for month in {day[:7] for day in by_day}}
    assert max(by_month.values()) <= MONTHLY, by_month
    # And what was left was given.
    assert by_month["2026-06"] > MONTHLY - COST
    assert by_day["2026-07-01"] > DAILY - COST
    await gateway.ledger.aclose()


async def _spent_by_day(ledger: LedgerStore) -> dict[str, int]:
    rows: Sequence = await ledger.usage(UsageQuery(by=("day",)))
    return {row.group[0]: row.totals.cost_nano_usd for row in rows}


def _of_month(by_day: dict[str, int], month: str) -> int:
    return sum(cost for day, cost in by_day.items() if day.startswith(month))


async def test_a_start_asks_for_no_more_days_than_there_are(tmp_path: Path) -> None:
    """With a clock that stands at its beginning, there are decades between it and the ledger's day."""
    journal, ledger = _sqlite(tmp_path)
    for number, day in enumerate((0, 1, 40)):
        journal.settle(_entry(number, NOON_US + day * US_PER_DAY))
    days = [bounds(Period.DAILY, NOON_US + day * US_PER_DAY)[0] for day in (0, 1, 40)]
    assert list(await ledger.days_since(0)) == days
    assert list(await ledger.days_since(NOON_US)) == days
    assert list(await ledger.days_since(NOON_US + US_PER_DAY)) == days[1:]
    assert list(await ledger.days_since(NOON_US + 99 * US_PER_DAY)) == days[2:]
    await ledger.aclose()
