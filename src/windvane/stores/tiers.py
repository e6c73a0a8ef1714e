"""All tiers of the cache as one: memory in front, and what outlives or outreaches the process behind it.

A look-up asks memory, then the lower tiers in order; what one of them has is put into memory for the rest
of its time. What is put goes into memory at once, and to the lower tiers in the background: nobody waits
for a disk or a network.

Laws: a tier that is down, slow or full is a miss; what was removed does not come back from a queue or
from a look-up that was under way; the queues are bounded, and what they had no room for is counted.

It does not know what an entry is.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from windvane.core.cache.invalidation import ALL
from windvane.ports.stores import CacheStats, Kept, LowerTier
from windvane.stores.memory.cache import MemoryCache

UNWRITTEN_MAX = 1_024
"""Entries that may wait for one lower tier."""
UNWRITTEN_BYTES_MAX = 32 * 1024 * 1024
"""The bytes of all that wait for one lower tier."""
WRITTEN_AT_ONCE = 8
"""Entries on their way to one lower tier at the same time."""
CLOSING_S = 2.0
"""How long closing waits for what is not yet written."""


class TieredCache:
    """Implements `ResponseCache`."""

    def __init__(
        self,
        memory: MemoryCache,
        lower: Sequence[LowerTier] = (),
        *,
        is_believed: Callable[[], bool] | None = None,
    ) -> None:
        """Owns the tiers: closing it closes them. While memory is not believed, nothing is found: others
        may have taken back what it has. It is kept, for when they have been heard."""
        self._memory = memory
        self._is_believed = is_believed
        self._lower = tuple(lower)
        self._queues = tuple(_Queue(tier, memory.monotonic_s) for tier in self._lower)
        self._removals = 0
        self.get_now: Callable[[bytes], bytes | None] = (
            memory.get_now if is_believed is None else self._get_if_believed
        )
        self.peek: Callable[[bytes], bytes | None] = memory.peek

    def _get_if_believed(self, key: bytes) -> bytes | None:
        assert self._is_believed is not None
        if self._is_believed():
            return self._memory.get_now(key)
        self._memory.count_miss()
        return None

    async def get(self, key: bytes) -> bytes | None:
        """What any tier has. Who asks has asked `get_now` first: memory counts that miss, not another."""
        if self._is_believed is not None and not self._is_believed():
            return None
        if self._memory.holds(key) and (data := self.get_now(key)) is not None:
            return data
        removals = self._removals
        for queue in self._queues:
            # What the tier has is old while something newer waits, over or not.
            is_waiting = queue.holds(key)
            kept = queue.waiting(key) if is_waiting else await queue.tier.find(key)
            if kept is None:
                continue
            if removals == self._removals and not self._memory.holds(key):
                self._memory.put_now(
                    key, kept.data, tags=kept.tags, keep_s=kept.left_s, worth=kept.worth
                )
            return kept.data
        # It may have been made meanwhile; memory has counted the miss.
        return self.get_now(key) if self._memory.holds(key) else None

    async def get_behind(self, key: bytes, is_wanted: Callable[[bytes], bool]) -> bytes | None:
        """What a lower tier has, if it is wanted; it takes the place of what memory had then."""
        removals, held = self._removals, self._memory.peek(key)
        for queue in self._queues:
            if queue.holds(key):
                return None  # what this process has made is newer, and in memory
            kept = await queue.tier.find(key)
            if kept is None or not is_wanted(kept.data):
                continue
            if removals == self._removals and self._memory.peek(key) == held:
                self._memory.put_now(
                    key, kept.data, tags=kept.tags, keep_s=kept.left_s, worth=kept.worth
                )
            return kept.data
        return None

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
        """Keep it; in memory when this returns, in the lower tiers soon after. Whether any of them takes
        it."""
        is_kept = self._memory.put_now(key, data, tags=tags, keep_s=keep_s, worth=worth)
        if self._queues:
            kept = Kept(data=data, tags=tuple(tags), left_s=keep_s, worth=worth, fence=fence)
            for queue in self._queues:
                is_kept = queue.put(key, kept) or is_kept
        return is_kept

    async def remove(self, key: bytes) -> int:
        """Forget one, everywhere; in how many tiers it was, at most one."""
        self._removals += 1
        removed = await self._memory.remove(key)
        for queue in self._queues:
            await queue.drop(lambda waiting, _: waiting == key)
            removed = max(removed, await queue.tier.remove(key))
        # What was looked up meanwhile may have been put into memory by an older look-up.
        self._removals += 1
        return max(removed, await self._memory.remove(key))

    async def remove_tagged(self, tag: str) -> int:
        """Forget all with a tag, everywhere; how many the tier with the most of them had."""
        self._removals += 1
        removed = await self._memory.remove_tagged(tag)
        for queue in self._queues:
            await queue.drop(lambda _, kept: tag == ALL or tag in kept.tags)
            removed = max(removed, await queue.tier.remove_tagged(tag))
        self._removals += 1
        return max(removed, await self._memory.remove_tagged(tag))

    def clear_now(self) -> int:
        """Forget what memory has and what waits for lower tiers, without waiting; how many memory had.
        What is on its way to a lower tier, or is there, is void by its number."""
        self._removals += 1
        for queue in self._queues:
            queue.take_back(lambda _, __: True)
        return self._memory.clear_now()

    async def clear_behind(self) -> None:
        """Make room in the lower tiers; memory keeps what was made since it was cleared."""
        for queue in self._queues:
            await queue.tier.remove_tagged(ALL)

    async def stats(self) -> Sequence[CacheStats]:
        """Of each tier; entries for which a queue had no room count among the faults of its tier."""
        found = [await self._memory.stats()]
        for queue in self._queues:
            stats = await queue.tier.stats()
            found.append(msgspec.structs.replace(stats, faults=stats.faults + queue.dropped))
        return found

    async def written(self, key: bytes | None = None) -> None:
        """Wait until the lower tiers have what was put under a key, or all that was; or have refused it."""
        for queue in self._queues:
            await queue.written(key)

    async def aclose(self) -> None:
        for queue in self._queues:
            await queue.aclose()
            await queue.tier.aclose()
        await self._memory.aclose()


class _Queue:
    """What waits to be put into one lower tier, newest of each key, and the task that puts it there."""

    def __init__(self, tier: LowerTier, monotonic_s: Callable[[], float]) -> None:
        self.tier = tier
        self.dropped = 0
        self._monotonic_s = monotonic_s
        self._waiting: dict[bytes, _Waiting] = {}
        self._bytes = 0
        self._under_way: dict[bytes, _Waiting] = {}
        self._task: asyncio.Task[None] | None = None

    def holds(self, key: bytes) -> bool:
        return key in self._waiting or key in self._under_way

    def waiting(self, key: bytes) -> Kept | None:
        """What will be written under a key, unless it is over by now."""
        found = self._waiting.get(key) or self._under_way.get(key)
        if found is None:
            return None
        left_s = found.end_s - self._monotonic_s()
        return msgspec.structs.replace(found.kept, left_s=left_s) if left_s > 0 else None

    def put(self, key: bytes, kept: Kept) -> bool:
        """Whether it will be written, as things stand."""
        before = self._waiting.pop(key, None)
        if before is not None:
            self._bytes -= len(before.kept.data)
        if len(kept.data) > self.tier.entry_bytes_max:
            kept = msgspec.structs.replace(kept, data=b"", left_s=0.0)  # what is there is older
        bytes_then = self._bytes + len(kept.data)
        if len(self._waiting) >= UNWRITTEN_MAX or bytes_then > UNWRITTEN_BYTES_MAX:
            self.dropped += 1
            return False
        self._waiting[key] = _Waiting(kept, self._monotonic_s() + kept.left_s)
        self._bytes = bytes_then
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())
        return kept.left_s > 0

    def take_back(self, is_dropped: Callable[[bytes, Kept], bool]) -> None:
        """What is not yet on its way will not be written."""
        for key in [key for key, found in self._waiting.items() if is_dropped(key, found.kept)]:
            self._bytes -= len(self._waiting.pop(key).kept.data)

    async def drop(self, is_dropped: Callable[[bytes, Kept], bool]) -> None:
        """Take back what was not yet written; returns when none of it is on its way either."""
        self.take_back(is_dropped)
        while any(is_dropped(key, found.kept) for key, found in self._under_way.items()):
            await asyncio.sleep(0.001)

    async def written(self, key: bytes | None) -> None:
        while key is not None and self.holds(key):
            await asyncio.sleep(0.001)
        while key is None and self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=CLOSING_S)
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _write(self) -> None:
        while self._waiting:
            for key in list(self._waiting)[:WRITTEN_AT_ONCE]:
                found = self._under_way[key] = self._waiting.pop(key)
                self._bytes -= len(found.kept.data)
            try:
                if len(self._under_way) == 1:
                    await self._write_one(*next(iter(self._under_way.items())))
                else:
                    async with asyncio.TaskGroup() as group:
                        for key, found in self._under_way.items():
                            group.create_task(self._write_one(key, found))
            finally:
                self._under_way.clear()

    async def _write_one(self, key: bytes, found: "_Waiting") -> None:
        kept, left_s = found.kept, found.end_s - self._monotonic_s()
        await self.tier.put(
            key, kept.data, tags=kept.tags, keep_s=left_s, worth=kept.worth, fence=kept.fence
        )


class _Waiting(NamedTuple):
    """An entry, and when it is over."""

    kept: Kept
    end_s: float
