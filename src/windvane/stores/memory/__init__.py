"""A ledger in memory: for one process that keeps nothing, and for tests."""

from windvane.stores.memory.ledger import MemoryLedger

__all__ = ["MemoryLedger"]
