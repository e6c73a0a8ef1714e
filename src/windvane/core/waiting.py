"""Who goes next when not all can go: a bounded queue that is fair to tenants.

Laws:
1. A class goes before those below it, but a class that waits is passed over at most
   `PASSED_OVER_MAX` turns in a row (one more when two classes have become due at once).
2. Within a class, tenants share what they use, not how often they ask: whoever has had least goes next
   (start-time fair queueing, Goyal, Vin & Cheng 1996). A tenant that asks for a hundred times more
   waits behind itself.
3. At most `places` wait. A newcomer to a full queue takes the place of the last of the greediest tenant
   in the lowest class: below its own class always, in its own when it would still have fewer places
   than the tenant it displaces. The last has waited least, and leaving the oldest in peace keeps the
   order of those who stay. Otherwise the newcomer is refused.
4. All is decided by what was put and taken, in order: no clock, no dice.

It does not know what is waited for, nor for how long.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from windvane.core.priority import Priority

T = TypeVar("T")

PASSED_OVER_MAX = 7
"""Each eighth turn belongs to the next class below, when somebody waits there."""

REMEMBERED_MAX = 1_000
"""Tenants who left owing turns and are remembered; beyond it the longest gone are forgiven."""


class Place(Generic[T]):
    """One who waits. `cost` is what it will use, in any unit, at least 1."""

    __slots__ = ("cost", "is_waiting", "item", "priority", "tenant")

    def __init__(self, tenant: str, priority: Priority, cost: int, item: T) -> None:
        self.tenant = tenant
        self.priority = priority
        self.cost = max(cost, 1)
        self.item = item
        self.is_waiting = True


class Full(Exception):
    """No place, and nobody who should give way."""


class _Line(Generic[T]):
    """The places of one tenant in one class, oldest first. `start` is what it has had when its next
    turn begins; `seq` tells its present entry in the heap from those left behind."""

    __slots__ = ("places", "seq", "start", "tenant")

    def __init__(self, tenant: str, start: int, seq: int) -> None:
        self.tenant = tenant
        self.start = start
        self.seq = seq
        self.places: OrderedDict[Place[T], None] = OrderedDict()


class _Class(Generic[T]):
    """One priority class: its tenants' lines, the next first, and the longest found at once."""

    __slots__ = ("_heap", "_longest", "_now", "_owing", "_seq", "_sized", "count", "lines")

    def __init__(self) -> None:
        self.count = 0
        self.lines: dict[str, _Line[T]] = {}
        self._heap: list[tuple[int, int, _Line[T]]] = []
        self._now = 0
        self._owing: dict[str, int] = {}
        self._seq = 0
        self._sized: dict[int, dict[str, None]] = {}
        self._longest = 0

    def size(self, tenant: str) -> int:
        line = self.lines.get(tenant)
        return len(line.places) if line is not None else 0

    def add(self, place: Place[T]) -> None:
        line = self.lines.get(place.tenant)
        if line is None:
            start = max(self._owing.pop(place.tenant, 0), self._now)
            line = self.lines[place.tenant] = _Line(place.tenant, start, 0)
            self._enter(line)
        line.places[place] = None
        self.count += 1
        self._resize(line.tenant, len(line.places) - 1, len(line.places))

    def next_line(self) -> _Line[T]:
        heap = self._heap
        while heap[0][1] != heap[0][2].seq:
            heappop(heap)
        return heap[0][2]

    def pop(self) -> Place[T]:
        line = self.next_line()
        place = next(iter(line.places))
        self._now = line.start
        line.start += place.cost
        self._drop(line, place)
        if line.places:
            self._enter(line)
        return place

    def remove(self, place: Place[T]) -> None:
        self._drop(self.lines[place.tenant], place)

    def last_of_longest(self) -> tuple[Place[T], int]:
        """The newest place of the tenant with the most, and how many it has."""
        tenant = next(iter(self._sized[self._longest]))
        return next(reversed(self.lines[tenant].places)), self._longest

    def _enter(self, line: _Line[T]) -> None:
        self._seq += 1
        line.seq = self._seq
        heappush(self._heap, (line.start, line.seq, line))
        if len(self._heap) > 2 * len(self.lines) + 16:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].seq]
            heapify(self._heap)

    def _drop(self, line: _Line[T], place: Place[T]) -> None:
        del line.places[place]
        self.count -= 1
        self._resize(line.tenant, len(line.places) + 1, len(line.places))
        if line.places:
            return
        line.seq = 0
        del self.lines[line.tenant]
        if not self.lines:
            # Nobody waits: nobody has been kept waiting, so nobody owes anything.
            self._heap, self._owing, self._now = [], {}, 0
        elif line.start > self._now:
            self._owing[line.tenant] = line.start
            if len(self._owing) > REMEMBERED_MAX:
                self._forgive()

    def _forgive(self) -> None:
        kept = [(name, start) for name, start in self._owing.items() if start > self._now]
        self._owing = dict(kept[-(REMEMBERED_MAX // 2) :])

    def _resize(self, tenant: str, before: int, after: int) -> None:
        """Keep tenants by how many places they have; sizes change by one, so no search is needed."""
        if before:
            same = self._sized[before]
            del same[tenant]
            if not same:
                del self._sized[before]
        if after:
            self._sized.setdefault(after, {})[tenant] = None
        is_shorter = before == self._longest and before not in self._sized
        if after > self._longest or is_shorter:
            self._longest = after


class FairQueue(Generic[T]):
    """At most `places` who wait, and the order in which they go."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._classes: tuple[_Class[T], ...] = tuple(_Class() for _ in Priority)
        self._passed_over = [0] * len(self._classes)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def depth(self, priority: Priority) -> int:
        """How many of a class wait."""
        return self._classes[priority.rank].count

    def size(self, tenant: str, priority: Priority) -> int:
        """How many of a tenant wait in a class."""
        return self._classes[priority.rank].size(tenant)

    def ahead_of(self, tenant: str, priority: Priority) -> int:
        """At most how many go before one who came now, if nobody else came."""
        own = self._classes[priority.rank]
        before = sum(above.count for above in self._classes[: priority.rank])
        before += min(own.count, (own.size(tenant) + 1) * max(len(own.lines), 1))
        below = sum(lower.count for lower in self._classes[priority.rank + 1 :])
        return before + min(below, before // PASSED_OVER_MAX)

    def put(
        self, tenant: str, priority: Priority, cost: int, item: T
    ) -> tuple[Place[T], Place[T] | None]:
        """A place at the end of the tenant's own, and whom it displaced. Raises Full."""
        displaced = None
        if self._count >= self.places:
            displaced = self._who_gives_way(tenant, priority)
            if displaced is None:
                raise Full
            self.remove(displaced)
        place = Place(tenant, priority, cost, item)
        self._classes[priority.rank].add(place)
        self._count += 1
        return place, displaced

    def remove(self, place: Place[T]) -> None:
        """Give up a place. Nothing happens when it has been given up, or had its turn."""
        if place.is_waiting:
            place.is_waiting = False
            self._classes[place.priority.rank].remove(place)
            self._left(place.priority.rank)

    def peek(self) -> Place[T] | None:
        """Who would be next."""
        if not self._count:
            return None
        return next(iter(self._classes[self._turn()].next_line().places))

    def pop(self) -> Place[T] | None:
        """Who is next; it no longer waits."""
        if not self._count:
            return None
        rank = self._turn()
        place = self._classes[rank].pop()
        place.is_waiting = False
        self._passed_over[rank] = 0
        for below in range(rank + 1, len(self._classes)):
            if self._classes[below].count:
                self._passed_over[below] += 1
        self._left(rank)
        return place

    def _turn(self) -> int:
        """The class whose turn it is."""
        waiting = [rank for rank, each in enumerate(self._classes) if each.count]
        for rank in waiting[1:]:
            if self._passed_over[rank] >= PASSED_OVER_MAX:
                return rank
        return waiting[0]

    def _left(self, rank: int) -> None:
        self._count -= 1
        if not self._classes[rank].count:
            self._passed_over[rank] = 0

    def _who_gives_way(self, tenant: str, priority: Priority) -> Place[T] | None:
        for rank in range(len(self._classes) - 1, priority.rank - 1, -1):
            lowest = self._classes[rank]
            if lowest.count:
                place, places = lowest.last_of_longest()
                has_fewer = lowest.size(tenant) + 1 < places
                return place if rank > priority.rank or has_fewer else None
        return None
