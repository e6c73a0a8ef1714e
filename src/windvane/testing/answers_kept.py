"""The simplest cache there can be: a dictionary. For scenarios about what the engine does with one; and
who else may share it: another process, as its leases tell of it."""

import asyncio
from collections.abc import Callable, Sequence

from windvane.core.cache.invalidation import ALL, Invalidations, Reach
from windvane.ports.clock import Clock
from windvane.ports.stores import CacheStats


class KeptAnswers:
    """Implements `ResponseCache`, without bounds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.kept: dict[bytes, tuple[bytes, tuple[str, ...], float]] = {}
        self.behind: dict[bytes, tuple[bytes, tuple[str, ...], float]] = {}
        """What others have kept, where this process would find it."""

    def get_now(self, key: bytes) -> bytes | None:
        found = self.kept.get(key)
        return found[0] if found and self._clock.monotonic_s() < found[2] else None

    async def get(self, key: bytes) -> bytes | None:
        return self.get_now(key)

    async def get_behind(self, key: bytes, is_wanted: Callable[[bytes], bool]) -> bytes | None:
        found = self.behind.get(key)
        if found is None or self._clock.monotonic_s() >= found[2] or not is_wanted(found[0]):
            return None
        self.kept[key] = found
        return found[0]

    async def put(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> None:
        if keep_s > 0:
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

    async def clear_behind(self) -> None:
        self.behind.clear()

    async def stats(self) -> Sequence[CacheStats]:
        size = sum(len(key) + len(data) for key, (data, _, _) in self.kept.items())
        return [CacheStats(tier="kept", entries=len(self.kept), bytes=size)]

    async def aclose(self) -> None:
        self.kept.clear()


class KnownInvalidations:
    """Implements `InvalidationStore`. A scenario says how far they come."""

    def __init__(self) -> None:
        self._known = Invalidations()
        self.reach = Reach.EVERYWHERE

    @property
    def known(self) -> Invalidations:
        return self._known

    def invalidate_now(self, tag: str) -> Invalidations:
        version = self._known.version + 1
        by_tag = {**self._known.by_tag, tag: version}
        self._known = Invalidations(version=version, by_tag=by_tag)
        return self._known

    async def spread(self) -> None:
        """The scenario says how far."""

    async def invalidate(self, tag: str) -> Invalidations:
        return self.invalidate_now(tag)


class OtherProcess:
    """Implements `FlightLeases`, as another process that shares the cache would let us have them.

    A scenario says which keys it `holds`; what is claimed meanwhile is refused. `is_lost` makes every
    lease that we have somebody else's. `granted` and `released` count, `renewals` too.
    """

    def __init__(self, *, claim_s: float = 0.0, release_s: float = 0.0) -> None:
        self.holds: set[bytes] = set()
        self.holds_all = False
        self.is_lost = False
        self.granted = 0
        self.released = 0
        self.renewals = 0
        self.refused = 0
        self.ours: set[bytes] = set()
        self._claim_s = claim_s
        self.release_s = release_s

    async def claim(self, key: bytes) -> "Lease | None":
        if self._claim_s:
            await asyncio.sleep(self._claim_s)
        if self.holds_all or key in self.holds or key in self.ours:
            self.refused += 1
            return None
        self.granted += 1
        self.ours.add(key)
        return Lease(self, key)


class Lease:
    """Implements `FlightLease`."""

    def __init__(self, leases: OtherProcess, key: bytes) -> None:
        self._leases = leases
        self._key = key
        self._is_released = False

    async def renew(self) -> bool:
        self._leases.renewals += 1
        return not self._leases.is_lost

    async def release(self) -> None:
        assert not self._is_released, "a lease is released twice"
        if self._leases.release_s:
            await asyncio.sleep(self._leases.release_s)
        self._is_released = True
        self._leases.released += 1
        self._leases.ours.discard(self._key)
