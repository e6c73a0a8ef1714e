"""Volume: a large journal at start, and a ledger of ten million rows. Prints what it measured.

What is quick is so by what is done, which is counted; times are printed. Only a start is held to a
multiple of the time it is promised in: machines that run tests are busy.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from windvane.core.budgets import US_PER_DAY
from windvane.core.ledger import LedgerEntry
from windvane.core.money import NanoUsd
from windvane.core.principal import Scope
from windvane.core.usage import Certainty
from windvane.core.usage_report import UsageQuery
from windvane.stores.journal import FileJournal
from windvane.stores.rollup import PLACE, SUMS, Place, Sums, add_up
from windvane.stores.sqlite import SqliteLedger
from windvane.stores.sqlite import ledger as ledger_module
from windvane.stores.sqlite.file import open_file
from windvane.stores.sqlite.retention import forget
from windvane.stores.sqlite.rows import FIELDS, entry_of

T = TypeVar("T")
PATIENCE = 30
"""How many times what is promised a busy machine may take."""
JOURNAL_RECORDS = 100_000
START_S = 2.0
STEPS_A_PLACE_MAX = 100
"""Of SQLite's machine, for a question put to the sums: 0.3 s are promised for a month of ten million rows.
The rows themselves would take many times as many."""

FIRST = date(2026, 8, 1)
FIRST_DAY = (FIRST - date(1970, 1, 1)).days
FIRST_US = FIRST_DAY * US_PER_DAY
MONTH = UsageQuery(since=FIRST, until=date(2026, 8, 31), by=("key", "day"))
DAYS = 62

ENTRY = LedgerEntry(
    attempt_id="req_0-1",
    request_id="req_0",
    number=1,
    started_at_us=FIRST_US,
    key_id="key_0",
    team="blue",
    tags=("a", "b"),
    route="auto",
    requested_model="auto",
    provider="mistral",
    model="mistral-small",
    resolved_model="mistral-small-2506",
    reason="default",
    dialect="openai",
    is_stream=True,
    certainty=Certainty.ASSUMED,
    cost_nano_usd=NanoUsd(5_000),
    hold_nano_usd=NanoUsd(5_000),
    outcome="unknown",
)


def timed(what: str, since: float) -> float:
    took_s = time.perf_counter() - since
    print(f"  {what}: {took_s * 1_000:,.0f} ms")
    return took_s


def write_journal(folder: Path, attempts: int) -> None:
    journal = FileJournal(folder, lambda *_: None)
    for number in range(attempts):
        entry = msgspec.structs.replace(
            ENTRY,
            attempt_id=f"req_{number:026}-1",
            request_id=f"req_{number:026}",
            started_at_us=FIRST_US + number * 1_000,
            key_id=f"key_{number % 20}",
        )
        journal.hold(entry)
        # One in a hundred was under way when the process was killed.
        if number % 100:
            cost = NanoUsd(number)
            journal.settle(
                msgspec.structs.replace(
                    entry, certainty=Certainty.EXACT, cost_nano_usd=cost, outcome="ok"
                )
            )


@pytest.mark.parametrize("is_on_ledger", [False, True], ids=["new", "on the ledger already"])
async def test_a_start_with_a_large_journal_is_quick(tmp_path: Path, is_on_ledger: bool) -> None:
    attempts = JOURNAL_RECORDS // 2
    if is_on_ledger:
        write_journal(tmp_path / "journal", attempts)
        await SqliteLedger(tmp_path).aclose()
    write_journal(tmp_path / "journal", attempts)
    since = time.perf_counter()
    ledger = SqliteLedger(tmp_path)
    took_s = timed(f"start with {JOURNAL_RECORDS:,} records in the journal", since)
    try:
        assert ledger.recovered == attempts
        [row] = await ledger.usage(UsageQuery())
        exact = sum(number for number in range(attempts) if number % 100)
        assert row.totals.attempts == attempts
        assert row.totals.cost_nano_usd == exact + attempts // 100 * 5_000
        assert list(await ledger.verify()) == []
        assert took_s < START_S * PATIENCE
    finally:
        await ledger.aclose()


ROWS = """
WITH RECURSIVE number(n, r) AS (
  SELECT :first, :first % :period UNION ALL SELECT n + 1, (n + 1) % :period FROM number WHERE n < :last
)
INSERT INTO ledger
SELECT printf('req_%026d-1', n), printf('req_%026d', n), 1 + (r % 10 = 0),
  :start_us + n * :step_us, 'key_' || (r * 7919 % 200), 'team_' || (r % 5),
  CASE r % 3 WHEN 0 THEN '' WHEN 1 THEN 'a' ELSE 'a,b' END, 'auto', 'auto',
  CASE r % 4 WHEN 0 THEN 'openai' ELSE 'mistral' END, 'model', 'model-' || (r % 4), 'default',
  'openai', r % 2, CASE r % 50 WHEN 0 THEN 'estimated' WHEN 1 THEN 'assumed' ELSE 'exact' END,
  CASE r % 100 WHEN 7 THEN NULL ELSE r * 37 END, 1000000,
  CASE r % 40 WHEN 0 THEN 'timeout' ELSE 'ok' END, 200, r, r % 300, r % 7, 0, r % 11,
  1000, 200, NULL, NULL, CASE r % 2 WHEN 0 THEN NULL ELSE 'user_' || (r % 500) END, NULL,
  CASE r % 5 WHEN 0 THEN 'miss' END, NULL, NULL
FROM number
"""


def make_rows(path: Path, count: int, period: int) -> None:
    """Rows straight into the table, in the order of their days, and their sums by arithmetic.

    Rows repeat after `period`, but for their ids and times.
    """
    path.parent.mkdir(exist_ok=True)
    step_us = DAYS * US_PER_DAY // count
    connection = open_file(path)
    connection.execute("PRAGMA synchronous = OFF")
    for first in range(0, count, 500_000):
        last = min(first + 500_000, count) - 1
        times = {"start_us": FIRST_US, "step_us": step_us}
        connection.execute(ROWS, {**times, "first": first, "last": last, "period": period})
    rows = connection.execute(f"SELECT {', '.join(FIELDS)} FROM ledger WHERE rowid <= {period}")
    entries = [entry_of(row) for row in rows]
    sums: dict[Place, Sums] = {}
    for day in range(DAYS):
        start, end = (-(-number * US_PER_DAY // step_us) for number in (day, day + 1))
        for place, entry in enumerate(entries):
            number = len(range(start + (place - start) % period, min(end, count), period))
            add_times(sums, FIRST_DAY + day, entry, number)
    connection.execute("BEGIN")
    connection.executemany(
        f"INSERT INTO usage_daily VALUES ({', '.join('?' * (len(PLACE) + len(SUMS)))})",
        ((*place, *known) for place, known in sorted(sums.items())),
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def add_times(sums: dict[Place, Sums], day: int, entry: LedgerEntry, times: int) -> None:
    one: dict[Place, Sums] = {}
    add_up([entry], one)
    [(place, added)] = one.items()
    known = sums.setdefault((day, *place[1:]), [0] * len(SUMS))
    known[:] = [had + times * more for had, more in zip(known, added, strict=True)]


def naive(path: Path) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Requests, attempts and costs by key and day of the month, straight from the rows."""
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT key_id, date(started_at_us / 1000000, 'unixepoch'), sum(number = 1), count(*),"
        " coalesce(sum(cost_nano_usd), 0) FROM ledger WHERE started_at_us < :end GROUP BY 1, 2",
        {"end": FIRST_US + 31 * US_PER_DAY},
    ).fetchall()
    connection.close()
    return {(row[0], row[1]): row[2:] for row in rows}


@asynccontextmanager
async def opened(folder: Path):
    since = time.perf_counter()
    ledger = SqliteLedger(folder)
    timed("start", since)
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def steps(ledger: SqliteLedger, question: Awaitable[T]) -> tuple[int, T]:
    """What SQLite's machine does for a question, to the thousand; and what is answered."""
    count = 0

    def went_on() -> None:
        nonlocal count
        count += 1000

    await ledger._ask(lambda connection: connection.set_progress_handler(went_on, 1000))
    answer = await question
    await ledger._ask(lambda connection: connection.set_progress_handler(None, 0))
    print(f"  {count:,} steps")
    return count, answer


async def answered_quickly(folder: Path, count: int, period: int) -> None:
    since = time.perf_counter()
    make_rows(folder / "ledger.db", count, period)
    timed(f"{count:,} rows made", since)
    since = time.perf_counter()
    expected = naive(folder / "ledger.db")
    timed("the same question put to the rows", since)
    async with opened(folder) as ledger:
        places = await ledger._ask(
            lambda connection: connection.execute("SELECT count(*) FROM usage_daily").fetchone()
        )
        size = (folder / "ledger.db").stat().st_size
        print(f"  {size / count:.0f} bytes a row; {places[0]:,} places")
        # Once from the disk, once more as usual.
        since = time.perf_counter()
        await ledger.usage(MONTH)
        timed("usage by key and day, first", since)
        since = time.perf_counter()
        taken, found = await steps(ledger, ledger.usage(MONTH))
        timed("usage by key and day of a month", since)
        totals = {row.group: row.totals for row in found}
        assert {
            group: (each.requests, each.attempts, each.cost_nano_usd)
            for group, each in totals.items()
        } == expected
        assert taken < STEPS_A_PLACE_MAX * places[0]
        for scope in ("key:key_7", "user:user_7", "team:team_1", "global"):
            since = time.perf_counter()
            taken, _ = await steps(ledger, ledger.spent(Scope(scope), 0))
            timed(f"spent of {scope}", since)
            assert taken < STEPS_A_PLACE_MAX * places[0]


async def forgotten_without_a_halt(
    folder: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = 0

    def counted(*values: Any, **named: Any) -> int:
        nonlocal pieces
        pieces += 1
        return forget(*values, **named)

    monkeypatch.setattr(ledger_module, "forget", counted)
    async with opened(folder) as ledger:
        before = await ledger.usage(MONTH)
        waits, waited_for = [0.0], [0]
        forgetting = asyncio.ensure_future(ledger.forget_before(FIRST + timedelta(DAYS // 4)))
        since = time.perf_counter()
        while not forgetting.done():
            asked, had = time.perf_counter(), pieces
            await ledger.entries_of("nobody")
            waits.append(time.perf_counter() - asked)
            waited_for.append(pieces - had)
            await asyncio.sleep(0.01)
        timed(f"{await forgetting:,} rows forgotten", since)
        waits.sort()
        middle, longest = waits[len(waits) // 2], waits[-1]
        print(f"  others waited {middle * 1_000:.1f} ms (median), {longest * 1_000:.1f} ms (most)")
        assert 0 < await forgetting < count
        assert await ledger.usage(MONTH) == before
        assert len(waits) > 3
        assert max(waited_for) <= 2, "a question waits for what is under way, and no longer"


async def verified(folder: Path) -> None:
    async with opened(folder) as ledger:
        since = time.perf_counter()
        assert list(await ledger.verify()) == []
        timed("verify", since)


async def test_many_rows_are_answered_for_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered_quickly(tmp_path, 200_000, 300)
    await verified(tmp_path)
    await forgotten_without_a_halt(tmp_path, 200_000, monkeypatch)
    await verified(tmp_path)


@pytest.mark.slow
async def test_ten_million_rows_are_answered_for_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered_quickly(tmp_path, 10_000_000, 3_000)
    await forgotten_without_a_halt(tmp_path, 10_000_000, monkeypatch)
