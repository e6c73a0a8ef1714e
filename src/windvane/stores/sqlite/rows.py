"""Entries as rows, written with the sums they are in: both in one transaction, or neither.

An attempt is on the ledger once, and in the sums once, however often it is brought.
"""

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, get_args

import msgspec

from windvane.core.ledger import LedgerEntry
from windvane.stores.rollup import PLACE, SUMS, Place, Sums, add_up
from windvane.stores.sqlite.file import STATEMENTS_KEPT

FIELDS = tuple(field.name for field in msgspec.structs.fields(LedgerEntry))
ROWS_AT_ONCE = 64
"""Rows of one statement at most: Python's lock changes hands once a statement, not once a row."""
IDS_AT_ONCE = 10_000

_MAY_SHARE = not (3, 12) <= sys.version_info < (3, 12, 4)
"""In between, sqlite3 takes `?1` for a name, and warns of each."""

_TAGS = FIELDS.index("tags")
_AS_BOUND: dict[int, Callable[[Any], object]] = {
    _TAGS: ",".join,
    FIELDS.index("is_stream"): int,
    FIELDS.index("certainty"): str.__str__,
}
_NONE = -(2**62)
"""Stands for None on the way to SQLite: sqlite3 takes far longer to bind None, as it does anything
that is not exactly an int or a str, than SQLite takes for `nullif`. No amount can be this."""
_OPTIONAL = frozenset(
    place
    for place, field in enumerate(msgspec.structs.fields(LedgerEntry))
    if type(None) in get_args(field.type)
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
    if not entries:
        return True
    columns, alike = _columns(entries)
    for start, end in _pieces(len(entries)):
        shared = alike if end - start == ROWS_AT_ONCE and _MAY_SHARE else ()
        statement, values = _piece(columns, shared, start, end)
        if connection.execute(statement, values).rowcount < end - start:
            return False
    sums: dict[Place, Sums] = {}
    add_up(entries, sums)
    added = [(*place, *known) for place, known in sums.items()]
    for start, end in _pieces(len(added)):
        connection.execute(_add_of(end - start), [*chain.from_iterable(added[start:end])])
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


def _columns(entries: Sequence[LedgerEntry]) -> tuple[list[list[object]], tuple[int, ...]]:
    """The values of each field, as sqlite3 takes them; and the fields in which all entries are the same.

    Entries of one group are much alike, and binding values is most of what a row costs. But which fields
    these are differs from group to group, and each choice is another statement to prepare: so only whole
    statements make use of it.
    """
    columns, alike = [], []
    fields = zip(*map(msgspec.structs.astuple, entries), strict=True)
    for place, column in enumerate(fields):
        if column.count(column[0]) == len(column):
            alike.append(place)
            columns.append(_bound(place, column[:1]) * len(column))
        else:
            columns.append(_bound(place, column))
    return columns, tuple(alike)


def _bound(place: int, column: Sequence[object]) -> list[object]:
    if place in _OPTIONAL:
        return [_NONE if value is None else value for value in column]
    as_bound = _AS_BOUND.get(place)
    return list(column if as_bound is None else map(as_bound, column))


def _piece(
    columns: list[list[object]], shared: tuple[int, ...], start: int, end: int
) -> tuple[str, list[object]]:
    """The statement for some of the entries, with its values: those that are shared once, then row by
    row. What all entries lack is left out."""
    said = tuple(place for place in shared if columns[place][0] != _NONE)
    varying = tuple(place for place in range(len(FIELDS)) if place not in shared)
    rows, width = end - start, len(varying)
    values: list[object] = [None] * (width * rows)
    for number, place in enumerate(varying):
        values[number::width] = columns[place][start:end]
    once = [columns[place][0] for place in said]
    return _insert_of(said, varying, rows), once + values


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """The rows of each statement: of few sizes, because each is a statement to prepare."""
    start, size = 0, ROWS_AT_ONCE
    while start < count:
        while size > count - start:
            size //= 2
        yield start, start + size
        start += size


@lru_cache(STATEMENTS_KEPT)
def _insert_of(shared: tuple[int, ...], varying: tuple[int, ...], rows: int) -> str:
    """The statement that inserts so many rows: shared values are bound first, then row by row."""
    names = ", ".join(FIELDS[place] for place in (*shared, *varying))
    values = ", ".join(
        [f"?{number}" for number in range(1, len(shared) + 1)]
        + [f"nullif(?, {_NONE})" if place in _OPTIONAL else "?" for place in varying]
    )
    return (
        f"INSERT INTO ledger ({names}) VALUES {', '.join([f'({values})'] * rows)} "
        "ON CONFLICT (attempt_id) DO NOTHING"
    )


@lru_cache(STATEMENTS_KEPT)
def _add_of(places: int) -> str:
    """The statement that adds sums to those that are kept, of so many places."""
    values = f"({', '.join('?' * (len(PLACE) + len(SUMS)))})"
    return (
        f"INSERT INTO usage_daily ({', '.join((*PLACE, *SUMS))})"
        f" VALUES {', '.join([values] * places)}"
        f" ON CONFLICT ({', '.join(PLACE)}) DO UPDATE SET "
        + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
    )


def entry_of(row: Sequence[object]) -> LedgerEntry:
    """The entry that a row of `FIELDS` was made of."""
    values = list(row)
    tags = str(values[_TAGS])
    values[_TAGS] = tuple(tags.split(",")) if tags else ()
    return msgspec.convert(values, LedgerEntry, strict=False)
