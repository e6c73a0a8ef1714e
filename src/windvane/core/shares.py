"""Who has had how much of an upstream lately, and how much one must leave free for the others.

Without it, whoever finds a minute empty takes all of it at once, and all others wait for it to end.

Laws:
1. A party is what one tenant asks in one class; its peers are the parties of its class and those above,
   as far as they asked in the last two minutes. They and it have equal shares of the limit.
2. Within its share of the last minute a party may take all the room there is. Its first request in a
   minute is within its share, however small that is.
3. Beyond it, a party leaves free what its modest peers need in a minute, by their last two, or by the time
   since they came, and a little more, but never more than an eighth. Modest is who had half of its share at
   most.
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

KNOWN_FROM = 2
"""Requests. Of one nothing can be foretold: most who come once do not come again within the minute."""

PARTIES_MAX = 1_000
"""Of whom it is known what each has had; those beyond count as one in each class."""


class _Had:
    """What one party has had, in the last minute and in the last two, and in the last slot that it had
    anything in. `kept_us` is what others leave free for it; `since_us`, when it came; `asked`, how often it
    has asked since."""

    __slots__ = (
        "asked",
        "kept_us",
        "last",
        "lately_us",
        "minute_us",
        "party",
        "priority",
        "rank",
        "since_us",
        "tenant",
    )

    def __init__(self, party: str, tenant: str, priority: Priority, since_us: int) -> None:
        self.party = party
        self.tenant = tenant
        self.priority = priority
        self.since_us = since_us
        self.asked = 0
        self.rank = priority.rank
        self.last: _Part | None = None
        self.minute_us = 0
        self.lately_us = 0
        self.kept_us = 0


class _Part:
    """What one party had in one slot. `until_us` is when that is a minute ago."""

    __slots__ = ("cost_us", "had", "until_us")

    def __init__(self, had: _Had, until_us: int) -> None:
        self.had = had
        self.until_us = until_us
        self.cost_us = 0


class Portion:
    """What one request has had, to be corrected when its usage is known."""

    __slots__ = ("cost_us", "part")

    def __init__(self, part: _Part, cost_us: int) -> None:
        self.part = part
        self.cost_us = cost_us


class Shares:
    """What the parties of one upstream have had. By class is counted who is present in it and in those
    above, and what is kept for them."""

    __slots__ = (
        "_before",
        "_had",
        "_kept_us",
        "_present",
        "_slot_until_us",
        "_this_minute",
        "_who_last",
        "slot_end_us",
    )

    def __init__(self) -> None:
        self.slot_end_us = 0
        """When it is worked out anew what is kept for whom."""
        self._had: dict[str, _Had] = {}
        self._who_last: _Had | None = None
        self._kept_us = [0] * len(Priority)
        self._present = [0] * len(Priority)
        self._slot_until_us = 0
        self._this_minute: deque[_Part] = deque()
        self._before: deque[_Part] = deque()

    def kept_us(self, tenant: str, priority: Priority, cost_us: int, now_us: int) -> int:
        """How much of a minute stays free for others when `cost_us` more are taken; 0 for one within
        its share, or without peers."""
        if now_us >= self.slot_end_us:
            self._turn(now_us)
        if len(self._had) < 2:
            return 0
        had = self._find(tenant, priority)
        if had is None or not had.minute_us:
            return 0
        if (had.minute_us + cost_us) * self._present[had.rank] <= MINUTE_US:
            return 0
        kept_us = self._kept_us[had.rank] - had.kept_us
        return min(kept_us + SPARE * cost_us, KEPT_MAX_US) if kept_us else 0

    def had_us(self, tenant: str, priority: Priority) -> int:
        """What one has had in the last two minutes."""
        had = self._find(tenant, priority)
        return had.lately_us if had is not None else 0

    def take(self, tenant: str, priority: Priority, cost_us: int, now_us: int) -> Portion:
        """`cost_us` more are taken."""
        if now_us >= self.slot_end_us:
            self._turn(now_us)
        had = self._find(tenant, priority) or self._enter(tenant, priority, now_us)
        part = had.last
        if part is None or part.until_us != self._slot_until_us:
            part = had.last = _Part(had, self._slot_until_us)
            self._this_minute.append(part)
        part.cost_us += cost_us
        had.minute_us += cost_us
        had.lately_us += cost_us
        had.asked += 1
        if had.asked <= KNOWN_FROM:
            # What is kept for one who is new is worked out at once.
            self.slot_end_us = 0
        return Portion(part, cost_us)

    def correct(self, portion: Portion, cost_us: int, now_us: int) -> None:
        """A request was worth `cost_us` in the end. After a minute that is no matter any more."""
        more_us = cost_us - portion.cost_us
        part = portion.part
        if more_us and now_us < part.until_us:
            portion.cost_us = cost_us
            part.cost_us += more_us
            part.had.minute_us += more_us
            part.had.lately_us += more_us

    def _find(self, tenant: str, priority: Priority) -> _Had | None:
        """A request asks for its party more than once, and a busy one comes again."""
        had = self._who_last
        if had is None or had.tenant != tenant or had.priority is not priority:
            had = self._who_last = self._had.get(self._party(tenant, priority))
        return had

    def _enter(self, tenant: str, priority: Priority, now_us: int) -> _Had:
        party = self._party(tenant, priority)
        had = self._had[party] = self._who_last = _Had(party, tenant, priority, now_us)
        self._count(had, 1)
        return had

    def _party(self, tenant: str, priority: Priority) -> str:
        party = priority + tenant
        return party if party in self._had or len(self._had) < PARTIES_MAX else priority

    def _count(self, had: _Had, more: int) -> None:
        for rank in range(had.rank, len(self._present)):
            self._present[rank] += more

    def _turn(self, now_us: int) -> None:
        """Begin a slot; what is a minute ago is of the minute before, and that of two minutes ago gone."""
        while self._this_minute and self._this_minute[0].until_us <= now_us:
            part = self._this_minute.popleft()
            self._before.append(part)
            part.had.minute_us -= part.cost_us
        while self._before and self._before[0].until_us + MINUTE_US <= now_us:
            self._drop(self._before.popleft())
        self._keep(now_us)
        self.slot_end_us = now_us - now_us % SLOT_US + SLOT_US
        self._slot_until_us = self.slot_end_us + MINUTE_US

    def _drop(self, part: _Part) -> None:
        had = part.had
        had.lately_us -= part.cost_us
        if had.last is part:
            del self._had[had.party]
            self._who_last = None
            self._count(had, -1)

    def _need_us(self, had: _Had, now_us: int) -> int:
        """What it needs in a minute: by its last two, or by the time since it came, and at most half of its
        share then."""
        need_us = had.lately_us // 2
        here_us = max(now_us - had.since_us, SLOT_US)
        if had.asked < KNOWN_FROM or here_us >= 2 * MINUTE_US:
            return need_us
        half_us = MINUTE_US // (2 * self._present[had.rank])
        return max(need_us, min(had.lately_us * MINUTE_US // here_us, half_us))

    def _keep(self, now_us: int) -> None:
        """Work out what is kept for whom."""
        self._kept_us = [0] * len(self._present)
        for had in self._had.values():
            is_modest = had.lately_us * self._present[had.rank] <= MINUTE_US
            had.kept_us = self._need_us(had, now_us) if is_modest else 0
            for rank in range(had.rank, len(self._present)):
                self._kept_us[rank] += had.kept_us
