"""Flights: identical requests that are under way share one call to the provider.

The one who comes first leads; the flight itself is a task of its own, so that a leader who leaves hands
over without a word: as long as one caller waits, the provider is listened to, and when the last one has
gone the flight ends at once. A joiner gets what has been said so far, and then follows live. A failure is
told to all, once. Each waits on a clock of its own.

Laws:
1. A flight is led by one exchange: its hold, its attempts, its entry on the ledger.
2. Nobody waits for a slower reader: the log is kept, and each reads it at its own pace.
3. The flight pauses only while everyone is far behind, as any stream does whose reader is slow.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine

from windvane.core.cache.entry import CacheEntry
from windvane.core.chat import Chunk, Completion
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of
from windvane.core.routing.decision import Candidate
from windvane.engine.keepable import is_good
from windvane.engine.relay import ChunkStream
from windvane.wire.fold import Fold

_log = logging.getLogger("windvane.engine")

BEHIND_MAX = 1_024
"""Reads that the fastest reader may be behind before the flight pauses."""


class Flight:
    """One call to a provider, and all who wait for it.

    `tags` and `version` say which invalidations its answer will have been asked for after.
    """

    def __init__(
        self, key: bytes, leader: Exchange, tags: tuple[str, ...] = (), version: int = 0
    ) -> None:
        self.key = key
        self.leader = leader
        self.tags = tags
        self.version = version
        self.log: list[list[Chunk]] = []
        self.fold: Fold | None = None
        """What has been said, once it is known to be a stream."""
        self.completion: Completion | None = None
        self.error: WindvaneError | None = None
        self.is_over = False
        self.is_cut = False
        """Whether its leader's budget allowed no longer answer, and it is none that is whole and good."""
        self.has_leader = False
        """Whether its leader waits for it, too: it may have left, or never have been there."""
        self.members = 0
        self.is_background = False
        self.ends_s = math.inf
        """When its leader's time is over, by the clock of the loop."""
        self.is_late = False
        """Whether it has failed because of that: who has time left begins again."""
        self.is_silent = False
        """Whether it has failed since nothing came for longer than a stream waits: so does who has not
        waited so long, or has no such deadline."""
        self.fence = 0
        """The number of the lease that it has, where processes share the cache."""
        self.is_in_vain = False
        """Whether what it has come to is of no use to other processes, and will not be for another."""
        self.elsewhere: dict[bytes, tuple[Candidate, CacheEntry]] = {}
        """What was found of others than who was asked first, by its key."""
        self.is_needless = False
        """Whether it has ended since such an answer will do. Who may not be given that asks for itself."""
        self.is_overtaken = False
        """Whether an answer that was asked for after its own is kept already."""
        self.task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._furthest = 0
        self._slack: asyncio.Future[None] | None = None

    def join(self, exchange: Exchange) -> None:
        self.members += 1
        self.has_leader = self.has_leader or exchange is self.leader

    def leave(self, exchange: Exchange) -> bool:
        """One caller less. True when it was the last, and the flight ends with it."""
        self.members -= 1
        self.has_leader = self.has_leader and exchange is not self.leader
        is_forsaken = not (self.members or self.is_over or self.is_background)
        if is_forsaken:
            assert self.task is not None
            self.task.cancel()
        self._let_go_on()
        return is_forsaken

    # what the flight's own task does

    def open(self, stream: ChunkStream) -> None:
        """The answer comes as a stream, and its first words are there."""
        self.fold = stream.fold
        self._wake()

    async def add(self, chunks: list[Chunk]) -> None:
        """More has come. Waits while everybody is far behind."""
        self.log.append(chunks)
        self._wake()
        while self.members and len(self.log) - self._furthest > BEHIND_MAX:
            self._slack = asyncio.get_running_loop().create_future()
            await self._slack

    def land(self, completion: Completion | None) -> None:
        """It has ended well; with a whole answer, unless it was a stream."""
        self.completion = completion
        if self.leader.clamped_to is not None:
            answer = self.fold.completion() if completion is None and self.fold else completion
            self.is_cut = answer is None or not is_good(answer, self.leader.request)
        self._end()

    def spare(self) -> None:
        """It has ended since an answer was found."""
        self.is_needless = True
        self._end()

    def crash(self, error: WindvaneError) -> None:
        """It has ended badly; everyone is told. When it was for lack of time, who came last is first: it
        has most of that left to lead another, for all the rest."""
        self.error = error
        if self.is_late or self.is_silent:
            self._waiting.reverse()
        self._end()

    def _end(self) -> None:
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # what those who wait do

    async def move(self) -> None:
        """Wait until something has happened."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def has_read(self, place: int) -> None:
        """A reader has come so far in the log; who waits for the end alone is never behind."""
        if place > self._furthest:
            self._furthest = place
            self._let_go_on()

    def _let_go_on(self) -> None:
        if self._slack is not None and not self._slack.done():
            self._slack.set_result(None)

    def raise_error(self) -> None:
        """Raise what it ended in, if badly: an exception of one's own, for many may be told."""
        if self.error is not None:
            raise error_of(self.error.fault)


Run = Callable[[Flight], Coroutine[object, object, None]]


class Flights:
    """All flights of an engine, by key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}
        self._under_way: dict[Flight, None] = {}
        """Those as well that can be joined no more."""

    def find(self, key: bytes) -> Flight | None:
        """The flight to join. Who comes after it has ended finds what was kept of it, or asks anew."""
        flight = self._flights.get(key)
        return flight if flight is not None and not flight.is_over else None

    def start(self, flight: Flight, run: Run, on_gone: Callable[[Flight], None]) -> None:
        """Let `flight` begin; from now it can be joined, until it is over. `on_gone` is told then."""
        self._flights[flight.key] = flight
        self._under_way[flight] = None
        task = flight.task = asyncio.get_running_loop().create_task(self._fly(flight, run))

        def gone(_: object) -> None:
            del self._under_way[flight]
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            if not flight.is_over:
                flight.crash(error_of(ABANDONED))
            if not task.cancelled() and (bug := task.exception()) is not None:
                _log.error("a request failed inside the engine", exc_info=bug)
            on_gone(flight)

        task.add_done_callback(gone)

    async def _fly(self, flight: Flight, run: Run) -> None:
        try:
            await run(flight)
        except WindvaneError as error:
            flight.crash(error)

    def leave(self, flight: Flight, exchange: Exchange) -> None:
        """A caller goes. A flight that ends with it can be joined no more."""
        if flight.leave(exchange) and self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    @property
    def count(self) -> int:
        return len(self._under_way)

    async def aclose(self) -> None:
        """End them all."""
        tasks = [flight.task for flight in self._under_way if flight.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


ABANDONED = Fault(
    kind=FaultKind.INTERNAL,
    source=Source.GATEWAY,
    message="the request it was shared with was given up",
    status=503,
    retry=Retry.SAME,
    retry_after_s=1.0,
)
"""What a joiner could see of a flight that ended without an answer or an error: never, but for bugs."""
