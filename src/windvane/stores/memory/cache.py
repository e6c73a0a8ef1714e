"""The first tier of the cache: answers in this process's own memory, within a budget of bytes, and of
entries where one is given.

Laws: the budget counts what memory costs, not only what was put in (`ENTRY_OVERHEAD_BYTES`); a look-up
and a put are O(1), however many entries there are; an entry that is over is never given out.

Entries lie in parallel arrays without gaps, a place each, and a dictionary says at which place a key is:
nothing of it is looked at by the garbage collector, an entry costs half of what an object would, and a
place drawn by dice always holds an entry. What leaves is replaced by the last.

When room is short, the least valuable of `SAMPLE` entries drawn by dice goes. Value (`core.cache.value`) is
counted from the value of what was last evicted, so that what was once popular grows old. How often an
evicted key was asked for is remembered for a while, in one byte: an answer that comes back is not taken for
a newcomer.

It does not know what an entry is. Not for more than one thread.
"""

import asyncio
import sys
from array import array
from collections.abc import Callable, Sequence
from random import Random
from zlib import crc32

from windvane.core.cache.invalidation import ALL
from windvane.core.cache.value import USES_MAX, gain_of, worth_of
from windvane.ports.stores import CacheStats, Kept

ENTRY_OVERHEAD_BYTES = 216
"""What an entry takes beside the two `bytes` objects: its share of the dictionary at its emptiest (84), a
number that is its place (32), seven arrays with their spare room (64), and the allocator's rounding.
`tests/unit/stores/test_memory_cache.py` measures that this is enough."""
OWN_PAGES_BYTES, PAGE_BYTES = 128 * 1024 - 64, 4_096
"""From here the C library gives an object whole pages of its own."""
SAMPLE = 16
"""Entries compared for one eviction. More would find a worse one; caching.md measured 16 within one point
of the whole order."""
AGE_OVER = 8
"""The age is the lowest value of so many evictions: dice that once meet only valuable entries must not make
everything that comes after more valuable than those."""
SWEPT_PER_PUT = 2
"""Places looked at for expired entries with each put: they are found within one turnover."""
REMOVED_AT_ONCE = 4_096
"""Places looked at between two turns of the loop when entries are removed by tag."""
REMEMBERED_MIN, REMEMBERED_MAX = 1 << 12, 1 << 20
"""Bytes that remember how often evicted keys were asked for."""
BYTES_PER_REMEMBERED = 2_048
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
        self._entry_bytes_max = entry_bytes_max or bytes_max // 8
        self._entries_max = entries_max
        self._places_max = sys.maxsize if entries_max is None else entries_max
        self.monotonic_s = self._monotonic_s = monotonic_s
        self._roll = rng.random
        self._places: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._data: list[bytes] = []
        self._tags: list[TagSet] = []
        self._ends = array("d")
        self._gains = array("d")
        self._uses = array("d")
        self._ranks = array("d")
        self._tag_sets: dict[TagSet, list[TagSet | int]] = {}
        self._bytes = 0
        self._age = 0.0
        self._recent_ranks = [0.0] * AGE_OVER
        self._hand = 0
        self._remembered = bytearray(_power_of_two(bytes_max // BYTES_PER_REMEMBERED))
        self._forget_in = len(self._remembered)
        self._hits = self._misses = self._stored = self._evicted = self._expired = 0

    def get_now(self, key: bytes) -> bytes | None:
        """The data of a key, if it is here. Never waits."""
        place = self._places.get(key)
        if place is None:
            self._misses += 1
            return None
        if self._ends[place] <= self._monotonic_s():
            self._expired += 1
            self._misses += 1
            self._drop(place)
            return None
        self._hits += 1
        used = self._uses[place]
        if used < USES_MAX:
            self._uses[place] = used = used + 1.0
        self._ranks[place] = self._age + used * self._gains[place]
        return self._data[place]

    def count_miss(self) -> None:
        """Count a look-up that may find nothing, whatever is here."""
        self._misses += 1

    def holds(self, key: bytes) -> bool:
        """Whether a key is here, over or not. Counts as no use of it."""
        return key in self._places

    def peek(self, key: bytes) -> bytes | None:
        """What is here under a key, over or not. Counts as no use of it."""
        place = self._places.get(key)
        return None if place is None else self._data[place]

    async def get(self, key: bytes) -> bytes | None:
        return self.get_now(key)

    async def find(self, key: bytes) -> Kept | None:
        """The same, with what else is known of it."""
        data = self.get_now(key)
        if data is None:
            return None
        place = self._places[key]
        return Kept(
            data=data,
            tags=self._tags[place],
            left_s=self._ends[place] - self._monotonic_s(),
            worth=worth_of(self._gains[place], len(key) + len(data)),
        )

    async def put(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> None:
        self.put_now(key, data, tags=tags, keep_s=keep_s, worth=worth)

    def put_now(
        self, key: bytes, data: bytes, *, tags: Sequence[str], keep_s: float, worth: float
    ) -> bool:
        """Keep `data`, without waiting; whether it is kept. What is larger than one entry may be, or than
        all room, is not."""
        place = self._places.get(key)
        uses = 1.0
        if place is not None:
            uses = self._uses[place]
            self._drop(place)
        else:
            uses += self._remembered[crc32(key) & (len(self._remembered) - 1)]
            uses = min(uses, USES_MAX)
        now_s = self._monotonic_s()
        has_room = entry_size(key, data) <= self._bytes_max
        if keep_s > 0 and has_room and len(data) <= self._entry_bytes_max:
            self._add(key, data, tuple(tags), now_s + keep_s, uses, worth)
            self._stored += 1
        self._sweep(now_s)
        while self._bytes > self._bytes_max or len(self._keys) > self._places_max:
            self._evict(now_s)
        return key in self._places

    async def remove(self, key: bytes) -> int:
        place = self._places.get(key)
        if place is None:
            return 0
        is_over = self._ends[place] <= self._monotonic_s()
        self._expired += is_over
        self._drop(place)
        return 0 if is_over else 1

    async def remove_tagged(self, tag: str) -> int:
        """Looks at every place, a piece at a time: tags are taken back seldom, and an index of them
        would cost each entry as much as all the rest."""
        removed = 0
        place = len(self._keys)
        while place > 0:
            # Downwards: what moves into a gap comes from above, and was looked at.
            first = max(place - REMOVED_AT_ONCE, 0)
            now_s = self._monotonic_s()
            for at in range(min(place, len(self._keys)) - 1, first - 1, -1):
                if tag == ALL or tag in self._tags[at]:
                    is_over = self._ends[at] <= now_s
                    self._expired += is_over
                    removed += not is_over
                    self._drop(at)
            place = first
            await asyncio.sleep(0)
        return removed

    def clear_now(self) -> int:
        """Forget all, without waiting; how many there were."""
        count = len(self._keys)
        for place in range(count - 1, -1, -1):
            self._drop(place)
        return count

    async def stats(self) -> CacheStats:
        return CacheStats(
            tier=self.name,
            entries=len(self._keys),
            bytes=self._bytes,
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

    def _add(
        self, key: bytes, data: bytes, tags: TagSet, end_s: float, uses: float, worth: float
    ) -> None:
        self._places[key] = len(self._keys)
        self._keys.append(key)
        self._data.append(data)
        self._tags.append(self._shared(tags))
        gain = gain_of(worth, len(key) + len(data))
        self._ends.append(end_s)
        self._gains.append(gain)
        self._uses.append(uses)
        self._ranks.append(self._age + uses * gain)
        self._bytes += entry_size(key, data)

    def _drop(self, place: int) -> None:
        """Take out what is at a place; the last entry comes there."""
        key = self._keys[place]
        self._bytes -= entry_size(key, self._data[place])
        self._release(self._tags[place])
        del self._places[key]
        moved = self._keys.pop()
        data, tags = self._data.pop(), self._tags.pop()
        end_s, gain, uses, rank = (
            self._ends.pop(), self._gains.pop(), self._uses.pop(), self._ranks.pop()
        )  # fmt: skip
        if place < len(self._keys):
            self._keys[place], self._data[place], self._tags[place] = moved, data, tags
            self._ends[place], self._gains[place] = end_s, gain
            self._uses[place], self._ranks[place] = uses, rank
            self._places[moved] = place

    def _sweep(self, now_s: float) -> None:
        for _ in range(min(SWEPT_PER_PUT, len(self._keys))):
            self._hand = (self._hand or len(self._keys)) - 1
            if self._hand < len(self._keys) and self._ends[self._hand] <= now_s:
                self._expired += 1
                self._drop(self._hand)

    def _evict(self, now_s: float) -> None:
        """Take out the least valuable of a few; one that is over has no value at all."""
        roll, ranks, ends = self._roll, self._ranks, self._ends
        count = len(ranks)
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
        self._remember(self._keys[place], self._uses[place])
        self._evicted += 1
        self._drop(place)

    def _remember(self, key: bytes, uses: float) -> None:
        """Note how often an evicted key was asked for; notes are halved as often as they may all have
        been written."""
        at = crc32(key) & (len(self._remembered) - 1)
        self._remembered[at] = int(max(uses, self._remembered[at]))
        self._forget_in -= 1
        if self._forget_in <= 0:
            self._remembered = self._remembered.translate(_HALVED)
            self._forget_in = len(self._remembered)

    # tags

    def _shared(self, tags: TagSet) -> TagSet:
        """The one tuple that all entries with these tags hold."""
        held = self._tag_sets.get(tags)
        if held is None:
            self._tag_sets[tags] = [tags, 1]
            self._bytes += _tag_set_size(tags)
            return tags
        held[1] += 1  # type: ignore[operator]
        return held[0]  # type: ignore[return-value]

    def _release(self, tags: TagSet) -> None:
        held = self._tag_sets[tags]
        held[1] -= 1  # type: ignore[operator]
        if not held[1]:
            del self._tag_sets[tags]
            self._bytes -= _tag_set_size(tags)


def entry_size(key: bytes, data: bytes) -> int:
    """What an entry counts for: both objects, and its places. A large object has pages of its own."""
    pages = PAGE_BYTES if len(data) >= OWN_PAGES_BYTES else 0
    return pages + sys.getsizeof(key) + sys.getsizeof(data) + ENTRY_OVERHEAD_BYTES


def _tag_set_size(tags: TagSet) -> int:
    """What a set of tags costs, once for all entries that have it."""
    return sum(map(sys.getsizeof, tags)) + sys.getsizeof(tags) + 320


def _power_of_two(wanted: int) -> int:
    return 1 << (min(max(wanted, REMEMBERED_MIN), REMEMBERED_MAX) - 1).bit_length()
