"""What the engine tells its observers: frozen facts, never commands."""

import msgspec

from windvane.core.budgets import Standing
from windvane.core.ledger import HIT, MISS, LedgerEntry


class AttemptSettled(msgspec.Struct, frozen=True, gc=False):
    """One attempt is over and on the ledger."""

    entry: LedgerEntry


class ExchangeEnded(msgspec.Struct, frozen=True, gc=False):
    """One request has its answer, or its error. `status` is what the caller was told.

    `overhead_s` is the duration less the time spent waiting for providers.
    """

    request_id: str
    model: str
    provider: str
    route: str | None
    status: int
    reason: str
    key_id: str | None
    requested_model: str
    attempts: int
    models_tried: tuple[str, ...]
    is_stream: bool
    cache_status: str
    duration_s: float
    overhead_s: float
    first_chunk_s: float | None
    cost_nano_usd: int | None
    fault: str | None
    at_us: int
    queued_s: float = 0.0
    is_refresh: bool = False
    """No caller's request: an answer was fetched anew behind one's back."""

    @property
    def counted_as(self) -> str:
        """What the cache did for it, as requests are counted: see `Exchange`."""
        return MISS if self.attempts and self.cache_status == HIT else self.cache_status


class RequestEnded(msgspec.Struct, frozen=True, kw_only=True):
    """One request has its answer, and never became an exchange: it was refused before, or asks no model.

    `endpoint` is one of those there are, never a caller's text. `request_id` and `status` are what the
    caller was told.
    """

    request_id: str
    endpoint: str
    status: int
    fault: str | None
    code: str | None
    at_us: int


class BudgetReached(msgspec.Struct, frozen=True, kw_only=True):
    """A budget has reached a share of its limit, in thousandths; 1000 is its end."""

    standing: Standing
    permille: int
    at_us: int


class HoldExceeded(msgspec.Struct, frozen=True, kw_only=True):
    """A provider billed more than the worst case that was held: our bound was no bound.

    `is_distrusted`: from now, no budget pays for an attempt at that deployment.
    """

    entry: LedgerEntry
    is_distrusted: bool = False


Event = AttemptSettled | ExchangeEnded | RequestEnded | BudgetReached | HoldExceeded
