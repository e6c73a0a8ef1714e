"""A share of a budget is told of once in its period, whatever restarts come between."""

from pathlib import Path

import pytest

from windvane.core.budgets import US_PER_DAY, Account, Period
from windvane.core.events import BudgetReached, Event
from windvane.core.principal import Scope
from windvane.engine.alerts import BudgetAlerts
from windvane.ports.observer import EVERYTHING, Observer
from windvane.stores.told import ToldFile

KEY = Scope("key:a")
NOW_US = 20_777 * US_PER_DAY + 5


class Ear(Observer):
    """Hears alerts."""

    hears = EVERYTHING

    def __init__(self) -> None:
        self.heard: list[int] = []

    def on(self, event: Event) -> None:
        assert isinstance(event, BudgetReached)
        self.heard.append(event.permille)


def looked_at(folder: Path, account: Account, now_us: int = NOW_US) -> list[int]:
    """What a process that has just started tells when it looks at the account."""
    ear = Ear()
    alerts = BudgetAlerts((ear,), (500, 800, 1000), ToldFile(folder / "alerts.jsonl", now_us))
    alerts.look((account,), now_us)
    alerts.look((account,), now_us)
    return ear.heard


def account(spent: int, limit: int = 100, period: Period = Period.DAILY) -> Account:
    return Account(KEY, period, NOW_US, limit, spent)


def test_a_share_is_told_of_once(tmp_path: Path) -> None:
    assert looked_at(tmp_path, account(55)) == [500]
    assert looked_at(tmp_path, account(60)) == []
    assert looked_at(tmp_path, account(85)) == [800]
    assert looked_at(tmp_path, account(100)) == [1000]
    assert looked_at(tmp_path, account(100)) == []


def test_the_mark_is_the_next_share_that_was_not_told_of(tmp_path: Path) -> None:
    looked_at(tmp_path, account(55))
    one = account(60)
    assert looked_at(tmp_path, one) == []
    assert one.mark == 80


def test_another_limit_period_or_day_is_another_matter(tmp_path: Path) -> None:
    assert looked_at(tmp_path, account(90)) == [800]
    assert looked_at(tmp_path, account(90, limit=110)) == [800]
    assert looked_at(tmp_path, account(90, period=Period.TOTAL)) == [800]
    tomorrow_us = NOW_US + US_PER_DAY
    other = Account(KEY, Period.DAILY, tomorrow_us, 100, 90)
    assert looked_at(tmp_path, other, tomorrow_us) == [800]


def test_what_is_over_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    looked_at(tmp_path, account(90))
    looked_at(tmp_path, account(90, period=Period.TOTAL))
    assert len(file.read_text().splitlines()) == 2
    ToldFile(file, NOW_US + US_PER_DAY)
    (kept,) = file.read_text().splitlines()
    assert '"total"' in kept


def test_a_budget_that_refuses_after_a_restart_is_not_used_up_again(tmp_path: Path) -> None:
    looked_at(tmp_path, account(100))
    ear = Ear()
    alerts = BudgetAlerts((ear,), (1000,), ToldFile(tmp_path / "alerts.jsonl", NOW_US))
    alerts.refused(account(100), NOW_US)
    assert ear.heard == []


@pytest.mark.parametrize("torn", [b'["key:a","dai', b"\xff\n", b"[1]\n", b"\n\n"])
def test_a_line_that_is_torn_is_left_out(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "alerts.jsonl"
    looked_at(tmp_path, account(55))
    with file.open("ab") as more:
        more.write(torn)
    assert looked_at(tmp_path, account(55)) == []
    assert len(file.read_text().splitlines()) == 1


def test_a_file_that_cannot_be_written_keeps_nobody_from_being_told(tmp_path: Path) -> None:
    (tmp_path / "alerts.jsonl").mkdir()
    assert looked_at(tmp_path, account(55)) == [500]


def test_without_a_file_each_process_tells() -> None:
    for _ in range(2):
        ear = Ear()
        BudgetAlerts((ear,), (500,)).look((account(55),), NOW_US)
        assert ear.heard == [500]
