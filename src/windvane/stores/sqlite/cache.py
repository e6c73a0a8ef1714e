"""The cache's tier that outlives the process: one SQLite file, one connection, one thread.

It has a thread of its own for the ledger's reason: SQLite before 3.51.3 can corrupt a file that two
connections write and checkpoint at once. What is put is gathered and written in groups; what is asked
waits `READ_DEADLINE_S` at most, and is a miss then. A disk that is full, slow, locked or broken is a miss
too: the file is opened again after a while, or begun anew when it is damaged.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from windvane.ports.stores import CacheStats, Kept
from windvane.stores.owed import Owed
from windvane.stores.sqlite.cache_file import CacheFile, Put, is_damage
from windvane.stores.sqlite.invalidations import SqliteInvalidations
from windvane.stores.sqlite.presence import Presence

READ_DEADLINE_S = 0.025
REMOVE_DEADLINE_S = 5.0
"""Removals wait for what was put before them; no request waits for them."""
GROUP_S = 0.05
GROUP_ROWS_MAX = 100
GROUP_SHARE = 64
"""A group is at most this part of the file's room, so that room can be made after it was written."""
GROUP_BYTES_MAX = 1024 * 1024
ENTRY_SHARE = 16
"""An entry that is larger than a group is one by itself, up to this part of the room: it is in the log and
in the file before room is made, and both have a quarter of the room to spare (`cache_file.py`)."""
ENTRY_BYTES_MAX = 4 * 1024 * 1024
UNWRITTEN_BYTES_MAX = 16 * 1024 * 1024
"""What may be on its way to the disk; more is not kept."""
ASKED_MAX = 256
"""Questions that may wait for the thread; more are misses at once."""
REOPEN_S = 5.0
"""A file that could not be used is tried again so often, when it is wanted."""
LOOK_S = 1.0
"""A thread with nothing to do looks this often whether others need its room."""
BYTES_MIN = 4 * 1024 * 1024
KEEP_S_MAX = 10 * 365 * 86_400.0

T = TypeVar("T")
Group = dict[bytes, Put]

# The last three: what SQLite cannot hold, such as a tag that is no text.
FAULTS = (sqlite3.Error, OSError, ValueError, OverflowError, TypeError)

_log = logging.getLogger("windvane.cache")


class SqliteCache:
    """Implements `LowerTier`, and has the `InvalidationStore` that is kept beside its entries."""

    name = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        bytes_max: int,
        entries_max: int | None = None,
        wall_us: Callable[[], int],
        monotonic_s: Callable[[], float],
        read_deadline_s: float = READ_DEADLINE_S,
    ) -> None:
        """`bytes_max` is for the file and what SQLite keeps beside it; ValueError when it is too few."""
        if bytes_max < BYTES_MIN:
            raise ValueError(f"a cache file needs {BYTES_MIN} bytes at least, not {bytes_max}")
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._wall_us = wall_us
        self._read_deadline_s = read_deadline_s
        self._group_bytes_max = min(bytes_max // GROUP_SHARE, GROUP_BYTES_MAX)
        self.entry_bytes_max = min(bytes_max // ENTRY_SHARE, ENTRY_BYTES_MAX)
        self._gathered: Group = {}
        self._gathered_bytes = 0
        self._under_way: dict[int, Group] = {}
        self._unwritten_bytes = 0
        self._groups = 0
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0
        self._hits = self._misses = self._stored = self._faults = 0
        self._presence = Presence()
        self.invalidations = SqliteInvalidations(
            lambda job, otherwise: self._do(job, otherwise, REMOVE_DEADLINE_S),
            Owed(path.with_name(f"{path.name}.owed")),
        )
        self._thread = _Thread(
            lambda: CacheFile(path, bytes_max=bytes_max, entries_max=entries_max, wall_us=wall_us),
            name=str(path),
            monotonic_s=monotonic_s,
            on_open=self._meet,
        )

    async def get(self, key: bytes) -> bytes | None:
        kept = await self.find(key)
        return kept.data if kept is not None else None

    async def find(self, key: bytes) -> Kept | None:
        put = self._unwritten(key)
        if put is not None:
            # What the file has is old, even when this is over.
            kept = self._kept(put)
        elif not self._presence.may_hold(key):
            kept = None
        else:
            kept = await self.ask(lambda file: file.find(key), None, self._read_deadline_s)
        if kept is None:
            self._misses += 1
        else:
            self._hits += 1
        return kept

    async def put(
        self,
        key: bytes,
        data: bytes,
        *,
        tags: Sequence[str],
        keep_s: float,
        worth: float,
        fence: int = 0,
    ) -> None:
        if keep_s <= 0:
            await self.remove(key)
            return
        size = len(key) + len(data)
        is_too_large = len(data) > self.entry_bytes_max
        if is_too_large or self._unwritten_bytes + size > UNWRITTEN_BYTES_MAX:
            self._faults += 1
            return
        ends_at_us = self._wall_us() + int(min(keep_s, KEEP_S_MAX) * 1_000_000)
        if self._gathered_bytes + size > self._group_bytes_max:
            self._flush()
        self._presence.add(key)
        self._gathered[key] = Put(data, tuple(tags), ends_at_us, worth)
        self._gathered_bytes += size
        self._unwritten_bytes += size
        self._stored += 1
        is_full = self._gathered_bytes >= self._group_bytes_max
        if is_full or len(self._gathered) >= GROUP_ROWS_MAX:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GROUP_S, self._flush)

    async def remove(self, key: bytes) -> int:
        self._flush()
        for group in self._under_way.values():
            group.pop(key, None)
        return await self.ask(lambda file: file.remove(key), 0, REMOVE_DEADLINE_S)

    async def remove_tagged(self, tag: str) -> int:
        """A piece at a time, and so the room is given back: look-ups get in between."""
        self._flush()
        removed, is_all = 0, False
        while not is_all:
            more, is_all = await self.ask(
                lambda file: file.remove_some_tagged(tag), (0, True), REMOVE_DEADLINE_S
            )
            removed += more
        is_all = not removed
        while not is_all:
            is_all = await self.ask(CacheFile.give_back_some, True, REMOVE_DEADLINE_S)
        return removed

    async def stats(self) -> CacheStats:
        thread = self._thread
        return CacheStats(
            tier=self.name,
            entries=thread.entries,
            bytes=thread.bytes,
            bytes_max=self._bytes_max,
            entries_max=self._entries_max,
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            evicted=thread.evicted,
            expired=thread.expired,
            faults=self._faults + thread.faults,
            is_up=thread.is_up,
        )

    async def written(self) -> None:
        """Wait until all that was put is written, or given up."""
        self._flush()
        await self.ask(lambda _: None, None, REMOVE_DEADLINE_S)

    async def aclose(self) -> None:
        """Write what was gathered, and close."""
        self._flush()
        await self.invalidations.aclose()
        await self._thread.aclose()

    async def ask(self, question: Callable[[CacheFile], T], otherwise: T, deadline_s: float) -> T:
        """What the thread answers; `otherwise` when it cannot, or not in time."""

        def answer(file: CacheFile | None) -> T:
            return otherwise if file is None else question(file)

        return await self._do(answer, otherwise, deadline_s)

    async def _do(
        self, question: Callable[[CacheFile | None], T], otherwise: T, deadline_s: float
    ) -> T:
        """The same, of a question that can do without the file."""
        if self._asked >= ASKED_MAX:
            self._faults += 1
            return otherwise
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: T) -> None:
            if not answer.done():
                answer.set_result(value)

        def job(file: CacheFile | None) -> None:
            value = otherwise
            try:
                if not answer.cancelled():
                    value = question(file)
            finally:
                _tell(loop, lambda: settle(value))

        self._asked += 1
        self._thread.do(job)
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError:
            self._faults += 1
            return otherwise
        finally:
            self._asked -= 1

    # what is not yet in the file

    def _unwritten(self, key: bytes) -> Put | None:
        put = self._gathered.get(key)
        for group in reversed(self._under_way.values()):
            put = put or group.get(key)
        return put

    def _kept(self, put: Put) -> Kept | None:
        left_us = put.ends_at_us - self._wall_us()
        if left_us <= 0:
            return None
        return Kept(data=put.data, tags=put.tags, left_s=left_us / 1_000_000, worth=put.worth)

    def _flush(self) -> None:
        """Hand the group to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._gathered:
            return
        group, size = self._gathered, self._gathered_bytes
        self._gathered, self._gathered_bytes = {}, 0
        self._groups += 1
        number = self._groups
        self._under_way[number] = group
        puts = list(group.items())
        loop = asyncio.get_running_loop()

        def done() -> None:
            del self._under_way[number]
            self._unwritten_bytes -= size

        def job(file: CacheFile | None) -> None:
            try:
                if file is not None:
                    file.write(puts)
            finally:
                _tell(loop, done)

        self._thread.do(job)
        if self._presence.is_full and self._presence.is_complete:
            # What was deleted is in it still. A new one has what is put from now on, and learns the rest.
            presence = self._presence = Presence(self._thread.entries + len(puts))
            self._thread.do(lambda file: None if file is None else _fill(presence, file))

    def _meet(self, file: CacheFile) -> None:
        """The file was opened, on the thread."""
        self.invalidations.meet(file)
        _fill(self._presence, file)


def _fill(presence: Presence, file: CacheFile) -> None:
    """Add what the file has, on its thread."""
    for key in file.all_keys():
        presence.add(key)
    presence.is_complete = True


class _Thread:
    """Does jobs in order, with the file open, or with None while it cannot be."""

    def __init__(
        self,
        open_file: Callable[[], CacheFile],
        *,
        name: str,
        monotonic_s: Callable[[], float],
        on_open: Callable[[CacheFile], None],
    ) -> None:
        self.entries = self.bytes = self.evicted = self.expired = self.faults = 0
        self.is_up = True
        self._open_file = open_file
        self._name = name
        self._monotonic_s = monotonic_s
        self._on_open = on_open
        self._file: CacheFile | None = None
        self._tried_at_s = float("-inf")
        self._gone = (0, 0)
        self._jobs: queue.SimpleQueue[Callable[[CacheFile | None], None] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="windvane-cache", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[CacheFile | None], None]) -> None:
        self._jobs.put(job)

    async def aclose(self) -> None:
        self._jobs.put(None)
        while self._thread.is_alive():
            await asyncio.sleep(0.002)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=LOOK_S)
            except queue.Empty:
                if self._file is None:
                    continue
                job = _give_way
            if job is None:
                break
            try:
                self._open()
                job(self._file)
                self._note()
            except FAULTS as error:
                self._failed(error)
        if self._file is not None:
            try:
                self._file.close()
            except FAULTS as error:
                _log.warning("closing the cache %s: %s", self._name, error)
        # Whoever still asks is told that there is nothing.
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job(None)

    def _open(self) -> None:
        if self._file is not None or self._monotonic_s() - self._tried_at_s < REOPEN_S:
            return
        self._tried_at_s = self._monotonic_s()
        try:
            file = self._open_file()
            try:
                self._on_open(file)
            except BaseException as error:
                if isinstance(error, sqlite3.Error) and is_damage(error):
                    file.discard()
                    self._tried_at_s = float("-inf")
                else:
                    file.abandon()
                raise
        except FAULTS as error:
            self.faults += 1
            if self.is_up:
                _log.error("the cache %s cannot be used; doing without it: %s", self._name, error)
            self.is_up = False
            return
        self._file = file
        self.is_up = True

    def _note(self) -> None:
        if self._file is not None:
            self.entries, self.bytes = self._file.entries, self._file.used_bytes
            self.evicted = self._gone[0] + self._file.evicted
            self.expired = self._gone[1] + self._file.expired

    def _failed(self, error: Exception) -> None:
        self.faults += 1
        _log.warning("the cache %s: %s", self._name, error)
        if self._file is None or not isinstance(error, sqlite3.Error | OSError):
            return
        is_damaged = isinstance(error, sqlite3.Error) and is_damage(error)
        if is_damaged or self._file.is_in_the_way:
            self._gone = (self.evicted, self.expired)
            self._file.discard()
            self._file = None
            self._tried_at_s = float("-inf")


def _give_way(file: CacheFile | None) -> None:
    if file is not None:
        file.give_way()


def _tell(loop: asyncio.AbstractEventLoop, outcome: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(outcome)
    except RuntimeError:
        _log.debug("a loop is gone; nobody waits for the answer")
