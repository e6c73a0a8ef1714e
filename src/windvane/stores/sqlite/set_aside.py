"""Entries that the ledger's table refuses, kept in a file of their own for a person to look at.

Only what is wrong with one entry (an amount beyond 64 bits, a text that is none) sets it aside; trouble of
the disk or the file never does.
"""

import errno
import json
import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from windvane.core.ledger import LedgerEntry
from windvane.stores.sqlite.rows import insert

OF_ONE_ENTRY = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError)
"""What says that an entry is wrong, and not the ledger."""

_log = logging.getLogger("windvane.ledger")


class SetAside:
    """A file of entries, a JSON array a line, in the order of their fields."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, entry: LedgerEntry, reason: Exception) -> None:
        """Add an entry; it would survive power loss when this returns. Raises OSError."""
        # Not by msgspec: it refuses just what is refused here.
        line = json.dumps([str(reason), msgspec.to_builtins(entry)]).encode() + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(file).st_size
            if os.write(file, line) < len(line):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(file)
        finally:
            os.close(file)
        _log.critical(
            "the ledger refuses attempt %s (%s); it is in no sum, and kept in %s",
            entry.attempt_id,
            reason,
            self._path,
        )

    def count(self) -> int:
        """How many entries there are."""
        try:
            with self._path.open("rb") as file:
                return sum(1 for _ in file)
        except FileNotFoundError:
            return 0


def insert_all(
    connection: sqlite3.Connection, entries: Sequence[LedgerEntry], aside: SetAside
) -> None:
    """Insert entries, setting aside what the table refuses: one must not stop all others.

    Raises sqlite3.Error or OSError when the ledger itself cannot be written; what was written before
    then is not written twice when all are brought again.
    """
    try:
        insert(connection, entries)
    except OF_ONE_ENTRY as error:
        if len(entries) == 1:
            aside.keep(entries[0], error)
            return
        half = len(entries) // 2
        insert_all(connection, entries[:half], aside)
        insert_all(connection, entries[half:], aside)
