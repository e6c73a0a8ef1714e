"""Who has had how much of an upstream lately, and how much one must leave free for the others.

Without it, whoever finds a minute empty takes all of it at once, and all others wait for it to end.

Laws:
1. A party is what one tenant asks in one class; its peers are the parties of its class and those above,
   as far as they asked in the last two minutes. They and it have equal shares of the limit.
2. Within its share of the last minute a party may take all the room there is. Its first request in a
   minute is within its share, however small that is.
3. Beyond it, a party leaves free what its modest peers need in a minute, by their last two, and a little
   more, but never more than an eighth. Modest is who had half of its share at most.
4. So nothing is left free where one is alone, or all take as much as they get; one who has left is
   forgotten after two minutes, and of one who has not been there nothing is known.

Costs are the time a request is worth: the part of a minute that it takes of its limit, in microseconds.
"""

from collections import deque

from windvane.core.priority import Priority
from windvane.core.upstream_limits import MINUTE_US

SLOT_US = 5_000_000
"""What was had within one is forgotten together, with its last."""

KEPT_MAX_US = MINUTE_US // 8

SPARE = 3
"""Requests. Who comes by chance comes unevenly, and of a few that shows most."""

PARTIES_MAX = 1_000
"""Of whom it is known what each has had; those beyond count as one in each class."""


class _Had:
    """What one party has had, in the last minute and in the last two, and in how many slots. `kept_us`
    is what others leave free for it."""

    __slots__ = ("kept_us", "lately_us", "minute_us", "rank", "slots")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.minute_us = 0
        self.lately_us = 0
        self.kept_us = 0
        self.slots = 0


class _Slot:
    """What each party had in one slot. `until_us` is when that is a minute ago."""

    __slots__ = ("costs", "until_us")

    def __init__(self, until_us: int) -> None:
        self.until_us = until_us
        self.costs: dict[str, int] = {}


class Portion:
    """What one request has had, to be corrected when its usage is known."""

    __slots__ = ("cost_us", "had", "party", "slot")

    def __init__(self, slot: _Slot, party: str, had: _Had) -> None:
        self.slot = slot
        self.party = party
        self.had = had
        self.cost_us = 0


class Shares:
    """What the parties of one upstream have had. By class is counted who is present in it and in those
    above, and what is kept for them."""

    __slots__ = (
        "_before",
        "_had",
        "_kept_us",
        "_present",
        "_slot",
        "_slot_end_us",
        "_this_minute",
    )

    def __init__(self) -> None:
        self._had: dict[str, _Had] = {}
        self._kept_us = [0] * len(Priority)
        self._present = [0] * len(Priority)
        self._slot = _Slot(0)
        self._slot_end_us = 0
        self._this_minute: deque[_Slot] = deque()
        self._before: deque[_Slot] = deque()

    def kept_us(self, tenant: str, priority: Priority, cost_us: int, now_us: int) -> int:
        """How much of a minute stays free for others when `cost_us` more are taken; 0 for one within
        its share, or without peers."""
        if now_us >= self._slot_end_us:
            self._turn(now_us)
        had = self._had.get(self._party(tenant, priority))
        if had is None or not had.minute_us:
            return 0
        if (had.minute_us + cost_us) * self._present[had.rank] <= MINUTE_US:
            return 0
        kept_us = self._kept_us[had.rank] - had.kept_us
        return min(kept_us + SPARE * cost_us, KEPT_MAX_US) if kept_us else 0

    def had_us(self, tenant: str, priority: Priority) -> int:
        """What one has had in the last two minutes."""
        had = self._had.get(self._party(tenant, priority))
        return had.lately_us if had is not None else 0

    def take(self, tenant: str, priority: Priority, cost_us: int, now_us: int) -> Portion:
        """`cost_us` more are taken."""
        if now_us >= self._slot_end_us:
            self._turn(now_us)
        party = self._party(tenant, priority)
        had = self._had.get(party)
        if had is None:
            had = self._had[party] = _Had(priority.rank)
            self._count(had, 1)
        if party not in self._slot.costs:
            self._slot.costs[party] = 0
            had.slots += 1
        portion = Portion(self._slot, party, had)
        self._add(portion, cost_us)
        return portion

    def correct(self, portion: Portion, cost_us: int, now_us: int) -> None:
        """A request was worth `cost_us` in the end. After a minute that is no matter any more."""
        more_us = cost_us - portion.cost_us
        if more_us and now_us < portion.slot.until_us:
            self._add(portion, more_us)

    def _party(self, tenant: str, priority: Priority) -> str:
        party = priority + tenant
        return party if party in self._had or len(self._had) < PARTIES_MAX else priority

    def _add(self, portion: Portion, more_us: int) -> None:
        had = portion.had
        portion.slot.costs[portion.party] += more_us
        portion.cost_us += more_us
        had.minute_us += more_us
        had.lately_us += more_us

    def _count(self, had: _Had, more: int) -> None:
        for rank in range(had.rank, len(self._present)):
            self._present[rank] += more

    def _turn(self, now_us: int) -> None:
        """Begin a slot; what is a minute ago is of the minute before, and that of two minutes ago gone."""
        while self._this_minute and self._this_minute[0].until_us <= now_us:
            slot = self._this_minute.popleft()
            self._before.append(slot)
            for party, cost_us in slot.costs.items():
                self._had[party].minute_us -= cost_us
        while self._before and self._before[0].until_us + MINUTE_US <= now_us:
            for party, cost_us in self._before.popleft().costs.items():
                self._drop(party, cost_us)
        self._keep()
        self._slot_end_us = now_us - now_us % SLOT_US + SLOT_US
        self._slot = _Slot(self._slot_end_us + MINUTE_US)
        self._this_minute.append(self._slot)

    def _drop(self, party: str, cost_us: int) -> None:
        had = self._had[party]
        had.lately_us -= cost_us
        had.slots -= 1
        if not had.slots:
            del self._had[party]
            self._count(had, -1)

    def _keep(self) -> None:
        """Work out what is kept for whom."""
        self._kept_us = [0] * len(self._present)
        for had in self._had.values():
            is_modest = had.lately_us * self._present[had.rank] <= MINUTE_US
            had.kept_us = had.lately_us // 2 if is_modest else 0
            for rank in range(had.rank, len(self._present)):
                self._kept_us[rank] += had.kept_us
