"""The ledger in SQLite.

One thread owns the one connection: SQLite before 3.51.3 can corrupt a file that two connections
write and checkpoint at once, and distributions still ship older ones. Entries are gathered for
`GROUP_S` and written in one transaction; a question waits for what was gathered before it.
"""

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TypeVar

import msgspec

from windvane.core.ledger import LedgerEntry, Totals
from windvane.stores.journal import FileJournal

GROUP_S = 0.05
COLUMNS = ("resolved_model", "provider", "key_id", "route", "outcome")
ROWS_OF_REQUEST_MAX = 100
RETRY_S = 0.5
"""After a failed write (a full disk) the group is tried again this often."""

_log = logging.getLogger("windvane.ledger")
_FIELDS = tuple(field.name for field in msgspec.structs.fields(LedgerEntry))
_TAGS = _FIELDS.index("tags")
_ROW = f"({', '.join('?' * len(_FIELDS))})"


def _insert_of(rows: int) -> str:
    return (
        f"INSERT INTO ledger ({', '.join(_FIELDS)}) VALUES {', '.join([_ROW] * rows)} "
        "ON CONFLICT (attempt_id) DO NOTHING"
    )


ROWS_AT_ONCE = 32
"""Rows of one statement: Python's lock changes hands once a statement, not once a row."""
_INSERT_ONE = _insert_of(1)
_INSERT_MANY = _insert_of(ROWS_AT_ONCE)
_SUMS = (
    "count(DISTINCT request_id), count(*), count(*) - count(cost_nano_usd), "
    "coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), "
    "coalesce(sum(cache_read_input_tokens), 0), coalesce(sum(cost_nano_usd), 0), "
    "coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'estimated'), 0), "
    "coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'assumed'), 0)"
)

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection], None]


class SqliteLedger:
    """Implements `LedgerStore`, and gives the `Journal` that feeds it."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in `folder`, replaying what an earlier process left in its journal.

        Raises RuntimeError when another process has it open.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(folder)
        self._path = folder / "ledger.db"
        self._gathered: list[tuple[LedgerEntry, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self.journal = FileJournal(folder / "journal", self._gather)
        try:
            connection = _open(self._path)
            recovered = list(self.journal.replay())
            _recover(connection, recovered)
        except BaseException:
            os.close(self._lock)
            raise
        self.journal.forget_replayed()
        self.recovered = len(recovered)
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="windvane-ledger", daemon=True
        )
        self._thread.start()

    def _gather(self, entry: LedgerEntry, segment: int) -> None:
        self._gathered.append((entry, segment))
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            # A timer of a loop that is gone would never fire.
            self._loop = loop
            self._timer = loop.call_later(GROUP_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathered:
            group, self._gathered = self._gathered, []
            self._work.put(lambda connection: self._write(connection, group))

    def _run(self, connection: sqlite3.Connection) -> None:
        """The thread: works until it is told to stop."""
        while (work := self._work.get()) is not None:
            work(connection)
        connection.close()

    def _write(self, connection: sqlite3.Connection, group: list[tuple[LedgerEntry, int]]) -> None:
        """Write a group, however long the disk refuses: its entries exist nowhere else in order."""
        pause = threading.Event()
        entries = [entry for entry, _ in group]
        while True:
            try:
                self.journal.sync()
                _insert(connection, entries)
                break
            except (sqlite3.OperationalError, OSError) as error:
                _log.error("the ledger cannot be written; trying again: %s", error)
                pause.wait(RETRY_S)
            except (sqlite3.Error, OverflowError, ValueError):
                _insert_each(connection, entries)
                break
        self.journal.committed([segment for _, segment in group if segment])

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Put a question to the thread, after all that was gathered."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work(connection: sqlite3.Connection) -> None:
            try:
                value = question(connection)
            except sqlite3.Error as error:
                loop.call_soon_threadsafe(_fail, answer, error)
            else:
                loop.call_soon_threadsafe(_fulfill, answer, value)

        self._flush()
        self._work.put(work)
        return await answer

    async def entries_of(
        self, request_id: str, *, key_id: str | None = None
    ) -> Sequence[LedgerEntry]:
        query = (
            f"SELECT {', '.join(_FIELDS)} FROM ledger "
            "WHERE (attempt_id BETWEEN :id || '-' AND :id || '.' OR client_request_id = :id)"
            " AND (:key IS NULL OR key_id = :key)"
            " ORDER BY started_at_us DESC, number DESC LIMIT :most"
        )
        values = {"id": request_id, "key": key_id, "most": ROWS_OF_REQUEST_MAX}
        rows = await self._ask(lambda connection: connection.execute(query, values).fetchall())
        return [_entry(row) for row in reversed(rows)]

    async def totals(self, *, key_id: str | None = None, since_us: int = 0) -> Totals:
        where, values = _where(key_id, since_us)
        row = await self._ask(
            lambda connection: connection.execute(
                f"SELECT {_SUMS} FROM ledger {where}", values
            ).fetchone()
        )
        return _totals(row)

    async def totals_by(
        self, column: str, *, key_id: str | None = None, since_us: int = 0
    ) -> dict[str, Totals]:
        if column not in COLUMNS:
            raise ValueError(f"cannot group by {column!r}; one of {', '.join(COLUMNS)}")
        where, values = _where(key_id, since_us)
        query = f"SELECT coalesce({column}, ''), {_SUMS} FROM ledger {where} GROUP BY 1 ORDER BY 1"
        rows = await self._ask(lambda connection: connection.execute(query, values).fetchall())
        return {row[0]: _totals(row[1:]) for row in rows}

    async def aclose(self) -> None:
        """Write what was gathered, and close; blocks for as long as that takes."""
        self._flush()
        self._work.put(None)
        while self._thread.is_alive():
            self._thread.join(0.01)
            await asyncio.sleep(0)
        self.journal.close()
        os.close(self._lock)


def _lock(folder: Path) -> int:
    """One writer: the kernel drops the lock with the process, so no stale file can hold it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise RuntimeError(
            f"another windvane process has the ledger in {folder} open; stop it, or choose another"
            " folder with WINDVANE_DATA_DIR"
        ) from error
    return lock


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    path.chmod(0o600)
    _migrate(connection)
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema. Raises RuntimeError for a schema from the future."""
    migrations = sorted(
        (
            file
            for file in resources.files("windvane.stores.sqlite").iterdir()
            if file.name.endswith(".sql")
        ),
        key=lambda file: file.name,
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise RuntimeError(
            f"the ledger has schema {version}; this windvane knows {len(migrations)}: upgrade it"
        )
    for number, file in enumerate(migrations[version:], start=version + 1):
        script = f"BEGIN;\n{file.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
        connection.executescript(script)


def _insert(connection: sqlite3.Connection, entries: Iterable[LedgerEntry]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = [_row(entry) for entry in entries]
        whole = len(rows) - len(rows) % ROWS_AT_ONCE
        for start in range(0, whole, ROWS_AT_ONCE):
            values = chain.from_iterable(rows[start : start + ROWS_AT_ONCE])
            connection.execute(_INSERT_MANY, tuple(values))
        connection.executemany(_INSERT_ONE, rows[whole:])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _recover(connection: sqlite3.Connection, entries: list[LedgerEntry]) -> None:
    try:
        _insert(connection, entries)
    except (sqlite3.IntegrityError, OverflowError, ValueError):
        _insert_each(connection, entries)


def _insert_each(connection: sqlite3.Connection, entries: Iterable[LedgerEntry]) -> None:
    """Insert one by one, setting aside what the table refuses: one bad row must not stop all others."""
    for entry in entries:
        try:
            _insert(connection, [entry])
        except (sqlite3.Error, OverflowError, ValueError) as error:
            _log.critical("the ledger refuses an entry; it is set aside: %s: %r", error, entry)


def _row(entry: LedgerEntry) -> tuple[object, ...]:
    values = msgspec.structs.astuple(entry)
    tags = ",".join(entry.tags)
    return (*values[:_TAGS], tags, *values[_TAGS + 1 :])


def _entry(row: Sequence[object]) -> LedgerEntry:
    values = dict(zip(_FIELDS, row, strict=True))
    tags = str(values["tags"])
    values["tags"] = tuple(tags.split(",")) if tags else ()
    return msgspec.convert(list(values.values()), LedgerEntry, strict=False)


def _where(key_id: str | None, since_us: int) -> tuple[str, tuple[object, ...]]:
    if key_id is None:
        return "WHERE started_at_us >= ?", (since_us,)
    return "WHERE key_id = ? AND started_at_us >= ?", (key_id, since_us)


def _totals(row: Sequence[int]) -> Totals:
    requests, attempts, unpriced, read_in, said, cached, amount, estimated, assumed = row
    return Totals(
        requests=requests,
        attempts=attempts,
        unpriced_attempts=unpriced,
        input_tokens=read_in,
        output_tokens=said,
        cache_read_input_tokens=cached,
        cost_nano_usd=amount,
        estimated_nano_usd=estimated,
        assumed_nano_usd=assumed,
    )


def _fulfill(answer: "asyncio.Future[T]", value: T) -> None:
    if not answer.done():
        answer.set_result(value)


def _fail(answer: "asyncio.Future[T]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
