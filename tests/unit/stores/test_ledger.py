"""The ledger in SQLite: rows and sums together, what it may forget, and who has to wait."""

import asyncio
import gc
import sqlite3
import threading
from datetime import date, timedelta
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from windvane.core.faults import FaultKind, InternalServerError, Source
from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL
from windvane.core.usage import Certainty
from windvane.core.usage_report import UsageQuery
from windvane.stores.journal import FileJournal
from windvane.stores.sqlite import SqliteLedger, questions
from windvane.stores.sqlite import ledger as ledger_module
from windvane.stores.sqlite.writer import QUESTIONS_MAX

DAY = date(2026, 9, 1)
DAY_US = 20_697 * 86_400_000_000
US_PER_DAY = 86_400_000_000
ALL = UsageQuery()


def entry(number: int, /, **changes: object) -> LedgerEntry:
    known = LedgerEntry(
        attempt_id=f"req_{number:08}-1",
        request_id=f"req_{number:08}",
        number=1,
        started_at_us=DAY_US + number,
        key_id=f"key_{number % 3}",
        team=None,
        tags=("a", "b"),
        route="auto",
        requested_model="auto",
        provider="one",
        model="small",
        resolved_model=f"model-{number % 2}",
        reason="default",
        dialect="openai",
        is_stream=False,
        certainty=Certainty.EXACT,
        cost_nano_usd=NanoUsd(number),
        hold_nano_usd=NanoUsd(number),
    )
    return msgspec.structs.replace(known, **changes)


def settle(ledger: SqliteLedger, *entries: LedgerEntry) -> None:
    for each in entries:
        ledger.journal.hold(each)
        ledger.journal.settle(each)


async def totals(ledger: SqliteLedger) -> Totals:
    [row] = await ledger.usage(ALL)
    return row.totals


def test_the_day_is_that_day() -> None:
    assert (DAY - date(1970, 1, 1)).days * US_PER_DAY == DAY_US


def make_first_schema(path: Path, entries: list[LedgerEntry]) -> None:
    """A ledger as the version before users and sums made it."""
    script = (resources.files("windvane.stores.sqlite") / "0001_ledger.sql").read_text()
    names = [field.name for field in msgspec.structs.fields(LedgerEntry)][:-5]
    with sqlite3.connect(path) as connection:
        connection.executescript(script + "PRAGMA user_version = 1;")
        for each in entries:
            values = dict(zip(names, msgspec.structs.astuple(each), strict=False))
            values |= {"tags": ",".join(each.tags), "certainty": each.certainty.value}
            marks = ", ".join("?" * len(names))
            connection.execute(
                f"INSERT INTO ledger ({', '.join(names)}) VALUES ({marks})", list(values.values())
            )
    connection.close()


async def test_an_older_ledger_keeps_its_rows_and_gets_their_sums(tmp_path: Path) -> None:
    old = [
        entry(1, team="blue", certainty=Certainty.ASSUMED),
        entry(2, cost_nano_usd=None, hold_nano_usd=None, route=None),
        entry(3, attempt_id="req_00000002-2", request_id="req_00000002", number=2),
        entry(4, outcome="timeout", started_at_us=DAY_US - 1, certainty=Certainty.ESTIMATED),
    ]
    make_first_schema(tmp_path / "ledger.db", old)
    ledger = SqliteLedger(tmp_path)
    try:
        assert await totals(ledger) == Totals(
            requests=3,
            attempts=4,
            failed_attempts=1,
            unpriced_attempts=1,
            cost_nano_usd=8,
            estimated_nano_usd=4,
            assumed_nano_usd=1,
        )
        assert list(await ledger.verify()) == []
        for each in (old[0], old[3]):
            assert list(await ledger.entries_of(each.request_id)) == [each]
        assert list(await ledger.entries_of("req_00000002")) == [old[1], old[2]]
        rows = await ledger.usage(UsageQuery(by=("day", "team")))
        assert [row.group for row in rows] == [
            ((DAY - timedelta(1)).isoformat(), ""),
            (DAY.isoformat(), ""),
            (DAY.isoformat(), "blue"),
        ]
        # What is brought once more is known.
        settle(ledger, *old)
        assert (await totals(ledger)).attempts == 4
    finally:
        await ledger.aclose()


def test_a_record_of_an_older_version_is_understood(tmp_path: Path) -> None:
    """It lacks the fields that came since."""
    new = msgspec.msgpack.encode(entry(1))
    for lacking in (3, 5):
        short = msgspec.msgpack.encode(msgspec.msgpack.decode(new)[:-lacking])
        assert msgspec.msgpack.decode(short, type=LedgerEntry) == entry(1)


async def test_a_ledger_from_the_future_is_left_alone(tmp_path: Path) -> None:
    await SqliteLedger(tmp_path).aclose()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RuntimeError, match="upgrade it"):
        SqliteLedger(tmp_path)


@pytest.mark.parametrize(
    "bend",
    [
        "UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1 WHERE key_id = 'key_1'",
        "UPDATE usage_daily SET requests = requests - 1 WHERE key_id = 'key_1'",
        "DELETE FROM usage_daily WHERE key_id = 'key_1'",
        "UPDATE usage_daily SET team = 'x' WHERE key_id = 'key_1'",
    ],
)
async def test_sums_that_are_not_those_of_the_rows_are_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bend: str
) -> None:
    monkeypatch.setattr("windvane.stores.sqlite.verification.ROWS_ADDED_UP", 7)
    monkeypatch.setattr(ledger_module, "ROWS_ADDED_UP", 7)
    ledger = SqliteLedger(tmp_path)
    try:
        settle(ledger, *map(entry, range(50)))
        before = await totals(ledger)
        assert list(await ledger.verify()) == []
        await ledger._ask(lambda connection: connection.execute(bend).rowcount)
        found = await ledger.verify()
        assert {each.place[1] for each in found} == {"key_1"}
        assert all(each.kept != each.found for each in found)
        await ledger.rebuild()
        assert list(await ledger.verify()) == []
        assert await totals(ledger) == before
    finally:
        await ledger.aclose()


async def test_a_row_cannot_be_changed_or_deleted(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    try:
        settle(ledger, entry(1))
        for statement in ("DELETE FROM ledger", "UPDATE ledger SET cost_nano_usd = 0"):
            with pytest.raises(InternalServerError, match="append-only"):
                await ledger._ask(lambda connection, said=statement: connection.execute(said))
        await ledger.forget_before(DAY)
        with pytest.raises(InternalServerError, match="append-only"):
            await ledger._ask(lambda connection: connection.execute("DELETE FROM ledger"))
        assert await ledger.entries_of(entry(1).request_id) == [entry(1)]
    finally:
        await ledger.aclose()


async def test_old_rows_are_forgotten_and_their_sums_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windvane.stores.sqlite.retention.ROWS_FORGOTTEN_AT_ONCE", 7)
    ledger = SqliteLedger(tmp_path)
    try:
        edge = entry(98, started_at_us=DAY_US - 1)
        old = [entry(number, started_at_us=DAY_US - 1 - number) for number in range(1, 40)]
        new = [entry(number) for number in range(100, 120)]
        first = entry(99, started_at_us=DAY_US)
        settle(ledger, *old, *new, edge, first)
        before = await ledger.usage(UsageQuery(by=("day", "key", "model")))
        assert await ledger.forget_before(DAY) == len(old) + 1
        assert await ledger.forget_before(DAY) == 0
        assert await ledger.usage(UsageQuery(by=("day", "key", "model"))) == before
        assert list(await ledger.verify()) == []
        await ledger.rebuild()
        assert await ledger.usage(UsageQuery(by=("day", "key", "model"))) == before
        for each in (*old, edge):
            assert list(await ledger.entries_of(each.request_id)) == []
        for each in (*new, first):
            assert list(await ledger.entries_of(each.request_id)) == [each]
        # An earlier day does not make the cutoff go back.
        await ledger.forget_before(DAY - timedelta(300))
        assert list(await ledger.verify()) == []
    finally:
        await ledger.aclose()


async def test_rows_forgotten_while_they_are_verified_are_rightly_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windvane.stores.sqlite.verification.ROWS_ADDED_UP", 3)
    monkeypatch.setattr(ledger_module, "ROWS_ADDED_UP", 3)
    ledger = SqliteLedger(tmp_path)
    try:
        settle(ledger, *(entry(number) for number in range(60)))
        settle(ledger, entry(99, started_at_us=DAY_US + US_PER_DAY))
        verifying = asyncio.ensure_future(ledger.verify())
        await asyncio.sleep(0)
        assert await ledger.forget_before(DAY + timedelta(1)) == 60
        assert not verifying.done()
        assert list(await verifying) == []
    finally:
        await ledger.aclose()


async def test_what_was_forgotten_is_not_counted_again_when_the_journal_has_it(
    tmp_path: Path,
) -> None:
    """A quiet gateway that is killed leaves a journal of weeks, nearly all of it long on the ledger."""
    journal = FileJournal(tmp_path / "journal", lambda *_: None)
    for number in (1, 2, 3):
        journal.hold(entry(number))
        journal.settle(entry(number))
    journal.hold(entry(4, started_at_us=DAY_US + US_PER_DAY))
    segment = tmp_path / "journal" / "000001.journal"
    kept = segment.read_bytes()
    ledger = SqliteLedger(tmp_path)
    assert await ledger.forget_before(DAY + timedelta(1)) == 3
    before = await totals(ledger)
    await ledger.aclose()
    segment.write_bytes(kept)
    ledger = SqliteLedger(tmp_path)
    try:
        assert await totals(ledger) == before
        assert before.attempts == 4
    finally:
        await ledger.aclose()


async def test_entries_and_questions_get_between_the_pieces_of_forgetting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windvane.stores.sqlite.retention.ROWS_FORGOTTEN_AT_ONCE", 5)
    ledger = SqliteLedger(tmp_path)
    try:
        settle(ledger, *(entry(number) for number in range(500)))
        forgetting = asyncio.ensure_future(ledger.forget_before(DAY + timedelta(1)))
        await asyncio.sleep(0)
        settle(ledger, entry(1_000, started_at_us=DAY_US + US_PER_DAY))
        assert (await totals(ledger)).attempts == 501
        assert not forgetting.done()
        assert await forgetting == 500
    finally:
        await ledger.aclose()


async def test_too_many_questions_are_refused(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    try:
        settle(ledger, entry(1))
        let_go = threading.Event()
        held = asyncio.ensure_future(ledger._ask(lambda _: let_go.wait(30)))
        await asyncio.sleep(0)
        asking = [asyncio.ensure_future(ledger.spent(GLOBAL, 0)) for _ in range(QUESTIONS_MAX * 3)]
        await asyncio.sleep(0)
        let_go.set()
        assert await held
        asked = await asyncio.gather(*asking, return_exceptions=True)
        refused = [each for each in asked if isinstance(each, InternalServerError)]
        assert [each for each in asked if each == 1]
        assert len(refused) >= QUESTIONS_MAX
        fault = refused[0].fault
        assert (fault.kind, fault.source) == (FaultKind.OVERLOADED, Source.GATEWAY)
        assert (fault.status, fault.code) == (503, "ledger_busy")
        # Those who leave make room only when the thread has come to their question.
        assert await ledger.spent(GLOBAL, 0) == 1
    finally:
        await ledger.aclose()


async def test_questions_given_up_do_not_wait_for_ever(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    try:
        for _ in range(3):
            tasks = [
                asyncio.ensure_future(ledger.spent(GLOBAL, 0)) for _ in range(QUESTIONS_MAX // 2)
            ]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while ledger._writer._asked > ledger._writer._answered:
                await asyncio.sleep(0.001)
        assert await ledger.spent(GLOBAL, 0) == 0
    finally:
        await ledger.aclose()


def test_a_ledger_outlives_the_loop_it_was_used_in(tmp_path: Path) -> None:
    """The client of the library calls `asyncio.run` as often as it likes."""
    ledger = SqliteLedger(tmp_path)

    async def leave_a_timer(number: int) -> None:
        settle(ledger, entry(number))

    async def leave_a_question() -> None:
        task = asyncio.ensure_future(ledger.spent(GLOBAL, 0))
        await asyncio.sleep(0)
        task.cancel()

    async def wait_for_the_timer() -> None:
        settle(ledger, entry(5))
        async with asyncio.timeout(60):
            while ledger._written < 2:
                await asyncio.sleep(0.01)

    asyncio.run(leave_a_timer(1))
    asyncio.run(wait_for_the_timer())
    asyncio.run(leave_a_timer(2))
    asyncio.run(leave_a_question())
    settle(ledger, entry(3))
    gc.collect()
    assert asyncio.run(totals(ledger)).attempts == 4
    asyncio.run(ledger.aclose())


def test_an_answer_for_a_loop_that_is_gone_hurts_nobody(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    is_asked, is_over = threading.Event(), threading.Event()

    def question(_: sqlite3.Connection) -> bool:
        is_asked.set()
        return is_over.wait(60)

    async def leave_in_the_middle() -> None:
        task = asyncio.ensure_future(ledger._ask(question))
        await asyncio.to_thread(is_asked.wait, 60)
        task.cancel()

    asyncio.run(leave_in_the_middle())
    is_over.set()
    settle(ledger, entry(1))
    assert asyncio.run(totals(ledger)).attempts == 1
    asyncio.run(ledger.aclose())


async def test_whatever_ends_the_thread_nothing_is_sent_without_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, which nobody foresaw: holds and questions are refused, at once."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ledger = SqliteLedger(tmp_path)
    settle(ledger, entry(1))
    waiting = [asyncio.ensure_future(ledger.spent(GLOBAL, 0)) for _ in range(2)]
    await asyncio.gather(*waiting)

    def fail(*_: object) -> None:
        raise TypeError("nobody foresaw this")

    monkeypatch.setattr(ledger_module, "insert_all", fail)
    settle(ledger, entry(2))
    asked = asyncio.ensure_future(ledger.spent(GLOBAL, 0))
    async with asyncio.timeout(60):
        with pytest.raises(InternalServerError, match="closed"):
            await asked
        ledger._writer._thread.join(60)
        with pytest.raises(InternalServerError):
            await ledger.spent(GLOBAL, 0)
        with pytest.raises(InternalServerError, match="nothing was sent"):
            ledger.journal.hold(entry(3))
        await ledger.aclose()
    monkeypatch.undo()
    again = SqliteLedger(tmp_path)
    assert (await totals(again)).attempts == 2
    await again.aclose()


async def test_a_question_after_the_end_is_refused(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    await ledger.aclose()
    with pytest.raises(InternalServerError, match="closed"):
        await ledger.spent(GLOBAL, 0)


async def test_a_full_group_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "GROUP_S", 3600.0)
    monkeypatch.setattr(ledger_module, "GROUP_ROWS_MAX", 10)
    ledger = SqliteLedger(tmp_path)
    try:
        settle(ledger, *map(entry, range(25)))
        async with asyncio.timeout(60):
            while ledger._written < 20:
                await asyncio.sleep(0.001)
        assert len(ledger._gathered) == 5
    finally:
        await ledger.aclose()


async def test_new_work_is_refused_when_the_ledger_is_too_far_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs says nothing: what is on its way must not grow without end."""
    monkeypatch.setattr(ledger_module, "UNWRITTEN_MAX", 10)
    ledger = SqliteLedger(tmp_path)
    try:
        with pytest.raises(InternalServerError, match="behind"):
            settle(ledger, *map(entry, range(100)))
        assert (await totals(ledger)).attempts == 11
        settle(ledger, entry(200))
        assert (await totals(ledger)).attempts == 12
    finally:
        await ledger.aclose()


async def test_a_request_is_found_by_its_own_id_alone(tmp_path: Path) -> None:
    """Not by one that its id begins with."""
    ledger = SqliteLedger(tmp_path)
    try:
        longer = entry(1, attempt_id="req-x-1", request_id="req-x")
        settle(ledger, longer)
        assert list(await ledger.entries_of("req")) == []
        assert list(await ledger.entries_of("req-x")) == [longer]
    finally:
        await ledger.aclose()


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost_nano_usd": NanoUsd(2**63)},
        {"cost_nano_usd": NanoUsd(-1)},
        {"saved_nano_usd": NanoUsd(-1)},
        {"hold_nano_usd": NanoUsd(-1)},
        {"input_tokens": 2**70},
        {"outcome": "\ud800"},
    ],
)
async def test_one_wrong_entry_is_set_aside_and_all_others_are_counted(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    ledger = SqliteLedger(tmp_path)
    try:
        for number in range(40):
            ledger.journal.hold(entry(number))
            ledger.journal.settle(entry(number, **wrong if number == 17 else {}))
        assert (await totals(ledger)).attempts == 39
        assert list(await ledger.verify()) == []
        [line] = (tmp_path / "set_aside.jsonl").read_text().splitlines()
        assert "req_00000017-1" in line
    finally:
        await ledger.aclose()


async def test_sums_beyond_64_bits_set_one_entry_aside(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    try:
        large = NanoUsd(2**62)
        settle(ledger, *(entry(6 * number, cost_nano_usd=large) for number in (1, 2, 3)))
        assert (await totals(ledger)).attempts == 1
        assert list(await ledger.verify()) == []
    finally:
        await ledger.aclose()


@pytest.mark.parametrize("until_us", [None, DAY_US])
async def test_what_was_spent_is_asked_of_the_days_in_question_alone(
    tmp_path: Path, until_us: int | None
) -> None:
    """A gateway whose clock is far behind asks of each day that the ledger has: if each were read from it
    to the last, a ledger of some years would hold up the start for minutes."""
    await SqliteLedger(tmp_path).aclose()
    asked = [questions.of_spent(scope, 0, until_us) for scope in (GLOBAL, "key:a", "team:a")]
    asked += [questions.of_spent_by(kind, 0, until_us) for kind in ("key", "user", "tag", "model")]
    connection = sqlite3.connect(tmp_path / "ledger.db")
    for text, values in asked:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()
        assert "day>? AND day<?" in plan[0][3], (text, plan)
    connection.close()
