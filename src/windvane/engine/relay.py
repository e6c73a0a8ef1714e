"""Step 9 for streams: chunks from the provider to the caller, and the books at the end.

Committed at the first chunk: from here on a failure is told to the caller, never hidden by another
attempt. Closing the stream early, or being cancelled, closes the upstream at once and settles by
what was delivered.
"""

from asyncio import CancelledError
from collections.abc import Callable

from windvane.core.chat import Chunk
from windvane.core.exchange import Attempt, AttemptState, Exchange
from windvane.core.faults import Fault, WindvaneError
from windvane.core.usage import Usage
from windvane.engine.asking import OpenStream
from windvane.engine.health import HealthBook
from windvane.engine.settlement import Settlement
from windvane.engine.watchdog import Watchdog
from windvane.ports.clock import Clock
from windvane.wire.fold import Fold

OnEnd = Callable[[Exchange, int, Fault | None], None]

CLIENT_CLOSED = 499
"""What the caller would have been told, had it stayed. nginx's number for it."""


class ChunkStream:
    """An answer as it comes: `async for chunks in stream`. Whoever gets it must `aclose` it.

    Each item is a list, all the chunks of one read. After the last, `usage` is what was used, and
    the exchange is settled.
    """

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        opened: OpenStream,
        *,
        settlement: Settlement,
        health: HealthBook,
        clock: Clock,
        watchdog: Watchdog,
        on_end: OnEnd,
    ) -> None:
        self.exchange = exchange
        self._attempt = attempt
        self._opened = opened
        self._settlement = settlement
        self._health = health
        self._clock = clock
        self._watchdog = watchdog
        self._on_end = on_end
        self._first: list[Chunk] | None = opened.first
        self._is_over = False

    @property
    def fold(self) -> Fold:
        """The completion so far."""
        return self._opened.fold

    @property
    def usage(self) -> Usage:
        """What was used; known, exactly or by estimate, once the stream has ended."""
        return self._attempt.usage or Usage()

    def __aiter__(self) -> "ChunkStream":
        return self

    async def __anext__(self) -> list[Chunk]:
        """The next chunks.

        Raises the WindvaneError that the stream died of; it is settled by then.
        """
        if self._first is not None:
            first, self._first = self._first, None
            if first:
                return first
        if self._is_over:
            raise StopAsyncIteration
        try:
            chunks = await self._opened.read_next()
        except WindvaneError as error:
            self._fail(error.fault)
            raise
        except CancelledError:
            self._abandon()
            raise
        if not chunks:
            self._end_well()
            raise StopAsyncIteration
        return chunks

    def _end_well(self) -> None:
        self._is_over = True
        if self._attempt.state is not AttemptState.SETTLED:
            self._settlement.settle_delivered(self.exchange, self._attempt, self.fold)
        self._health.succeeded(self._attempt.deployment)
        self._end(200, None)

    def _fail(self, fault: Fault) -> None:
        self._is_over = True
        self._opened.close()
        self._settlement.settle_failed(self.exchange, self._attempt, fault, self.fold)
        self._health.failed(
            self._attempt.deployment, fault, self._clock.monotonic_s(), self._clock.wall_us()
        )
        self._end(200, fault)

    def _abandon(self) -> None:
        """The caller left, or stopped listening."""
        self._is_over = True
        self._opened.close()
        if self._attempt.state is not AttemptState.SETTLED:
            self._settlement.settle_cancelled(self.exchange, self._attempt, self.fold)
        self._health.released(self._attempt.deployment)
        self._end(CLIENT_CLOSED, None)

    def _end(self, status: int, fault: Fault | None) -> None:
        self._watchdog.stop()
        self._on_end(self.exchange, status, fault)

    async def aclose(self, fault: Fault | None = None) -> None:
        """End it, wherever it is: for `fault`, or because the caller has left. A stream that ended well
        gives its connection back."""
        if self._is_over:
            await self._opened.finish()
        elif fault is None:
            self._abandon()
        else:
            self._fail(fault)
