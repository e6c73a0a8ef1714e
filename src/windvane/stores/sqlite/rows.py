"""Entries as rows, written with the sums they are in: both in one transaction, or neither.

An attempt is on the ledger once, and in the sums once, however often it is brought.
"""

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import get_args

import msgspec

from windvane.core.ledger import LedgerEntry
from windvane.stores.rollup import PLACE, SUMS, Place, Sums, add_up

FIELDS = tuple(field.name for field in msgspec.structs.fields(LedgerEntry))
ROWS_AT_ONCE = 32
"""Rows of one statement: Python's lock changes hands once a statement, not once a row."""
IDS_AT_ONCE = 10_000

_TAGS = FIELDS.index("tags")
_IS_STREAM = FIELDS.index("is_stream")
_CERTAINTY = FIELDS.index("certainty")
_NONE = -(2**62)
"""Stands for None on the way to SQLite: sqlite3 takes far longer to bind None, as it does anything
that is not exactly an int or a str, than SQLite takes for `nullif`. No amount can be this."""
_OPTIONAL = tuple(
    place
    for place, field in enumerate(msgspec.structs.fields(LedgerEntry))
    if type(None) in get_args(field.type)
)


def _insert_of(rows: int) -> str:
    values = ", ".join(
        f"nullif(?, {_NONE})" if place in _OPTIONAL else "?" for place in range(len(FIELDS))
    )
    return (
        f"INSERT INTO ledger ({', '.join(FIELDS)}) VALUES {', '.join([f'({values})'] * rows)} "
        "ON CONFLICT (attempt_id) DO NOTHING"
    )


_INSERT_ONE = _insert_of(1)
_INSERT_MANY = _insert_of(ROWS_AT_ONCE)
_ADD = (
    f"INSERT INTO usage_daily ({', '.join((*PLACE, *SUMS))})"
    f" VALUES ({', '.join('?' * (len(PLACE) + len(SUMS)))})"
    f" ON CONFLICT ({', '.join(PLACE)}) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
)


def insert(connection: sqlite3.Connection, entries: Sequence[LedgerEntry]) -> None:
    """Write entries and their sums, in one transaction; what is there already stays as it is.

    Raises sqlite3.Error, OverflowError or ValueError, and has written nothing then.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        if not _write(connection, entries):
            # Rare: after a restart, or a commit of which nobody knew whether it was one.
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            _write(connection, new_ones(connection, entries))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _write(connection: sqlite3.Connection, entries: Sequence[LedgerEntry]) -> bool:
    """Write rows and sums; False, and no sums, when some of the rows were there already."""
    rows = [_row(entry) for entry in entries]
    whole = len(rows) - len(rows) % ROWS_AT_ONCE
    for start in range(0, whole, ROWS_AT_ONCE):
        values = chain.from_iterable(rows[start : start + ROWS_AT_ONCE])
        if connection.execute(_INSERT_MANY, tuple(values)).rowcount < ROWS_AT_ONCE:
            return False
    for row in rows[whole:]:
        if connection.execute(_INSERT_ONE, row).rowcount < 1:
            return False
    sums: dict[Place, Sums] = {}
    add_up(entries, sums)
    connection.executemany(_ADD, [(*place, *added) for place, added in sums.items()])
    return True


def new_ones(
    connection: sqlite3.Connection, entries: Sequence[LedgerEntry]
) -> Sequence[LedgerEntry]:
    """Those that are not on the ledger yet, each attempt once: the first of them counts."""
    fresh: dict[str, LedgerEntry] = {}
    for entry in entries:
        fresh.setdefault(entry.attempt_id, entry)
    ids = list(fresh)
    for start in range(0, len(ids), IDS_AT_ONCE):
        known = connection.execute(
            "SELECT attempt_id FROM ledger WHERE attempt_id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids[start : start + IDS_AT_ONCE]),),
        )
        for (attempt_id,) in known:
            del fresh[attempt_id]
    return list(fresh.values())


def _row(entry: LedgerEntry) -> list[object]:
    row = list(msgspec.structs.astuple(entry))
    row[_TAGS] = ",".join(entry.tags)
    row[_IS_STREAM] = 1 if entry.is_stream else 0
    row[_CERTAINTY] = str.__str__(entry.certainty)
    for place in _OPTIONAL:
        if row[place] is None:
            row[place] = _NONE
    return row


def entry_of(row: Sequence[object]) -> LedgerEntry:
    """The entry that a row of `FIELDS` was made of."""
    values = list(row)
    tags = str(values[_TAGS])
    values[_TAGS] = tuple(tags.split(",")) if tags else ()
    return msgspec.convert(values, LedgerEntry, strict=False)
