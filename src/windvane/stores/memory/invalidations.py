"""Invalidations of one process that keeps nothing."""

from windvane.core.cache.invalidation import Invalidations, Reach, after


class MemoryInvalidations:
    """Implements `InvalidationStore`."""

    reach = Reach.EVERYWHERE

    def __init__(self) -> None:
        self.known = Invalidations()

    def invalidate_now(self, tag: str) -> Invalidations:
        self.known = after(self.known, tag)
        return self.known

    async def spread(self) -> None:
        """There is nobody to tell."""

    async def invalidate(self, tag: str) -> Invalidations:
        return self.invalidate_now(tag)
