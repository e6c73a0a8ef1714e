"""A disk that is full, read-only, failing or overwritten: nothing is lost, nothing counts twice, new work
is refused within a second, what runs is settled, and the ledger recovers by itself."""

import asyncio
import errno
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from windvane.core.faults import InternalServerError, WindvaneError
from windvane.core.keys import KeyTerms, VirtualKey
from windvane.core.ledger import LedgerEntry
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL
from windvane.core.usage import Certainty
from windvane.core.usage_report import UsageQuery
from windvane.stores.sqlite import SqliteLedger
from windvane.stores.sqlite import file as sqlite_file
from windvane.stores.sqlite import ledger as ledger_module
from windvane.stores.sqlite import writer as writer_module

START_US = 1_790_000_000_000_000
REFUSED_WITHIN_S = 5.0
"""A second is promised, and usual; a busy machine takes longer over anything."""
RECOVERED_WITHIN_S = 20.0
KEY = VirtualKey(id="key_1", terms=KeyTerms(name="one"), secrets=(), created_at_us=1)


def entry(number: int, /, **changes: object) -> LedgerEntry:
    known = LedgerEntry(
        attempt_id=f"req_{number:08}-1",
        request_id=f"req_{number:08}",
        number=1,
        started_at_us=START_US + number,
        key_id=f"key_{number % 3}",
        team="blue",
        tags=("a",),
        route="auto",
        requested_model="auto",
        provider="one",
        model="small",
        resolved_model="small",
        reason="x" * 2_000,
        dialect="openai",
        is_stream=False,
        certainty=Certainty.ASSUMED,
        cost_nano_usd=NanoUsd(1_000_000),
        hold_nano_usd=NanoUsd(1_000_000),
        outcome="unknown",
    )
    return msgspec.structs.replace(known, **changes)


def settlement(number: int) -> LedgerEntry:
    return entry(number, certainty=Certainty.EXACT, cost_nano_usd=NanoUsd(number + 1), outcome="ok")


class Caller:
    """Begins and settles attempts, and knows what the ledger must have in the end."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self.ledger = ledger
        self.numbers = iter(range(10**6))
        self.running: list[int] = []
        self.settled: list[int] = []

    def begin(self) -> None:
        """Raises InternalServerError when refused."""
        number = next(self.numbers)
        self.ledger.journal.hold(entry(number))
        self.running.append(number)

    def end(self) -> None:
        number = self.running.pop(0)
        self.ledger.journal.settle(settlement(number))
        self.settled.append(number)

    def work(self, count: int) -> None:
        for _ in range(count):
            self.begin()
            self.end()

    async def refused(self) -> tuple[float, WindvaneError]:
        """Work until refused; how long that took."""
        since = time.monotonic()
        while time.monotonic() - since < 30:
            try:
                self.begin()
            except InternalServerError as error:
                return time.monotonic() - since, error
            self.end()
            await asyncio.sleep(0.005)
        raise AssertionError("new work is not refused")

    async def recovered(self) -> float:
        since = time.monotonic()
        while time.monotonic() - since < 30:
            try:
                self.begin()
            except InternalServerError:
                await asyncio.sleep(0.01)
            else:
                return time.monotonic() - since
        raise AssertionError("it did not recover by itself")

    async def written(self) -> None:
        async with asyncio.timeout(60):
            while self.ledger._written < len(self.settled) or self.ledger._writer.trouble:
                await asyncio.sleep(0.001)

    async def settled_is_kept(self) -> None:
        """Every settlement is on the ledger, once, and the sums are those of the rows."""
        [row] = await self.ledger.usage(UsageQuery())
        assert row.totals.attempts == len(self.settled)
        assert row.totals.cost_nano_usd == sum(number + 1 for number in self.settled)
        assert list(await self.ledger.verify()) == []


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    caller.work(50)
    for _ in range(20):
        caller.begin()
    await caller.settled_is_kept()
    yield caller
    await ledger.aclose()


def full(ledger: SqliteLedger) -> Callable[[], None]:
    """The disk has no page more for the ledger; the way back."""
    connection = ledger._writer._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return lambda: connection.execute("PRAGMA max_page_count = 1000000").close()


def read_only(ledger: SqliteLedger) -> Callable[[], None]:
    connection = ledger._writer._connection
    connection.execute("PRAGMA query_only = 1")
    return lambda: connection.execute("PRAGMA query_only = 0").close()


def moved_away(ledger: SqliteLedger) -> Callable[[], None]:
    elsewhere = ledger._path.with_suffix(".moved")
    ledger._path.rename(elsewhere)
    return lambda: elsewhere.rename(ledger._path) and None


def replaced(ledger: SqliteLedger) -> Callable[[], None]:
    back = moved_away(ledger)
    ledger._path.write_bytes(b"")
    return back


def overwritten(ledger: SqliteLedger) -> Callable[[], None]:
    """Garbage over every page, of which SQLite has none in memory."""
    connection = ledger._writer._connection
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA cache_size = 0")
    connection.execute("PRAGMA shrink_memory")
    good = ledger._path.read_bytes()
    ledger._path.write_bytes(good[:100] + random.Random(1).randbytes(len(good) - 100))
    return lambda: ledger._path.write_bytes(good) and None


def unsynced(ledger: SqliteLedger) -> Callable[[], None]:
    """The journal's disk fails when it is synced."""
    sync = ledger.journal.sync

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    ledger.journal.sync = fail  # type: ignore[method-assign]

    def mend() -> None:
        ledger.journal.sync = sync  # type: ignore[method-assign]

    return mend


@pytest.mark.parametrize("trouble", [full, read_only, moved_away, replaced, overwritten, unsynced])
async def test_trouble_refuses_new_work_and_loses_nothing(
    caller: Caller, trouble: Callable[[SqliteLedger], Callable[[], None]]
) -> None:
    mend = trouble(caller.ledger)
    took_s, error = await caller.refused()
    assert took_s < REFUSED_WITHIN_S
    assert (error.fault.status, error.fault.code) == (503, "ledger_unavailable")
    assert "nothing was sent" in error.fault.message
    # What runs goes on, and is settled.
    while caller.running:
        caller.end()
    # Nobody waits for an answer that cannot be had, and nobody is told a wrong one.
    with pytest.raises(InternalServerError) as asked:
        async with asyncio.timeout(REFUSED_WITHIN_S):
            await caller.ledger.spent(GLOBAL, 0)
    assert asked.value.fault.code == "ledger_unavailable"
    with pytest.raises(InternalServerError):
        await caller.ledger.put_key(KEY)
    await asyncio.sleep(1.2 * writer_module.RETRY_S)
    with pytest.raises(InternalServerError):
        caller.begin()
    mend()
    assert await caller.recovered() < RECOVERED_WITHIN_S
    await caller.settled_is_kept()
    assert list(await caller.ledger.keys()) == []
    await caller.ledger.put_key(KEY)
    assert list(await caller.ledger.keys()) == [KEY]
    assert not (caller.ledger._path.parent / "set_aside.jsonl").exists()


@pytest.mark.parametrize("trouble", [full, read_only, unsynced])
async def test_a_process_that_ends_in_trouble_leaves_all_to_the_next(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[SqliteLedger], Callable[[], None]],
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_S", 0.01)
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    caller.work(50)
    for _ in range(20):
        caller.begin()
    await caller.settled_is_kept()
    trouble(ledger)
    await caller.refused()
    while len(caller.running) > 5:
        caller.end()
    async with asyncio.timeout(60):
        await ledger.aclose()
    ledger = SqliteLedger(tmp_path)
    try:
        [row] = await ledger.usage(UsageQuery())
        assert row.totals.attempts == len(caller.settled) + 5
        assert row.totals.assumed_nano_usd == 5 * 1_000_000
        exact = row.totals.cost_nano_usd - row.totals.assumed_nano_usd
        assert exact == sum(number + 1 for number in caller.settled)
        assert list(await ledger.verify()) == []
    finally:
        await ledger.aclose()


async def test_what_is_set_aside_on_a_full_disk_waits_for_room_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file it goes to may be on the same disk; half a line is no line."""
    monkeypatch.setattr(writer_module, "RETRY_S", 0.01)
    plain, tries = os.write, []

    def short(file: int, data: bytes) -> int:
        if b"req_0000" not in data:
            return plain(file, data)
        tries.append(len(data))
        return plain(file, data[: len(data) // 2] if len(tries) < 3 else data)

    monkeypatch.setattr("windvane.stores.sqlite.set_aside.os.write", short)
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    caller.work(10)
    ledger.journal.hold(entry(10))
    ledger.journal.settle(msgspec.structs.replace(settlement(10), cost_nano_usd=NanoUsd(-1)))
    next(caller.numbers)
    caller.work(10)
    ledger._flush()
    async with asyncio.timeout(60):
        while ledger._written < 21:
            await asyncio.sleep(0.001)
    await caller.written()
    await caller.settled_is_kept()
    await ledger.aclose()
    assert len(tries) == 3
    [line] = (tmp_path / "set_aside.jsonl").read_text().splitlines()
    assert "req_00000010-1" in line


class FailingConnection(sqlite3.Connection):
    """Fails its k-th statement, before it or when it is done (so that nobody knows it was)."""

    calls = 0
    fails_at = 0
    fails_after = False

    def _fail(self, is_after: bool) -> None:
        if self.calls == self.fails_at and self.fails_after is is_after:
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, *values: object) -> sqlite3.Cursor:
        self.calls += 1
        self._fail(is_after=False)
        cursor = super().execute(*values)  # type: ignore[arg-type]
        self._fail(is_after=True)
        return cursor

    def executemany(self, *values: object) -> sqlite3.Cursor:
        self.calls += 1
        self._fail(is_after=False)
        cursor = super().executemany(*values)  # type: ignore[arg-type]
        self._fail(is_after=True)
        return cursor


def open_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sqlite3.connect
    monkeypatch.setattr(
        "windvane.stores.sqlite.file.sqlite3.connect",
        lambda *values, **named: plain(*values, **named, factory=FailingConnection),
    )
    monkeypatch.setattr(writer_module, "RETRY_S", 0.001)


@pytest.mark.parametrize("fails_after", [False, True], ids=["before", "unknown outcome"])
async def test_the_kth_statement_fails_and_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_after: bool
) -> None:
    """For every k there is, until a group is written without reaching k."""
    open_failing(monkeypatch)
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    connection = ledger._writer._connection
    assert isinstance(connection, FailingConnection)
    connection.fails_after = fails_after
    failed = 0
    try:
        for k in range(1, 100):
            for _ in range(127):
                caller.begin()
            while caller.running:
                caller.end()
            connection.calls, connection.fails_at = 0, k
            ledger._flush()
            await caller.written()
            was_reached = connection.calls >= k and connection.fails_at
            connection.fails_at = 0
            failed += bool(was_reached)
            await caller.settled_is_kept()
            if not was_reached:
                break
        assert not was_reached
        assert failed > 8
    finally:
        await ledger.aclose()


async def test_a_write_interrupted_at_any_step_is_not_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself gives up after k steps of its machine, in the midst of a statement."""
    monkeypatch.setattr(writer_module, "RETRY_S", 0.001)
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    connection = ledger._writer._connection
    try:
        interrupted = 0
        for k in range(1, 200):
            for _ in range(40):
                caller.begin()
            while caller.running:
                caller.end()
            left = [k]

            def give_up(left: list[int] = left) -> bool:
                left[0] -= 1
                return left[0] == 0

            connection.set_progress_handler(give_up, 97)
            ledger._flush()
            await caller.written()
            connection.set_progress_handler(None, 0)
            await caller.settled_is_kept()
            if left[0] > 0:
                break
            interrupted += 1
        assert interrupted > 10
        assert left[0] > 0
    finally:
        await ledger.aclose()


@pytest.mark.parametrize("fails_after", [False, True], ids=["before", "unknown outcome"])
async def test_a_start_that_fails_at_its_kth_statement_leaves_all_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_after: bool
) -> None:
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    caller.work(70)
    caller.begin()
    await caller.settled_is_kept()
    caller.work(70)
    # As after SIGKILL: what was gathered is in the journal alone, of which a copy is kept.
    journal = tmp_path / "journal"
    kept = {path: path.read_bytes() for path in journal.iterdir()}
    ledger._gathered.clear()
    await ledger.aclose()
    open_failing(monkeypatch)
    monkeypatch.setattr(FailingConnection, "fails_after", fails_after)
    for k in range(1, 100):
        for path in journal.iterdir():
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
        monkeypatch.setattr(FailingConnection, "fails_at", k)
        try:
            ledger = SqliteLedger(tmp_path)
        except RuntimeError as error:
            assert "ledger.db" in str(error)
            assert {path: path.read_bytes() for path in journal.iterdir()} == kept
            monkeypatch.setattr(FailingConnection, "fails_at", 0)
            ledger = SqliteLedger(tmp_path)
            has_failed = True
        else:
            has_failed = False
        monkeypatch.setattr(FailingConnection, "fails_at", 0)
        ledger._writer._connection.fails_at = 0
        [row] = await ledger.usage(UsageQuery())
        assert row.totals.attempts == 141
        assert list(await ledger.verify()) == []
        await ledger.aclose()
        if not has_failed:
            break
    assert k > 8


def overwrite(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(path.stat().st_size))


def overwrite_the_midst(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(random.Random(3).randbytes(size // 4))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """As a full disk leaves of a copy."""
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [overwrite, overwrite_the_midst, cut, empty])
async def test_a_start_on_a_damaged_ledger_says_what_to_do_and_keeps_the_journal(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    caller.work(50)
    await caller.settled_is_kept()
    caller.begin()
    await ledger.aclose()
    before = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
    assert before
    path = tmp_path / "ledger.db"
    damage(path)
    damaged = path.read_bytes()
    for _ in range(2):
        with pytest.raises(RuntimeError) as told:
            SqliteLedger(tmp_path)
        assert str(path) in str(told.value)
        assert "move it away" in str(told.value)
        assert path.read_bytes() == damaged
        after = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
        assert after == before
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    ledger = SqliteLedger(tmp_path)
    try:
        assert [each.attempt_id for each in await ledger.entries_of("req_00000050")]
    finally:
        await ledger.aclose()


@pytest.mark.parametrize("is_synced", [True, False])
async def test_the_last_words_on_a_ledger_that_could_not_be_written_are_true(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_synced: bool,
) -> None:
    """A file system that turned read-only by itself takes the journal's last records with it."""
    monkeypatch.setattr(writer_module, "RETRY_S", 0.0)
    ledger = SqliteLedger(tmp_path)
    caller = Caller(ledger)
    caller.work(3)
    await ledger.usage(UsageQuery())
    await ledger._writer.ask(lambda connection: connection.execute("PRAGMA query_only = 1"))
    caller.work(3)

    def read_only(_: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def stays(path: Path, missing_ok: bool = False) -> None:
        read_only(0)

    with monkeypatch.context() as patch:
        if not is_synced:
            patch.setattr(os, "fdatasync", read_only)
            patch.setattr(Path, "unlink", stays)
        await ledger.aclose()
    (told,) = [each.getMessage() for each in caplog.records if each.levelname == "CRITICAL"]
    assert "closed unwritten" in told
    assert ("journal keeps what it lacks" in told) is is_synced
    assert ("may lack the journal's last records" in told) is not is_synced


async def test_a_ledger_that_is_missing_is_begun_anew_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has moved it away means it; who has lost it must be able to see that."""
    for _ in range(2):
        await SqliteLedger(tmp_path).aclose()
    assert not caplog.records
    (tmp_path / "ledger.db").unlink()
    await SqliteLedger(tmp_path).aclose()
    (told,) = caplog.records
    assert told.levelname == "CRITICAL"
    for part in (str(tmp_path / "ledger.db"), "from zero", "keys that were made are gone"):
        assert part in told.getMessage()


async def test_what_was_written_last_is_not_lost_with_the_ledgers_file(tmp_path: Path) -> None:
    """SQLite would throw it away, or put it into another ledger."""
    await SqliteLedger(tmp_path).aclose()
    (tmp_path / "ledger.db").unlink()
    written_last = tmp_path / "ledger.db-wal"
    written_last.write_bytes(b"x")
    with pytest.raises(RuntimeError, match=r"ledger\.db-wal has a part of it.*move it away"):
        SqliteLedger(tmp_path)
    assert written_last.read_bytes() == b"x"
    written_last.unlink()
    await SqliteLedger(tmp_path).aclose()


async def test_a_first_start_that_is_cut_off_leaves_no_half_made_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "migrate", no_room)
        with pytest.raises(RuntimeError, match="make room"):
            SqliteLedger(tmp_path)
    assert not (tmp_path / "ledger.db").exists()
    (tmp_path / "ledger.new").write_bytes(b"")  # as by a death in the midst of it
    await SqliteLedger(tmp_path).aclose()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()
    assert not list(tmp_path.glob("ledger.new*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB: three segments of the journal, and some of the ledger."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no byte free; the file that took them."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    file.write(b"\xff" * size)
                except OSError:
                    break
    return ballast


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Caller]:
    ledger = SqliteLedger(folder)
    try:
        yield Caller(ledger)
    finally:
        await ledger.aclose()


async def test_a_really_full_disk_refuses_loses_nothing_and_recovers(small_disk: Path) -> None:
    async with opened(small_disk / "data") as caller:
        caller.work(50)
        for _ in range(1_000):
            caller.begin()
        await caller.settled_is_kept()
        ballast = fill(small_disk)
        took_s, error = await caller.refused()
        assert took_s < REFUSED_WITHIN_S
        assert error.fault.code == "ledger_unavailable"
        while caller.running:
            caller.end()
            if len(caller.running) % 100 == 0:
                await asyncio.sleep(0.01)
        ballast.unlink()
        assert await caller.recovered() < RECOVERED_WITHIN_S
        await caller.settled_is_kept()


async def test_a_process_killed_on_a_full_disk_had_its_settlements_in_the_journal(
    small_disk: Path, tmp_path: Path
) -> None:
    """The journal has room in reserve for what runs when the disk is full."""
    ledger = SqliteLedger(small_disk / "data")
    caller = Caller(ledger)
    for _ in range(1_000):
        caller.begin()
    fill(small_disk)
    while caller.running:
        caller.end()
    await asyncio.sleep(2 * ledger_module.GROUP_S)
    # A copy of the folder is what a kill would leave.
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", str(small_disk / "data"), str(copied)], check=True)
    (copied / "lock").unlink()
    again = SqliteLedger(copied)
    try:
        caller.ledger = again
        await caller.settled_is_kept()
    finally:
        await again.aclose()
        (small_disk / "ballast").unlink()
        await ledger.aclose()


async def test_a_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    async with opened(small_disk / "data") as caller:
        caller.work(50)
        caller.begin()
        await caller.settled_is_kept()
    journal = {path: path.read_bytes() for path in (small_disk / "data/journal").iterdir()}
    ballast = fill(small_disk)
    with pytest.raises(RuntimeError, match="make room"):
        SqliteLedger(small_disk / "data")
    assert {path: path.read_bytes() for path in journal} == journal
    ballast.unlink()
    async with opened(small_disk / "data") as caller:
        [row] = await caller.ledger.usage(UsageQuery())
        assert row.totals.attempts == 51


async def test_a_gateway_on_a_full_disk_refuses_by_name_ends_what_runs_and_comes_back(
    world: Callable[..., Any],
    call: Callable[..., Any],
    chat: Callable[..., dict[str, Any]],
    audit: Callable[..., list[str]],
    small_disk: Path,
) -> None:
    """The whole process: what a caller sees, and that the bill and the ledger agree."""
    async with world(ttft_ms=1, tokens_per_s=100) as place:
        place.data = small_disk / "data"
        gateway = await place.gateway()
        told = {}

        async def ask(text: str, **more: Any) -> Any:
            said = await call(gateway.port, chat(text, model="mistral-small-latest", **more))
            if said.is_acknowledged:
                told[said.request_id] = said.cost_nano_usd
            return said

        try:
            assert (await ask("What is a windvane?", max_tokens=5)).is_acknowledged
            running = [
                asyncio.ensure_future(
                    ask(f"A long story, please ({number})", stream=number % 2 == 1)
                )
                for number in range(8)
            ]
            await asyncio.sleep(0.2)
            ballast = fill(small_disk)
            since = time.monotonic()
            while (said := await ask("And this?", max_tokens=1)).status == 200:
                assert time.monotonic() - since < 30
            assert said.status == 503
            assert b"ledger_unavailable" in said.body
            for each in await asyncio.gather(*running):
                assert each.is_acknowledged, "what ran was not ended by the disk"
            ballast.unlink()
            since = time.monotonic()
            while not (await ask("Once more", max_tokens=5)).is_acknowledged:
                assert time.monotonic() - since < 2 * RECOVERED_WITHIN_S
        finally:
            await gateway.stop()
        assert not audit(place.ledger(), await place.bill(), told)
