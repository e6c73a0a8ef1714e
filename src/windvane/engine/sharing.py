"""Answering through the cache: from an entry, from another's flight, or by leading one.

`Sharing.answer` stands between deciding and dispatching. The exchange that leads a flight is ended by
the flight, whoever is still there to see it; all others are ended here.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import msgspec

from windvane.core.cache.freshness import FRESH, SPARE
from windvane.core.chat import Completion
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of, refuse
from windvane.core.ledger import HIT, JOINED
from windvane.engine.admission import Admission
from windvane.engine.dispatch import Dispatch
from windvane.engine.flights import Flight, Flights
from windvane.engine.following import THE_ANSWER, FollowStream, ReplayStream
from windvane.engine.lookup import Ask, Found, Lookup, wish_said
from windvane.engine.relay import CLIENT_CLOSED, ChunkStream, OnEnd
from windvane.engine.settlement import Settlement
from windvane.engine.snapshot import Snapshot
from windvane.engine.watchdog import Watch, Watchdog
from windvane.ports.clock import Clock, Ids
from windvane.ports.stores import FlightLease, FlightLeases
from windvane.wire.keeping import raw_of

AnswerStream = ChunkStream | FollowStream | ReplayStream
Answer = Completion | AnswerStream

POLL_S = 0.05
"""How often an answer that another process is fetching is looked for."""
SLOW_STORE_S = 0.01
"""A look-up that took longer than this was no healthy store's."""
RENEW_S = 1.5

FAILED = Fault(
    kind=FaultKind.INTERNAL, source=Source.GATEWAY, message="the engine failed", status=500
)
"""A bug of ours, as the observers are told of it."""
NOT_NEEDED = Fault(
    kind=FaultKind.INTERNAL,
    source=Source.GATEWAY,
    message="another process fetches the answer, or has",
    status=503,
)
"""Why a refresh was left. Nobody is told: who has joined it asks for itself."""


class Sharing:
    """Shares answers between the exchanges of an engine."""

    def __init__(
        self,
        *,
        lookup: Lookup,
        leases: FlightLeases | None,
        dispatch: Dispatch,
        settlement: Settlement,
        admission: Admission,
        clock: Clock,
        ids: Ids,
        rng: Random,
        on_end: OnEnd,
    ) -> None:
        self.flights = Flights()
        self._lookup = lookup
        self._leases = leases
        self._dispatch = dispatch
        self._settlement = settlement
        self._admission = admission
        self._clock = clock
        self._ids = ids
        self._rng = rng
        self._on_end = on_end
        self._watch = Watch()

    def answer(self, exchange: Exchange, snapshot: Snapshot) -> Coroutine[object, object, Answer]:
        """The answer, to be awaited. Either raises the WindvaneError of whoever was to give it."""
        rules = snapshot.cache
        ask = None if rules is None else self._lookup.ask_of(exchange, rules)
        if ask is not None:
            return self._find(exchange, snapshot, ask)
        if wish_said(exchange).only_if_cached:
            raise _not_cached()
        if (lease := exchange.lease) is not None:
            # The loop has not turned since the exchange passed the gate: it is the same moment.
            self._admission.take_tokens(exchange, lease.began_us)
        return self._dispatch.run(exchange, snapshot)

    async def _find(self, exchange: Exchange, snapshot: Snapshot, ask: Ask) -> Answer:
        """The answer from an entry; else from a flight, joined or led."""
        exchange.cache_status = "miss"
        began_s = self._clock.monotonic_s()
        found = await self._lookup.find(ask, exchange.reading)
        if found is not None and found.standing is not SPARE:
            if found.standing is not FRESH and not ask.wish.only_if_cached:
                self._refresh(exchange, snapshot, ask, found)
            return self._hit(exchange, ask, found, found.at_us)
        if ask.wish.only_if_cached:
            raise _not_cached()
        # A store that takes its time is not asked a second time: the caller has waited enough.
        is_quick = self._clock.monotonic_s() - began_s < SLOW_STORE_S
        try:
            return await self._fly(
                exchange, snapshot, ask, has_spare=found is not None, asks_others=is_quick
            )
        except WindvaneError as error:
            if found is not None and may_be_spared(error.fault):
                return self._hit(exchange, ask, found, self._clock.wall_us())
            raise

    async def _fly(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        ask: Ask,
        *,
        has_spare: bool,
        asks_others: bool,
    ) -> Answer:
        """Join the flight of an equal request, or lead one; once more, when what another led turns
        out to be of use to nobody else."""
        may_join, has_flown = ask.wish.may_read, False
        while True:
            ahead: FlightLease | Flight | Found | None = None
            if may_join:
                ahead = self._joinable(ask) or (await self._there(ask) if has_flown else None)
            if ahead is None and may_join and asks_others and self._leases is not None:
                assert snapshot.cache is not None
                ahead = await self._wait_for_others(self._leases, ask, snapshot.cache.wait_s)
            if isinstance(ahead, Found):
                return self._hit(exchange, ask, ahead, ahead.at_us)
            if isinstance(ahead, Flight):
                flight = ahead
                exchange.cache_status = "joined"
            else:
                flight = await self._lead(exchange, snapshot, ask, ahead, has_spare=has_spare)
            answer = await self._aboard(exchange, snapshot, ask, flight)
            if answer is not None:
                return answer
            may_join, has_flown = may_join and flight.error is not None, True

    def _joinable(self, ask: Ask) -> Flight | None:
        """The flight that will bring what is asked for, if there is one."""
        flight = self.flights.find(ask.flight)
        if flight is None or self._lookup.is_void(ask, flight.tags, flight.version):
            return None
        return flight

    async def _lead(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        ask: Ask,
        lease: FlightLease | None,
        *,
        has_spare: bool,
    ) -> Flight:
        exchange.cache_status = "miss"
        try:
            self._admission.take_tokens(exchange)
        except WindvaneError:
            if lease is not None:
                await lease.release()
            raise
        return self._take_off(exchange, snapshot, ask, lease, has_spare=has_spare)

    async def _aboard(
        self, exchange: Exchange, snapshot: Snapshot, ask: Ask, flight: Flight
    ) -> Answer | None:
        """What the flight brings; None when that is its leader's alone."""
        flight.join(exchange)
        timeouts = snapshot.upstreams[ask.candidate.deployment.provider].timeouts
        watchdog = self._watch.start(timeouts.total_s)
        answer: Answer | None = None
        try:
            await self._await(exchange, flight, watchdog)
            if not _is_leaders_alone(flight, exchange):
                answer = self._share(exchange, flight, watchdog)
        finally:
            if not isinstance(answer, FollowStream):
                watchdog.stop()
                self.flights.leave(flight, exchange)
        if isinstance(answer, Completion) and flight.leader is not exchange:
            self._on_end(exchange, 200, None)
        return answer

    async def _await(self, exchange: Exchange, flight: Flight, watchdog: Watchdog) -> None:
        """Wait for the flight to have what the exchange needs: its end, or a stream's first words."""
        is_stream = exchange.request.stream
        if flight.leader is not exchange:  # whose own deadlines the flight keeps
            watchdog.expect(THE_ANSWER)
        try:
            while not (flight.is_over or (is_stream and flight.fold is not None)):
                await flight.move()
                if not is_stream:
                    flight.has_read(len(flight.log))
        except asyncio.CancelledError as cancelled:
            if (timeout := watchdog.fault_of_cancellation()) is not None:
                raise timeout from cancelled
            raise
        finally:
            watchdog.rest()

    def _share(self, exchange: Exchange, flight: Flight, watchdog: Watchdog) -> Answer:
        """What the flight has brought, or is bringing. Raises what it ended in."""
        if flight.fold is not None and exchange.request.stream:
            attempt = flight.leader.final_attempt
            if attempt is not None and flight.leader is not exchange:
                # A joiner's first words are those that it is given, not those that the leader was.
                attempt = replace(attempt, first_chunk_s=self._clock.monotonic_s())
            exchange.answered_by = attempt
            return FollowStream(
                exchange,
                flight,
                self.flights,
                watchdog,
                lambda status, fault: self._landed(exchange, flight, status, fault),
            )
        flight.raise_error()
        return self._landed_whole(exchange, flight)

    def _landed_whole(self, exchange: Exchange, flight: Flight) -> Answer:
        """The whole answer of a flight, to one who waited for it."""
        completion = flight.completion
        if completion is None:
            assert flight.fold is not None
            completion = flight.fold.completion()
        leader = flight.leader.final_attempt
        assert leader is not None
        if flight.leader is exchange:
            return completion
        self._settle_joined(exchange, flight)
        if not exchange.request.stream:
            return completion
        usage = leader.usage or completion.usage
        assert usage is not None
        return ReplayStream(exchange, completion, usage, None, False, self._on_end)

    def _landed(self, exchange: Exchange, flight: Flight, status: int, fault: Fault | None) -> None:
        """A follower of a stream has had it all, or has left."""
        if flight.leader is exchange:
            return
        if status == 200 and fault is None:
            self._settle_joined(exchange, flight)
        self._on_end(exchange, status, fault)

    def _settle_joined(self, exchange: Exchange, flight: Flight) -> None:
        attempt = flight.leader.final_attempt
        assert attempt is not None
        saved = attempt.entry.cost_nano_usd if attempt.entry is not None else None
        followed = exchange.answered_by
        exchange.upstream_s += self._clock.monotonic_s() - exchange.received_s
        now_us = self._clock.wall_us()
        self._settlement.record_free(exchange, attempt.deployment, JOINED, saved, now_us)
        if followed is not None and exchange.answered_by is not None:
            exchange.answered_by.first_chunk_s = followed.first_chunk_s

    def _hit(self, exchange: Exchange, ask: Ask, found: Found, now_us: int) -> Answer:
        """Answer from an entry."""
        entry = found.entry
        exchange.cache_status = "hit"
        exchange.cache_age_s = entry.age_s(now_us)
        exchange.cache_ttl_s = (found.fresh_until_us - now_us) // 1_000_000
        self._settlement.record_free(
            exchange, ask.candidate.deployment, HIT, entry.cost_nano_usd, now_us
        )
        fresh_id = exchange.answer_id
        assert entry.completion is not None
        completion = msgspec.structs.replace(
            entry.completion,
            id=fresh_id,
            model=entry.completion.model or entry.model,
            usage=entry.usage,
            raw=None if entry.rest is None else raw_of(entry.rest, fresh_id),
        )
        if exchange.request.stream:
            return ReplayStream(
                exchange, completion, entry.usage, entry, ask.policy.is_paced, self._on_end
            )
        self._on_end(exchange, 200, None)
        return completion

    def _take_off(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        ask: Ask,
        lease: FlightLease | None,
        *,
        has_spare: bool,
    ) -> Flight:
        """Begin a flight that `exchange` leads, and that ends it."""
        flight = Flight(ask.flight, exchange, ask.tags, ask.version)
        exchange.leads = True

        async def run(flight: Flight) -> None:
            if lease is None:
                await self._fly_home(flight, snapshot, ask, has_spare)
                return
            async with _holding(lease):
                await self._fly_home(flight, snapshot, ask, has_spare)

        self.flights.start(flight, run, self._gone)
        return flight

    async def _fly_home(
        self, flight: Flight, snapshot: Snapshot, ask: Ask, has_spare: bool
    ) -> None:
        """Bring home what is asked for, and keep it."""
        try:
            await self._bring_home(flight, snapshot, has_spare)
        except WindvaneError as error:
            flight.crash(error)  # before the lease is given back, which may take a while
        else:
            flight.leader.is_stored = await self._lookup.keep(ask, flight)

    def _gone(self, flight: Flight) -> None:
        """A flight is over, whatever became of it; one that was called off may never have begun."""
        if flight.leader.leads:
            self._on_end(flight.leader, CLIENT_CLOSED, None)

    async def _bring_home(self, flight: Flight, snapshot: Snapshot, has_spare: bool) -> None:
        """Ask the provider on behalf of all who are aboard."""
        exchange = flight.leader
        try:
            answer = await self._dispatch.run(exchange, snapshot)
        except WindvaneError as error:
            if has_spare and flight.has_leader and may_be_spared(error.fault):
                exchange.leads = False  # it is answered from the spare entry, and ended there
            else:
                self._end_led(flight, error.fault.status, error.fault)
            raise
        except asyncio.CancelledError:
            self._end_led(flight, CLIENT_CLOSED, None)
            raise
        except BaseException:
            self._end_led(flight, FAILED.status, FAILED)
            raise
        if isinstance(answer, Completion):
            flight.land(answer)
            return
        flight.open(answer)
        try:
            async for chunks in answer:
                await flight.add(chunks)
            flight.land(None)
        finally:
            await answer.aclose()

    def _end_led(self, flight: Flight, status: int, fault: Fault | None) -> None:
        """End the exchange that leads a flight which has failed. A refresh for which nothing was sent
        has never been."""
        exchange = flight.leader
        if flight.is_background and not exchange.attempts:
            exchange.leads = False
            self._admission.end(exchange)
        else:
            self._on_end(exchange, status, fault)

    def _refresh(self, exchange: Exchange, snapshot: Snapshot, ask: Ask, old: Found) -> None:
        """Fetch a fresh answer while the old one is served: on the caller's account, but not as a
        request of its own, and of the model that is looked up alone. Nobody waits for it: where another
        process does the same, or there is no room, it is left."""
        if self._joinable(ask) is not None:
            return
        assert exchange.decision is not None
        fresh = msgspec.structs.replace(
            exchange,
            id=self._ids.request_id(self._clock.wall_us()),
            client_request_id=None,
            cache_status="miss",
            decision=msgspec.structs.replace(exchange.decision, candidates=(ask.candidate,)),
            attempts=[],
            lease=None,
            may_wait=False,
            received_s=self._clock.monotonic_s(),
            received_at_us=self._clock.wall_us(),
        )
        flight = Flight(ask.flight, fresh, ask.tags, ask.version)
        flight.is_background = True

        async def run(flight: Flight) -> None:
            lease: FlightLease | None = None
            if self._leases is not None:
                lease = await self._leases.claim(ask.key)
                if lease is None:
                    raise error_of(NOT_NEEDED)
            async with _holding(lease):
                if lease is not None and await self._lookup.find_newer(ask, old) is not None:
                    raise error_of(NOT_NEEDED)
                self._admission.take_tokens_unasked(fresh)
                fresh.leads = True
                await self._fly_home(flight, snapshot, ask, has_spare=False)

        self.flights.start(flight, run, self._gone)

    async def _wait_for_others(
        self, leases: FlightLeases, ask: Ask, wait_s: float
    ) -> FlightLease | Flight | Found | None:
        """The lease for this answer; or a flight of this process, or the answer another process has
        fetched meanwhile; None, when that took too long."""
        until_s = self._clock.monotonic_s() + wait_s
        has_waited = False
        while True:
            lease = await leases.claim(ask.key)
            try:
                # Who had it may have brought the answer home since this was looked for.
                ahead = self._joinable(ask) or (await self._there(ask) if has_waited else None)
            except BaseException:
                if lease is not None:
                    await lease.release()
                raise
            if lease is not None and ahead is not None:
                await lease.release()
            if ahead is not None or lease is not None:
                return ahead or lease
            if has_waited and self._clock.monotonic_s() >= until_s:
                return None
            await asyncio.sleep(POLL_S * (0.5 + self._rng.random()))
            has_waited = True

    async def _there(self, ask: Ask) -> Found | None:
        found = await self._lookup.find(ask)
        return found if found is not None and found.standing is not SPARE else None

    async def aclose(self) -> None:
        await self.flights.aclose()


@asynccontextmanager
async def _holding(lease: FlightLease | None) -> AsyncIterator[None]:
    """Keep the lease, if there is one, for as long as this lasts, and give it back whatever happens."""
    if lease is None:
        yield
        return
    keeping = asyncio.get_running_loop().create_task(_keep_lease(lease))
    try:
        yield
    finally:
        keeping.cancel()
        try:
            await asyncio.wait([keeping])
        finally:
            await lease.release()


async def _keep_lease(lease: FlightLease) -> None:
    while await lease.renew():
        await asyncio.sleep(RENEW_S)


def may_be_spared(fault: Fault) -> bool:
    """Whether an old answer is better than this fault: not, when the caller is at fault."""
    return fault.source is not Source.CLIENT


_ABOUT_THE_LEADER = frozenset(
    (FaultKind.BUDGET_EXCEEDED, FaultKind.RATE_LIMITED, FaultKind.FORBIDDEN)
)


def _is_leaders_alone(flight: Flight, exchange: Exchange) -> bool:
    """Whether what the flight brings is due to who leads it: a refusal that is about its key, an answer
    that was cut to what its budget has left, or a refresh that came to nothing. Others ask for
    themselves, on their own account."""
    leader = flight.leader
    if leader is exchange:
        return False
    if flight.error is not None and flight.fold is None:
        fault = flight.error.fault
        if flight.is_background:
            return True  # it asks one model alone, and does not wait
        return fault.source is Source.CLIENT and fault.kind in _ABOUT_THE_LEADER
    assert leader.principal is not None and exchange.principal is not None
    is_own = leader.principal.key_id == exchange.principal.key_id
    return leader.clamped_to is not None and not is_own


def _not_cached() -> WindvaneError:
    return refuse(
        FaultKind.NOT_FOUND,
        "there is no stored answer, and `only-if-cached` allows no other",
        status=504,
        code="not_cached",
    )
