"""Rates of one process, in memory. All limits of a request are taken together, or none."""

from collections.abc import Sequence

from windvane.core.limits import Gcra, RateLease, RateRefusal, RateStanding, RateTable, Slots
from windvane.core.principal import Scope

BUCKETS_MAX = 10_000
"""Above this many, buckets that remember nothing are dropped: scopes may be named by callers."""


class MemoryLimits:
    """Implements `LimitStore`."""

    def __init__(self, table: RateTable) -> None:
        self.table = table
        self._requests: dict[Scope, Gcra] = {}
        self._tokens: dict[Scope, Gcra] = {}
        self._running: dict[Scope, Slots] = {}

    def take_request(
        self, scopes: Sequence[Scope], lease: RateLease, now_us: int
    ) -> RateRefusal | None:
        """One request: a slot, and a place in each rate."""
        rates: list[Gcra] = []
        slots: list[Slots] = []
        for scope in scopes:
            terms = self.table.of(scope)
            if terms is None:
                continue
            if terms.concurrency is not None:
                running = self._slots_of(scope, terms.concurrency)
                if running.running >= running.limit:
                    return RateRefusal(
                        scope=scope, what="concurrency", limit=running.limit, wait_us=None
                    )
                slots.append(running)
            if terms.requests_per_minute is not None:
                bucket = self._bucket(
                    self._requests, scope, terms.requests_per_minute, terms.burst_requests, now_us
                )
                wait_us = bucket.wait_us(1, now_us)
                if wait_us != 0:
                    return _refusal(scope, "requests", bucket, wait_us, now_us)
                rates.append(bucket)
        for bucket in rates:
            lease.took_request(bucket, bucket.take(1, now_us))
        for running in slots:
            lease.hold_slot(running)
        return None

    def take_tokens(
        self, scopes: Sequence[Scope], tokens: int, lease: RateLease, now_us: int
    ) -> RateRefusal | None:
        """Tokens, by estimate: they are corrected when the lease ends."""
        found: list[Gcra] = []
        for scope in scopes:
            terms = self.table.of(scope)
            if terms is None or terms.tokens_per_minute is None:
                continue
            bucket = self._bucket(self._tokens, scope, terms.tokens_per_minute, None, now_us)
            wait_us = bucket.wait_us(tokens, now_us)
            if wait_us != 0:
                return _refusal(scope, "tokens", bucket, wait_us, now_us)
            found.append(bucket)
        for bucket in found:
            lease.took_tokens(bucket, tokens, bucket.take(tokens, now_us))
        return None

    def standing(
        self, scopes: Sequence[Scope], now_us: int
    ) -> tuple[RateStanding | None, RateStanding | None]:
        """What is left of requests and of tokens, in the scope where it is least."""
        return (
            _least(self._requests, scopes, now_us),
            _least(self._tokens, scopes, now_us),
        )

    def change(self, table: RateTable) -> None:
        """From now, `table` says what is allowed. Running requests keep their slots."""
        self.table = table

    def _slots_of(self, scope: Scope, limit: int) -> Slots:
        slots = self._running.get(scope)
        if slots is None:
            if len(self._running) >= BUCKETS_MAX:
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
                for idle in [key for key, kept in buckets.items() if kept.is_idle(now_us)]:
                    del buckets[idle]
            bucket = buckets[scope] = Gcra(limit, burst)
        return bucket


def _refusal(
    scope: Scope, what: str, bucket: Gcra, wait_us: int | None, now_us: int
) -> RateRefusal:
    left = bucket.remaining(now_us)
    return RateRefusal(scope=scope, what=what, limit=bucket.limit, wait_us=wait_us, left=left)


def _least(buckets: dict[Scope, Gcra], scopes: Sequence[Scope], now_us: int) -> RateStanding | None:
    found = [buckets[scope] for scope in scopes if scope in buckets]
    if not found:
        return None
    least = min(found, key=lambda bucket: bucket.remaining(now_us))
    return RateStanding(
        limit=least.limit, remaining=least.remaining(now_us), reset_us=least.reset_us(now_us)
    )
