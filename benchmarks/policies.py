"""The policies that `benchmarks.eviction` compares: ours, and what it must beat or be measured by.

Each has the same room, counted in the same way: `MemoryCache`'s own. None knows what comes next.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from windvane.stores.memory.cache import MemoryCache, entry_size

SMALL_SHARE = 0.1
"""Of S3-FIFO's room, for those seen once (Yang 2023, §4)."""
USES_KEPT_MAX = 3
"""What S3-FIFO counts to, in two bits."""


class Answer(NamedTuple):
    """What a key's answer is worth, and its bytes."""

    key: bytes
    data: bytes
    worth: int


class Policy(Protocol):
    """A cache under test."""

    def get(self, answer: Answer) -> bool: ...

    def put(self, answer: Answer) -> None: ...


class Lru:
    """The baseline: least recently used goes."""

    is_moved_by_use = True

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._held: OrderedDict[bytes, int] = OrderedDict()

    def get(self, answer: Answer) -> bool:
        if answer.key not in self._held:
            return False
        if self.is_moved_by_use:
            self._held.move_to_end(answer.key)
        return True

    def put(self, answer: Answer) -> None:
        size = entry_size(answer.key, answer.data)
        if size > self._bytes_max:
            return
        self._held[answer.key] = size
        self._bytes += size
        while self._bytes > self._bytes_max:
            self._bytes -= self._held.popitem(last=False)[1]


class Fifo(Lru):
    """The plainest: what came first goes first."""

    is_moved_by_use = False


class Sieve:
    """First in first out, but a hand goes from the oldest to the newest and spares what was used since it
    last came by (Zhang 2024)."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._sizes: dict[bytes, int] = {}
        self._used: set[bytes] = set()
        self._newer: dict[bytes | None, bytes | None] = {None: None}
        self._older: dict[bytes | None, bytes | None] = {None: None}
        self._hand: bytes | None = None

    def get(self, answer: Answer) -> bool:
        if answer.key not in self._sizes:
            return False
        self._used.add(answer.key)
        return True

    def put(self, answer: Answer) -> None:
        size = entry_size(answer.key, answer.data)
        if size > self._bytes_max:
            return
        while self._bytes + size > self._bytes_max:
            self._evict()
        self._sizes[answer.key] = size
        self._bytes += size
        # Both chains are rings through None, which is newer than the newest and older than the oldest.
        self._link(self._older[None], answer.key)
        self._link(answer.key, None)

    def _evict(self) -> None:
        key = self._hand
        while key is None or key in self._used:
            if key is not None:
                self._used.remove(key)
            key = self._newer[key]
        self._hand = self._newer[key]
        self._link(self._older[key], self._newer[key])
        del self._newer[key], self._older[key]
        self._bytes -= self._sizes.pop(key)

    def _link(self, older: bytes | None, newer: bytes | None) -> None:
        self._newer[older], self._older[newer] = newer, older


class S3Fifo:
    """Two queues and a list of ghosts (Yang 2023): what was used twice while in the small queue goes on to
    the main one, what was not leaves, and what comes back soon after goes to the main one at once."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._small_max = int(bytes_max * SMALL_SHARE)
        self._small: OrderedDict[bytes, int] = OrderedDict()
        self._main: OrderedDict[bytes, int] = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self._small_bytes = self._main_bytes = 0
        self._uses: dict[bytes, int] = {}

    def get(self, answer: Answer) -> bool:
        if answer.key not in self._uses:
            return False
        self._uses[answer.key] = min(self._uses[answer.key] + 1, USES_KEPT_MAX)
        return True

    def put(self, answer: Answer) -> None:
        size = entry_size(answer.key, answer.data)
        if size > self._bytes_max:
            return
        while self._small_bytes + self._main_bytes + size > self._bytes_max:
            if self._small and (self._small_bytes >= self._small_max or not self._main):
                self._leave_small()
            else:
                self._leave_main()
        self._uses[answer.key] = 0
        if answer.key in self._ghosts:
            del self._ghosts[answer.key]
            self._main[answer.key] = size
            self._main_bytes += size
        else:
            self._small[answer.key] = size
            self._small_bytes += size

    def _leave_small(self) -> None:
        key, size = self._small.popitem(last=False)
        self._small_bytes -= size
        if self._uses[key] > 1:
            self._uses[key] = 0
            self._main[key] = size
            self._main_bytes += size
            return
        del self._uses[key]
        self._ghosts[key] = None
        while len(self._ghosts) > max(len(self._main), 1):
            self._ghosts.popitem(last=False)

    def _leave_main(self) -> None:
        while True:
            key, size = self._main.popitem(last=False)
            if not self._uses[key]:
                break
            self._uses[key] -= 1
            self._main[key] = size
        self._main_bytes -= size
        del self._uses[key]


class Ours:
    """The real memory tier, with dice of its own."""

    def __init__(self, bytes_max: int) -> None:
        self._cache = MemoryCache(
            bytes_max,
            monotonic_s=lambda: 0.0,
            rng=random.Random(7),
            entry_bytes_max=bytes_max,
        )

    def get(self, answer: Answer) -> bool:
        return self._cache.get_now(answer.key) is not None

    def put(self, answer: Answer) -> None:
        self._cache.put_now(answer.key, answer.data, tags=(), keep_s=1e9, worth=float(answer.worth))


POLICIES: dict[str, Callable[[int], Policy]] = {"FIFO": Fifo, "LRU": Lru, "ours": Ours}
"""Those of the table of synthetic traces."""
RIVALS: dict[str, Callable[[int], Policy]] = {
    "FIFO": Fifo, "LRU": Lru, "SIEVE": Sieve, "S3-FIFO": S3Fifo, "ours": Ours
}  # fmt: skip
"""Those of the table of recorded ones."""
