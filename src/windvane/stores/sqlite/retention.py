"""Forgetting: rows older than a cutoff are deleted, a few at a time. Their sums stay.

The ledger's trigger lets a row go only when it is older than the cutoff on record, and only this file
moves that; it never moves back. What the journal still has of forgotten rows is not taken again.
"""

import sqlite3

ROWS_FORGOTTEN_AT_ONCE = 2_000
"""Some tens of milliseconds of the writer's time."""


def cutoff(connection: sqlite3.Connection) -> int:
    """Rows of attempts begun before this (UTC microseconds) are forgotten, or about to be."""
    [(before_us,)] = connection.execute("SELECT started_before_us FROM ledger_cutoff")
    return int(before_us)


def move_cutoff(connection: sqlite3.Connection, *, before_us: int) -> None:
    """Put the cutoff on record, unless a later one is."""
    connection.execute(
        "UPDATE ledger_cutoff SET started_before_us = :before_us"
        " WHERE started_before_us < :before_us",
        {"before_us": before_us},
    )


def forget(connection: sqlite3.Connection, *, before_us: int) -> int:
    """Delete some of what is older than `before_us`. How many: none, when all is forgotten."""
    return connection.execute(
        "DELETE FROM ledger WHERE rowid IN"
        " (SELECT rowid FROM ledger WHERE started_at_us < ? LIMIT ?)",
        (before_us, ROWS_FORGOTTEN_AT_ONCE),
    ).rowcount
