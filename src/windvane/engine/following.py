"""Streams that are not a provider's own: a stored answer told again, and a flight that is followed.

Both look to a surface like `relay.ChunkStream`: lists of chunks, a fold, usage at the end, and `aclose`,
which may be given the fault it is for.
"""

import asyncio
from collections.abc import Callable
from itertools import islice

from windvane.core.cache.entry import CacheEntry
from windvane.core.chat import Chunk, Completion
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, WindvaneError
from windvane.core.usage import Usage
from windvane.engine.flights import Flight, Flights
from windvane.engine.relay import CLIENT_CLOSED, OnEnd
from windvane.engine.watchdog import Watchdog
from windvane.wire.fold import Fold
from windvane.wire.renaming import Renaming
from windvane.wire.replay import chunks_of

US_PER_S = 1_000_000
THE_ANSWER = "the shared answer"
TOLD_AT_ONCE = 64
"""Chunks that are told in one go, so that nobody waits while a long answer is written."""


class ReplayStream:
    """A stored answer as a stream: as fast as it is read, or as slowly as it first came."""

    def __init__(
        self,
        exchange: Exchange,
        completion: Completion,
        usage: Usage,
        entry: CacheEntry | None,
        is_paced: bool,
        on_end: OnEnd,
    ) -> None:
        self.exchange = exchange
        self.usage = usage
        self.fold = Fold()
        # In the pieces it first came in only where their pace is kept: thousands take a while to write.
        self._chunks = chunks_of(completion, usage, entry.pieces if entry and is_paced else ())
        self._on_end = on_end
        self._is_over = False
        self._first_s = self._gap_s = 0.0
        self._at_once = TOLD_AT_ONCE
        if is_paced and entry is not None and entry.first_chunk_us is not None:
            chunks = list(self._chunks)
            self._chunks = iter(chunks)
            self._first_s, self._gap_s = _pace(entry, entry.first_chunk_us, len(chunks))
            self._at_once = 1
        self._has_begun = False

    def __aiter__(self) -> "ReplayStream":
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks = list(islice(self._chunks, self._at_once))
        if not chunks:
            if not self._is_over:
                self._is_over = True
                self._on_end(self.exchange, 200, None)
            raise StopAsyncIteration
        if self._has_begun:
            await asyncio.sleep(self._gap_s)
        elif self._first_s:
            await asyncio.sleep(self._first_s)
        self._has_begun = True
        for chunk in chunks:
            self.fold.add(chunk)
        return chunks

    async def aclose(self, fault: Fault | None = None) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_end(self.exchange, CLIENT_CLOSED if fault is None else 200, fault)


def _pace(entry: CacheEntry, first_chunk_us: int, chunks: int) -> tuple[float, float]:
    """Seconds to the first chunk, and between any two."""
    rest_us = max(entry.latency_us - first_chunk_us, 0)
    return first_chunk_us / US_PER_S, rest_us / US_PER_S / max(chunks - 1, 1)


class FollowStream:
    """A flight, followed: what has been said so far, then live. The answer bears the leader's id for its
    leader, and for each who has joined an id of its own.

    `on_landed` is told when a follower who is not the leader has had it all, or has left: to note it on
    the ledger.
    """

    def __init__(
        self,
        exchange: Exchange,
        flight: Flight,
        flights: Flights,
        watchdog: Watchdog,
        on_landed: Callable[[int, Fault | None], None],
    ) -> None:
        self.exchange = exchange
        self._flight = flight
        self._flights = flights
        self._watchdog = watchdog
        self._on_landed = on_landed
        is_its_own = flight.leader is exchange
        self._renaming = None if is_its_own else Renaming(exchange.answer_id)
        self._place = 0
        self._is_over = False

    @property
    def fold(self) -> Fold:
        assert self._flight.fold is not None
        return self._flight.fold

    @property
    def usage(self) -> Usage:
        attempt = self._flight.leader.final_attempt
        return (attempt.usage if attempt else None) or Usage()

    def __aiter__(self) -> "FollowStream":
        return self

    async def __anext__(self) -> list[Chunk]:
        """The next chunks. Raises the WindvaneError that the flight ended in."""
        flight = self._flight
        while self._place >= len(flight.log):
            if self._is_over:
                raise StopAsyncIteration
            if flight.is_over:
                self._finish(200, None if flight.error is None else flight.error.fault)
                flight.raise_error()
                raise StopAsyncIteration
            await self._wait()
        if self._place + 1 == len(flight.log):
            chunks = flight.log[self._place]
        else:
            chunks = [chunk for read in flight.log[self._place :] for chunk in read]
        self._place = len(flight.log)
        flight.has_read(self._place)
        return chunks if self._renaming is None else self._renaming.tell(chunks)

    async def _wait(self) -> None:
        try:
            if self._flight.leader is self.exchange:  # whose own deadlines the flight keeps
                self._watchdog.stand_by()
            else:
                self._watchdog.expect(THE_ANSWER)
            await self._flight.move()
        except WindvaneError as error:
            self._finish(200, error.fault)
            raise
        except asyncio.CancelledError as cancelled:
            if (timeout := self._watchdog.fault_of_cancellation()) is not None:
                self._finish(200, timeout.fault)
                raise timeout from cancelled
            self._finish(CLIENT_CLOSED, None)
            raise
        finally:
            self._watchdog.rest()

    def _finish(self, status: int, fault: Fault | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._watchdog.stop()
            self._flights.leave(self._flight, self.exchange)
            self._on_landed(status, fault)

    async def aclose(self, fault: Fault | None = None) -> None:
        self._finish(CLIENT_CLOSED if fault is None else 200, fault)
