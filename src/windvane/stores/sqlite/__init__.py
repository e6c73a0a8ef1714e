"""The embedded ledger: one SQLite file, one connection, one thread."""

from windvane.stores.sqlite.ledger import SqliteLedger

__all__ = ["SqliteLedger"]
