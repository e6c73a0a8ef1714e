"""The simplest cache there can be: a dictionary. For scenarios about what the engine does with one."""

from collections.abc import Sequence

from windvane.core.cache.invalidation import ALL, Invalidations
from windvane.ports.clock import Clock
from windvane.ports.stores import CacheStats


class KeptAnswers:
    """Implements `ResponseCache`, without bounds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.kept: dict[bytes, tuple[bytes, tuple[str, ...], float]] = {}

    def get_now(self, key: bytes) -> bytes | None:
        found = self.kept.get(key)
        return found[0] if found and self._clock.monotonic_s() < found[2] else None

    async def get(self, key: bytes) -> bytes | None:
        return self.get_now(key)

    async def put(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> None:
        self.kept[key] = data, tuple(tags), self._clock.monotonic_s() + keep_s

    async def remove(self, key: bytes) -> int:
        return int(self.kept.pop(key, None) is not None)

    async def remove_tagged(self, tag: str) -> int:
        tagged = [key for key, (_, tags, _) in self.kept.items() if tag == ALL or tag in tags]
        for key in tagged:
            del self.kept[key]
        return len(tagged)

    def clear_now(self) -> int:
        count = len(self.kept)
        self.kept.clear()
        return count

    async def stats(self) -> Sequence[CacheStats]:
        size = sum(len(key) + len(data) for key, (data, _, _) in self.kept.items())
        return [CacheStats(tier="kept", entries=len(self.kept), bytes=size)]

    async def aclose(self) -> None:
        self.kept.clear()


class KnownInvalidations:
    """Implements `InvalidationStore`."""

    def __init__(self) -> None:
        self._known = Invalidations()

    @property
    def known(self) -> Invalidations:
        return self._known

    async def invalidate(self, tag: str) -> Invalidations:
        version = self._known.version + 1
        by_tag = {**self._known.by_tag, tag: version}
        self._known = Invalidations(version=version, by_tag=by_tag)
        return self._known
