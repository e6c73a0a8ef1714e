"""Who goes first when not all can go: three classes, as in any queue that people understand."""

from enum import StrEnum


class Priority(StrEnum):
    """Higher classes wait less; within one, tenants take turns."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the first to go."""
        return _RANKS[self]


_RANKS = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
