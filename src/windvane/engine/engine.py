"""The engine: one exchange, ten steps, in this order for every door, dialect and provider.

    1 accept    the surface has decoded the request into an `Exchange`
    2 identify  who calls
    3 gate      rate and concurrency: cheap refusals first
    4 analyze   what is known of the request without asking anyone
    5 find      an answer that is already there
    6 decide    who is asked, in which order, and why
    7 reserve   the worst case is held and written down        \\
    8 dispatch  the provider is asked; failures are classified   } per attempt, in `dispatch`
    9 relay     the answer goes out, whole or as it comes      /
   10 settle    usage, cost, ledger, observers: exactly once

It holds the clock, asks the core, does what the core says, and tells the observers.
"""

import asyncio
from random import Random

from windvane.core.analysis import Analysis, analyze
from windvane.core.chat import ChatRequest
from windvane.core.deployment import Deployment
from windvane.core.events import ExchangeEnded
from windvane.core.exchange import Credentials, Exchange
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, refuse
from windvane.core.principal import Principal
from windvane.core.routing.decide import Decider
from windvane.core.routing.decision import Decision
from windvane.engine.admission import gate, identify
from windvane.engine.asking import Asking
from windvane.engine.dispatch import Answer, Dispatch
from windvane.engine.facts import Facts
from windvane.engine.health import HealthBook
from windvane.engine.lookup import find
from windvane.engine.relay import CLIENT_CLOSED
from windvane.engine.settlement import Settlement
from windvane.engine.snapshot import Snapshot
from windvane.ports.clock import Clock, Ids
from windvane.ports.observer import Observer
from windvane.ports.stores import Journal, LedgerStore
from windvane.ports.transport import Transport

FAILED = Fault(
    kind=FaultKind.INTERNAL, source=Source.GATEWAY, message="the engine failed", status=500
)
"""A bug of ours, as the observers are told of it."""


class Engine:
    """Serves exchanges. Made by `assembly`, shared by all doors."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        transport: Transport,
        journal: Journal,
        ledger: LedgerStore,
        clock: Clock,
        ids: Ids,
        rng: Random,
        observers: tuple[Observer, ...] = (),
    ) -> None:
        self.snapshot = snapshot
        self.ledger = ledger
        self.health = HealthBook()
        self._transport = transport
        self._clock = clock
        self._ids = ids
        self._observers = observers
        self._settlement = Settlement(journal, clock, observers)
        self._decider: Decider | None = None
        self._decider_of: Snapshot | None = None
        self._dispatch = Dispatch(
            asking=Asking(transport, clock),
            settlement=self._settlement,
            health=self.health,
            clock=clock,
            rng=rng,
            on_end=self._end,
        )

    def accept(
        self,
        request: ChatRequest,
        *,
        dialect: str,
        credentials: Credentials,
        body_bytes: int,
        headers: dict[bytes, bytes] | None = None,
        client_request_id: str | None = None,
    ) -> Exchange:
        """Step 1: open the record of a decoded request. `body_bytes` is its size as JSON."""
        now_us = self._clock.wall_us()
        return Exchange(
            id=self._ids.request_id(now_us),
            dialect=dialect,
            request=request,
            credentials=credentials,
            received_s=self._clock.monotonic_s(),
            received_at_us=now_us,
            headers=headers or {},
            client_request_id=client_request_id,
            body_bytes=body_bytes,
        )

    def new_request_id(self) -> str:
        """An id for a request that was refused before it became an exchange."""
        return self._ids.request_id(self._clock.wall_us())

    async def handle(self, exchange: Exchange) -> Answer:
        """Steps 2 to 10. A `ChunkStream` is the caller's to close, and is settled by its end.

        Raises a WindvaneError when there is no answer. The exchange has then ended.
        """
        snapshot = self.snapshot
        try:
            if exchange.principal is None:
                exchange.principal = identify(exchange.credentials, snapshot)
            await gate(exchange)
            exchange.analysis = self._analyze(exchange, snapshot)
            if (found := await find(exchange)) is not None:
                return found
            exchange.decision = self._decide(exchange, snapshot)
            return await self._dispatch.run(exchange, snapshot)
        except WindvaneError as error:
            self._end(exchange, error.fault.status, error.fault)
            raise
        except asyncio.CancelledError:
            self._end(exchange, CLIENT_CLOSED, None)
            raise
        except BaseException:
            self._end(exchange, FAILED.status, FAILED)
            raise

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
        exchange.principal = identify(credentials, snapshot)
        exchange.analysis = self._analyze(exchange, snapshot)
        return exchange.analysis, self._decide(exchange, snapshot)

    def identify(self, credentials: Credentials) -> Principal:
        """Who shows these credentials. Raises AuthenticationError."""
        return identify(credentials, self.snapshot)

    def is_available(self, deployment: Deployment) -> bool:
        return self.health.is_available(deployment, self._clock.monotonic_s())

    def _analyze(self, exchange: Exchange, snapshot: Snapshot) -> Analysis:
        analysis = analyze(exchange.request)
        limit = snapshot.input_tokens_max
        if limit is not None and analysis.input_tokens > limit:
            raise refuse(
                FaultKind.CONTEXT_TOO_LONG,
                f"messages: about {analysis.input_tokens} input tokens, over this gateway's limit"
                f" of {limit}",
                param="messages",
            )
        return analysis

    def _decide(self, exchange: Exchange, snapshot: Snapshot) -> Decision:
        assert exchange.analysis is not None
        day = self._settlement.day(exchange.received_at_us)
        decider = self._decider
        if decider is None or decider.day != day or self._decider_of is not snapshot:
            decider = Decider(snapshot.routes, snapshot.deployments, snapshot.catalog, day)
            self._decider, self._decider_of = decider, snapshot
        return decider.decide(
            exchange.request.model,
            exchange.analysis,
            Facts(exchange),
            None if self.health.is_all_well else self.is_available,
        )

    def _end(self, exchange: Exchange, status: int, fault: Fault | None) -> None:
        """Step 10's last part: the exchange is over, and the observers are told."""
        now_s = self._clock.monotonic_s()
        exchange.fault = fault
        exchange.end(now_s)
        attempt = exchange.final_attempt
        decision, principal = exchange.decision, exchange.principal
        duration_s = now_s - exchange.received_s
        event = ExchangeEnded(
            request_id=exchange.id,
            model=attempt.deployment.model if attempt else "",
            provider=attempt.deployment.provider if attempt else "",
            route=decision.route if decision else None,
            status=status,
            reason=decision.reason if decision else "",
            key_id=principal.key_id if principal else None,
            requested_model=exchange.request.model,
            attempts=len(exchange.attempts),
            models_tried=tuple(each.deployment.model for each in exchange.attempts),
            is_stream=exchange.request.stream,
            cache_status=exchange.cache_status,
            duration_s=duration_s,
            overhead_s=max(duration_s - exchange.upstream_s, 0.0),
            first_chunk_s=attempt.first_chunk_s - exchange.received_s
            if attempt and attempt.first_chunk_s is not None
            else None,
            cost_nano_usd=exchange.cost_nano_usd,
            fault=fault.kind.value if fault else None,
            at_us=exchange.received_at_us,
        )
        for observer in self._observers:
            observer.on(event)

    async def aclose(self) -> None:
        """Close what the engine was given: transport and ledger."""
        await self._transport.aclose()
        await self.ledger.aclose()
