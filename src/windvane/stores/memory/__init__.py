"""Stores in memory: for one process that keeps nothing, for tests, and for what is always local."""

from windvane.stores.memory.budgets import MemoryBudgets
from windvane.stores.memory.keys import MemoryKeys
from windvane.stores.memory.ledger import MemoryLedger
from windvane.stores.memory.limits import MemoryLimits

__all__ = ["MemoryBudgets", "MemoryKeys", "MemoryLedger", "MemoryLimits"]
