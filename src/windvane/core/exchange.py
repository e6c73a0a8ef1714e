"""An exchange: one client request and all that happens until its end.

The only mutable record of the engine. Its laws:
1. An exchange ends once.
2. Each attempt has one hold, made before its first upstream byte, and is settled once.
3. An attempt is sent before its first byte is: it becomes so, and then it is written. Until then nobody can
   bill it, and it is settled at zero.
4. After the first chunk has gone to the caller no further attempt begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.cache.entry import CacheEntry
from windvane.core.catalog.prices import Price
from windvane.core.chat import ChatRequest
from windvane.core.deployment import Deployment
from windvane.core.faults import Fault
from windvane.core.ledger import BYPASS, HIT, MISS, LedgerEntry
from windvane.core.limits import RateLease
from windvane.core.money import ZERO, NanoUsd
from windvane.core.principal import Principal, Scope
from windvane.core.priority import Priority
from windvane.core.routing.decision import Decision
from windvane.core.usage import Usage


class AttemptState(IntEnum):
    """Each later one is greater."""

    HELD = 1
    SENT = 2
    SETTLED = 3


_HELD = AttemptState.HELD
"""By name: to look a member up in its enumeration takes as long as a call."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One try at one deployment. Much is written to it: what msgspec makes takes longer to write to."""

    id: str
    number: int
    deployment: Deployment
    hold: LedgerEntry
    started_s: float
    price: Price | None = None
    """That of its day, by which it was held and will be settled."""
    state: AttemptState = _HELD
    first_chunk_s: float | None = None
    calling_since_s: float | None = None
    """Since when it may be writing a call of a tool, in a stream, of which nothing has come. Of several
    choices one may since it began, whatever the others say."""
    usage: Usage | None = None
    fault: Fault | None = None
    status: int | None = None
    entry: LedgerEntry | None = None
    upstream_request_id: str | None = None
    lease: RateLease | None = None
    """What it took of its model's rates."""
    tokens_expected: int = 0
    output_tokens_max: int | None = None
    """The limit it was sent with, where that is not the caller's own."""
    admission: object | None = None
    """Its leave to be sent, of the engine's waiting room."""
    headers: Mapping[str, str] | None = None
    """Those of the provider's answer, names in lower case."""

    def become(self, state: AttemptState) -> None:
        """Move on to `state`; to stay or go back is our own bug."""
        assert state > self.state, f"{self.id}: {self.state!r} cannot become {state!r}"
        self.state = state


class Credentials(msgspec.Struct, kw_only=True):
    """What the caller showed. `bearer` is never logged: `repr` leaves it out."""

    bearer: str | None = None
    is_in_process: bool = False
    digest: bytes | None = None
    """The keyring's, of `bearer`: made once for credentials that are shown again. It holds as long as the
    keyring's pepper, which is the process'."""

    def __repr__(self) -> str:
        return f"Credentials(bearer={'***' if self.bearer else None})"


class Reading:
    """What was worked out of a request's bytes: the same whoever sends them, and when.

    `analyzed`, `decided`, `asked` and `kept` are notes of who worked on it last: its analysis, after the
    fields that were asked of it; what was decided, and by what; what the cache was asked, and for whom;
    and the entry that was last unpacked. `size` is what it takes in memory, about, with the entry it was
    `sized` with; `is_used`, whether it was of use of late.
    """

    __slots__ = ("analyzed", "asked", "decided", "is_used", "kept", "request", "size", "sized")

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self.analyzed: tuple[frozenset[str], Analysis] | None = None
        self.decided: tuple[object, str, Decision] | None = None
        self.asked: object = None
        self.kept: tuple[bytes, CacheEntry] | None = None
        self.size = 0
        self.sized: tuple[bytes, CacheEntry] | None = None
        self.is_used = False


class Exchange(msgspec.Struct):
    """The record of one client request. Seconds are monotonic, except `received_at_us`."""

    id: str
    dialect: str
    request: ChatRequest
    credentials: Credentials
    received_s: float
    received_at_us: int
    headers: dict[bytes, bytes] = {}
    """Request headers as they came, names in lower case; for rules that ask about one."""
    client_request_id: str | None = None
    body_bytes: int = 0
    """Its size as JSON: as it came, or as it was sent, where that is longer. Bounds are made of it."""
    reading: Reading | None = None
    """What is known of its bytes, when they may be met again."""
    principal: Principal | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    """The key's tags, and those the caller gave."""
    scopes: tuple[Scope, ...] = ()
    """Where it is counted, but for the model's scope, which each attempt has of its own."""
    priority: Priority = Priority.NORMAL
    lease: RateLease | None = None
    may_wait: bool = True
    """Whether it may wait for room at a provider's limit: not, where nobody waits for it."""
    queued_s: float = 0.0
    """How long it waited for room at a provider's limit."""
    clamped_to: int | None = None
    """The output tokens asked for, when the budget did not cover the caller's own."""
    clamped_by: Scope | None = None
    """Whose budget that was: of those it is counted in, the one with the least left."""
    analysis: Analysis | None = None
    decision: Decision | None = None
    attempts: list[Attempt] = []
    cost_nano_usd: NanoUsd | None = ZERO
    """What all settled attempts cost together; None when one of them has no known price."""
    answered_by: Attempt | None = None
    cache_status: str = BYPASS
    """hit, miss, joined (to another's request under way), or bypass."""
    cache_forward: str = "miss"
    """Why the cache did not answer it, in the words of RFC 9211: miss; stale, where what is there is too
    old; request, where the caller would have none of it."""
    cache_age_s: int | None = None
    cache_ttl_s: int | None = None
    """Of a hit: how long it stays fresh; below zero when it is stale."""
    cache_key: bytes = b""
    """Of a hit: where it is kept."""
    is_stored: bool = False
    is_refresh: bool = False
    """No caller's request: it fetches anew what a caller was given from the cache. Its attempts are
    numbered from two, for the first of a request is what requests are counted by."""
    leads: bool = False
    """Its answer is fetched by a flight that others may join; the flight ends it."""
    fault: Fault | None = None
    upstream_s: float = 0.0
    ended_s: float | None = None

    @property
    def answer_id(self) -> str:
        """The id of its answer, where no provider gives one."""
        return "chatcmpl-" + self.id.removeprefix("req_")

    @property
    def public_id(self) -> str:
        """The id shown to the caller: its own when it sent one."""
        return self.client_request_id or self.id

    @property
    def counted_as(self) -> str:
        """What the cache did for it, as requests are counted: an answer that is given because a provider
        was asked in vain is no hit."""
        return MISS if self.attempts and self.cache_status == HIT else self.cache_status

    @property
    def is_given(self) -> bool:
        """Whether it has a whole answer that needed no attempt; who follows another's stream has, until
        then, that one's attempt."""
        answered_by = self.answered_by
        return answered_by is not None and answered_by.hold.request_id == self.id

    @property
    def final_attempt(self) -> Attempt | None:
        """The attempt that gave the answer, else the last one made."""
        if self.answered_by is not None:
            return self.answered_by
        return self.attempts[-1] if self.attempts else None

    def end(self, now_s: float) -> None:
        """Mark the end. Ending twice is our own bug."""
        assert self.ended_s is None, f"{self.id} ended twice"
        self.ended_s = now_s

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return f"Exchange({self.id})"
