"""Rates: requests and tokens per minute by GCRA, and how many requests at once.

GCRA keeps one number for each limit, the *theoretical arrival time* (TAT): when the bucket would be
empty again. It never admits more than `burst + limit x minutes` in any window of any length, and
knows exactly how long a refused caller must wait. Here time is counted in *ticks*, `limit` of them a
microsecond, so that one unit is worth a whole number of them and nothing is ever rounded.

Tokens are reserved by estimate and corrected by usage. Only what has not yet leaked away may be given
back: a late refund of old tokens would allow a burst above the limit. What is given back moves all
that was taken later nearer to its own leaking, so marks are counted with what was returned since.
"""

import msgspec

from windvane.core.principal import Scope
from windvane.core.terms import TermsTable

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


class Gcra:
    """One rate: `limit` units a minute, at most `burst` of them at once."""

    __slots__ = ("_returned", "_tat", "burst", "limit")

    def __init__(self, limit: int, burst: int | None = None) -> None:
        self.limit = limit
        self.burst = limit if burst is None else burst
        self._tat = 0
        self._returned = 0

    def wait_us(self, units: int, now_us: int) -> int | None:
        """How long until `units` would be admitted: 0 is now, None is never.

        A request for more than the burst is admitted when the bucket is empty, and leaves a debt:
        refused for ever, it could never be made smaller by waiting.
        """
        if self.limit <= 0:
            return None
        asked = min(units, self.burst) * TICKS_PER_UNIT
        over = (
            max(self._tat, now_us * self.limit)
            + asked
            - (now_us * self.limit + self.burst * TICKS_PER_UNIT)
        )
        return 0 if over <= 0 else -(-over // self.limit)

    def take(self, units: int, now_us: int) -> int:
        """Take units that `wait_us` has admitted. Returns the mark to `correct` them by."""
        self._tat = max(self._tat, now_us * self.limit) + units * TICKS_PER_UNIT
        return self._tat + self._returned

    def correct(self, taken: int, used: int, end: int, now_us: int) -> None:
        """`taken` units were `used` in truth; `end` is what `take` returned for them."""
        if used >= taken:
            self._tat = max(self._tat, now_us * self.limit) + (used - taken) * TICKS_PER_UNIT
            return
        unleaked = max(end - self._returned - now_us * self.limit, 0)
        back = min(unleaked, (taken - used) * TICKS_PER_UNIT)
        self._tat -= back
        self._returned += back

    def remaining(self, now_us: int) -> int:
        """Units that would be admitted now, one by one."""
        full = self.burst * TICKS_PER_UNIT
        used = max(self._tat - now_us * self.limit, 0)
        return max(full - used, 0) // TICKS_PER_UNIT

    def reset_us(self, now_us: int) -> int:
        """How long until the bucket is empty, and the whole burst is free."""
        if self.limit <= 0:
            return 0
        return -(-max(self._tat - now_us * self.limit, 0) // self.limit)

    def is_idle(self, now_us: int) -> bool:
        """Whether it remembers nothing worth keeping."""
        return self._tat <= now_us * self.limit


class RateStanding(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of one rate, for headers. `reset_us` is when all of it is free again."""

    limit: int
    remaining: int
    reset_us: int


class RateRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Which limit is full. `wait_us` is None when no wait helps, or none can be foretold."""

    scope: Scope
    what: str
    limit: int
    wait_us: int | None
    left: int = 0


class Slots:
    """How many requests of a scope run."""

    __slots__ = ("limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0


class RateLease:
    """What one request, or one attempt, has taken. It ends once, by `end`."""

    __slots__ = ("_requests", "_slots", "_tokens")

    def __init__(self) -> None:
        self._slots: list[Slots] = []
        self._requests: list[tuple[Gcra, int]] = []
        self._tokens: list[tuple[Gcra, int, int]] = []

    def hold_slot(self, slots: Slots) -> None:
        slots.running += 1
        self._slots.append(slots)

    def took_request(self, bucket: Gcra, end: int) -> None:
        self._requests.append((bucket, end))

    def took_tokens(self, bucket: Gcra, units: int, end: int) -> None:
        self._tokens.append((bucket, units, end))

    def end(self, used_tokens: int, now_us: int) -> None:
        """Give slots back, and correct reserved tokens by what was used."""
        for slots in self._slots:
            slots.running -= 1
        for bucket, taken, end in self._tokens:
            bucket.correct(taken, used_tokens, end, now_us)
        self._slots.clear()
        self._tokens.clear()
        self._requests.clear()

    def give_back(self, now_us: int) -> None:
        """End without having been of use: nothing was taken."""
        for bucket, end in self._requests:
            bucket.correct(1, 0, end, now_us)
        self.end(0, now_us)


class RateTable(TermsTable[RateTerms]):
    """Which rates apply to which scope: its own, and those of its kind (`key:*`). Immutable."""
