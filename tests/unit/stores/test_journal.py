"""The journal: what was written is there again, whatever was cut off behind it."""

import errno
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from windvane.core.faults import InternalServerError
from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.money import NanoUsd
from windvane.core.usage import Certainty
from windvane.core.usage_report import UsageQuery
from windvane.stores.journal import (
    AHEAD_BYTES_MAX,
    SEGMENT_BYTES,
    DamagedSegmentError,
    FileJournal,
    read_segment,
)
from windvane.stores.sqlite import SqliteLedger

HOLD = LedgerEntry(
    attempt_id="req_1-1",
    request_id="req_1",
    number=1,
    started_at_us=1_790_000_000_000_000,
    key_id="anonymous",
    team=None,
    tags=("a", "b"),
    route="auto",
    requested_model="auto",
    provider="one",
    model="small",
    resolved_model="small",
    reason="default",
    dialect="openai",
    is_stream=False,
    certainty=Certainty.ASSUMED,
    cost_nano_usd=NanoUsd(1_000),
    hold_nano_usd=NanoUsd(1_000),
    outcome="unknown",
)
LARGE = "x" * 1_000_000
"""So large a reason that eight of them fill a segment."""
A_SEGMENT = SEGMENT_BYTES // len(LARGE)


def hold(number: int, **changes: object) -> LedgerEntry:
    return msgspec.structs.replace(
        HOLD, attempt_id=f"req_{number}-1", request_id=f"req_{number}", **changes
    )


def settlement(number: int, **changes: object) -> LedgerEntry:
    return hold(
        number,
        certainty=Certainty.EXACT,
        cost_nano_usd=NanoUsd(number),
        outcome="ok",
        **changes,
    )


async def sums_of(ledger: SqliteLedger) -> Totals:
    [row] = await ledger.usage(UsageQuery())
    return row.totals


class Sink:
    """What the journal hands to the ledger."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.segments: list[int] = []

    def __call__(self, entry: LedgerEntry, segment: int) -> None:
        self.entries.append(entry)
        self.segments.append(segment)


@pytest.fixture
def sink() -> Sink:
    return Sink()


Open = Callable[[], FileJournal]


@pytest.fixture
def open_journal(tmp_path: Path, sink: Sink) -> Open:
    """Open the journal, as after the death of whoever had it before."""
    return lambda: FileJournal(tmp_path, sink)


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.journal"))


def test_what_was_written_is_replayed(open_journal: Open, sink: Sink) -> None:
    journal = open_journal()
    for number in (1, 2, 3):
        journal.hold(hold(number))
    journal.settle(settlement(2))
    again = list(open_journal().replay())
    assert again == [settlement(2), hold(1), hold(3)]
    assert sink.entries == [settlement(2)]


def test_a_hold_that_met_no_settlement_stands_as_assumed(open_journal: Open) -> None:
    open_journal().hold(hold(1))
    [left] = open_journal().replay()
    assert left.certainty is Certainty.ASSUMED
    assert left.cost_nano_usd == left.hold_nano_usd == 1_000


def test_replay_may_be_repeated(open_journal: Open) -> None:
    journal = open_journal()
    journal.hold(hold(1))
    journal.hold(hold(2))
    journal.settle(settlement(1))
    later = open_journal()
    assert list(later.replay()) == list(later.replay())
    # A process that dies while it replays has deleted nothing: the next finds the same.
    assert list(open_journal().replay()) == list(later.replay())


def test_what_was_replayed_is_forgotten_when_told(open_journal: Open, tmp_path: Path) -> None:
    open_journal().hold(hold(1))
    later = open_journal()
    assert list(later.replay())
    later.forget_replayed()
    assert list(later.replay()) == []
    assert segments(tmp_path) == []


def records(path: Path) -> bytes:
    """What was written of a segment, without the room it has left."""
    data, end = path.read_bytes(), 0
    while length := struct.unpack_from("<I", data, end)[0]:
        end += 8 + length
    return data[:end]


@pytest.mark.parametrize("room", [b"", b"\0" * 64], ids=["cut off", "zeros behind"])
def test_a_record_torn_at_any_byte_hides_only_itself(
    open_journal: Open, tmp_path: Path, room: bytes
) -> None:
    journal = open_journal()
    journal.hold(hold(1))
    first = len(records(tmp_path / "000001.journal"))
    journal.settle(settlement(1))
    whole = records(tmp_path / "000001.journal")
    torn = tmp_path / "torn"
    for size in range(len(whole) + 1):
        torn.write_bytes(whole[:size] + room)
        if whole[size:].strip(b"\0"):
            wanted = [hold(1), settlement(1)][: size >= first]
            assert list(read_segment(torn)) == wanted, size


def test_a_record_with_any_byte_changed_is_not_believed(open_journal: Open, tmp_path: Path) -> None:
    open_journal().hold(hold(1))
    whole = records(tmp_path / "000001.journal")
    bent = tmp_path / "bent"
    for place in range(len(whole)):
        for bit in (1, 128):
            data = bytearray(whole)
            data[place] ^= bit
            bent.write_bytes(data + b"\0" * 64)
            believed = []
            with suppress(DamagedSegmentError):  # a changed length leaves bytes behind the record
                for entry in read_segment(bent):
                    believed.append(entry)
            assert believed == [], place


def test_a_full_segment_is_followed_by_another(open_journal: Open, tmp_path: Path) -> None:
    journal = open_journal()
    for number in range(A_SEGMENT + 1):
        journal.hold(hold(number, reason=LARGE))
    assert segments(tmp_path) == ["000001.journal", "000002.journal"]
    assert len(list(open_journal().replay())) == A_SEGMENT + 1


def fill(journal: FileJournal, first: int) -> range:
    """Settle as many attempts as make one segment full."""
    numbers = range(first, first + A_SEGMENT // 2 + 1)
    for number in numbers:
        journal.hold(hold(number, reason=LARGE))
        journal.settle(settlement(number, reason=LARGE))
    return numbers


def test_a_segment_goes_when_the_ledger_has_all_of_it(
    open_journal: Open, tmp_path: Path, sink: Sink
) -> None:
    journal = open_journal()
    fill(journal, 100)
    journal.sync()
    journal.committed([number for number in sink.segments if number])
    fill(journal, 200)
    fill(journal, 300)
    assert "000001.journal" not in segments(tmp_path)
    assert "000002.journal" in segments(tmp_path)


def test_a_segment_stays_for_one_open_hold(open_journal: Open, tmp_path: Path, sink: Sink) -> None:
    journal = open_journal()
    journal.hold(hold(1))
    for first in (100, 200, 300):
        fill(journal, first)
        journal.committed(sink.segments)
        sink.segments = []
    assert "000001.journal" in segments(tmp_path)
    assert hold(1) in list(open_journal().replay())


def test_the_record_that_begins_a_segment_is_counted_there(
    open_journal: Open, tmp_path: Path, sink: Sink
) -> None:
    journal = open_journal()
    for number in range(A_SEGMENT):
        journal.hold(hold(number, reason=LARGE))
    journal.settle(settlement(0, reason=LARGE))
    assert segments(tmp_path) == ["000001.journal", "000002.journal"]
    journal.hold(hold(99))
    assert sink.segments == [2]
    for number in range(1, A_SEGMENT):
        journal.settle(settlement(number, reason=LARGE))
    journal.committed(sink.segments)
    fill(journal, 100)
    left = list(open_journal().replay())
    assert "000001.journal" not in segments(tmp_path)
    assert hold(99) in left


def test_a_segment_stays_for_a_settlement_whose_hold_is_in_another(
    open_journal: Open, tmp_path: Path, sink: Sink
) -> None:
    journal = open_journal()
    journal.hold(hold(1))
    fill(journal, 100)
    journal.settle(settlement(1))
    assert sink.segments.pop() == 2
    journal.committed(sink.segments)
    sink.segments.clear()
    fill(journal, 200)
    fill(journal, 300)
    assert settlement(1) in list(open_journal().replay())
    journal.committed([2, *sink.segments])
    fill(journal, 400)
    fill(journal, 500)
    assert not {"000001.journal", "000002.journal"} & set(segments(tmp_path))


def test_a_good_end_leaves_no_file(open_journal: Open, tmp_path: Path, sink: Sink) -> None:
    journal = open_journal()
    fill(journal, 1)
    fill(journal, 100)
    journal.sync()
    journal.committed(sink.segments)
    journal.close()
    assert segments(tmp_path) == []


def test_a_good_end_leaves_what_the_ledger_does_not_have(
    open_journal: Open, tmp_path: Path
) -> None:
    journal = open_journal()
    journal.hold(hold(1))
    journal.close()
    assert list(open_journal().replay()) == [hold(1)]


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def no_files(*_: object) -> None:
    raise OSError(24, "Too many open files")


DISKS = [("posix_fallocate", full), ("open", no_files)]


@pytest.mark.parametrize(("call", "disk"), DISKS)
def test_a_full_disk_refuses_holds_and_loses_no_settlement(
    open_journal: Open,
    sink: Sink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    disk: Callable[..., None],
) -> None:
    journal = open_journal()
    for number in range(A_SEGMENT):
        journal.hold(hold(number, reason=LARGE))
    with monkeypatch.context() as patch:
        patch.setattr(f"windvane.stores.journal.os.{call}", disk)
        journal.hold(hold(98, reason=LARGE))
        before = segments(tmp_path)
        with pytest.raises(InternalServerError, match="nothing was sent") as refused:
            journal.hold(hold(99))
        journal.settle(settlement(0, reason=LARGE))
        assert segments(tmp_path) == before, "what could not be had is not left behind"
    assert (refused.value.fault.status, refused.value.fault.code) == (503, "ledger_unavailable")
    assert sink.entries == [settlement(0, reason=LARGE)], "the ledger is told all the same"
    # There is room again.
    journal.hold(hold(100, reason=LARGE))
    journal.settle(settlement(1))
    again = {entry.attempt_id: entry for entry in open_journal().replay()}
    assert len(again) == A_SEGMENT + 2
    assert again["req_0-1"] == settlement(0, reason=LARGE)
    assert again["req_1-1"] == settlement(1)


def test_a_full_disk_has_room_for_the_settlements_of_what_runs(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However full the current segment is when the disk is: the next one is in reserve."""
    journal = open_journal()
    held = []
    with monkeypatch.context() as patch:
        for number in range(A_SEGMENT - 1):
            journal.hold(hold(number, reason=LARGE))
            held.append(number)
        patch.setattr("windvane.stores.journal.os.posix_fallocate", full)
        with pytest.raises(InternalServerError):
            for number in range(100, 200):
                journal.hold(hold(number, reason=LARGE))
                held.append(number)
        for number in held:
            journal.settle(settlement(number))
    assert set(open_journal().replay()) == {settlement(number) for number in held}


def test_a_hold_stands_until_the_ledger_has_the_settlement_that_the_disk_refused(
    open_journal: Open, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal()
    numbers = range(3 * A_SEGMENT)
    for number in numbers:
        journal.hold(hold(number))
    with monkeypatch.context() as patch:
        patch.setattr("windvane.stores.journal.os.posix_fallocate", full)
        for number in numbers:
            journal.settle(settlement(number, reason=LARGE))
    fill(journal, 100)
    assert hold(numbers[-1]) in list(open_journal().replay())
    journal.committed(sink.segments)
    fill(journal, 200)
    assert "000001.journal" not in segments(tmp_path)


def test_the_very_first_segment_may_be_refused_too(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal()
    with monkeypatch.context() as patch:
        patch.setattr("windvane.stores.journal.os.posix_fallocate", full)
        with pytest.raises(InternalServerError):
            journal.hold(hold(1))
    journal.hold(hold(2))
    assert list(open_journal().replay()) == [hold(2)]


def test_sync_makes_full_segments_safe_as_well(
    open_journal: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal()
    synced: list[int] = []

    def note(file: int) -> None:
        synced.append(os.fstat(file).st_ino)

    fill(journal, 1)
    monkeypatch.setattr("windvane.stores.journal.os.fdatasync", note)
    journal.sync()
    assert synced == [path.stat().st_ino for path in sorted(tmp_path.glob("*.journal"))]
    assert len(synced) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_as_much_is_made_ready_as_was_written_since_the_last_time(
    open_journal: Open, tmp_path: Path
) -> None:
    journal = open_journal()
    path = tmp_path / "000001.journal"
    for number in range(1, 101):
        journal.hold(hold(number))
    written = _resident_bytes(path)
    assert written > 2 * mmap.PAGESIZE
    journal.sync()
    ready = _resident_bytes(path)
    assert ready > 0
    for number in range(101, 201):
        journal.hold(hold(number))
    assert _resident_bytes(path) == ready, "no page had to be made for them"


def _resident_bytes(path: Path) -> int:
    """How much of a mapped file counts in this process's memory."""
    mapped = Path("/proc/self/smaps").read_text().split(str(path), 1)[1]
    return int(mapped.split("Rss:", 1)[1].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_is_synced_takes_no_memory_of_the_process(open_journal: Open, tmp_path: Path) -> None:
    journal = open_journal()
    path = tmp_path / "000001.journal"
    for number in range(1, 4):
        journal.hold(hold(number, reason=LARGE))
    assert _resident_bytes(path) > 3 * len(LARGE)
    journal.sync()
    assert _resident_bytes(path) <= AHEAD_BYTES_MAX + 2 * mmap.PAGESIZE
    journal.sync()
    assert _resident_bytes(path) == 0, "nothing was written meanwhile"
    journal.settle(settlement(1))
    assert _resident_bytes(path) <= 64 * 1024
    assert [entry.attempt_id for entry in read_segment(path)] == [
        "req_1-1",
        "req_2-1",
        "req_3-1",
        "req_1-1",
    ]


class _LockedMap(mmap.mmap):
    """A map whose pages stay in memory, as of a process that has locked all it has."""

    def madvise(self, *_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_what_is_locked_in_memory_is_synced_all_the_same(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmap, "mmap", _LockedMap)
    journal = open_journal()
    journal.hold(hold(1))
    journal.sync()
    journal.settle(settlement(1))


async def test_a_crash_leaves_every_hold_in_the_ledger_as_assumed(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal", Sink())
    for number in (1, 2, 3):
        journal.hold(hold(number))
    journal.settle(settlement(2))
    # Here the process dies: nothing is closed, and nothing has come to the ledger.
    ledger = SqliteLedger(tmp_path)
    try:
        assert ledger.recovered == 3
        assert segments(tmp_path / "journal") == [], "what is on the ledger is not kept twice"
        assert list(await ledger.entries_of("req_1")) == [hold(1)]
        assert list(await ledger.entries_of("req_2")) == [settlement(2)]
        totals = await sums_of(ledger)
        assert (totals.attempts, totals.cost_nano_usd) == (3, 2_002)
    finally:
        await ledger.aclose()


async def test_recovering_twice_changes_nothing(tmp_path: Path) -> None:
    """The process died between writing the ledger and deleting what it was written from."""
    journal = FileJournal(tmp_path / "journal", Sink())
    journal.hold(hold(1))
    journal.settle(settlement(1))
    journal.hold(hold(2))
    kept = (tmp_path / "journal" / "000001.journal").read_bytes()
    for _ in range(2):
        (tmp_path / "journal" / "000001.journal").write_bytes(kept)
        ledger = SqliteLedger(tmp_path)
        totals = await sums_of(ledger)
        await ledger.aclose()
        assert (totals.attempts, totals.cost_nano_usd) == (2, 1_001)


async def test_settlements_come_to_the_ledger_and_their_segments_go(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    for number in range(1, 50):
        ledger.journal.hold(hold(number))
        ledger.journal.settle(settlement(number))
    totals = await sums_of(ledger)
    await ledger.aclose()
    assert (totals.attempts, totals.cost_nano_usd) == (49, sum(range(1, 50)))
    assert segments(tmp_path / "journal") == []


async def test_another_process_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from windvane.stores.sqlite import SqliteLedger\n"
        "try: SqliteLedger(Path(sys.argv[1]))\n"
        "except RuntimeError as error: print(error)"
    )
    ledger = SqliteLedger(tmp_path)
    try:
        second = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            check=True,
            text=True,
            timeout=30,
        )
    finally:
        await ledger.aclose()
    assert "another windvane process" in second.stdout
    # The lock went with its holder.
    await SqliteLedger(tmp_path).aclose()


def test_a_segment_is_never_written_over(open_journal: Open, sink: Sink) -> None:
    """A settlement may come after the end: its hold, in the segment that was kept, must stay."""
    journal = open_journal()
    for number in (1, 2, 3):
        journal.hold(hold(number))
    journal.close()
    journal.settle(settlement(2))
    with pytest.raises(InternalServerError, match="closed"):
        journal.hold(hold(4))
    found = {entry.attempt_id: entry.certainty for entry in open_journal().replay()}
    assert found == {
        "req_1-1": Certainty.ASSUMED,
        "req_2-1": Certainty.EXACT,
        "req_3-1": Certainty.ASSUMED,
    }


def test_a_segment_damaged_in_its_midst_is_kept(open_journal: Open, tmp_path: Path) -> None:
    journal = open_journal()
    for number in (1, 2, 3):
        journal.hold(hold(number))
    path = tmp_path / "000001.journal"
    data = bytearray(path.read_bytes())
    data[len(records(path)) // 2] ^= 1
    path.write_bytes(data)
    again = open_journal()
    assert [entry.attempt_id for entry in again.replay()] == ["req_1-1"]
    again.forget_replayed()
    assert path.with_suffix(".damaged").exists()


@pytest.mark.parametrize("starts", [1, 3])
def test_what_cannot_be_read_may_have_been_spent(
    open_journal: Open, tmp_path: Path, starts: int
) -> None:
    """Nothing is sent until an operator has moved the damaged segment away, however often it starts."""
    journal = open_journal()
    for number in (1, 2, 3):
        journal.hold(hold(number))
    path = tmp_path / "000001.journal"
    data = bytearray(path.read_bytes())
    data[len(records(path)) // 2] ^= 1
    path.write_bytes(data)
    for _ in range(starts):
        again = open_journal()
        list(again.replay())
        again.forget_replayed()
    for _ in range(2):
        with pytest.raises(InternalServerError, match=r"\(000001\.damaged\)") as refused:
            again.hold(hold(4))
        assert (refused.value.fault.status, refused.value.fault.code) == (503, "ledger_damaged")
    again.settle(settlement(5))  # what costs nothing goes on the ledger
    # Under another name it is the same file, and nobody's word that it was looked at.
    renamed = path.with_suffix(".damaged").rename(path.with_name("seen-one.damaged"))
    FileJournal(path.parent, lambda *_: None).close()
    renamed.rename(tmp_path / "looked-at")
    again.hold(hold(4))
    assert segments(tmp_path)[0] > "000001.journal", "the number is not taken again"
    last = open_journal()
    assert list(last.replay()) == [settlement(5), hold(4)]
    last.forget_replayed()
    last.hold(hold(6))


def test_a_torn_last_record_is_in_nobodys_way(open_journal: Open, tmp_path: Path) -> None:
    """What was being written when the machine died was not sent."""
    journal = open_journal()
    journal.hold(hold(1))
    path = tmp_path / "000001.journal"
    whole = len(records(path))
    journal.hold(hold(2))
    data = bytearray(path.read_bytes())
    data[whole + 20 :] = bytes(len(data) - whole - 20)
    path.write_bytes(data)
    again = open_journal()
    assert list(again.replay()) == [hold(1)]
    again.forget_replayed()
    again.hold(hold(3))


def test_no_changed_bit_hides_what_follows_it(open_journal: Open, tmp_path: Path) -> None:
    """In the length too: a longer one would make all that follows look like one torn record."""
    journal = open_journal()
    journal.hold(hold(1))
    path = tmp_path / "000001.journal"
    first = len(records(path))
    journal.hold(hold(2))
    journal.hold(hold(3))
    whole, bent = records(path), tmp_path / "bent"
    for place in range(first):
        for bit in range(8):
            data = bytearray(whole) + bytes(64)
            data[place] ^= 1 << bit
            bent.write_bytes(data)
            with pytest.raises(DamagedSegmentError):
                list(read_segment(bent))


@pytest.mark.parametrize("length", [0, 2**20 + 1, 2**32 - 1])
def test_a_length_that_no_record_has_is_damage(
    open_journal: Open, tmp_path: Path, length: int
) -> None:
    """And not an end: what follows would be lost without a word."""
    journal = open_journal()
    journal.hold(hold(1))
    path = tmp_path / "000001.journal"
    first = len(records(path))
    journal.hold(hold(2))
    data = bytearray(path.read_bytes())
    data[first : first + 4] = length.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DamagedSegmentError):
        list(read_segment(path))


def test_a_hole_of_zeros_is_damage(open_journal: Open, tmp_path: Path) -> None:
    """And not the end: what was written behind it would be lost without a word."""
    journal = open_journal()
    path, ends = tmp_path / "000001.journal", []
    for number in (1, 2, 3):
        journal.hold(hold(number))
        ends.append(len(records(path)))
    data = bytearray(path.read_bytes())
    data[ends[0] : ends[1]] = bytes(ends[1] - ends[0])
    path.write_bytes(data)
    again = open_journal()
    assert list(again.replay()) == [hold(1)]
    again.forget_replayed()
    with pytest.raises(InternalServerError, match=r"\(000001\.damaged\)"):
        again.hold(hold(4))


async def test_an_entry_the_table_refuses_does_not_stop_the_ledger(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    ledger.journal.hold(hold(1))
    ledger.journal.settle(settlement(1, hold_nano_usd=NanoUsd(2**63 + 1)))
    ledger.journal.hold(hold(2))
    ledger.journal.settle(settlement(2))
    assert (await sums_of(ledger)).cost_nano_usd == 2
    await ledger.aclose()
    [line] = (tmp_path / "set_aside.jsonl").read_text().splitlines()
    reason, kept = json.loads(line)
    assert "too large" in reason
    assert msgspec.convert(kept, LedgerEntry).hold_nano_usd == 2**63 + 1
    again = SqliteLedger(tmp_path)
    assert list(await again.entries_of("req_2")) == [settlement(2)]
    await again.aclose()
