"""Which keys may be in the cache's file: a look that spares a question to its thread.

Most requests have not been asked before, and each question to the thread costs as much as all the rest of
a look-up. A key that is in the file is in here; what is in here may have left the file. A byte each for two
places a key: to set one needs no lock, so the file's thread and the loop may add at the same time.
"""

SLOTS_MIN = 1 << 16
SLOTS_PER_KEY = 8
"""At this share one key in twenty that is not there seems to be."""


class Presence:
    """A Bloom filter of bytes. `is_complete` once all that the file held has been added."""

    __slots__ = ("_mask", "_room", "_slots", "is_complete")

    def __init__(self, keys: int = 0) -> None:
        """With room for twice as many keys, or for some thousands."""
        slots = max(SLOTS_MIN, 1 << (2 * keys * SLOTS_PER_KEY).bit_length())
        self._slots = bytearray(slots)
        self._mask = slots - 1
        self._room = slots // SLOTS_PER_KEY
        self.is_complete = False

    @property
    def is_full(self) -> bool:
        """Whether it has seen more keys than it can tell apart, and should be made anew."""
        return self._room <= 0

    def add(self, key: bytes) -> None:
        digest = hash(key)
        self._slots[digest & self._mask] = 1
        self._slots[(digest >> 32) & self._mask] = 1
        self._room -= 1

    def may_hold(self, key: bytes) -> bool:
        """False when the key is for certain not in the file."""
        if not self.is_complete:
            return True
        digest = hash(key)
        return bool(self._slots[digest & self._mask] and self._slots[(digest >> 32) & self._mask])
