"""Rates of one process, in memory. All limits of a request are taken together, or none."""

from collections.abc import Sequence
from typing import NamedTuple

from windvane.core.limits import Gcra, RateLease, RateRefusal, RateStanding, RateTable, Slots
from windvane.core.principal import Scope

BUCKETS_MAX = 10_000
"""Above this many, buckets that remember nothing are dropped: scopes may be named by callers."""


class _Found(NamedTuple):
    """What applies to a row of scopes."""

    slots: tuple[tuple[Scope, Slots], ...]
    requests: tuple[tuple[Scope, Gcra], ...]
    tokens: tuple[tuple[Scope, Gcra], ...]


class MemoryLimits:
    """Implements `LimitStore`."""

    def __init__(self, table: RateTable) -> None:
        self.table = table
        self._requests: dict[Scope, Gcra] = {}
        self._tokens: dict[Scope, Gcra] = {}
        self._running: dict[Scope, Slots] = {}
        self._found: dict[tuple[Scope, ...], _Found] = {}

    def take_request(
        self, scopes: Sequence[Scope], lease: RateLease, now_us: int
    ) -> RateRefusal | None:
        """One request: a slot, and a place in each rate."""
        found = self._find(scopes, now_us)
        for scope, slots in found.slots:
            if slots.running >= slots.limit:
                return RateRefusal(scope=scope, what="concurrency", limit=slots.limit, wait_us=None)
        for scope, bucket in found.requests:
            wait_us = bucket.wait_us(1, now_us)
            if wait_us != 0:
                return _refusal(scope, "requests", bucket, wait_us, now_us)
        for _, bucket in found.requests:
            lease.took_request(bucket, bucket.take(1, now_us))
        for _, slots in found.slots:
            lease.hold_slot(slots)
        return None

    def take_tokens(
        self, scopes: Sequence[Scope], tokens: int, lease: RateLease, now_us: int
    ) -> RateRefusal | None:
        """Tokens, by estimate: they are corrected when the lease ends."""
        found = self._find(scopes, now_us).tokens
        for scope, bucket in found:
            wait_us = bucket.wait_us(tokens, now_us)
            if wait_us != 0:
                return _refusal(scope, "tokens", bucket, wait_us, now_us)
        for _, bucket in found:
            lease.took_tokens(bucket, tokens, bucket.take(tokens, now_us))
        return None

    def standing(
        self, scopes: Sequence[Scope], now_us: int
    ) -> tuple[RateStanding | None, RateStanding | None]:
        """What is left of requests and of tokens, in the scope where it is least."""
        found = self._find(scopes, now_us)
        return _least(found.requests, now_us), _least(found.tokens, now_us)

    def change(self, table: RateTable) -> None:
        """From now, `table` says what is allowed. Running requests keep their slots."""
        self.table = table
        self._found.clear()

    def _find(self, scopes: Sequence[Scope], now_us: int) -> _Found:
        """What applies to these scopes: worked out once, and kept until the table changes or the
        buckets are cleared out."""
        key = tuple(scopes)
        found = self._found.get(key)
        if found is not None:
            return found
        slots, requests, tokens = [], [], []
        for scope in dict.fromkeys(key):
            terms = self.table.of(scope)
            if terms is None:
                continue
            if terms.concurrency is not None:
                slots.append((scope, self._slots_of(scope, terms.concurrency)))
            if (limit := terms.requests_per_minute) is not None:
                burst = terms.burst_requests
                requests.append((scope, self._bucket(self._requests, scope, limit, burst, now_us)))
            if (limit := terms.tokens_per_minute) is not None:
                tokens.append((scope, self._bucket(self._tokens, scope, limit, None, now_us)))
        if len(self._found) >= BUCKETS_MAX:
            self._found.clear()
        found = self._found[key] = _Found(tuple(slots), tuple(requests), tuple(tokens))
        return found

    def _slots_of(self, scope: Scope, limit: int) -> Slots:
        slots = self._running.get(scope)
        if slots is None:
            if len(self._running) >= BUCKETS_MAX:
                self._found.clear()
                self._running = {key: kept for key, kept in self._running.items() if kept.running}
            slots = self._running[scope] = Slots(limit)
        slots.limit = limit
        return slots

    def _bucket(
        self, buckets: dict[Scope, Gcra], scope: Scope, limit: int, burst: int | None, now_us: int
    ) -> Gcra:
        bucket = buckets.get(scope)
        wanted = limit if burst is None else burst
        if bucket is None or bucket.limit != limit or bucket.burst != wanted:
            if bucket is None and len(buckets) >= BUCKETS_MAX:
                self._found.clear()
                for idle in [key for key, kept in buckets.items() if kept.is_idle(now_us)]:
                    del buckets[idle]
            bucket = buckets[scope] = Gcra(limit, burst)
        return bucket


def _refusal(
    scope: Scope, what: str, bucket: Gcra, wait_us: int | None, now_us: int
) -> RateRefusal:
    left = bucket.remaining(now_us)
    return RateRefusal(scope=scope, what=what, limit=bucket.limit, wait_us=wait_us, left=left)


def _least(found: tuple[tuple[Scope, Gcra], ...], now_us: int) -> RateStanding | None:
    if not found:
        return None
    least = found[0][1]
    if len(found) > 1:
        least = min((bucket for _, bucket in found), key=lambda bucket: bucket.remaining(now_us))
    return RateStanding(
        limit=least.limit, remaining=least.remaining(now_us), reset_us=least.reset_us(now_us)
    )
