"""Answering through the cache: from an entry, from another's flight, or by leading one.

`Sharing.answer` stands between deciding and dispatching. The exchange that leads a flight is ended by
the flight, whoever is still there to see it; all others are ended here.
"""

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from random import Random

import msgspec

from windvane.core.cache.freshness import FRESH, SPARE
from windvane.core.chat import Completion
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of, refuse
from windvane.core.ledger import HIT, JOINED
from windvane.core.usage import Certainty
from windvane.engine.admission import Admission
from windvane.engine.dispatch import Answer as Dispatched
from windvane.engine.dispatch import Dispatch
from windvane.engine.elsewhere import (
    AlreadyThere,
    find_any,
    found_for,
    look_before,
    look_for_all,
)
from windvane.engine.flights import Flight, Flights
from windvane.engine.following import THE_ANSWER, FollowStream, ReplayStream
from windvane.engine.lookouts import Lookouts
from windvane.engine.lookup import Ask, Found, Lookup, wish_said
from windvane.engine.relay import CLIENT_CLOSED, ChunkStream, OnEnd
from windvane.engine.settlement import Settlement, saved_by_joining
from windvane.engine.snapshot import Snapshot
from windvane.engine.turns import POLL_S, Turn, holding
from windvane.engine.watchdog import Watchdog
from windvane.ports.clock import Clock, Ids
from windvane.ports.stores import FlightLease, FlightLeases
from windvane.wire.keeping import raw_of
from windvane.wire.renaming import renamed

AnswerStream = ChunkStream | FollowStream | ReplayStream
Answer = Completion | AnswerStream

BEGIN_AGAIN_S_MIN = 0.1
"""Who has less time left than this, when the time of who leads is over, is told so, and asks no more."""
LATE_S = 0.001
"""Timers ring so much too early, at the most."""

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
        self._lookouts = Lookouts()
        self._lookup = lookup
        self._leases = leases
        self._dispatch = dispatch
        self._settlement = settlement
        self._admission = admission
        self._clock = clock
        self._ids = ids
        self._rng = rng
        self._on_end = on_end
        self._watch = dispatch.watch

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
        turn: Turn | None = None
        if self._leases is not None and ask.wish.may_read and not ask.wish.only_if_cached:
            turn = self._turn_of(ask)
        try:
            found = await self._look_up(exchange, ask, turn)
            if found is not None and found.standing is not SPARE:
                if turn is not None:
                    turn.found = found
                if found.standing is not FRESH and not ask.wish.only_if_cached:
                    self._refresh(exchange, snapshot, ask, found)
                return self._hit(exchange, found, found.at_us)
            if ask.wish.only_if_cached:
                found = await find_any(self._lookup, exchange, ask)
                if found is None or found.standing is SPARE:
                    raise _not_cached()
                return self._hit(exchange, found, found.at_us)
            exchange.cache_forward = self._lookup.why_forward(ask, found)
            spares = [] if found is None else [found]
            try:
                return await self._fly(exchange, snapshot, ask, turn, spares)
            except WindvaneError as error:
                # Who leads yet is not done with it: the process ends, and its flight will tell.
                is_spared = may_be_spared(error.fault) and not exchange.leads
                good = [each for each in spares if not self._lookup.is_taken_back(each)]
                if is_spared and good:
                    newest = max(good, key=lambda each: each.entry.created_at_us)
                    return self._hit(exchange, newest, self._clock.wall_us())
                raise
        finally:
            if turn is not None:
                turn.close()

    def _turn_of(self, ask: Ask) -> Turn:
        assert self._leases is not None
        sought = ask.flight + (b"" if ask.first is None else ask.first.key), ask.wish
        return Turn(
            self._leases, self._lookouts, ask.key, sought, lambda: self._joinable(ask) is None
        )

    async def _look_up(self, exchange: Exchange, ask: Ask, turn: Turn | None) -> Found | None:
        """The entry for it. Where another looks already, and no old answer that it would find could be
        of use, that of memory."""
        if turn is None:
            return await self._lookup.find(ask, exchange.reading)
        if turn.is_anothers and not ask.policy.stale_if_error_s:
            return self._lookup.find_now(ask, exchange.reading)
        return await self._lookup.find(ask, exchange.reading, turn.claim_soon)

    async def _fly(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        ask: Ask,
        turn: Turn | None,
        spares: list[Found],
    ) -> Answer:
        """Join the flight of an equal request, or lead one; again, when what another led turns out to
        be of use to nobody else. What was cut twice will be cut again: from then on each key asks apart,
        and then each of its users. Old answers that are met on the way are put into `spares`.

        Nothing is awaited between the last look for a flight to join and taking off: no two for one
        answer are under way in a process, whatever is heard of the lease.
        """
        before, ends_s = None, math.inf
        while True:
            ahead: FlightLease | Flight | Found | None = None
            if ask.wish.may_read:
                ahead = await self._ahead(ask, turn, snapshot, before, ends_s)
            if isinstance(ahead, Found):
                return self._hit(exchange, ahead, ahead.at_us)
            now_s = asyncio.get_running_loop().time()
            if before is None:
                ends_s = now_s + _total_s(ask, snapshot)
            if isinstance(ahead, Flight):
                flight = ahead
                exchange.cache_status = "joined"
            elif before is not None and before.is_late and now_s >= ends_s:
                if ahead is not None:
                    ahead.release()
                before.raise_error()
            else:
                flight = self._lead(exchange, snapshot, ask, ahead, ends_s, has_spare=bool(spares))
            if turn is not None:
                turn.close()
            answer = await self._aboard(exchange, flight, ask, ends_s, spares)
            if answer is not None:
                return answer
            if before is not None and before.is_cut and flight.is_cut:
                ask, turn = _among_its_own(ask, exchange), None
            before = flight

    async def _ahead(
        self,
        ask: Ask,
        turn: Turn | None,
        snapshot: Snapshot,
        before: Flight | None,
        ends_s: float,
    ) -> FlightLease | Flight | Found | None:
        """What spares us the call: a flight of this process, or an entry, which somebody may have kept
        since the flight `before`, or in another process. Else the lease for making it; None, when
        there are no others, or they take too long."""
        ahead: Flight | Found | None = self._joinable(ask)
        if ahead is None and before is not None and turn is None:
            ahead = await self._there(ask)
        if ahead is not None or turn is None:
            return ahead
        assert snapshot.cache is not None
        left_s = ends_s - asyncio.get_running_loop().time()
        wait_s = min(snapshot.cache.wait_s, left_s)
        return await self._wait_for_others(turn, ask, wait_s, has_waited=before is not None)

    def _joinable(self, ask: Ask) -> Flight | None:
        """The flight that will bring what is asked for, if there is one."""
        flight = self.flights.find(ask.flight)
        if flight is None or self._lookup.is_void(ask, flight.tags, flight.version):
            return None
        return flight

    def _lead(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        ask: Ask,
        lease: FlightLease | None,
        ends_s: float,
        *,
        has_spare: bool,
    ) -> Flight:
        exchange.cache_status = "miss"
        try:
            # It may have waited for another: of this process, or to hear of those that share the cache.
            self._dispatch.on_waited(exchange, ask.candidate)
            self._admission.take_tokens(exchange)
        except WindvaneError:
            if lease is not None:
                lease.release()
            raise
        flight = Flight(ask.flight, exchange, ask.tags, ask.version)
        flight.ends_s = ends_s
        self._take_off(flight, snapshot, ask, lease, has_spare=has_spare)
        return flight

    async def _aboard(
        self, exchange: Exchange, flight: Flight, ask: Ask, ends_s: float, spares: list[Found]
    ) -> Answer | None:
        """What the flight brings; None when that is its leader's alone, or nothing, since an answer was
        found that is not for this one."""
        flight.join(exchange)
        watchdog = self._watch.start(ends_s - asyncio.get_running_loop().time(), exchange)
        answer: Answer | None = None
        leader, waited_s = flight.leader, math.inf
        if leader is not exchange:
            waited_s = self._dispatch.join(leader, exchange)
        try:
            await self._await(exchange, flight, watchdog)
            exchange.queued_s += max(leader.queued_s - waited_s, 0.0)
            if flight.elsewhere and (flight.is_needless or flight.error is not None):
                found = found_for(self._lookup, flight, exchange, ask)
                if found is not None and found.standing is not SPARE:
                    return self._hit(exchange, found, found.at_us)
                spares += [] if found is None else [found]
            is_anothers = _is_leaders_alone(flight, exchange, watchdog.remaining_s)
            if not (is_anothers or flight.is_needless):
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
        if flight.leader is exchange:  # whose own deadlines the flight keeps
            watchdog.stand_by()
        else:
            watchdog.expect(THE_ANSWER)
        try:
            while not (flight.is_over or _may_follow(flight, exchange)):
                flight.has_read(len(flight.log))
                await flight.move()
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
        completion = renamed(completion, exchange.answer_id)
        usage = leader.usage or completion.usage
        assert usage is not None
        if exchange.request.stream:
            return ReplayStream(exchange, completion, usage, None, False, self._on_end)
        # What the leader is told of an answer that says no usage, or only what it was so far.
        if completion.usage is None:
            assert exchange.answered_by is not None
            exchange.answered_by.usage = usage
        elif leader.entry is not None and leader.entry.certainty is not Certainty.EXACT:
            completion = msgspec.structs.replace(completion, usage=usage)
        return completion

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
        followed = exchange.answered_by
        waited_s = self._clock.monotonic_s() - exchange.received_s
        exchange.upstream_s += waited_s - exchange.queued_s
        saved = saved_by_joining(attempt.entry, waited_s)
        now_us = self._clock.wall_us()
        self._settlement.record_free(exchange, attempt.deployment, JOINED, saved, now_us)
        if followed is not None and exchange.answered_by is not None:
            exchange.answered_by.first_chunk_s = followed.first_chunk_s

    def _hit(self, exchange: Exchange, found: Found, now_us: int) -> Answer:
        """Answer from an entry."""
        entry, ask = found.entry, found.ask
        if ask.own is not None:
            exchange.decision = ask.own  # by which it is given
        exchange.cache_status = "hit"
        exchange.cache_key = ask.key
        exchange.cache_age_s = entry.age_s(now_us)
        exchange.cache_ttl_s = (found.fresh_until_us - now_us) // 1_000_000
        # Who is told it as slowly as it first came is not spared any time.
        is_slow = exchange.request.stream and ask.policy.is_paced and bool(entry.first_chunk_us)
        time_us = 0 if is_slow else entry.latency_us
        usage = entry.usage
        saved = entry.cost_nano_usd, usage.input_tokens + usage.output_tokens, time_us
        self._settlement.record_free(exchange, ask.candidate.deployment, HIT, saved, now_us)
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
        flight: Flight,
        snapshot: Snapshot,
        ask: Ask,
        lease: FlightLease | None,
        *,
        has_spare: bool,
    ) -> None:
        """Begin a flight that its leader's exchange ends with."""
        flight.leader.leads = True

        async def run(flight: Flight) -> None:
            async with holding(flight, lease):
                await self._fly_home(flight, snapshot, ask, has_spare=has_spare)

        self.flights.start(flight, run, self._gone)

    async def _fly_home(
        self, flight: Flight, snapshot: Snapshot, ask: Ask, *, has_spare: bool
    ) -> None:
        """Bring home what is asked for, and keep it."""
        leader = flight.leader
        try:
            await self._bring_home(flight, snapshot, ask, has_spare=has_spare)
        except WindvaneError as error:
            now_s = asyncio.get_running_loop().time()
            flight.is_late = now_s >= flight.ends_s - LATE_S
            flight.is_silent = not flight.is_late and _is_silence(leader, error.fault)
            is_ours = self._watch.is_called_off or _is_about_the_leader(flight, error.fault)
            flight.is_in_vain = not is_ours
            flight.crash(error)  # before the lease is given back, which may take a while
        else:
            leader.is_stored = await self._lookup.keep(ask, flight)
            attempt = leader.final_attempt
            is_found = attempt is not None and attempt.deployment is ask.candidate.deployment
            is_of_use = flight.is_overtaken or leader.is_stored
            flight.is_in_vain = not (is_of_use and is_found) and not flight.is_cut
            if flight.fence and leader.is_stored and is_found:
                # Who has the lease next must find the answer. Nobody waits for this: the flight is over.
                await self._lookup.written(ask.key)

    def _gone(self, flight: Flight) -> None:
        """A flight is over, whatever became of it; one that was called off may never have begun."""
        if flight.leader.leads and not flight.is_needless:
            self._on_end(flight.leader, CLIENT_CLOSED, None)

    async def _bring_home(
        self, flight: Flight, snapshot: Snapshot, ask: Ask, *, has_spare: bool
    ) -> None:
        """Ask the provider on behalf of all who are aboard."""
        exchange = flight.leader
        try:
            answer = await self._dispatched(flight, snapshot, ask)
        except AlreadyThere:
            if flight.has_leader:
                exchange.leads = False  # it is answered from the entry, or asks once more
            else:
                self._end_led(flight, CLIENT_CLOSED, None)
            flight.spare()
            return
        except WindvaneError as error:
            is_spared = (has_spare or flight.elsewhere) and may_be_spared(error.fault)
            if is_spared and flight.has_leader:
                exchange.leads = False  # it is answered from the spare entry, and ended there
            else:
                self._end_led(flight, error.fault.status, error.fault)
            raise
        except asyncio.CancelledError as cancelled:
            if (told := self._watch.fault_of_cancellation()) is not None:
                self._end_led(flight, told.fault.status, told.fault)
                raise told from cancelled
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

    async def _dispatched(self, flight: Flight, snapshot: Snapshot, ask: Ask) -> Dispatched:
        """What dispatching brings. Raises AlreadyThere where an answer is kept of who would be asked next;
        what is kept of anyone is looked for before a failure is told."""
        within_s = flight.ends_s - asyncio.get_running_loop().time()
        look = partial(look_before, self._lookup, flight, ask)
        try:
            return await self._dispatch.run(flight.leader, snapshot, within_s, look)
        except WindvaneError as error:
            if may_be_spared(error.fault):
                await look_for_all(self._lookup, flight, ask)
            raise

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
        process does the same, or there is no room, it is left; and where it would be asked of who goes
        first no more."""
        if old.ask.own is not None or self._joinable(ask) is not None:
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
            is_refresh=True,
            received_s=self._clock.monotonic_s(),
            received_at_us=self._clock.wall_us(),
        )
        flight = Flight(ask.flight, fresh, ask.tags, ask.version)
        flight.is_background = True
        flight.ends_s = asyncio.get_running_loop().time() + _total_s(ask, snapshot)

        async def run(flight: Flight) -> None:
            lease: FlightLease | None = None
            if self._leases is not None:
                lease = await self._leases.claim(ask.key)
                if lease is None:
                    raise error_of(NOT_NEEDED)
            async with holding(flight, lease):
                if lease is not None and await self._lookup.find_newer(ask, old) is not None:
                    raise error_of(NOT_NEEDED)
                self._admission.take_tokens_unasked(fresh)
                fresh.leads = True
                await self._fly_home(flight, snapshot, ask, has_spare=False)

        self.flights.start(flight, run, self._gone)

    async def _wait_for_others(
        self, turn: Turn, ask: Ask, wait_s: float, *, has_waited: bool
    ) -> FlightLease | Flight | Found | None:
        """The lease for this answer; or a flight of this process, or the answer another process has
        fetched meanwhile; None, when that took too long. `has_waited` says whether something may have
        come since it was looked for."""
        until_s = self._clock.monotonic_s() + wait_s
        while not turn.look():
            found = await turn.hear(until_s - self._clock.monotonic_s())
            has_waited = True
            ahead = self._joinable(ask) or self._told(ask, found)
            if ahead is not None:
                return ahead
            if self._clock.monotonic_s() >= until_s:
                return None
        while True:
            lease = await turn.claim()
            ahead, is_needed = None, False
            try:
                ahead = self._joinable(ask)
                if ahead is None and has_waited:
                    # Who had it may have brought the answer home since this was looked for.
                    ahead = await self._there(ask)
                is_needed = ahead is None
            finally:
                if lease is not None and not is_needed:
                    lease.release()
            if isinstance(ahead, Found):
                turn.found = ahead
            if ahead is not None or lease is not None:
                return ahead or lease
            if has_waited and self._clock.monotonic_s() >= until_s:
                return None
            await asyncio.sleep(POLL_S * (0.5 + self._rng.random()))
            has_waited = True

    def _told(self, ask: Ask, told: Found | None) -> Found | None:
        """What another has found, if it will do."""
        if told is None:
            return None
        first = ask.first
        mine = first if first is not None and first.key == told.ask.key else ask
        found = self._lookup.judged(mine, told.entry)
        return None if found is None or found.standing is SPARE else found

    async def _there(self, ask: Ask) -> Found | Flight | None:
        """What is there by now: an entry, or a flight that took off while one was looked for."""
        found = await self._lookup.find(ask)
        return found if found is not None and found.standing is not SPARE else self._joinable(ask)

    async def aclose(self) -> None:
        await self.flights.aclose()


def may_be_spared(fault: Fault) -> bool:
    """Whether an old answer is better than this fault: not, when the caller is at fault."""
    return fault.source is not Source.CLIENT


_ABOUT_THE_LEADER = frozenset(
    (
        FaultKind.BUDGET_EXCEEDED,
        FaultKind.RATE_LIMITED,
        FaultKind.FORBIDDEN,
        FaultKind.UNAUTHENTICATED,
    )
)


def _total_s(ask: Ask, snapshot: Snapshot) -> float:
    """How long an exchange may take once it flies, whoever leads."""
    return snapshot.upstreams[ask.candidate.deployment.provider].timeouts.total_s


def _is_about_the_leader(flight: Flight, fault: Fault) -> bool:
    """Whether a failure is that of who leads: a refusal that is about its key, its time that is over, or a
    refresh that came to nothing: it asks one model alone, and does not wait."""
    is_refused = fault.source is Source.CLIENT and fault.kind in _ABOUT_THE_LEADER
    return is_refused or flight.is_late or flight.is_background


def _is_silence(leader: Exchange, fault: Fault) -> bool:
    """Whether a provider was silent for longer than a stream waits; not, that it says so of others."""
    return (
        leader.request.stream and fault.kind is FaultKind.TIMEOUT and fault.upstream_status is None
    )


def _has_patience(flight: Flight, exchange: Exchange) -> bool:
    """Whether a silence that was too long for a stream is not for this one: who wants the whole answer has
    no deadline but the last; and who came since the provider was asked has not waited so long."""
    if not exchange.request.stream:
        return True
    attempt = flight.leader.final_attempt
    since_s = math.inf if attempt is None else attempt.started_s
    return flight.fold is None and exchange.received_s - since_s >= BEGIN_AGAIN_S_MIN


def _may_follow(flight: Flight, exchange: Exchange) -> bool:
    """Whether words that have come may be told: to a stream, and not while they may be part of an answer
    that is cut short by a budget of another. That is known when it is whole."""
    if not exchange.request.stream or flight.fold is None:
        return False
    return flight.leader.clamped_to is None or _is_bound_alike(flight, exchange)


def _is_leaders_alone(flight: Flight, exchange: Exchange, left_s: float) -> bool:
    """Whether what the flight brings is due to who leads it: a failure of its own, or an answer that was
    cut to what its budget has left. Others ask for themselves, on their own account, in the time they
    have left. None of them has been told anything yet: a stream that has is a `FollowStream`'s."""
    if flight.leader is exchange:
        return False
    if flight.error is None:
        return flight.is_cut and not _is_bound_alike(flight, exchange)
    if flight.is_late or (flight.is_silent and _has_patience(flight, exchange)):
        return left_s >= BEGIN_AGAIN_S_MIN
    return flight.fold is None and _is_about_the_leader(flight, flight.error.fault)


def _is_bound_alike(flight: Flight, exchange: Exchange) -> bool:
    """Whether what cut the leader's answer would cut the exchange's: it is of the same key, and the
    budget is not that of another user or tag."""
    leader, joiner, by = flight.leader.principal, exchange.principal, flight.leader.clamped_by
    assert leader is not None and joiner is not None
    is_others = by in flight.leader.scopes and by not in exchange.scopes
    return leader.key_id == joiner.key_id and not is_others


def _among_its_own(ask: Ask, exchange: Exchange) -> Ask:
    """The same, to be shared by requests of one key; or, where it is that, of one user and its tags."""
    assert exchange.principal is not None
    key = f"\0{exchange.principal.key_id}"
    own = "\0".join((key, *exchange.scopes)) if ask.flight.endswith(key.encode()) else key
    return msgspec.structs.replace(ask, flight=ask.flight + own.encode())


def _not_cached() -> WindvaneError:
    return refuse(
        FaultKind.NOT_FOUND,
        "there is no stored answer, and `only-if-cached` allows no other",
        status=504,
        code="not_cached",
    )
