"""Where money and facts are kept."""

from collections.abc import Sequence
from typing import Protocol

from windvane.core.ledger import LedgerEntry, Totals


class Journal(Protocol):
    """The local append-only record of holds and settlements: the truth from which the ledger is made.

    Both calls return when the record would survive the death of the process.
    """

    def hold(self, entry: LedgerEntry) -> None: ...

    def settle(self, entry: LedgerEntry) -> None: ...


class LedgerStore(Protocol):
    """The orderly copy of the journal, for questions."""

    async def entries_of(
        self, request_id: str, *, key_id: str | None = None
    ) -> Sequence[LedgerEntry]:
        """All attempts of a request, by its own id or the id its caller gave it, oldest first; of
        one key's requests, unless `key_id` is None."""
        ...

    async def totals(self, *, key_id: str | None = None, since_us: int = 0) -> Totals: ...

    async def totals_by(
        self, column: str, *, key_id: str | None = None, since_us: int = 0
    ) -> dict[str, Totals]:
        """Totals by one of the named columns: resolved_model, provider, key_id, route, outcome."""
        ...

    async def aclose(self) -> None: ...
