"""The engine: one exchange, ten steps, in this order for every door, dialect and provider.

    1 accept    the surface has decoded the request into an `Exchange`
    2 identify  who calls
    3 gate      rate and concurrency: cheap refusals first
    4 analyze   what is known of the request without asking anyone
    5 decide    who is asked, in which order, and why
    6 find      an answer that is already there, or on its way: of the model decided on
    7 reserve   the worst case is held and written down        \\
    8 dispatch  the provider is asked; failures are classified   } per attempt, in `dispatch`
    9 relay     the answer goes out, whole or as it comes      /
   10 settle    usage, cost, ledger, observers: exactly once

It holds the clock, asks the core, does what the core says, and tells the observers.
"""

import asyncio
import contextlib
from random import Random
from typing import Protocol

import msgspec

from windvane.core.analysis import EVERYTHING, NOTHING, Analysis, analyze
from windvane.core.breaker import BreakerState, told
from windvane.core.cache.invalidation import ALL, Reach, Taken
from windvane.core.chat import ChatRequest
from windvane.core.deployment import Deployment
from windvane.core.events import ExchangeEnded, RequestEnded
from windvane.core.exchange import Credentials, Exchange, Reading
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, refuse
from windvane.core.ledger import BYPASS, JOINED
from windvane.core.principal import Principal
from windvane.core.routing.decide import Decider, reordered, rested
from windvane.core.routing.decision import Candidate, Decision
from windvane.core.routing.permits import meant, permitted
from windvane.core.routing.table import NO_FACTS
from windvane.engine.admission import Admission, check_endpoint, identify
from windvane.engine.alerts import BudgetAlerts
from windvane.engine.asking import Asking
from windvane.engine.attribution import attribute
from windvane.engine.dispatch import Dispatch
from windvane.engine.facts import Facts
from windvane.engine.health import HealthBook
from windvane.engine.keyring import KeyDesk, Keyring
from windvane.engine.lookup import Lookup
from windvane.engine.recall import Recall
from windvane.engine.relay import CLIENT_CLOSED
from windvane.engine.settlement import CANCELLED, Settlement
from windvane.engine.sharing import FAILED, Answer, Sharing
from windvane.engine.snapshot import Snapshot
from windvane.engine.telling import tellable
from windvane.engine.waiting_room import WaitingRoom
from windvane.engine.watchdog import KEY_REVOKED
from windvane.ports.clock import Clock, Ids
from windvane.ports.observer import Observer, hearing
from windvane.ports.stores import (
    BudgetStore,
    FlightLeases,
    InvalidationStore,
    Journal,
    LedgerStore,
    LimitStore,
    ResponseCache,
    ToldBook,
)
from windvane.ports.transport import Transport

CHAT = "chat"
"""The endpoint, as keys name it in what they may use."""
WRITING_S = 2.0
"""How long closing waits for answers that are not yet where others find them."""
ECONOMY = "budget nearly used up: the cheapest that can"


def _decide_in_peace(
    decider: Decider, requested: str, exchange: Exchange, analysis: Analysis
) -> Decision:
    """Decide as if everyone were available: for the same bytes the same, unless rules ask who sends them,
    or when."""
    if requested in decider.asking_facts:
        return decider.decide(requested, analysis, Facts(exchange))
    reading = exchange.reading
    if reading is None:
        return decider.decide(requested, analysis, NO_FACTS)
    known = reading.decided
    if known is not None and known[0] is decider and known[1] == requested:
        return known[2]
    decision = decider.decide(requested, analysis, NO_FACTS)
    reading.decided = decider, requested, decision
    return decision


def _end_of(exchange: Exchange, status: int, now_s: float) -> ExchangeEnded:
    """What the observers are told of it. By position: so many names would cost more than all else."""
    attempt, received_s = exchange.final_attempt, exchange.received_s
    decision, principal = exchange.decision, exchange.principal
    model = provider = ""
    first_chunk_s: float | None = None
    if attempt is not None:
        deployment, first_chunk_s = attempt.deployment, attempt.first_chunk_s
        model, provider = deployment.model, deployment.provider
        if first_chunk_s is not None:
            first_chunk_s -= received_s
    duration_s = now_s - received_s
    queued_s = exchange.queued_s
    waited_s = exchange.upstream_s + queued_s
    attempts, fault, request = exchange.attempts, exchange.fault, exchange.request
    count = len(attempts)
    models_tried: tuple[str, ...] = ()
    if count == 1:  # most have one attempt, at the model that has answered
        models_tried = (model,)
    elif count:
        models_tried = tuple([each.deployment.model for each in attempts])
    return ExchangeEnded(
        exchange.id,
        model,
        provider,
        None if decision is None else decision.route,
        status,
        "" if decision is None else decision.reason,
        None if principal is None else principal.key_id,
        request.model,
        count,
        models_tried,
        request.stream,
        exchange.cache_status,
        duration_s,
        duration_s - waited_s if waited_s < duration_s else 0.0,
        first_chunk_s,
        exchange.cost_nano_usd,
        None if fault is None else fault.kind.value,
        exchange.received_at_us,
        queued_s,
        exchange.is_refresh,
    )


def _is_refusal(fault: Fault, exchange: Exchange) -> bool:
    """Whether a request that ended so, and for which nobody was asked, was not let in: for what it is or
    what its key may, or because the ledger cannot be written. Who joined another was let in, and is told
    what became of that one; and so was who wants a stored answer and no other, of which there is none."""
    if fault.kind is FaultKind.INTERNAL:
        return True
    is_told = exchange.cache_status == JOINED or fault.kind is FaultKind.NOT_FOUND
    return fault.source is Source.CLIENT and not is_told


class Closes(Protocol):
    """What runs beside an engine, and ends with it."""

    async def aclose(self) -> None: ...


class Engine:
    """Serves exchanges. Made by `assembly`, shared by all doors."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        transport: Transport,
        journal: Journal,
        ledger: LedgerStore,
        budgets: BudgetStore,
        limits: LimitStore,
        keyring: Keyring,
        desk: KeyDesk,
        clock: Clock,
        ids: Ids,
        rng: Random,
        cache: ResponseCache | None = None,
        invalidations: InvalidationStore | None = None,
        leases: FlightLeases | None = None,
        told: ToldBook | None = None,
        observers: tuple[Observer, ...] = (),
        beside: tuple[Closes, ...] = (),
    ) -> None:
        self.snapshot = snapshot
        self._beside = beside
        self.ledger = ledger
        self.budgets = budgets
        self.keyring, self.desk = keyring, desk
        self.health = HealthBook()
        self._transport = transport
        self._clock = clock
        self._ids = ids
        self._tell_ended = hearing(observers, ExchangeEnded)
        self._tell_others = hearing(observers, RequestEnded)
        self.room = WaitingRoom(clock, snapshot.upstream_terms, waiting_max=snapshot.waiting_max)
        self._admission = Admission(limits, clock)
        alerts = BudgetAlerts(observers, snapshot.alert_at_permille, told)
        self._settlement = Settlement(journal, budgets, self.room, clock, observers, alerts)
        self._decider: Decider | None = None
        self._decider_of: Snapshot | None = None
        self._dispatch = Dispatch(
            asking=Asking(transport, clock),
            settlement=self._settlement,
            health=self.health,
            admission=self._admission,
            room=self.room,
            clock=clock,
            rng=rng,
            on_end=self._end,
            on_waited=self._identify_again,
        )
        self._sharing = Sharing(
            lookup=Lookup(cache, invalidations, clock, rng),
            leases=leases,
            dispatch=self._dispatch,
            settlement=self._settlement,
            admission=self._admission,
            clock=clock,
            ids=ids,
            rng=rng,
            on_end=self._end,
        )
        self.cache = cache
        self.recall = Recall()
        self.invalidations = invalidations
        keyring.on_put = self._call_off_dropped
        self._clearing: set[asyncio.Task[None]] = set()

    def accept(
        self,
        request: ChatRequest,
        *,
        dialect: str,
        credentials: Credentials,
        body_bytes: int,
        headers: dict[bytes, bytes] | None = None,
        client_request_id: str | None = None,
        reading: Reading | None = None,
        principal: Principal | None = None,
    ) -> Exchange:
        """Step 1: open the record of a decoded request. `body_bytes` is its size as JSON; `principal`
        is whose it is, when that is known."""
        now_us = self._clock.wall_us()
        return Exchange(
            self._ids.request_id(now_us),
            dialect,
            request,
            credentials,
            self._clock.monotonic_s(),
            now_us,
            headers or {},
            client_request_id,
            body_bytes,
            reading,
            principal,
        )

    @property
    def flights_count(self) -> int:
        """How many calls to providers are under way that others may join."""
        return self._sharing.flights.count

    async def invalidate(self, *tags: str, entry: bytes | None = None) -> Taken:
        """Take back all answers with one of these tags (`all`: every one), here and wherever they are
        shared; `entry` is the key when they are one answer's alone."""
        if self.cache is None:
            return Taken(0, Reach.EVERYWHERE)
        self.recall.forget()
        if self.invalidations is not None:
            for tag in tags:
                self.invalidations.invalidate_now(tag)
            await self.invalidations.spread()
        removed = 0 if entry is None else await self.cache.remove(entry)
        if entry is None:
            for tag in tags:
                removed += await self.cache.remove_tagged(tag)
        return Taken(removed, self._reach())

    def _reach(self) -> Reach:
        return Reach.EVERYWHERE if self.invalidations is None else self.invalidations.reach

    def clear_cache_now(self) -> int:
        """`invalidate` all, at once in this process, and without waiting for those who share the cache.
        Returns how many answers memory had."""
        assert self.cache is not None
        self.recall.forget()
        if self.invalidations is not None:
            self.invalidations.invalidate_now(ALL)
        count = self.cache.clear_now()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return count  # between two runs of a client: others hear of it when it is closed
        task = loop.create_task(self._clear_behind())
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        return count

    async def _clear_behind(self) -> None:
        assert self.cache is not None
        if self.invalidations is not None:
            await self.invalidations.spread()
        await self.cache.clear_behind()

    def new_request_id(self) -> str:
        """An id for a request that was refused before it became an exchange."""
        return self._ids.request_id(self._clock.wall_us())

    def tell_of(self, request_id: str, endpoint: str, status: int, fault: Fault | None) -> None:
        """Tell the observers of a request that has its answer and never became an exchange."""
        event = RequestEnded(
            request_id=request_id,
            endpoint=endpoint,
            status=status,
            fault=None if fault is None else fault.kind.value,
            code=None if fault is None else fault.code,
            at_us=self._clock.wall_us(),
        )
        for tell in self._tell_others:
            tell(event)

    async def handle(self, exchange: Exchange) -> Answer:
        """Steps 2 to 10. A `ChunkStream` is the caller's to close, and is settled by its end.

        Raises a WindvaneError when there is no answer. The exchange has then ended.
        """
        snapshot, principal = self.snapshot, exchange.principal
        try:
            if principal is None:
                principal = exchange.principal = self.identify(exchange.credentials)
            if principal.endpoints:
                check_endpoint(principal, CHAT)
            self._admission.gate(exchange)
            requested = meant(exchange.request.model, principal)
            asked = snapshot.routes.asked.get(requested, NOTHING)
            analysis = exchange.analysis = self._analyze(exchange, snapshot, asked)
            exchange.decision = self._decide(exchange, snapshot, principal, requested, analysis)
            return await self._sharing.answer(exchange, snapshot)
        except WindvaneError as error:
            self._end_unled(exchange, error.fault.status, error.fault)
            raise
        except asyncio.CancelledError as cancelled:
            if (told := self.fault_of_cancellation()) is not None:
                self._end_unled(exchange, told.fault.status, told.fault)
                raise told from cancelled
            self._end_unled(exchange, CLIENT_CLOSED, None)
            raise
        except BaseException:
            self._end_unled(exchange, FAILED.status, FAILED)
            raise

    def _end_unled(self, exchange: Exchange, status: int, fault: Fault | None) -> None:
        """End the exchange, unless it leads a flight: that may go on for others, and will end it."""
        if not exchange.leads:
            self._end(exchange, status, fault)

    def call_off(self) -> None:
        """The process is about to end: whoever is cancelled from now on is told so, for it has not left."""
        self._dispatch.watch.is_called_off = True

    def _call_off_dropped(self) -> None:
        """Requests under way whose key is good no more are ended, and their callers told."""
        dropped = self.keyring.has_dropped
        self._dispatch.watch.call_off(
            KEY_REVOKED,
            lambda each: each.principal is not None and dropped(each.credentials, each.principal),
        )

    def fault_of_cancellation(self) -> WindvaneError | None:
        """Called on CancelledError: what is to be told, after `call_off`; None when it is the caller who
        has left, and the cancellation must go on."""
        return self._dispatch.watch.fault_of_cancellation()

    def explain(
        self, request: ChatRequest, *, credentials: Credentials, headers: dict[bytes, bytes]
    ) -> tuple[Analysis, Decision]:
        """What would be decided for a request, and from what; nothing is sent or held.

        Raises what `handle` would raise before asking a provider.
        """
        exchange = self.accept(
            request, dialect="", credentials=credentials, body_bytes=0, headers=headers
        )
        snapshot = self.snapshot
        principal = exchange.principal = self.identify(credentials)
        attribute(exchange, principal)
        analysis = exchange.analysis = self._analyze(exchange, snapshot, EVERYTHING)
        requested = meant(request.model, principal)
        decision = self._decide(exchange, snapshot, principal, requested, analysis)
        return analysis, tellable(decision, request, snapshot.upstreams)

    def identify(self, credentials: Credentials, endpoint: str | None = None) -> Principal:
        """Who shows these credentials. Raises AuthenticationError, and PermissionDeniedError when
        the key may not use `endpoint`."""
        principal = identify(credentials, self.snapshot, self.keyring)
        if endpoint is not None:
            check_endpoint(principal, endpoint)
        return principal

    def _identify_again(self, exchange: Exchange, candidate: Candidate) -> None:
        """Raise AuthenticationError when the key was revoked, or has run out, while the exchange waited,
        and PermissionDeniedError when it may no more ask this candidate."""
        principal, decision = self.identify(exchange.credentials, CHAT), exchange.decision
        assert decision is not None
        if principal != exchange.principal:
            asked = msgspec.structs.replace(decision, candidates=(candidate,))
            permitted(asked, meant(exchange.request.model, principal), principal)

    def is_available(self, deployment: Deployment) -> bool:
        """Whether it may be asked now: its breaker is shut, and its provider has not barred us."""
        is_well = self.health.is_available(deployment, self._clock.monotonic_s())
        return is_well and self.room.bar(deployment.id) is None

    def breaker_of(self, deployment: Deployment) -> BreakerState:
        """How its breaker stands now, as an onlooker is told."""
        return told(self.health.of(deployment).breaker, self._clock.monotonic_s())

    def _analyze(self, exchange: Exchange, snapshot: Snapshot, asked: frozenset[str]) -> Analysis:
        """What is known of the request: all that is `asked`, at least."""
        reading = exchange.reading
        known = None if reading is None else reading.analyzed
        if known is not None and asked <= known[0]:
            analysis = known[1]
        else:
            analysis = analyze(exchange.request, asked)
            if reading is not None:
                reading.analyzed = asked, analysis
        limit = snapshot.input_tokens_max
        if limit is not None and analysis.input_tokens > limit:
            raise refuse(
                FaultKind.CONTEXT_TOO_LONG,
                f"messages: about {analysis.input_tokens} input tokens, over this gateway's limit"
                f" of {limit}",
                param="messages",
            )
        return analysis

    def _decide(
        self,
        exchange: Exchange,
        snapshot: Snapshot,
        principal: Principal,
        requested: str,
        analysis: Analysis,
    ) -> Decision:
        day = self._settlement.day(exchange.received_at_us)
        decider = self._decider
        if decider is None or decider.day is not day or self._decider_of is not snapshot:
            decider = Decider(snapshot.routes, snapshot.deployments, snapshot.catalog, day)
            self._decider, self._decider_of = decider, snapshot
        decision = _decide_in_peace(decider, requested, exchange, analysis)
        decision = permitted(decision, requested, principal)
        if not self.health.is_all_well or self.room.bars:
            decision = rested(decision, self.is_available)
        if decision.route is None or len(decision.candidates) == 1 or self.budgets.table.is_empty:
            return decision
        # A model's own budget is not looked at: each candidate has another.
        scopes, at_us = exchange.scopes, exchange.received_at_us
        if not self.budgets.is_used(scopes, at_us, snapshot.economy_at_permille):
            return decision
        return self._economized(exchange, decision)

    def _economized(self, exchange: Exchange, decision: Decision) -> Decision:
        """The same candidates, the cheapest first: the budget is nearly used up."""
        ordered = tuple(self._settlement.cheapest_first(exchange, decision.candidates))
        if ordered == decision.candidates:
            return decision
        return reordered(decision, ordered, ECONOMY)

    def _end(self, exchange: Exchange, status: int, fault: Fault | None) -> None:
        """Step 10's last part: the exchange is over, and the observers are told. Once."""
        if exchange.ended_s is not None:
            return
        now_s = self._clock.monotonic_s()
        if fault is not None:
            exchange.fault = fault
        if not exchange.attempts and not exchange.is_given:
            self._record_unasked(exchange, fault)
        exchange.end(now_s)
        if exchange.lease is not None:
            self._admission.end(exchange)
        if exchange.attempts:
            self._admission.expected.learn(exchange)
        event = _end_of(exchange, status, now_s)
        for tell in self._tell_ended:
            tell(event)

    def _record_unasked(self, exchange: Exchange, fault: Fault | None) -> None:
        """Put a request for which nobody was asked on the ledger, if it was let in: in one that was refused
        the cache has no part either."""
        if exchange.decision is None or (fault is not None and _is_refusal(fault, exchange)):
            exchange.cache_status = BYPASS
            return
        self._settlement.record_unasked(exchange, CANCELLED if fault is None else fault.kind.value)

    async def aclose(self) -> None:
        """Close what the engine was given: what runs beside it, transport and ledger."""
        await self._sharing.aclose()
        for task in self._clearing:
            task.cancel()  # the stores tell others what they have not heard when they are closed
        if self._clearing:
            await asyncio.wait(self._clearing)
        if self.cache is not None:
            with contextlib.suppress(TimeoutError):  # before the way to where it goes is closed
                async with asyncio.timeout(WRITING_S):
                    await self.cache.written()
        for each in self._beside:
            await each.aclose()
        await self._transport.aclose()
        if self.cache is not None:
            await self.cache.aclose()
        await self.desk.aclose()
        await self.ledger.aclose()
