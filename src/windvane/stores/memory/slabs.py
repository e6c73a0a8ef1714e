"""Bytes kept outside of the heap: a slab allocator without holes.

The C library's heap has them. Where bytes of one length leave and others of another come, what is free lies
between what stays, and the process keeps both: a third more than was asked for, after a while.

Laws: slots of one size lie side by side, without gaps, for what leaves is replaced by the last; what is
touched beyond the last goes back to the system at once. So what is in use is what is kept, each rounded up
to its size of slot, and one page of the system's that is filled in part for each such size.

Slots lie in mappings, of which each size has a short one first, and long ones then. What is larger than
half of a short one has a mapping of its own, of whole pages. There are never more than 25,000 mappings;
Linux allows 65,530.

It does not know what is in a slot. A copy comes out of it, never a view: a mapping that is looked at could
not be closed.
"""

import mmap
import sys
from typing import NamedTuple

SIZE_MIN = 64
OWN_BYTES_MIN, OWN_BYTES_MAX = 128 * 1024, 128 * 1024 * 1024
"""Above one of these, by the room, bytes have a mapping of their own. Where slots begin has 32 bits."""
OWN_MAX = 8_192
"""So many mappings of their own would be all the room there is."""
SHORT_BYTES, SLOTS_MIN = 2 * OWN_BYTES_MIN, 2
"""How long the first mapping of a size is; it has so many slots at least."""
LONG = 16
"""How long the others are, beside what has a mapping of its own."""
COUNTED_BYTES = 320
"""What a mapping costs beside its pages, and a size of slot beside its mappings: objects in the heap."""
EXACT_FROM_BYTES = 16 * 1024 * 1024
"""From so much room on, all is counted. Where there is less, what comes once for each size of slot is not:
it may be half a megabyte, and would be the most of a small room, which then held next to nothing."""
FINE_FROM_BYTES = 64 * 1024 * 1024
PAGE_BYTES = mmap.PAGESIZE
GIVES_BACK = sys.platform == "linux"
"""Whether a part of a mapping can be given back. Elsewhere it is counted until half of it is in vain, and
copied to another then."""


class Slabs:
    """Slots for bytes, in `mappings`. `held_bytes` is what all of it costs."""

    __slots__ = (
        "_free",
        "_grain",
        "_kinds",
        "_slot_bytes_max",
        "_steps",
        "held_bytes",
        "is_exact",
        "mappings",
    )

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max` is about how much there will be at most: the less, the coarser."""
        self.held_bytes = 0
        self.mappings: list[mmap.mmap] = []
        self._free: list[int] = []
        self._kinds: dict[int, _Kind] = {}
        own_bytes = min(max(bytes_max // OWN_MAX, OWN_BYTES_MIN), OWN_BYTES_MAX)
        self._slot_bytes_max = 1 << (own_bytes - 1).bit_length()
        self.is_exact = bytes_max >= EXACT_FROM_BYTES
        large = FINE if bytes_max >= FINE_FROM_BYTES else MIDDLE
        self._steps = large if self.is_exact else COARSE
        self._grain = PAGE_BYTES if self.is_exact else 1

    def slot_bytes(self, size: int) -> int:
        """How large the slot is that so many bytes are given; their own mapping, if it is one."""
        if size > self._slot_bytes_max:
            return whole_pages(size)
        return slot_bytes(size, self._steps)

    def size_alone(self, size: int) -> int:
        """What a slot of so many bytes costs where there is no other."""
        if self.is_exact:
            return whole_pages(self.slot_bytes(size)) + COUNTED_BYTES
        return self.slot_bytes(size)

    def take(self, size: int) -> tuple[int, int]:
        """The number of a mapping and where in it a new slot begins. OSError where there is no memory."""
        slot = self.slot_bytes(size)
        if size > self._slot_bytes_max:
            number = self._map(slot)
            self.held_bytes += slot
            return number, 0
        kind = self._kinds.get(slot) or _Kind(slot, self._slot_bytes_max)
        if kind.used == kind.slots_max:
            kind.mappings.append(self._map(kind.next_bytes))
            kind.used = kind.touched_bytes = 0
            if len(kind.mappings) == 1:
                self._kinds[slot] = kind
                self.held_bytes += self.is_exact and COUNTED_BYTES
        at = kind.used * slot
        kind.used += 1
        touched = self._rounded(at + slot)
        if touched > kind.touched_bytes:
            self.held_bytes += touched - kind.touched_bytes
            kind.touched_bytes = touched
        return kind.mappings[-1], at

    def free(self, number: int, at: int, size: int) -> bool:
        """Let go of a slot that was taken for so many bytes. Whether another one is there now: the last of
        that size, which is nowhere else any more."""
        slot = self.slot_bytes(size)
        if size > self._slot_bytes_max:
            self._unmap(number)
            self.held_bytes -= slot
            return False
        kind = self._kinds[slot]
        kind.used -= 1
        last, last_at = kind.mappings[-1], kind.used * slot
        is_moved = at != last_at or number != last
        if is_moved:
            self._move(last, last_at, number, at, slot)
        if last_at == 0:
            self._drop_last(kind)
        elif GIVES_BACK:
            self._give_back(kind, last_at)
        elif 2 * last_at < kind.touched_bytes - PAGE_BYTES:
            self._copy_out(kind, last_at)
        return is_moved

    def _move(self, last: int, last_at: int, number: int, at: int, slot: int) -> None:
        there, here = self.mappings[last], self.mappings[number]
        here[at : at + slot] = there[last_at : last_at + slot]

    def _drop_last(self, kind: "_Kind") -> None:
        """The last mapping of a kind is empty; the one before it is full."""
        self._unmap(kind.mappings.pop())
        self.held_bytes -= kind.touched_bytes
        if kind.mappings:
            kind.used = kind.slots_max
            kind.touched_bytes = self._rounded(kind.used * kind.slot_bytes)
        else:
            del self._kinds[kind.slot_bytes]
            self.held_bytes -= self.is_exact and COUNTED_BYTES

    def _give_back(self, kind: "_Kind", used_bytes: int) -> None:
        """What lies beyond the last slot, in whole pages."""
        kept, touched = whole_pages(used_bytes), whole_pages(kind.touched_bytes)
        if kept < touched and not give_back(self.mappings[kind.mappings[-1]], kept, touched):
            return  # it stays, and stays counted
        self._recount(kind, used_bytes)

    def _copy_out(self, kind: "_Kind", used_bytes: int) -> None:
        """The same, where no part of a mapping can be given back: more than half of it is in vain."""
        number = kind.mappings[-1]
        last = self.mappings[number]
        try:
            found = mapped(len(last))
        except OSError:
            return  # it stays, and stays counted
        found[:used_bytes] = last[:used_bytes]
        self.mappings[number] = found
        last.close()
        self._recount(kind, used_bytes)

    def _recount(self, kind: "_Kind", used_bytes: int) -> None:
        touched_bytes = self._rounded(used_bytes)
        self.held_bytes -= kind.touched_bytes - touched_bytes
        kind.touched_bytes = touched_bytes

    def _rounded(self, size: int) -> int:
        return -(-size // self._grain) * self._grain

    def _map(self, size: int) -> int:
        mapping = mapped(size)
        self.held_bytes += self.is_exact and COUNTED_BYTES
        if self._free:
            number = self._free.pop()
            self.mappings[number] = mapping
        else:
            number = len(self.mappings)
            self.mappings.append(mapping)
        return number

    def _unmap(self, number: int) -> None:
        self.mappings[number].close()
        self._free.append(number)
        self.held_bytes -= self.is_exact and COUNTED_BYTES


class _Kind:
    """All slots of one size: full mappings, and the last one."""

    __slots__ = ("_own_bytes", "mappings", "slot_bytes", "touched_bytes", "used")

    def __init__(self, slot_bytes: int, own_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._own_bytes = own_bytes
        self.mappings: list[int] = []
        self.used = 0
        """Slots of the last mapping that are taken, from its beginning."""
        self.touched_bytes = 0
        """How much of the last mapping is memory by now."""

    @property
    def slots_max(self) -> int:
        """Slots of the last mapping; none where there is none."""
        if len(self.mappings) > 1:
            return LONG * self._own_bytes // self.slot_bytes
        return self._short_bytes // self.slot_bytes if self.mappings else 0

    @property
    def next_bytes(self) -> int:
        """How long the next mapping is."""
        return LONG * self._own_bytes if self.mappings else self._short_bytes

    @property
    def _short_bytes(self) -> int:
        return max(SHORT_BYTES, whole_pages(SLOTS_MIN * self.slot_bytes))


class Steps(NamedTuple):
    """How far apart the sizes of slots are, all as powers of two. Each size costs half a page, and saves
    rounding: the more room there is, the more sizes."""

    coarsest: int
    """So many lie between one power of two and the next, where they are small;"""
    apart: int
    """so many bytes lie between them at most, where they are larger;"""
    finest: int = 10
    """and there are not more than so many between one power of two and the next."""


COARSE, MIDDLE, FINE = Steps(3, 63), Steps(4, 8), Steps(4, 7)


def slot_bytes(size: int, steps: Steps) -> int:
    """The next size of slot."""
    if size <= SIZE_MIN:
        return SIZE_MIN
    power = (size - 1).bit_length() - 1
    step = min(power - steps.coarsest, max(steps.apart, power - steps.finest))
    return ((size - 1 >> step) + 1) << step


def mapped(size: int) -> mmap.mmap:
    """Memory of the system's, all zeros: none of it is there until it is written to."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if GIVES_BACK:
        _in_small_pages(found)
    return found


def _in_small_pages(mapping: mmap.mmap) -> None:
    """Or the first byte could make two megabytes of it memory."""
    try:
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError:
        return  # the kernel knows no others


def give_back(mapping: mmap.mmap, begin: int, end: int) -> bool:
    """What lies between, from the beginning of its page to the last whole page: it reads as zeros from then
    on. Whether that can be done: not where it is locked into memory, as by `mlockall`."""
    if not GIVES_BACK:
        return False
    begin, end = begin // PAGE_BYTES * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES
    try:
        if begin < end:
            mapping.madvise(mmap.MADV_DONTNEED, begin, end - begin)
    except OSError:
        return False
    return True


def whole_pages(size: int) -> int:
    """A size, in whole pages of the system's."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES
