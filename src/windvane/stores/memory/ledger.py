"""Journal and ledger in one, in memory. Lost with the process, and says so by its name.

Bounded: beyond `ENTRIES_MAX` the oldest entries are forgotten one by one, and are in no total then.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.usage import Certainty

ENTRIES_MAX = 100_000
COLUMNS = ("resolved_model", "provider", "key_id", "route", "outcome")


class MemoryLedger:
    """Implements `Journal` and `LedgerStore`."""

    def __init__(self) -> None:
        self.holds: dict[str, LedgerEntry] = {}
        self._entries: deque[LedgerEntry] = deque(maxlen=ENTRIES_MAX)
        self._settled: dict[str, None] = {}

    def hold(self, entry: LedgerEntry) -> None:
        self.holds[entry.attempt_id] = entry

    def settle(self, entry: LedgerEntry) -> None:
        self.holds.pop(entry.attempt_id, None)
        if entry.attempt_id in self._settled:
            return
        if len(self._entries) == ENTRIES_MAX:
            del self._settled[self._entries[0].attempt_id]
        self._settled[entry.attempt_id] = None
        self._entries.append(entry)

    @property
    def entries(self) -> Sequence[LedgerEntry]:
        """All entries kept, oldest first."""
        return tuple(self._entries)

    async def entries_of(
        self, request_id: str, *, key_id: str | None = None
    ) -> Sequence[LedgerEntry]:
        return [
            entry
            for entry in self._chosen(key_id, 0)
            if request_id in (entry.request_id, entry.client_request_id)
        ]

    def _chosen(self, key_id: str | None, since_us: int) -> Iterable[LedgerEntry]:
        for entry in self._entries:
            if (key_id is None or entry.key_id == key_id) and entry.started_at_us >= since_us:
                yield entry

    async def totals(self, *, key_id: str | None = None, since_us: int = 0) -> Totals:
        return sum_entries(self._chosen(key_id, since_us))

    async def totals_by(
        self, column: str, *, key_id: str | None = None, since_us: int = 0
    ) -> dict[str, Totals]:
        if column not in COLUMNS:
            raise ValueError(f"cannot group by {column!r}; one of {', '.join(COLUMNS)}")
        groups: dict[str, list[LedgerEntry]] = {}
        for entry in self._chosen(key_id, since_us):
            groups.setdefault(str(getattr(entry, column) or ""), []).append(entry)
        return {name: sum_entries(group) for name, group in groups.items()}

    async def aclose(self) -> None:
        return None


def sum_entries(entries: Iterable[LedgerEntry]) -> Totals:
    """Sums over `entries`."""
    kept = list(entries)
    return Totals(
        requests=len({entry.request_id for entry in kept}),
        attempts=len(kept),
        unpriced_attempts=sum(entry.cost_nano_usd is None for entry in kept),
        input_tokens=sum(entry.input_tokens for entry in kept),
        output_tokens=sum(entry.output_tokens for entry in kept),
        cache_read_input_tokens=sum(entry.cache_read_input_tokens for entry in kept),
        cost_nano_usd=sum(entry.cost_nano_usd or 0 for entry in kept),
        estimated_nano_usd=_sum_of(kept, Certainty.ESTIMATED),
        assumed_nano_usd=_sum_of(kept, Certainty.ASSUMED),
    )


def _sum_of(entries: list[LedgerEntry], certainty: Certainty) -> int:
    return sum(entry.cost_nano_usd or 0 for entry in entries if entry.certainty is certainty)
