"""Rates: requests and tokens per minute by GCRA, and how many requests at once.

GCRA keeps one number for each limit, the *theoretical arrival time* (TAT): when the bucket would be
empty again. It never admits more than `burst + limit x minutes` in any window of any length, and
knows exactly how long a refused caller must wait. Here time is counted in *ticks*, `limit` of them a
microsecond, so that one unit is worth a whole number of them and nothing is ever rounded.

Tokens are reserved by estimate and corrected by usage. Only what has not yet leaked away may be given
back: a late refund of old tokens would allow a burst above the limit. What is given back moves all
that was taken later nearer to its own leaking, and nothing that was taken before: so a share's mark is
counted with what those before it have returned since.
"""

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from windvane.core.principal import Scope
from windvane.core.terms import TermsTable

US_PER_MS = 1_000
TICKS_PER_UNIT = 60_000_000
"""Microseconds in a minute: what one unit is worth at one a minute."""


class RateTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one scope. `burst_requests` is how many may come at once: as many as a minute's,
    unless said otherwise."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    burst_requests: int | None = None

    @property
    def is_empty(self) -> bool:
        return (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.concurrency is None
        )


Left = tuple[int, int, int]
"""What is left of one rate, for headers: its limit, how many units remain, and in how many milliseconds
all of it is free again."""


class RateRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Which limit is full. `wait_us` is None when no wait helps, or none can be foretold. `burst` is how
    much of it there is at once, where that is less."""

    scope: Scope
    what: str
    limit: int
    burst: int | None = None
    wait_us: int | None
    left: int = 0


class Gcra:
    """One rate: `limit` units a minute, at most `burst` of them at once.

    Its *level* at a moment is what has been taken and has not leaked away: TAT less now, never below
    zero.

    `open` are the marks of the shares that are to be corrected, in the order they were taken: whoever
    takes such a share adds it. `_behind` is, by such a mark, what was returned of shares that were taken
    after that one and before the next.
    """

    __slots__ = ("_behind", "_returned", "_tat", "burst", "full", "limit", "open", "ticks_per_ms")

    def __init__(self, limit: int, burst: int | None = None) -> None:
        self._tat = 0
        self._returned = 0
        self.open: list[int] = []
        self._behind: dict[int, int] = {}
        self._set(limit, burst)

    def _set(self, limit: int, burst: int | None) -> None:
        self.limit = limit
        self.burst = limit if burst is None else burst
        self.ticks_per_ms = limit * US_PER_MS
        # Of no units a minute none is ever admitted: an empty bucket is full.
        self.full = self.burst * TICKS_PER_UNIT if limit > 0 else -1

    def take(self, units: int, now_us: int) -> "Share | None":
        """Take units; None, and nothing taken, when they must wait.

        A request for more than the burst is admitted when the bucket is empty, and leaves a debt:
        refused for ever, it could never be made smaller by waiting.
        """
        ticks, level = now_us * self.limit, units * TICKS_PER_UNIT
        before = self._tat - ticks
        if before > 0:
            level += before
            if level > self.full:
                return None
        elif self.full < 0:
            return None
        self._tat = tat = ticks + level
        return self, units, tat + self._returned, level

    def untake(self, units: int) -> None:
        """Undo a `take` of this very moment, after which nothing else has happened."""
        self._tat -= units * TICKS_PER_UNIT
        if self.open:
            self.open.pop()

    def wait_us(self, units: int, now_us: int) -> int | None:
        """How long until `units` would be admitted: 0 is now, None is never."""
        if self.limit <= 0:
            return None
        asked = min(units, self.burst) * TICKS_PER_UNIT
        over = self._level(now_us) + asked - self.full
        return 0 if over <= 0 else -(-over // self.limit)

    def correct(self, taken: int, used: int, mark: int, now_us: int) -> None:
        """`taken` units were `used` in truth; `mark` is that of their share. One that was never opened
        may get back less than it could."""
        ticks, marks = now_us * self.limit, self.open
        if self._tat <= ticks:
            # All has leaked away: no share that is open can get anything back any more.
            if self._behind:
                self._behind.clear()
            if marks and marks[0] == mark:  # most end in the order in which they began
                del marks[0]
            elif marks:
                place = bisect_left(marks, mark)
                if place < len(marks) and marks[place] == mark:
                    del marks[place]
            if used > taken:
                self._tat = ticks + (used - taken) * TICKS_PER_UNIT
            return
        unleaked, back, before = mark - self._returned - ticks, 0, None
        if len(marks) > 1 or self._behind:
            later, before = self._close(mark)
            unleaked += later
        elif marks:
            marks.pop()
        if used >= taken:
            self._tat = max(self._tat, ticks) + (used - taken) * TICKS_PER_UNIT
        elif unleaked > 0:
            back = (taken - used) * TICKS_PER_UNIT
            back = min(back, unleaked)
            self._tat -= back
            self._returned += back
        if before is not None:
            self._behind[before] += back

    def _close(self, mark: int) -> tuple[int, int | None]:
        """A share is corrected: what was returned of all that were taken after it, for that has not moved
        it; and the one before it that is open, if there is one, which has to know of it from now."""
        marks, behind = self.open, self._behind
        place = bisect_left(marks, mark)
        if place < len(marks) and marks[place] == mark:
            del marks[place]
        own = behind.pop(mark, 0)
        later = own + sum([back for other, back in behind.items() if other > mark])
        if place == 0:
            return later, None
        before = marks[place - 1]
        behind[before] = behind.get(before, 0) + own
        return later, before

    def change(self, limit: int, burst: int | None, now_us: int) -> None:
        """From now another limit. What has been taken and not leaked stays taken, unit for unit, and
        marks stay good: a tick is worth as much of a unit as before, only more or fewer go by."""
        level = self._level(now_us)
        self._returned += now_us * (self.limit - limit)
        self._tat = now_us * limit + level
        self._set(limit, burst)

    def left(self, now_us: int) -> int:
        """How many units are left now."""
        return max(self.full - self._level(now_us), 0) // TICKS_PER_UNIT

    def _level(self, now_us: int) -> int:
        return max(self._tat - now_us * self.limit, 0)

    def is_idle(self, now_us: int) -> bool:
        """Whether it remembers nothing worth keeping."""
        return self._level(now_us) == 0


class Slots:
    """How many requests of a scope run."""

    __slots__ = ("limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0


Share = tuple[Gcra, int, int, int]
"""What was taken of one rate: of which, how many units, the mark to `correct` them by, and the level
they brought it to."""


class RateLease(msgspec.Struct, gc=False):
    """What one request, or one attempt, has taken. It ends once, by `end`."""

    slots: Sequence[Slots] = ()
    """Where it is one of those that run."""
    requests: Sequence[Share] = ()
    began_us: int = 0
    """When the first of it was taken."""
    tokens: Sequence[Share] | None = None
    """None until they are taken: they may be of no rate."""
    is_over: bool = False

    def end(self, used_tokens: int, now_us: int) -> None:
        """Give slots back, and correct reserved tokens by what was used."""
        if self.is_over:
            return
        self.is_over = True
        for slots in self.slots:
            slots.running -= 1
        for bucket, units, mark, _ in self.tokens or ():
            bucket.correct(units, used_tokens, mark, now_us)

    def give_back(self, now_us: int) -> None:
        """End without having been of use: nothing was taken."""
        if not self.is_over:
            for bucket, units, mark, _ in self.requests:
                bucket.correct(units, 0, mark, now_us)
        self.end(0, now_us)


def least(shares: Sequence[Share]) -> Left | None:
    """What was left of these rates when the shares were taken, where it was least."""
    told: Left | None = None
    for bucket, _, _, level in shares:
        limit, room = bucket.limit, bucket.full - level
        left = room // TICKS_PER_UNIT if room > 0 else 0
        if told is None or left < told[1]:
            reset_ms = (level - 1) // bucket.ticks_per_ms + 1 if limit > 0 else 0
            told = limit, left, reset_ms
    return told


class RateTable(TermsTable[RateTerms]):
    """Which rates apply to which scope: its own, and those of its kind (`key:*`). Immutable."""
