"""Steps 2 and 3: who calls, and whether there is room.

`identify` is one dictionary look-up by keyed digest: no I/O. `gate` is rates and concurrency: the
cheap refusals, before the request is looked at. Tokens are taken once it is known how many there are.
"""

import re
from math import trunc

from windvane.core.exchange import Credentials, Exchange
from windvane.core.faults import (
    Fault,
    FaultKind,
    LimitReached,
    Retry,
    Source,
    WindvaneError,
    error_of,
    refuse,
)
from windvane.core.keys import PREFIX
from windvane.core.limits import RateLease, RateRefusal
from windvane.core.principal import Principal, Scope, allows, told_as
from windvane.core.usage import Certainty
from windvane.engine.attribution import attribute
from windvane.engine.expecting import Expectations
from windvane.engine.keyring import Keyring, mark_of
from windvane.engine.snapshot import Snapshot
from windvane.ports.clock import Clock
from windvane.ports.stores import LimitStore

ANONYMOUS = Principal(key_id="anonymous")
IN_PROCESS = Principal(key_id="in-process")

_KEY = re.compile(r"[!#-&(-+\--:<-~]+")
"""What keys are made of: signs of ASCII that are seen, but for quotes, commas and semicolons."""
US_PER_S = 1e6
"""A float, as seconds are: an integer would be made into one each time."""
_ASSUMED = Certainty.ASSUMED  # to look it up in its enumeration takes as long as a call
SLOT_RETRY_S = 1.0
"""When a slot may be free again cannot be foretold."""


def identify(credentials: Credentials, snapshot: Snapshot, keyring: Keyring) -> Principal:
    """The caller. Raises AuthenticationError when there is no key, or one that is not known."""
    if credentials.is_in_process:
        return IN_PROCESS
    if credentials.bearer is None:
        if keyring.is_empty and snapshot.passthrough is None:
            return ANONYMOUS
        raise refuse(
            FaultKind.UNAUTHENTICATED,
            "no key was sent; send `Authorization: Bearer <key>`",
            status=401,
            code="missing_api_key",
        )
    digest = credentials.digest
    if digest is None:
        digest = credentials.digest = keyring.digest_of(credentials.bearer)
    known = keyring.find(credentials.bearer, digest)
    if known is not None:
        return known
    if snapshot.passthrough is not None and _may_be_a_providers(credentials.bearer):
        return _visitor(credentials.bearer, snapshot)
    if keyring.is_empty and snapshot.passthrough is None:
        return ANONYMOUS
    raise keyring.refusal(digest)


def _may_be_a_providers(bearer: str) -> bool:
    """Whether it may be shown to a provider. A key of ours is nobody else's business, when it is no longer
    good and when it is spelt wrong: in quotes, after a second `Bearer`, with a sign that is not seen."""
    return PREFIX not in bearer and _KEY.fullmatch(bearer) is not None


def _visitor(bearer: str, snapshot: Snapshot) -> Principal:
    """A caller who brought the provider's own key: known by a digest of it, and by nothing else."""
    mark = mark_of(snapshot.key_pepper, bearer)
    return Principal(key_id=f"own-{mark}", provider=snapshot.passthrough)


def check_endpoint(principal: Principal, endpoint: str) -> None:
    """Raise PermissionDeniedError when the key may not use this endpoint."""
    if principal.endpoints and not allows(principal.endpoints, endpoint):
        allowed = ", ".join(principal.endpoints)
        raise refuse(
            FaultKind.FORBIDDEN,
            f"this key may not use {endpoint!r}; it may use: {allowed}",
            status=403,
            code="endpoint_not_allowed",
        )


class Admission:
    """Rates and concurrency, of the exchange and of each attempt's model."""

    def __init__(self, limits: LimitStore, clock: Clock) -> None:
        self.limits = limits
        """Its table says whether there are any of a kind, at less cost than to take them."""
        self._clock = clock
        self.expected = Expectations()

    def now_us(self) -> int:
        return trunc(self._clock.monotonic_s() * US_PER_S)

    def gate(self, exchange: Exchange) -> None:
        """Admit the exchange under its requests a minute and its concurrency, or raise."""
        principal = exchange.principal
        assert principal is not None
        attribute(exchange, principal)
        if self.limits.table.is_empty:
            return
        # It came when it was received: the clock need not be asked again.
        lease = self.limits.take_request(exchange.scopes, trunc(exchange.received_s * US_PER_S))
        if not isinstance(lease, RateLease):
            raise rate_limited(lease, principal, self._clock.wall_us())
        exchange.lease = lease

    def take_tokens(self, exchange: Exchange, now_us: int | None = None) -> None:
        """Take the tokens the exchange may use, by estimate, or raise; once. `now_us` is for who knows
        it."""
        lease = exchange.lease
        if lease is None or lease.tokens is not None:
            return
        if now_us is None:
            now_us = self.now_us()
        tokens = self.expected.tokens(exchange)
        refusal = self.limits.take_tokens(exchange.scopes, tokens, lease, now_us)
        if refusal is not None:
            lease.give_back(now_us)
            raise rate_limited(refusal, exchange.principal, self._clock.wall_us())

    def tokens_of(self, exchange: Exchange) -> int:
        """About how many tokens the exchange will use: as many as were taken for it, if any were."""
        lease = exchange.lease
        if lease is not None and lease.tokens:
            return lease.tokens[0][1]
        return self.expected.tokens(exchange)

    def take_tokens_unasked(self, exchange: Exchange) -> None:
        """The same for an exchange that no caller has begun: it is no request, and takes no slot."""
        if not self.limits.table.is_empty:
            exchange.lease = RateLease()
            self.take_tokens(exchange)

    def take_for_attempt(self, exchange: Exchange, model: Scope, tokens: int) -> RateLease | None:
        """What an attempt takes of its model's rates; None when it has none. Raises when full."""
        if self.limits.table.of(model) is None:
            return None
        scopes, now_us = (model,), self.now_us()
        lease = self.limits.take_request(scopes, now_us)
        if not isinstance(lease, RateLease):
            raise rate_limited(lease, exchange.principal, self._clock.wall_us())
        refusal = self.limits.take_tokens(scopes, tokens, lease, now_us)
        if refusal is not None:
            lease.give_back(now_us)
            raise rate_limited(refusal, exchange.principal, self._clock.wall_us())
        return lease

    def end(self, exchange: Exchange) -> None:
        """The exchange is over: its slots are free, and its tokens are what was used."""
        lease = exchange.lease
        if lease is None:
            return
        used, at_least, tokens = 0, 0, lease.tokens
        if tokens:
            for attempt in exchange.attempts:
                if (entry := attempt.entry) is not None:
                    used += entry.input_tokens + entry.output_tokens
                    if entry.certainty is _ASSUMED:
                        # It gives nothing back; an estimate is never less than what was used.
                        at_least = tokens[0][1]
            if at_least:
                used = max(used, at_least)
        ended_s = exchange.ended_s
        lease.end(used, self.now_us() if ended_s is None else trunc(ended_s * US_PER_S))


def rate_limited(refusal: RateRefusal, caller: Principal | None, wall_us: int) -> WindvaneError:
    """The error that tells a caller which rate is used up, and when it is not. Of one model's rate,
    another model knows nothing: it may be asked."""
    whole = refusal.limit if refusal.burst is None else refusal.burst
    if refusal.what == "concurrency":
        how = f"{refusal.limit} requests run at once already"
        period, retry_s = "now", SLOT_RETRY_S
    else:
        how = f"{refusal.limit} {refusal.what} a minute are used up"
        if refusal.burst is not None:
            how = (
                f"of {refusal.limit} {refusal.what} a minute, at most {whole} at once, none is free"
            )
        elif refusal.left:
            how = f"of {refusal.limit} {refusal.what} a minute {refusal.left} are left, too few for this"
        period = "minute"
        retry_s = SLOT_RETRY_S if refusal.wait_us is None else refusal.wait_us / US_PER_S
    return error_of(
        Fault(
            kind=FaultKind.RATE_LIMITED,
            source=Source.CLIENT,
            message=f"{told_as(refusal.scope, caller)}: {how}; try again in {retry_s:.3g} s",
            status=429,
            code="rate_limited",
            retry=Retry.OTHER,
            retry_after_s=retry_s,
            limit=LimitReached(
                scope=refusal.scope,
                what=refusal.what,
                period=period,
                limit=refusal.limit,
                used=whole - refusal.left,
                left=refusal.left,
                renews_at_us=None if refusal.wait_us is None else wall_us + refusal.wait_us,
            ),
        )
    )
