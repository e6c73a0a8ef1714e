"""The simplest cache there can be: a dictionary. For scenarios about what the engine does with one; and
who else may share it: another process, as its leases tell of it."""

import asyncio
from collections.abc import Callable, Sequence

from windvane.core.cache.invalidation import ALL, Invalidations, Reach
from windvane.ports.clock import Clock
from windvane.ports.stores import CacheStats

DISMISSED_S = 0.5
"""How long a lease that was dismissed is everyone's."""


class KeptAnswers:
    """Implements `ResponseCache`, without bounds; gives out copies, as memory does. `look_s` is how long a
    look behind the memory takes; `looks` counts them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.kept: dict[bytes, tuple[bytes, tuple[str, ...], float]] = {}
        self.behind: dict[bytes, tuple[bytes, tuple[str, ...], float]] = {}
        """What others have kept, where this process would find it."""
        self.look_s = 0.0
        self.looks = 0
        self.write_s = 0.0
        """How long it takes until others would find what was put."""
        self.fences: dict[bytes, int] = {}
        """Under which lease each was last put."""

    def get_now(self, key: bytes) -> bytes | None:
        found = self.kept.get(key)
        if found is not None and self._clock.monotonic_s() >= found[2]:
            del self.kept[key]
            return None
        return None if found is None else bytes(memoryview(found[0]))

    def peek(self, key: bytes) -> bytes | None:
        found = self.kept.get(key)
        return None if found is None else bytes(memoryview(found[0]))

    async def get(self, key: bytes) -> bytes | None:
        await self._look()
        return self.get_now(key) or self._take(key, lambda _: True)

    async def _look(self) -> None:
        self.looks += 1
        if self.look_s:
            await asyncio.sleep(self.look_s)

    async def get_behind(self, key: bytes, is_wanted: Callable[[bytes], bool]) -> bytes | None:
        await self._look()
        return self._take(key, is_wanted)

    def _take(self, key: bytes, is_wanted: Callable[[bytes], bool]) -> bytes | None:
        found = self.behind.get(key)
        if found is None or self._clock.monotonic_s() >= found[2] or not is_wanted(found[0]):
            return None
        self.kept[key] = found
        return found[0]

    async def put(
        self,
        key: bytes,
        data: bytes,
        *,
        tags: Sequence[str],
        keep_s: float,
        worth: float,
        fence: int = 0,
    ) -> bool:
        self.fences[key] = fence
        if keep_s > 0:
            self.kept[key] = data, tuple(tags), self._clock.monotonic_s() + keep_s
        return keep_s > 0

    async def written(self, key: bytes | None = None) -> None:
        if self.write_s:
            await asyncio.sleep(self.write_s)

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
    lease that we have somebody else's; while `is_down`, everybody is granted one of no number.
    `claims`, `granted` and `released` count, `renewals` too. To claim takes `claim_s`: the same time
    always, or one that is asked for each time.
    """

    def __init__(
        self, *, claim_s: float | Callable[[], float] = 0.0, release_s: float = 0.0
    ) -> None:
        self.holds: set[bytes] = set()
        self.holds_all = False
        self.is_lost = False
        self.is_down = False
        self.claims = 0
        self.granted = 0
        self.released = 0
        self.renewals = 0
        self.refused = 0
        self.ours: set[bytes] = set()
        self.everyones: set[bytes] = set()
        """Those whose lease has been dismissed just now."""
        self.claim_s = claim_s
        self.release_s = release_s

    async def claim(self, key: bytes) -> "Lease | None":
        self.claims += 1
        if seconds := self.claim_s() if callable(self.claim_s) else self.claim_s:
            await asyncio.sleep(seconds)
        if self.is_down or key in self.everyones:
            return Lease(self, key, 0)
        if self.holds_all or key in self.holds or key in self.ours:
            self.refused += 1
            return None
        self.granted += 1
        self.ours.add(key)
        return Lease(self, key, self.granted)

    def let_go(self, key: bytes, everyones_s: float = 0.0) -> None:
        """A lease of ours is given back, or dismissed: everyone's for a while."""
        loop = asyncio.get_running_loop()

        def is_heard() -> None:
            self.released += 1
            self.ours.discard(key)
            if everyones_s:
                self.everyones.add(key)
                loop.call_later(everyones_s, self.everyones.discard, key)

        if self.release_s:
            loop.call_later(self.release_s, is_heard)
        else:
            is_heard()


class Lease:
    """Implements `FlightLease`."""

    def __init__(self, leases: OtherProcess, key: bytes, number: int) -> None:
        self.number = number
        self._leases = leases
        self._key = key
        self._is_released = False

    async def renew(self) -> bool:
        self._leases.renewals += bool(self.number)
        return not self._leases.is_lost

    def release(self) -> None:
        self._end()

    def dismiss(self) -> None:
        self._end(DISMISSED_S)

    def _end(self, everyones_s: float = 0.0) -> None:
        assert not self._is_released, "a lease is released twice"
        self._is_released = True
        if self.number:
            self._leases.let_go(self._key, everyones_s)
