"""The bill meter: what the simulated provider would charge, attempt by attempt.

It is the independent witness of every money test: its own price table, its own arithmetic, and no
import from the gateway. One row is posted per request that reached an endpoint, when it ends:

- answered in full: input and output are charged;
- the client left first: charged by the simulator's `abort_billing` policy;
- the simulator cut its own answer: charged for what it had generated;
- refused before generation: zero.
"""

from msgspec import Struct

from windvane.simulator.clock import today
from windvane.simulator.prices import price_on

BILL_ROWS_MAX = 1_000_000
"""Rows kept for reading; at about 300 bytes each, a bound on memory. The total stays exact."""


class Metered(Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a request's cost before its answer is sent."""

    attempt: str
    model: str
    stream: bool
    status: int
    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    written_1h_tokens: int = 0
    output_tokens: int = 0


class BillRow(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt as billed; `finished` and `aborted` are both false when the provider failed."""

    attempt: str
    model: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    nano_usd: int
    status: int
    finished: bool
    aborted: bool
    stream: bool
    delivered_tokens: int
    written_tokens: int = 0
    written_1h_tokens: int = 0


class Bill:
    """The rows and their exact total."""

    def __init__(self, *, price_date: str | None = None) -> None:
        self._price_date = price_date
        self.total_nano_usd = 0
        self.rows: list[BillRow] = []
        self.rows_dropped = 0

    def post(
        self, metered: Metered, *, output_tokens: int, delivered_tokens: int, ending: str
    ) -> BillRow:
        """Charge one ended attempt; `ending` is `finished`, `aborted` or `failed`."""
        nano_usd = 0
        if metered.input_tokens:
            price = price_on(metered.model, self._price_date or today(), metered.input_tokens)
            nano_usd = price.nano_usd(
                input_tokens=metered.input_tokens,
                cached_tokens=metered.cached_tokens,
                written_tokens=metered.written_tokens,
                written_1h_tokens=metered.written_1h_tokens,
                output_tokens=output_tokens,
            )
        row = BillRow(
            attempt=metered.attempt,
            model=metered.model,
            input_tokens=metered.input_tokens,
            cached_tokens=metered.cached_tokens,
            output_tokens=output_tokens,
            nano_usd=nano_usd,
            status=metered.status,
            finished=ending == "finished",
            aborted=ending == "aborted",
            stream=metered.stream,
            delivered_tokens=delivered_tokens,
            written_tokens=metered.written_tokens,
            written_1h_tokens=metered.written_1h_tokens,
        )
        self.total_nano_usd += nano_usd
        if len(self.rows) < BILL_ROWS_MAX:
            self.rows.append(row)
        else:
            self.rows_dropped += 1
        return row

    def by_attempt(self) -> dict[str, BillRow]:
        """Return the rows by attempt id; an id seen again is keyed `id#2`, `id#3` and so on."""
        found: dict[str, BillRow] = {}
        for row in self.rows:
            key, times = row.attempt, 1
            while key in found:
                times += 1
                key = f"{row.attempt}#{times}"
            found[key] = row
        return found

    def clear(self) -> None:
        """Forget all rows and the total."""
        self.total_nano_usd = 0
        self.rows.clear()
        self.rows_dropped = 0
