"""Ledger entries: one append-only fact for each attempt.

An entry is made twice. When an attempt is reserved it states the worst case, `assumed`; that is the
*hold*, written to the journal before the first upstream byte. When the attempt ends it states what
happened; that is the *settlement*, which replaces the hold under the same attempt id. A hold that
never met its settlement (the process was killed) is itself the truth that is left.
"""

import msgspec

from windvane.core.money import NanoUsd
from windvane.core.usage import Certainty

OK = "ok"
HIT = "hit"
"""Answered from the cache: nobody was asked, and nothing was paid."""
JOINED = "joined"
"""Answered by another's request that was under way."""
FREE = frozenset((HIT, JOINED))
MISS = "miss"
"""What the cache did for a request: it was asked, and had nothing."""
BYPASS = "bypass"
"""It had no part in it."""


Saved = tuple[int | None, int, int]
"""What an answer took when it was made: nano-dollars, if that is known, tokens, and microseconds of a
caller's time."""


class LedgerEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one attempt was, used and cost. Field order is the journal's format: only append.

    `cost_nano_usd` is None when the price is unknown, which is not zero. `hold_nano_usd` is the worst
    case that was held. Times are microseconds; `started_at_us` is UTC since 1970.

    `cache` is what the cache did for the request: `hit`, `joined` or `miss`; None, where it had no part
    in it, or where the ledger was not told that yet. The `saved_` fields are what an answer took when it
    was made that is now given for nothing. A request that was let in, and for which nobody was asked in
    the end, has an entry too: of no provider, and of no amount.
    """

    attempt_id: str
    request_id: str
    number: int
    started_at_us: int
    key_id: str
    team: str | None
    tags: tuple[str, ...]
    route: str | None
    requested_model: str
    provider: str
    model: str
    resolved_model: str
    reason: str
    dialect: str
    is_stream: bool
    certainty: Certainty
    cost_nano_usd: NanoUsd | None
    hold_nano_usd: NanoUsd | None
    outcome: str = OK
    status: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    latency_us: int | None = None
    first_chunk_us: int | None = None
    client_request_id: str | None = None
    upstream_request_id: str | None = None
    user: str | None = None
    saved_nano_usd: NanoUsd | None = None
    cache: str | None = None
    saved_tokens: int | None = None
    saved_us: int | None = None

    @property
    def cache_status(self) -> str:
        """What the cache did for the request, as far as is known."""
        return self.cache or (self.outcome if self.outcome in FREE else BYPASS)

    @property
    def is_attempt(self) -> bool:
        """Whether a provider was asked, or about to be."""
        return self.provider != "" and self.outcome not in FREE


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over ledger entries. `unpriced_attempts` are in no amount.

    A request counts where its first attempt does, so that parts add up to the whole.
    `estimated_nano_usd` and `assumed_nano_usd` are the parts of `cost_nano_usd` that no provider
    confirmed; an assumed amount is a worst case, and usually far above the truth.
    `failed_attempts` are those that gave no answer.

    Every request is one of four: a hit (answered from the cache), a join (to another's request under
    way, whole or not), a miss, or a bypass. They are counted by its first entry: who asked a provider in
    vain, and was given an old answer then, is a miss. Entries of before that was told know hits and joins
    in one number, which is `cache_hits`, and no misses.
    """

    requests: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    unpriced_attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    cost_nano_usd: int = 0
    estimated_nano_usd: int = 0
    assumed_nano_usd: int = 0
    saved_nano_usd: int = 0
    cache_hits: int = 0
    cache_joins: int = 0
    cache_misses: int = 0
    saved_tokens: int = 0
    saved_us: int = 0

    @property
    def cache_bypasses(self) -> int:
        """The requests that are none of the other three."""
        return self.requests - self.cache_hits - self.cache_joins - self.cache_misses
