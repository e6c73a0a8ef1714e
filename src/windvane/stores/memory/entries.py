"""Where the entries of the memory tier lie, and how they are found: nothing of them is an object.

An entry has a place, a number. What is known of it stands at that place in columns, and its key and data
lie in a slot (`slabs`), after the number of its place: whoever moves the slot knows by it whose it is.
Places have no gaps: what leaves is replaced by the last, so a place drawn by dice always holds an entry.

Keys are found by linear hashing (Litwin 1980), with as many buckets as there are entries or an eighth more:
one is split where one more is needed, and the last is joined to another where too many are left. Nothing
ever has to be made anew. A dictionary would be, and its keys and numbers would be objects all over the
heap: a few that stay keep the memory of all that left.

Laws: columns, like slots, are outside of the heap, and `held_bytes` is what all of it costs; columns that
are full, or of which a quarter has become empty, are copied to new ones.

It does not know when an entry is over, nor which is worth least. Not for more than one thread.
"""

import mmap
from typing import Literal

from windvane.stores.memory.slabs import PAGE_BYTES, Slabs, give_back, mapped, whole_pages

COLUMNS: dict[str, Literal["d", "I", "i", "B"]] = {
    "ends": "d",
    "gains": "d",
    "ranks": "d",
    "hashes": "I",
    "nexts": "i",
    "buckets": "i",
    "numbers": "I",
    "starts": "I",
    "sizes": "I",
    "tag_sets": "I",
    "key_sizes": "B",
    "uses": "B",
}
"""The columns, the widest first: each begins where its items may."""
WIDTHS = {"d": 8, "I": 4, "i": 4, "B": 1}
PLACE_BYTES = sum(WIDTHS[code] for code in COLUMNS.values())
BACK_BYTES = 4
"""The number of the place that stands before key and data."""
KEY_BYTES_MAX = 255
DATA_BYTES_MAX = 1 << 31
PLACES_MAX = (1 << 31) - 1
CAPACITY_MIN = 64
COPIED_AT_ONCE = 1 << 13
"""So many items of a column are in memory twice while it is copied."""
HASH_MASK = 0xFFFF_FFFF
NOWHERE = -1


class Entries:
    """Entries by key and by place. The columns may be read and written; they are others after `add` and
    `drop`."""

    __slots__ = (
        "_capacity", "_columns", "_columns_bytes", "_most", "_slabs",
        "buckets", "buckets_count", "count", "ends", "gains", "hashes", "key_sizes", "mappings", "mask",
        "nexts", "numbers", "ranks", "sizes", "starts", "tag_sets", "uses",
    )  # fmt: skip

    _columns: mmap.mmap
    ends: "memoryview[float]"
    gains: "memoryview[float]"
    ranks: "memoryview[float]"
    hashes: "memoryview[int]"
    nexts: "memoryview[int]"
    buckets: "memoryview[int]"
    numbers: "memoryview[int]"
    starts: "memoryview[int]"
    sizes: "memoryview[int]"
    tag_sets: "memoryview[int]"
    key_sizes: "memoryview[int]"
    uses: "memoryview[int]"

    def __init__(self, bytes_max: int) -> None:
        self._slabs = Slabs(bytes_max)
        self.mappings = self._slabs.mappings
        self.count = 0
        self.buckets_count = 1
        self.mask = 0
        """The lowest power of two that is not below the number of buckets, less one."""
        self._most = 0
        """Places that have been written to since the columns are these."""
        self._capacity = 0
        self._columns_bytes = 0
        self._resize(CAPACITY_MIN)

    @property
    def held_bytes(self) -> int:
        """What all of it costs."""
        return self._slabs.held_bytes + (self._columns_bytes if self.count else 0)

    def size_alone(self, size: int) -> int:
        """What one entry of so many bytes, its key among them, costs where there is no other."""
        columns = whole_pages(CAPACITY_MIN * PLACE_BYTES) if self._slabs.is_exact else PLACE_BYTES
        return self._slabs.size_alone(size + BACK_BYTES) + columns

    def find(self, key: bytes) -> int:
        """The place of a key, or `NOWHERE`."""
        hashed = hash(key) & HASH_MASK
        bucket = hashed & self.mask
        if bucket >= self.buckets_count:
            bucket &= self.mask >> 1
        place = self.buckets[bucket]
        while place >= 0:
            if self.hashes[place] == hashed:
                start = self.starts[place]
                mapping = self.mappings[self.numbers[place]]
                if mapping[start - self.key_sizes[place] : start] == key:
                    return place
            place = self.nexts[place]
        return place

    def key(self, place: int) -> bytes:
        """The key of the entry at a place."""
        start = self.starts[place]
        found: bytes = self.mappings[self.numbers[place]][start - self.key_sizes[place] : start]
        return found

    def data(self, place: int) -> bytes:
        """The data of the entry at a place."""
        start = self.starts[place]
        found: bytes = self.mappings[self.numbers[place]][start : start + self.sizes[place]]
        return found

    def add(self, key: bytes, data: bytes) -> int:
        """Copy in what is under no key yet, and say where it is: the columns that are not of its bytes are
        the caller's to fill. OSError where there is no memory."""
        place = self.count
        if place == self._capacity:
            self._resize(place + (place >> 2))
        number, at = self._slabs.take(BACK_BYTES + len(key) + len(data))
        start = at + BACK_BYTES + len(key)
        mapping = self.mappings[number]
        mapping[at:start] = place.to_bytes(BACK_BYTES, "little") + key
        mapping[start : start + len(data)] = data
        self.numbers[place], self.starts[place] = number, start
        self.key_sizes[place], self.sizes[place] = len(key), len(data)
        self.hashes[place] = hash(key) & HASH_MASK
        self.count = place + 1
        if self.count > self._most:
            self._most = self.count
            self._count_columns()
        if self.buckets_count < self.count:
            self._split()
        self._link(place)
        return place

    def drop(self, place: int) -> None:
        """Let go of an entry; the last one comes to its place."""
        self._replace(place, self.nexts[place])
        self._free(place)
        last = self.count - 1
        if place != last:
            self._replace(last, place)
            self._move(last, place)
        self.count = last
        while self.buckets_count > last + (last >> 3) + 1:
            self._join()
        if last < self._most - (self._most >> 2) and self._capacity > CAPACITY_MIN:
            self._shrink()

    # slots

    def _free(self, place: int) -> None:
        """The slot of a place; which may be another's by then, who is told."""
        number, key_size = self.numbers[place], self.key_sizes[place]
        at = self.starts[place] - key_size - BACK_BYTES
        if self._slabs.free(number, at, BACK_BYTES + key_size + self.sizes[place]):
            back = self.mappings[number][at : at + BACK_BYTES]
            owner = int.from_bytes(back, "little")
            self.numbers[owner] = number
            self.starts[owner] = at + BACK_BYTES + self.key_sizes[owner]

    def _move(self, last: int, place: int) -> None:
        """All that is known of the last, and its slot is told of its new place."""
        for column in (self.ends, self.gains, self.ranks):
            column[place] = column[last]
        for numbers in (
            self.hashes, self.nexts, self.numbers, self.starts, self.sizes, self.tag_sets,
            self.key_sizes, self.uses,
        ):  # fmt: skip
            numbers[place] = numbers[last]
        at = self.starts[place] - self.key_sizes[place] - BACK_BYTES
        mapping = self.mappings[self.numbers[place]]
        mapping[at : at + BACK_BYTES] = place.to_bytes(BACK_BYTES, "little")

    # buckets: one at least, and never more than there were entries

    def _bucket(self, hashed: int) -> int:
        bucket = hashed & self.mask
        return bucket if bucket < self.buckets_count else bucket & self.mask >> 1

    def _link(self, place: int) -> None:
        bucket = self._bucket(self.hashes[place])
        self.nexts[place] = self.buckets[bucket]
        self.buckets[bucket] = place

    def _replace(self, place: int, other: int) -> None:
        """In its chain, `other` stands for a place from now on."""
        bucket = self._bucket(self.hashes[place])
        at = self.buckets[bucket]
        if at == place:
            self.buckets[bucket] = other
            return
        nexts = self.nexts
        while nexts[at] != place:
            at = nexts[at]
        nexts[at] = other

    def _split(self) -> None:
        """There is one bucket more: part of another's chain is its."""
        new = self.buckets_count
        self.buckets_count = new + 1
        self.mask = mask = (1 << new.bit_length()) - 1
        old = new & mask >> 1
        at, stay, go = self.buckets[old], NOWHERE, NOWHERE
        while at >= 0:
            following = self.nexts[at]
            if self.hashes[at] & mask == new:
                self.nexts[at], go = go, at
            else:
                self.nexts[at], stay = stay, at
            at = following
        self.buckets[old], self.buckets[new] = stay, go

    def _join(self) -> None:
        """The last bucket goes: its chain is another's."""
        last = self.buckets_count - 1
        self.buckets_count = last
        at = self.buckets[last]
        into = last & self.mask >> 1
        while at >= 0:
            following = self.nexts[at]
            self.nexts[at] = self.buckets[into]
            self.buckets[into] = at
            at = following
        self.mask = (1 << (last - 1).bit_length()) - 1

    # columns

    def _resize(self, capacity: int) -> None:
        """Copy the columns to new ones, each a part of one mapping."""
        capacity = -(-capacity // 8) * 8
        columns = mapped(whole_pages(capacity * PLACE_BYTES))
        kept = max(self.count, self.buckets_count)
        at = old_at = 0
        for name, code in COLUMNS.items():
            end = at + capacity * WIDTHS[code]
            column = memoryview(columns)[at:end].cast(code)
            if self._capacity:
                old = getattr(self, name)
                for first in range(0, kept, COPIED_AT_ONCE):
                    last = min(first + COPIED_AT_ONCE, kept)
                    column[first:last] = old[first:last]
                    give_back(
                        self._columns, old_at + first * WIDTHS[code], old_at + last * WIDTHS[code]
                    )
                old_at += self._capacity * WIDTHS[code]
            elif name == "buckets":
                column[0] = NOWHERE
            setattr(self, name, column)
            at = end
        self._columns, self._capacity, self._most = columns, capacity, kept
        self._count_columns()

    def _shrink(self) -> None:
        try:
            self._resize(max(self.count + (self.count >> 2), CAPACITY_MIN))
        except OSError:
            return  # no memory for less: they stay, and stay counted

    def _count_columns(self) -> None:
        """What is written to of each, and a page that is so in part."""
        written = self._most * PLACE_BYTES
        if self._slabs.is_exact:
            mapped_bytes = whole_pages(self._capacity * PLACE_BYTES)
            written = min(mapped_bytes, written + len(COLUMNS) * PAGE_BYTES)
        self._columns_bytes = written
