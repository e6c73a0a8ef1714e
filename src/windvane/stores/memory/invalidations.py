"""Invalidations of one process that keeps nothing."""

from windvane.core.cache.invalidation import Invalidations, after


class MemoryInvalidations:
    """Implements `InvalidationStore`."""

    def __init__(self) -> None:
        self.known = Invalidations()

    async def invalidate(self, tag: str) -> Invalidations:
        self.known = after(self.known, tag)
        return self.known
