"""Journal and ledger in one, in memory. Lost with the process, and says so by its name.

Bounded: beyond `ENTRIES_MAX` the oldest entries are forgotten one by one; their sums stay, of the latest
`PLACES_MAX` places.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from windvane.core.budgets import US_PER_DAY
from windvane.core.ledger import LedgerEntry
from windvane.core.principal import GLOBAL, Scope
from windvane.core.usage_report import Difference, UsageQuery, UsageRow
from windvane.stores.rollup import (
    COLUMNS,
    COST,
    PLACE,
    SUMS,
    Choice,
    Place,
    Sums,
    add_up,
    choice_of,
    column_of_kind,
    day_number,
    first_day,
    place_of,
    place_of_scope,
    spent_by_scope,
    totals_of,
    usage_rows,
)

ENTRIES_MAX = 100_000
PLACES_MAX = 100_000
"""Callers may name users as they like: without a bound, each would stay for ever."""

_NOTHING = [0] * len(SUMS)
_TAGS = PLACE.index("tags")


class MemoryLedger:
    """Implements `Journal` and `LedgerStore`."""

    def __init__(self) -> None:
        self.holds: dict[str, LedgerEntry] = {}
        self._entries: deque[LedgerEntry] = deque(maxlen=ENTRIES_MAX)
        self._settled: dict[str, None] = {}
        self._sums: dict[Place, Sums] = {}
        self._whole_since = 0
        """The first day that still has all its entries and all its sums."""

    def hold(self, entry: LedgerEntry) -> None:
        self.holds[entry.attempt_id] = entry

    def settle(self, entry: LedgerEntry) -> None:
        self.holds.pop(entry.attempt_id, None)
        if entry.attempt_id in self._settled:
            return
        if len(self._entries) == ENTRIES_MAX:
            self._lost(place_of(self._entries[0])[0])
            del self._settled[self._entries[0].attempt_id]
        self._settled[entry.attempt_id] = None
        self._entries.append(entry)
        add_up((entry,), self._sums)
        if len(self._sums) > PLACES_MAX:
            place = next(iter(self._sums))
            self._lost(place[0])
            del self._sums[place]

    def _lost(self, day: int) -> None:
        self._whole_since = max(self._whole_since, day + 1)

    @property
    def entries(self) -> Sequence[LedgerEntry]:
        """All entries kept, oldest first."""
        return tuple(self._entries)

    async def entries_of(
        self, request_id: str, *, key_id: str | None = None
    ) -> Sequence[LedgerEntry]:
        found = [
            entry
            for entry in self._entries
            if request_id in (entry.request_id, entry.client_request_id)
            and key_id in (None, entry.key_id)
        ]
        return sorted(found, key=lambda entry: (entry.started_at_us, entry.number))

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        choice = choice_of(query)
        parts = [PLACE.index(COLUMNS[name]) for name in query.by]
        chosen = (
            (tuple(place[part] for part in parts), sums)
            for place, sums in self._sums.items()
            if _is_chosen(place, choice)
        )
        return usage_rows(query.by, chosen)

    async def spent(self, scope: Scope, since_us: int, until_us: int | None = None) -> int:
        kind, _ = place_of_scope(scope)
        if kind is None:
            return sum(cost for _, cost in self._costs(since_us, until_us))
        return (await self.spent_by(kind, since_us, until_us)).get(scope, 0)

    async def spent_by(
        self, kind: str, since_us: int, until_us: int | None = None
    ) -> Mapping[Scope, int]:
        if kind == GLOBAL:
            return {GLOBAL: await self.spent(GLOBAL, since_us, until_us)}
        part = PLACE.index(column_of_kind(kind))
        costs = ((str(place[part]), cost) for place, cost in self._costs(since_us, until_us))
        return spent_by_scope(kind, costs)

    def _costs(self, since_us: int, until_us: int | None) -> Iterator[tuple[Place, int]]:
        since = first_day(since_us)
        until = None if until_us is None else first_day(until_us)
        for place, sums in self._sums.items():
            if place[0] >= since and (until is None or place[0] < until):
                yield place, sums[COST]

    async def days_since(self, since_us: int) -> Sequence[int]:
        days = sorted({place[0] for place in self._sums})
        since = min([first_day(since_us), *days[-1:]])
        return [day * US_PER_DAY for day in days if day >= since]

    async def forget_before(self, day: date) -> int:
        until_us, count = day_number(day) * US_PER_DAY, 0
        while self._entries and self._entries[0].started_at_us < until_us:
            entry = self._entries.popleft()
            self._lost(place_of(entry)[0])
            del self._settled[entry.attempt_id]
            count += 1
        return count

    async def verify(self) -> Sequence[Difference]:
        found = self._added_up()
        kept = {place: sums for place, sums in self._sums.items() if place[0] >= self._whole_since}
        return [
            Difference(place=place, kept=totals_of(one), found=totals_of(other))
            for place in sorted(kept.keys() | found.keys())
            if (one := kept.get(place, _NOTHING)) != (other := found.get(place, _NOTHING))
        ]

    async def rebuild(self) -> None:
        kept = {place: sums for place, sums in self._sums.items() if place[0] < self._whole_since}
        self._sums = kept | self._added_up()

    def _added_up(self) -> dict[Place, Sums]:
        whole: dict[Place, Sums] = {}
        since = self._whole_since
        add_up((entry for entry in self._entries if place_of(entry)[0] >= since), whole)
        return whole

    async def refused(self) -> int:
        return 0

    async def aclose(self) -> None:
        return None


def _is_chosen(place: Place, choice: Choice) -> bool:
    day = place[0]
    if choice.since is not None and day < choice.since:
        return False
    if choice.until is not None and day > choice.until:
        return False
    if choice.tag is not None and choice.tag not in str(place[_TAGS]).split(","):
        return False
    return all(place[PLACE.index(name)] == value for name, value in choice.equal)
