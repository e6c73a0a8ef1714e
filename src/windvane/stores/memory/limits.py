"""Rates of one process, in memory. All limits of a request are taken together, or none."""

from collections.abc import Sequence

import msgspec

from windvane.core.limits import Gcra, RateLease, RateRefusal, RateTable, Share, Slots
from windvane.core.principal import Scope

BUCKETS_MAX = 10_000
"""From this many on, buckets that remember nothing are dropped now and then: scopes may be named by
callers."""


class _Found(msgspec.Struct):
    """What applies to a row of scopes, and of which of them it is."""

    slots: tuple[Slots, ...]
    slots_of: tuple[Scope, ...]
    requests: tuple[Gcra, ...]
    requests_of: tuple[Scope, ...]
    tokens: tuple[Gcra, ...]
    tokens_of: tuple[Scope, ...]


class MemoryLimits:
    """Implements `LimitStore`."""

    def __init__(self, table: RateTable) -> None:
        self.table = table
        self._requests: dict[Scope, Gcra] = {}
        self._tokens: dict[Scope, Gcra] = {}
        self._running: dict[Scope, Slots] = {}
        self._found: dict[tuple[Scope, ...], _Found] = {}
        self._kept_max = BUCKETS_MAX

    def take_request(self, scopes: tuple[Scope, ...], now_us: int) -> RateLease | RateRefusal:
        """One request: a slot, and a place in each rate."""
        found = self._found.get(scopes) or self._find(scopes, now_us)
        taken: list[Share] = []
        every = found.slots
        for slots in every:
            if slots.running >= slots.limit:
                scope = found.slots_of[every.index(slots)]
                return RateRefusal(scope=scope, what="concurrency", limit=slots.limit, wait_us=None)
        for bucket in found.requests:
            share = bucket.take(1, now_us)
            if share is None:
                return _refusal("requests", found.requests, found.requests_of, 1, taken, now_us)
            taken.append(share)
        for slots in every:
            slots.running += 1
        return RateLease(every, taken, now_us)

    def take_tokens(
        self, scopes: tuple[Scope, ...], tokens: int, lease: RateLease, now_us: int
    ) -> RateRefusal | None:
        """Tokens, by estimate: they are corrected when the lease ends."""
        found = self._found.get(scopes) or self._find(scopes, now_us)
        taken: list[Share] = []
        for bucket in found.tokens:
            share = bucket.take(tokens, now_us)
            if share is None:
                return _refusal("tokens", found.tokens, found.tokens_of, tokens, taken, now_us)
            taken.append(share)
            bucket.open.append(share[2])
        lease.tokens = taken
        return None

    def change(self, table: RateTable) -> None:
        """From now, `table` says what is allowed. Running requests keep their slots."""
        self.table = table
        self._found.clear()

    def _find(self, scopes: tuple[Scope, ...], now_us: int) -> _Found:
        """What applies to these scopes: worked out once, and kept until the table changes or there
        is too much of it."""
        self._make_room(now_us)
        slots: dict[Scope, Slots] = {}
        requests: dict[Scope, Gcra] = {}
        tokens: dict[Scope, Gcra] = {}
        for scope in scopes:
            terms = self.table.of(scope)
            if terms is None:
                continue
            if terms.concurrency is not None:
                slots[scope] = running = self._running.setdefault(scope, Slots(0))
                running.limit = terms.concurrency
            if (limit := terms.requests_per_minute) is not None:
                burst = terms.burst_requests
                requests[scope] = self._bucket(self._requests, scope, limit, burst, now_us)
            if (limit := terms.tokens_per_minute) is not None:
                tokens[scope] = self._bucket(self._tokens, scope, limit, None, now_us)
        found = self._found[scopes] = _Found(
            tuple(slots.values()),
            tuple(slots),
            tuple(requests.values()),
            tuple(requests),
            tuple(tokens.values()),
            tuple(tokens),
        )
        return found

    def _make_room(self, now_us: int) -> None:
        """Forget what remembers nothing, when there is too much of it: before anything is looked up, so
        that two rows of scopes never count in different places."""
        if self._kept < self._kept_max and len(self._found) < self._kept_max:
            return
        self._found.clear()
        self._running = {scope: slots for scope, slots in self._running.items() if slots.running}
        for buckets in (self._requests, self._tokens):
            for scope in [scope for scope, bucket in buckets.items() if bucket.is_idle(now_us)]:
                if not buckets[scope].open:  # what is yet to be corrected may leave a debt
                    del buckets[scope]
        # When as many are in use, looking for more to drop each time would cost more than they do.
        self._kept_max = max(BUCKETS_MAX, 2 * self._kept)

    @property
    def _kept(self) -> int:
        return max(len(self._running), len(self._requests), len(self._tokens))

    def _bucket(
        self, buckets: dict[Scope, Gcra], scope: Scope, limit: int, burst: int | None, now_us: int
    ) -> Gcra:
        bucket = buckets.get(scope)
        if bucket is None:
            bucket = buckets[scope] = Gcra(limit, burst)
        elif bucket.limit != limit or bucket.burst != (limit if burst is None else burst):
            bucket.change(limit, burst, now_us)
        return bucket


def _refusal(
    what: str,
    buckets: Sequence[Gcra],
    scopes: Sequence[Scope],
    units: int,
    taken: Sequence[Share],
    now_us: int,
) -> RateRefusal:
    """The first of these rates that does not admit so many units; what was `taken` of those before it
    is undone."""
    for bucket, _, _, _ in taken:
        bucket.untake(units)
    place = len(taken)
    bucket = buckets[place]
    return RateRefusal(
        scope=scopes[place],
        what=what,
        limit=bucket.limit,
        burst=bucket.burst if bucket.burst < bucket.limit else None,
        wait_us=bucket.wait_us(units, now_us),
        left=bucket.left(now_us),
    )
