"""Do the sums that are kept agree with the rows? Found out by adding the rows up again, in SQL.

Python made the sums when the rows were written, so the two have nothing in common but the rows. Days with
forgotten rows cannot be checked any more, and are left alone.
"""

import sqlite3

import msgspec

from windvane.core.budgets import US_PER_DAY
from windvane.core.usage_report import Difference
from windvane.stores.rollup import PLACE, SUMS, Place, Sums, totals_of
from windvane.stores.sqlite.retention import cutoff

ROWS_ADDED_UP = 20_000
"""So many at once: some tens of milliseconds of the writer's time."""

_COLUMNS = ", ".join((*PLACE, *SUMS))
_PLACE_OF_ROW = (
    f"started_at_us / {US_PER_DAY}, key_id, coalesce(team, ''), coalesce(user, ''), tags,"
    " provider, resolved_model, coalesce(route, '')"
)
_SUMS_OF_ROWS = (
    "sum(number = 1), sum(provider <> '' AND outcome NOT IN ('hit', 'joined')),"
    " sum(provider <> '' AND outcome NOT IN ('ok', 'hit', 'joined')),"
    " count(*) - count(cost_nano_usd),"
    " sum(input_tokens), sum(output_tokens), sum(cache_read_input_tokens),"
    " sum(cache_creation_input_tokens), sum(reasoning_output_tokens),"
    " coalesce(sum(cost_nano_usd), 0),"
    " coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'estimated'), 0),"
    " coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'assumed'), 0),"
    " coalesce(sum(saved_nano_usd), 0),"
    " sum(number = 1 AND cache IS 'hit' OR cache IS NULL AND outcome IN ('hit', 'joined')),"
    " sum(number = 1 AND cache IS 'joined'), sum(number = 1 AND cache IS 'miss'),"
    " coalesce(sum(saved_tokens), 0), coalesce(sum(saved_us), 0)"
)
_ADD_UP = (
    f"SELECT {_PLACE_OF_ROW}, {_SUMS_OF_ROWS} FROM ledger"
    " WHERE rowid >= :first AND rowid < :end AND started_at_us >= :since_us"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
)
_NOTHING = (0,) * len(SUMS)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All sums at one moment, and the last row there was."""

    last_row: int
    since_us: int
    sums: dict[Place, tuple[int, ...]]


def snapshot(connection: sqlite3.Connection) -> Snapshot:
    """The sums as they are now. Rows never change, so those up to the last can be read later."""
    since_us = cutoff(connection)
    [(last_row,)] = connection.execute("SELECT coalesce(max(rowid), -1) FROM ledger")
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM usage_daily WHERE day >= ?", (since_us // US_PER_DAY,)
    )
    sums = {row[: len(PLACE)]: row[len(PLACE) :] for row in rows}
    return Snapshot(last_row=last_row, since_us=since_us, sums=sums)


def add_up_rows(
    connection: sqlite3.Connection, *, kept: Snapshot, first: int, sums: dict[Place, Sums]
) -> None:
    """Add the rows from `first` on to `sums`, as many as are read at once."""
    end = min(first + ROWS_ADDED_UP, kept.last_row + 1)
    values = {"first": first, "end": end, "since_us": kept.since_us}
    for row in connection.execute(_ADD_UP, values):
        place, added = row[: len(PLACE)], row[len(PLACE) :]
        known = sums.get(place, _NOTHING)
        sums[place] = [one + other for one, other in zip(known, added, strict=True)]


def differences(kept: Snapshot, found: dict[Place, Sums], cutoff_us: int) -> list[Difference]:
    """Where the two differ, of the days from the cutoff on."""
    return [
        Difference(place=place, kept=totals_of(one), found=totals_of(other))
        for place in sorted(kept.sums.keys() | found.keys())
        if place[0] * US_PER_DAY >= cutoff_us
        and (one := tuple(kept.sums.get(place, _NOTHING)))
        != (other := tuple(found.get(place, _NOTHING)))
    ]


def rebuild(connection: sqlite3.Connection) -> None:
    """Make the sums anew from the rows, of all days that still have all of theirs."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        kept = snapshot(connection)
        sums: dict[Place, Sums] = {}
        for first in range(0, kept.last_row + 1, ROWS_ADDED_UP):
            add_up_rows(connection, kept=kept, first=first, sums=sums)
        connection.execute("DELETE FROM usage_daily WHERE day >= ?", (kept.since_us // US_PER_DAY,))
        connection.executemany(
            f"INSERT INTO usage_daily ({_COLUMNS})"
            f" VALUES ({', '.join('?' * (len(PLACE) + len(SUMS)))})",
            ((*place, *found) for place, found in sorted(sums.items())),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
