"""The first tier of the cache: answers in this process's own memory, within a budget of bytes, and of
entries where one is given.

Laws: the budget is what the process grows by, not only what was put in; a look-up and a put are O(1),
however many entries there are; an entry that is over is never given out.

Where entries lie is `entries`' to know: each has a place, and places have no gaps, so that dice always find
an entry. What leaves is replaced by the last.

When room is short, the least valuable of `SAMPLE` entries drawn by dice goes. Value (`core.cache.value`) is
counted from the value of what was last evicted, so that what was once popular grows old. How often an
evicted key was asked for is remembered for a while, in one byte: an answer that comes back is not taken for
a newcomer.

It does not know what an entry is. Not for more than one thread.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from random import Random
from zlib import crc32

from windvane.core.cache.invalidation import ALL
from windvane.core.cache.value import USES_MAX, gain_of, worth_of
from windvane.ports.stores import CacheStats, Kept
from windvane.stores.memory.entries import (
    BACK_BYTES,
    DATA_BYTES_MAX,
    HASH_MASK,
    KEY_BYTES_MAX,
    PLACE_BYTES,
    PLACES_MAX,
    Entries,
)
from windvane.stores.memory.slabs import COARSE, EXACT_FROM_BYTES, slot_bytes

SAMPLE = 16
"""Entries compared for one eviction. More would find a worse one; caching.md measured 16 within one point
of the whole order."""
AGE_OVER = 8
"""The age is the lowest value of so many evictions: dice that once meet only valuable entries must not make
everything that comes after more valuable than those."""
SWEPT_PER_PUT = 2
"""Places looked at for expired entries with each put: they are found within one turnover."""
REMOVED_AT_ONCE = 1_024
"""Places looked at between two turns of the loop when entries are removed by tag."""
REMEMBERED_MIN, REMEMBERED_MAX = 1 << 12, 1 << 20
"""Bytes that remember how often evicted keys were asked for."""
BYTES_PER_REMEMBERED = 2_048
FIXED_BYTES = 192 * 1024
"""What the process grows by, once, when a cache is filled: arenas of Python's own, above all."""
_HALVED = bytes(count // 2 for count in range(256))

TagSet = tuple[str, ...]


class MemoryCache:
    """Implements `CacheTier`."""

    name = "memory"

    def __init__(
        self,
        bytes_max: int,
        *,
        monotonic_s: Callable[[], float],
        rng: Random,
        entry_bytes_max: int | None = None,
        entries_max: int | None = None,
    ) -> None:
        """`entry_bytes_max` is the largest data it takes; an eighth of all room if not said."""
        self._bytes_max = bytes_max
        self._data_bytes_max = min(entry_bytes_max or bytes_max // 8, DATA_BYTES_MAX)
        self._entries_max = entries_max
        self._places_max = min(entries_max or PLACES_MAX, PLACES_MAX)
        self.monotonic_s = self._monotonic_s = monotonic_s
        self._roll = rng.random
        self._entries = Entries(bytes_max)
        self._tags = _TagSets()
        self._age = 0.0
        self._recent_ranks = [0.0] * AGE_OVER
        self._hand = 0
        self._remembered = bytearray(_power_of_two(bytes_max // BYTES_PER_REMEMBERED))
        self._forget_in = len(self._remembered)
        fixed_bytes = FIXED_BYTES + len(self._remembered) if bytes_max >= EXACT_FROM_BYTES else 0
        self._room_bytes = bytes_max - fixed_bytes
        self._hits = self._misses = self._stored = self._evicted = self._expired = 0

    def get_now(self, key: bytes) -> bytes | None:
        """The data of a key, if it is here. Never waits. `Entries.find` is spelled out: this is done for
        each request, and a call would be an eighth of it."""
        entries = self._entries
        hashed = hash(key) & HASH_MASK
        bucket = hashed & entries.mask
        if bucket >= entries.buckets_count:
            bucket &= entries.mask >> 1
        place = entries.buckets[bucket]
        while place >= 0:
            if entries.hashes[place] == hashed:
                start = entries.starts[place]
                mapping = entries.mappings[entries.numbers[place]]
                if mapping[start - entries.key_sizes[place] : start] == key:
                    break
            place = entries.nexts[place]
        else:
            self._misses += 1
            return None
        if entries.ends[place] <= self._monotonic_s():
            self._expired += 1
            self._misses += 1
            self._drop(place)
            return None
        self._hits += 1
        used = entries.uses[place]
        if used < USES_MAX:
            entries.uses[place] = used = used + 1
        entries.ranks[place] = self._age + used * entries.gains[place]
        return mapping[start : start + entries.sizes[place]]

    def count_miss(self) -> None:
        """Count a look-up that may find nothing, whatever is here."""
        self._misses += 1

    def holds(self, key: bytes) -> bool:
        """Whether a key is here, over or not. Counts as no use of it."""
        return self._entries.find(key) >= 0

    def peek(self, key: bytes) -> bytes | None:
        """What is here under a key, over or not. Counts as no use of it."""
        place = self._entries.find(key)
        return None if place < 0 else self._entries.data(place)

    async def get(self, key: bytes) -> bytes | None:
        return self.get_now(key)

    async def find(self, key: bytes) -> Kept | None:
        """The same, with what else is known of it."""
        data = self.get_now(key)
        if data is None:
            return None
        entries = self._entries
        place = entries.find(key)
        return Kept(
            data=data,
            tags=self._tags.of(entries.tag_sets[place]),
            left_s=entries.ends[place] - self._monotonic_s(),
            worth=worth_of(entries.gains[place], len(key) + len(data)),
        )

    async def put(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> None:
        self.put_now(key, data, tags=tags, keep_s=keep_s, worth=worth)

    def put_now(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> bool:
        """Keep `data`, without waiting; whether it is kept. What is larger than one entry may be, or than
        all room, is not, nor is anything where the system has no memory left."""
        place = self._entries.find(key)
        if place >= 0:
            uses = self._entries.uses[place]
            self._drop(place)
        else:
            uses = 1 + self._remembered[crc32(key) & (len(self._remembered) - 1)]
            uses = min(uses, USES_MAX)
        now_s = self._monotonic_s()
        if keep_s > 0 and self._may_hold(key, data):
            self._add(key, data, tuple(tags), now_s + keep_s, uses, worth)
        self._sweep(now_s)
        while self._is_over():
            self._evict(now_s)
        return self._entries.find(key) >= 0

    async def remove(self, key: bytes) -> int:
        place = self._entries.find(key)
        if place < 0:
            return 0
        is_over = self._entries.ends[place] <= self._monotonic_s()
        self._expired += is_over
        self._drop(place)
        return 0 if is_over else 1

    async def remove_tagged(self, tag: str) -> int:
        """Looks at every place, a piece at a time: tags are taken back seldom, and an index of them
        would cost each entry as much as all the rest."""
        removed = 0
        place = self._entries.count
        while place > 0:
            # Downwards: what moves into a gap comes from above, and was looked at.
            first = max(place - REMOVED_AT_ONCE, 0)
            entries, now_s = self._entries, self._monotonic_s()
            meant = self._tags.with_tag(tag)
            for at in range(min(place, entries.count) - 1, first - 1, -1):
                if entries.tag_sets[at] in meant:
                    is_over = entries.ends[at] <= now_s
                    self._expired += is_over
                    removed += not is_over
                    self._drop(at)
            place = first
            await asyncio.sleep(0)
        return removed

    def clear_now(self) -> int:
        """Forget all, without waiting; how many there were."""
        count = self._entries.count
        try:
            self._entries = Entries(self._bytes_max)
            self._tags = _TagSets()
        except OSError:  # no memory, not for an empty one either
            for place in range(count - 1, -1, -1):
                self._drop(place)
        return count

    async def stats(self) -> CacheStats:
        return CacheStats(
            tier=self.name,
            entries=self._entries.count,
            bytes=self._entries.held_bytes + self._tags.held_bytes,
            bytes_max=self._bytes_max,
            entries_max=self._entries_max,
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            evicted=self._evicted,
            expired=self._expired,
        )

    async def aclose(self) -> None:
        """Nothing to close; what it holds goes with it."""

    # places

    def _may_hold(self, key: bytes, data: bytes) -> bool:
        size = len(key) + len(data)
        return (
            len(data) <= self._data_bytes_max
            and len(key) <= KEY_BYTES_MAX
            and self._entries.size_alone(size) <= self._room_bytes
        )

    def _is_over(self) -> bool:
        entries = self._entries
        return bool(entries.count) and (
            entries.held_bytes + self._tags.held_bytes > self._room_bytes
            or entries.count > self._places_max
        )

    def _add(
        self, key: bytes, data: bytes, tags: TagSet, end_s: float, uses: int, worth: float
    ) -> None:
        entries = self._entries
        try:
            place = entries.add(key, data)
        except OSError:
            return  # no memory, or no mapping more: what is here stays
        gain = gain_of(worth, len(key) + len(data))
        entries.ends[place], entries.gains[place] = end_s, gain
        entries.uses[place], entries.ranks[place] = uses, self._age + uses * gain
        entries.tag_sets[place] = self._tags.take(tags)
        self._stored += 1

    def _drop(self, place: int) -> None:
        """Take out what is at a place; the last entry comes there."""
        self._tags.release(self._entries.tag_sets[place])
        self._entries.drop(place)

    def _sweep(self, now_s: float) -> None:
        entries = self._entries
        for _ in range(min(SWEPT_PER_PUT, entries.count)):
            self._hand = (self._hand or entries.count) - 1
            if self._hand < entries.count and entries.ends[self._hand] <= now_s:
                self._expired += 1
                self._drop(self._hand)

    def _evict(self, now_s: float) -> None:
        """Take out the least valuable of a few; one that is over has no value at all."""
        entries, roll = self._entries, self._roll
        count, ranks, ends = entries.count, entries.ranks, entries.ends
        place = int(roll() * count)
        for _ in range(SAMPLE - 1):
            other = int(roll() * count)
            if ends[other] <= now_s:
                self._expired += 1
                self._drop(other)
                return
            if ranks[other] < ranks[place]:
                place = other
        recent = self._recent_ranks
        recent[self._evicted % len(recent)] = ranks[place]
        self._age = max(self._age, min(recent))
        self._remember(entries.key(place), entries.uses[place])
        self._evicted += 1
        self._drop(place)

    def _remember(self, key: bytes, uses: int) -> None:
        """Note how often an evicted key was asked for; notes are halved as often as they may all have
        been written."""
        at = crc32(key) & (len(self._remembered) - 1)
        self._remembered[at] = max(uses, self._remembered[at])
        self._forget_in -= 1
        if self._forget_in <= 0:
            self._remembered = self._remembered.translate(_HALVED)
            self._forget_in = len(self._remembered)


class _TagSets:
    """The sets of tags that entries have, each once, by number. `held_bytes` is what they cost."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._numbers: dict[TagSet, int] = {}
        self._sets: list[TagSet] = []
        self._uses: list[int] = []
        self._free: list[int] = []

    def of(self, number: int) -> TagSet:
        return self._sets[number]

    def with_tag(self, tag: str) -> set[int]:
        """The numbers of all sets that have a tag; of all, if it is every one's."""
        return {number for tags, number in self._numbers.items() if tag == ALL or tag in tags}

    def take(self, tags: TagSet) -> int:
        """The number of a set for one entry more."""
        number = self._numbers.get(tags)
        if number is not None:
            self._uses[number] += 1
            return number
        if self._free:
            number = self._free.pop()
            self._sets[number], self._uses[number] = tags, 1
        else:
            number = len(self._sets)
            self._sets.append(tags)
            self._uses.append(1)
        self._numbers[tags] = number
        self.held_bytes += tag_set_size(tags)
        return number

    def release(self, number: int) -> None:
        """One entry less has this set."""
        self._uses[number] -= 1
        if self._uses[number]:
            return
        tags, self._sets[number] = self._sets[number], ()
        del self._numbers[tags]
        self._free.append(number)
        self.held_bytes -= tag_set_size(tags)


def entry_size(key: bytes, data: bytes) -> int:
    """What an entry counts for among many, in a small room: its slot, and its place."""
    return PLACE_BYTES + slot_bytes(BACK_BYTES + len(key) + len(data), COARSE)


def tag_set_size(tags: TagSet) -> int:
    """What a set of tags costs, once for all entries that have it."""
    return sum(map(sys.getsizeof, tags)) + sys.getsizeof(tags) + 320


def _power_of_two(wanted: int) -> int:
    return 1 << (min(max(wanted, REMEMBERED_MIN), REMEMBERED_MAX) - 1).bit_length()
