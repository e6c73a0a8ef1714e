"""The journal: a local file, only ever appended to, that outlives the death of the process.

A record is copied into a shared memory map of the file, so once the call returns the kernel has it and
SIGKILL cannot take it back; no system call is made for it. `sync` makes it outlive power loss as well;
the ledger's writer calls it with every group.

Format: segments `NNNNNN.journal`, each a row of records `length, crc32, MessagePack([kind, entry])`,
then zeros. A segment's room is taken from the disk when it is made, so a full disk is met there, as an
error, and never in the middle of a record. A hold is taken only when the next segment is in reserve:
settlements of what runs have room, however full the disk has become. A torn record (the machine died
while writing) ends the segment. One that is damaged in its midst is kept as `NNNNNN.damaged`: what it
does not tell may have been spent, so no hold is taken until an operator moves it away. A segment is
deleted when each of its holds is settled and each of its settlements is in the ledger.
"""

import errno
import logging
import mmap
import os
import struct
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec

from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of
from windvane.core.ledger import LedgerEntry

_log = logging.getLogger("windvane.journal")

SEGMENT_BYTES = 8 * 1024 * 1024
"""About 10,000 attempts."""
RECORD_BYTES_MAX = 1024 * 1024
AHEAD_BYTES_MAX = 256 * 1024
"""So much of a segment is made ready at most before it is written to."""
_PAGE_BYTES = mmap.PAGESIZE
_MADV_POPULATE_WRITE = 23
"""Linux 5.14; Python does not name it yet."""

_HOLD = 0
_SETTLEMENT = 1
_HEADER = struct.Struct("<II")
_HEADER_BYTES = _HEADER.size
_write_header = _HEADER.pack
_encoder = msgspec.msgpack.Encoder()
_encode_into = _encoder.encode_into
_decode = msgspec.msgpack.Decoder(tuple[int, LedgerEntry]).decode
_HOLD_MARK = _encoder.encode((_HOLD, None))[:2]
"""What the records of holds begin with."""


class _Name(msgspec.Struct, frozen=True, array_like=True):
    """The part of an entry that tells which it is: most holds met their settlements, and are only
    looked at so far."""

    attempt_id: str


_decode_name = msgspec.msgpack.Decoder(tuple[int, _Name]).decode
T = TypeVar("T")

Sink = Callable[[LedgerEntry, int], None]
"""Takes a settlement to the ledger, with the number of the segment that holds it until then."""


Refusal = Callable[[], str | None]
"""Why the ledger behind takes no new work; None when it does."""

_Segment = tuple[int, int, mmap.mmap]
"""Its number, its open file, and the map of it."""


class FileJournal:
    """Implements `Journal`. One process at a time may have it open."""

    def __init__(self, folder: Path, sink: Sink, *, refusal: Refusal = lambda: None) -> None:
        self._folder = folder
        self._sink = sink
        self._behind = refusal
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._old = sorted(folder.glob("*.journal"))
        self._unread = sorted(folder.glob("*.damaged"))
        """Segments that could not be read whole, for as long as they lie here."""
        self._refusal = self._refusal_for_unread
        self._last = max(map(_number_of, (*self._old, *self._unread)), default=0)
        self._holds: dict[str, int] = {}
        self._busy: defaultdict[int, int] = defaultdict(int)
        self._entered = 0
        """Entries for which the present segment is kept; they are in `_busy` when it is full."""
        self._committed: deque[int] = deque()
        self._full: deque[int] = deque()
        self._number = 0
        self._file = -1
        self._map: mmap.mmap | None = None
        self._end = self._room_end = self._synced_end = 0
        self._payload = bytearray()
        """Of the record that was written last: the next one is encoded in its place."""
        self._reserve: _Segment | None = None
        self._is_closed = False
        self._damaged: set[Path] = set()

    def replay(self) -> Iterator[LedgerEntry]:
        """What earlier processes left: every settlement, and each hold that never met its own.

        Idempotent: replaying twice gives the same entries, each under its attempt id.
        """
        holds: dict[str, tuple[Path, bytes]] = {}
        for path in self._old:
            for record in self._read(path):
                if record.startswith(_HOLD_MARK):
                    holds[_decoded(path, record, _decode_name).attempt_id] = path, record
                else:
                    entry = _decoded(path, record, _decode)
                    holds.pop(entry.attempt_id, None)
                    yield entry
        for path, record in holds.values():
            yield _decoded(path, record, _decode)

    def _read(self, path: Path) -> Iterator[bytes]:
        try:
            yield from _records(path)
        except DamagedSegmentError:
            self._damaged.add(path)
            _log.critical("%s is damaged; what could be read of it is used", path)

    def forget_replayed(self) -> None:
        """Delete the segments of earlier processes: all they say is in the ledger now."""
        for path in self._old:
            if path in self._damaged:
                self._unread.append(path.rename(path.with_suffix(".damaged")))
            else:
                path.unlink(missing_ok=True)
        self._old = []
        for path in self._unread:
            _log.critical(
                "%s could not be read whole: what it does not tell may have been spent. Nothing is sent"
                " to a provider until it is moved out of that folder",
                path,
            )

    def _refusal_for_unread(self) -> str | None:
        """Why no hold is taken while there are segments that could not be read whole. What an operator
        has moved away is in nobody's way any more."""
        self._unread = [path for path in self._unread if path.exists()]
        if not self._unread:
            self._refusal = self._behind
            return self._refusal()
        raise _damaged([path.name for path in self._unread])

    def hold(self, entry: LedgerEntry) -> None:
        """Write a hold. Raises InternalServerError (503) when it cannot be written, when the ledger
        behind cannot, or when what was spent before is not all known."""
        if (reason := self._refusal()) is not None:
            raise _unavailable(reason)
        try:
            if self._reserve is None:
                if self._is_closed:
                    raise OSError(errno.EBADF, "it is closed")
                self._reserve = self._new_segment()
            number = self._append(_HOLD, entry)
        except OSError as error:
            raise _unavailable(error.strerror or str(error)) from error
        self._holds[entry.attempt_id] = number
        self._entered += 1

    def settle(self, entry: LedgerEntry) -> None:
        """Write a settlement, and hand it to the ledger.

        A disk that takes no more must not lose what was spent: the ledger gets it all the same, and
        until it has it, the hold on disk stands for it. So it is with what cannot be encoded.
        """
        segment = self._holds.pop(entry.attempt_id, None)
        try:
            number = self._append(_SETTLEMENT, entry)
        except (OSError, OverflowError, ValueError):
            self._sink(entry, segment or 0)
            return
        if segment != number:
            # Else the settlement is kept in its hold's stead.
            self._entered += 1
            if segment is not None:
                self._busy[segment] -= 1
        self._sink(entry, number)

    def committed(self, segments: list[int]) -> None:
        """The ledger has these settlements, by segment. May be called from its thread."""
        self._committed.extend(segments)

    def sync(self) -> None:
        """Make all that was appended outlive power loss. May be called from another thread.

        Only here are files closed, so that none is closed while it is being synced.
        """
        while self._full:
            os.fdatasync(self._full[0])
            os.close(self._full.popleft())
        if (file := self._file) >= 0:
            os.fdatasync(file)
        if (written := self._map) is not None:
            # A segment may have retired meanwhile; of locked memory nothing is given back; and an older
            # kernel makes nothing ready.
            with suppress(ValueError, OSError):
                self._turn_pages(written)

    def _turn_pages(self, written: mmap.mmap) -> None:
        """The kernel keeps what was written: this process need not be charged for its pages too. Ahead, as
        much is made ready as was written since the last time: whoever is the first to write to a page of
        a file waits for the file system, for as long as ten records take."""
        end, before = self._end, self._synced_end
        self._synced_end = end
        begin = end - end % _PAGE_BYTES
        written.madvise(mmap.MADV_DONTNEED)
        ahead = min(max(end - before, 0), AHEAD_BYTES_MAX, SEGMENT_BYTES - end)
        if ahead and sys.platform == "linux":
            written.madvise(_MADV_POPULATE_WRITE, begin, end + ahead - begin)

    def close(self) -> str | None:
        """Close; what the ledger has confirmed is deleted. `sync` must not be running.

        Returns why the disk may lack what was appended last; None when it has it.
        """
        self._is_closed = True
        self._retire_segment()
        lacking = None
        try:
            self.sync()
        except OSError as error:
            lacking = str(error)
            while self._full:
                os.close(self._full.popleft())
        try:
            self._drop_reserve()
            self._collect()
        except OSError as error:
            _log.error("files of the journal that are not needed stay: %s", error)
        return lacking

    def _append(self, kind: int, entry: LedgerEntry) -> int:
        """Add a record, and return the number of its segment.

        Raises OSError when a new segment is needed and the disk has no room for one.
        """
        payload, written = self._payload, self._map
        _encode_into((kind, entry), payload)
        length, place = len(payload), self._end
        end = place + _HEADER_BYTES + length
        if end > self._room_end or written is None or length > RECORD_BYTES_MAX:
            assert length <= RECORD_BYTES_MAX, "replay would stop at such a record"
            written = self._rotate()
            place, end = 0, _HEADER_BYTES + length
        # In one go: of a copy that was cut short, the checksum tells.
        written[place:end] = _write_header(length, crc32(payload)) + payload
        self._end = end
        return self._number

    def _rotate(self) -> mmap.mmap:
        """Go on in a new segment. Raises OSError when the disk has no room for one."""
        self._collect()
        fresh = self._reserve or self._new_segment()
        self._reserve = None
        self._retire_segment()
        self._number, self._file, self._map = fresh
        self._end, self._room_end = 0, SEGMENT_BYTES
        return self._map

    def _new_segment(self) -> _Segment:
        number = self._last + 1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(self._path(number), flags, 0o600)
        try:
            os.posix_fallocate(file, 0, SEGMENT_BYTES)
            fresh = mmap.mmap(file, SEGMENT_BYTES)
        except OSError:
            os.close(file)
            self._path(number).unlink(missing_ok=True)
            raise
        self._last = number
        return number, file, fresh

    def _retire_segment(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
            self._end = self._room_end = 0
            file, self._file = self._file, -1
            self._full.append(file)
            self._busy[self._number] += self._entered
            self._number = self._entered = 0

    def _drop_reserve(self) -> None:
        if self._reserve is not None:
            number, file, room = self._reserve
            self._reserve = None
            room.close()
            os.close(file)
            self._path(number).unlink(missing_ok=True)

    def _collect(self) -> None:
        """Count what the ledger has confirmed, and delete the segments nobody needs."""
        while self._committed:
            self._busy[self._committed.popleft()] -= 1
        for number in [number for number, busy in self._busy.items() if busy == 0]:
            if number != self._number:
                self._path(number).unlink(missing_ok=True)
                del self._busy[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.journal"


def _number_of(path: Path) -> int:
    """A segment's number; 0 of one that somebody has given another name."""
    return int(path.stem) if path.stem.isdigit() else 0


def _unavailable(reason: str) -> WindvaneError:
    fault = Fault(
        kind=FaultKind.INTERNAL,
        source=Source.GATEWAY,
        message=f"the ledger cannot be written ({reason}); nothing was sent",
        status=503,
        code="ledger_unavailable",
        retry_after_s=1.0,
    )
    return error_of(fault)


def _damaged(names: list[str]) -> WindvaneError:
    fault = Fault(
        kind=FaultKind.INTERNAL,
        source=Source.GATEWAY,
        message=(
            f"a part of the journal could not be read ({', '.join(names)}): what it does not tell may"
            " have been spent, so nothing is sent until its operator moves it out of the journal's folder"
        ),
        status=503,
        code="ledger_damaged",
    )
    return error_of(fault)


class DamagedSegmentError(Exception):
    """A record in the midst of a segment is not what was written."""


def read_segment(path: Path) -> Iterator[LedgerEntry]:
    """The entries of a segment, up to its end or its torn last record.

    Raises DamagedSegmentError when more follows a record that is broken, and RuntimeError for a
    record that is whole but not understood: a newer version wrote it, and must read it.
    """
    for record in _records(path):
        yield _decoded(path, record, _decode)


def _records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    place = 0
    while place + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, place)
        if length == 0 and checksum == 0:
            if data[place:].strip(b"\0"):
                # A page that never came to the disk, or was lost there: more was written behind it.
                raise DamagedSegmentError
            return
        place += _HEADER.size
        record = data[place : place + length]
        place += length
        if not 0 < length <= RECORD_BYTES_MAX:
            # No record has such a length, and none that was torn.
            raise DamagedSegmentError
        if len(record) < length or crc32(record) != checksum:
            if data[place:].strip(b"\0") or _is_overlong(record, checksum):
                raise DamagedSegmentError
            return
        yield record


def _is_overlong(record: bytes, checksum: int) -> bool:
    """Whether the record that was written is the beginning of this one: its length is wrong then, and
    it is no torn one, but hides what follows it."""
    found = 0
    for sign in record.rstrip(b"\0"):
        found = crc32(bytes((sign,)), found)
        if found == checksum:
            return True
    return False


def _decoded(path: Path, record: bytes, decode: Callable[[bytes], tuple[int, T]]) -> T:
    try:
        return decode(record)[1]
    except msgspec.DecodeError as error:
        raise RuntimeError(
            f"{path} holds a record this version does not understand ({error}); start the"
            " version that wrote it once, so that its ledger is complete"
        ) from error
