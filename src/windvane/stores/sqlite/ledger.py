"""The ledger in SQLite: settlements on their way from the journal, and the questions about them.

Entries are gathered for `GROUP_S` and written in one transaction. A question sends what was gathered
ahead of itself before it first waits, so that it is answered as of its asking.
"""

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from windvane.core.budgets import US_PER_DAY
from windvane.core.keys import VirtualKey
from windvane.core.ledger import LedgerEntry
from windvane.core.principal import GLOBAL, Scope
from windvane.core.usage_report import Difference, UsageQuery, UsageRow
from windvane.stores.journal import FileJournal
from windvane.stores.rollup import Place, Sums, day_number, spent_by_scope, usage_rows
from windvane.stores.sqlite import questions
from windvane.stores.sqlite.file import (
    identity,
    lock,
    no_folder,
    open_file,
    tell_of_new,
    unusable,
)
from windvane.stores.sqlite.retention import cutoff, forget, move_cutoff
from windvane.stores.sqlite.rows import entry_of
from windvane.stores.sqlite.set_aside import SetAside, insert_all
from windvane.stores.sqlite.verification import (
    ROWS_ADDED_UP,
    add_up_rows,
    differences,
    rebuild,
    snapshot,
)
from windvane.stores.sqlite.writer import Question, Writer

GROUP_S = 0.25
"""How long entries are gathered. The journal has them already, and SIGKILL cannot take them from it:
only when the machine loses power can what was gathered since the last group be missing. A quarter of a
second costs a busy gateway far less than the syncs of shorter groups would."""
GROUP_ROWS_MAX = 1_000
"""A group of so many is written at once: a question should not wait long for the one before it."""
ROWS_RECOVERED_AT_ONCE = 10_000
"""Of a journal that may be large; a transaction each."""
UNWRITTEN_MAX = 100_000
"""Entries that may be on their way: when a disk only hangs, new work is refused here."""

_log = logging.getLogger("windvane.ledger")

T = TypeVar("T")
Group = list[tuple[LedgerEntry, int]]
"""Settlements, each with the segment of the journal that has it until it is written."""

_encode_key = msgspec.json.Encoder().encode
_key_decoder = msgspec.json.Decoder(VirtualKey)


class SqliteLedger:
    """Implements `LedgerStore` and `KeyStore`, and gives the `Journal` that feeds it."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in `folder`, replaying what an earlier process left in its journal.

        Raises RuntimeError when another process has it open, or its file cannot be used.
        """
        self._path = folder / "ledger.db"
        try:
            self._lock = lock(folder)
        except OSError as error:
            raise no_folder(folder, error) from error
        self._set_aside = SetAside(folder / "set_aside.jsonl")
        self._gathered: Group = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose timer that is."""
        self._handed = 0
        self._written = 0
        try:
            tell_of_new(self._path)
            self.journal = FileJournal(folder / "journal", self._gather, refusal=self._refusal)
            connection = open_file(self._path)
            self._file = identity(self._path)
            self.recovered = self._recover(connection)
        except OSError as error:
            os.close(self._lock)
            raise unusable(self._path, error) from error
        except BaseException:
            os.close(self._lock)
            raise
        self._writer: Writer[Group] = Writer(connection, self._write)

    def _recover(self, connection: sqlite3.Connection) -> int:
        try:
            cutoff_us = cutoff(connection)
            # What was forgotten must not be counted again when the journal still has it.
            left = (entry for entry in self.journal.replay() if entry.started_at_us >= cutoff_us)
            recovered = 0
            while entries := list(islice(left, ROWS_RECOVERED_AT_ONCE)):
                insert_all(connection, entries, self._set_aside)
                recovered += len(entries)
        except sqlite3.Error as error:
            connection.close()
            raise unusable(self._path, error) from error
        except BaseException:
            connection.close()
            raise
        self.journal.forget_replayed()
        return recovered

    def _refusal(self) -> str | None:
        """Why no new work may be begun; None when it may."""
        if self._handed + len(self._gathered) - self._written > UNWRITTEN_MAX:
            return "it is too far behind"
        return self._writer.trouble

    def _gather(self, entry: LedgerEntry, segment: int) -> None:
        gathered = self._gathered
        gathered.append((entry, segment))
        if len(gathered) >= GROUP_ROWS_MAX:
            self._flush()
        elif (loop := self._loop) is None or not loop.is_running():
            # A timer of a loop that is gone would never fire.
            self._set_timer()

    def _set_timer(self) -> None:
        """Flush a little later; or now, where no loop runs."""
        try:
            loop = self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
        else:
            self._timer = loop.call_later(GROUP_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop = None
        if self._gathered:
            group, self._gathered = self._gathered, []
            self._handed += len(group)
            self._writer.put(group)

    def _write(self, connection: sqlite3.Connection, group: Group) -> None:
        """Write a group, on the thread."""
        if identity(self._path) != self._file:
            raise OSError(errno.ESTALE, "another file is in its place", str(self._path))
        self.journal.sync()
        insert_all(connection, [entry for entry, _ in group], self._set_aside)
        self.journal.committed([segment for _, segment in group if segment])
        self._written += len(group)

    async def _ask(self, question: Question[T]) -> T:
        """Put a question to the thread, after all that was gathered."""
        self._flush()
        return await self._writer.ask(question)

    async def entries_of(
        self, request_id: str, *, key_id: str | None = None
    ) -> Sequence[LedgerEntry]:
        query, values = questions.of_request(request_id, key_id)
        rows = await self._ask(lambda connection: connection.execute(query, values).fetchall())
        return [entry_of(row) for row in reversed(rows)]

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        text, values = questions.of_usage(query)
        width = len(query.by)

        def answer(connection: sqlite3.Connection) -> Sequence[UsageRow]:
            rows = connection.execute(text, values).fetchall()
            return usage_rows(query.by, ((row[:width], row[width:]) for row in rows))

        return await self._ask(answer)

    async def spent(self, scope: Scope, since_us: int, until_us: int | None = None) -> int:
        text, values = questions.of_spent(scope, since_us, until_us)
        spent: int = await self._ask(
            lambda connection: connection.execute(text, values).fetchone()[0]
        )
        return spent

    async def spent_by(
        self, kind: str, since_us: int, until_us: int | None = None
    ) -> Mapping[Scope, int]:
        if kind == GLOBAL:
            return {GLOBAL: await self.spent(GLOBAL, since_us, until_us)}
        text, values = questions.of_spent_by(kind, since_us, until_us)
        rows = await self._ask(lambda connection: connection.execute(text, values).fetchall())
        return spent_by_scope(kind, rows)

    async def days_since(self, since_us: int) -> Sequence[int]:
        text, values = questions.of_days_since(since_us)
        rows = await self._ask(lambda connection: connection.execute(text, values).fetchall())
        return [day * US_PER_DAY for (day,) in rows]

    async def keys(self) -> Sequence[VirtualKey]:
        """All keys, by id."""
        query = "SELECT record FROM gateway_keys ORDER BY id"
        rows = await self._ask(lambda connection: connection.execute(query).fetchall())
        return [_key_decoder.decode(record) for (record,) in rows]

    async def put_key(self, key: VirtualKey) -> None:
        statement = (
            "INSERT INTO gateway_keys (id, record) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET record = excluded.record"
        )
        values = (key.id, _encode_key(key))
        await self._ask(lambda connection: connection.execute(statement, values).rowcount)

    async def verify(self) -> Sequence[Difference]:
        """Add up all rows again: where the sums kept differ from them; nowhere, if all is well.

        Reads the whole ledger, a piece at a time, while it is written.
        """
        kept = await self._ask(snapshot)
        found: dict[Place, Sums] = {}
        for first in range(0, kept.last_row + 1, ROWS_ADDED_UP):
            await self._ask(partial(add_up_rows, kept=kept, first=first, sums=found))
        # Rows that were forgotten meanwhile are rightly gone.
        return differences(kept, found, await self._ask(cutoff))

    async def rebuild(self) -> None:
        """Make the sums anew from the rows. Nothing else is written meanwhile: seconds a million."""
        await self._ask(rebuild)

    async def refused(self) -> int:
        return await self._ask(lambda _: self._set_aside.count())

    async def forget_before(self, day: date) -> int:
        """Delete the rows of attempts begun before a UTC day; their sums stay. How many there were.

        Works in small pieces, so that entries and questions get in between.
        """
        before_us = day_number(day) * US_PER_DAY
        await self._ask(partial(move_cutoff, before_us=before_us))
        forgotten = 0
        while count := await self._ask(partial(forget, before_us=before_us)):
            forgotten += count
        return forgotten

    async def aclose(self) -> None:
        """Write what was gathered, and close; the journal keeps what the disk refuses to the last."""
        self._flush()
        await self._writer.aclose()
        lacking = self.journal.close()
        os.close(self._lock)
        if self._writer.is_behind and lacking is None:
            _log.critical(
                "the ledger was closed unwritten (%s); the journal keeps what it lacks, and brings it at"
                " the next start",
                self._writer.trouble,
            )
        elif self._writer.is_behind:
            _log.critical(
                "the ledger was closed unwritten (%s), and the disk may lack the journal's last records too"
                " (%s): what was spent last can be missing at the next start",
                self._writer.trouble,
                lacking,
            )
        elif lacking is not None:
            _log.error("the journal cannot be synced at the end: %s", lacking)
