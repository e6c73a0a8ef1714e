"""The stage: a real engine, with everything around it scripted, seeded and audited."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

import msgspec

from windvane.config.resolve import resolve
from windvane.config.schema import Config, ModelConfig, ProviderConfig
from windvane.core.exchange import Credentials, Exchange
from windvane.core.routing.table import Route
from windvane.engine.engine import Engine
from windvane.ports.observer import Observer
from windvane.ports.stores import Journal
from windvane.stores.memory import MemoryLedger
from windvane.testing.auditor import Auditor
from windvane.testing.clock import MICROSECONDS, SeededIds, VirtualClock
from windvane.testing.upstream import Call, ScriptedTransport
from windvane.wire.chat_request import chat_request_of

SMALL_CARD = "mistral-small-2603"
LARGE_CARD = "mistral-large-2512"
ROUTE = "auto"

Heard = Callable[[Call], None]
Wrap = Callable[[Journal], Journal]


def _as_it_is(journal: Journal) -> Journal:
    return journal


def _nothing(_: Call) -> None:
    return None


def two_providers(**settings: object) -> Config:
    """Two providers: `one` serves `small`, `two` serves the stronger `large`.

    `auto` asks the first, then the second; a model's own name leads to it alone. `odd` has no known
    price, and `old` is retired.
    """
    config = Config(
        providers={
            "one": ProviderConfig(
                kind="compatible",
                api_base="http://one.test/v1",
                models={
                    "small": ModelConfig(card=SMALL_CARD),
                    "odd": None,
                    "old": ModelConfig(card="codestral-2501"),
                },
            ),
            "two": ProviderConfig(
                kind="compatible",
                api_base="http://two.test/v1",
                models={"large": ModelConfig(card=LARGE_CARD)},
            ),
        },
        routes={ROUTE: Route(otherwise="small", fallbacks=("large",))},
    )
    return msgspec.structs.replace(config, **settings)


class Stage:
    """Everything a scenario happens on. Made inside the loop it plays on.

    `before_audit` wraps the journal as the engine sees it, `after_audit` as the auditor sees it.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        seed: int = 0,
        on_sent: Heard = _nothing,
        on_closed: Heard = _nothing,
        observers: tuple[Observer, ...] = (),
        before_audit: Wrap = _as_it_is,
        after_audit: Wrap = _as_it_is,
    ) -> None:
        rng = Random(seed)
        self.clock = VirtualClock()
        self.ledger = MemoryLedger()
        self.auditor = Auditor(after_audit(self.ledger))
        self.transport = ScriptedTransport(self._sent, on_closed)
        self._on_sent = on_sent
        day = datetime.fromtimestamp(self.clock.wall_us() / MICROSECONDS, UTC).date()
        self.engine = Engine(
            snapshot=resolve(config or two_providers(), pepper=b"pepper", day=day),
            transport=self.transport,
            journal=before_audit(self.auditor),
            ledger=self.ledger,
            clock=self.clock,
            ids=SeededIds(rng),
            rng=rng,
            observers=(self.auditor, *observers),
        )

    def _sent(self, call: Call) -> None:
        self.auditor.on_sent(call)
        self._on_sent(call)

    def accept(self, model: str, text: str, **fields: object) -> Exchange:
        """An exchange for one question, as a surface would have decoded it."""
        messages = [{"role": "user", "content": text}]
        body: dict[str, object] = {"model": model, "messages": messages, **fields}
        exchange = self.engine.accept(
            chat_request_of(body),
            dialect="openai",
            credentials=Credentials(),
            body_bytes=len(msgspec.json.encode(body)),
        )
        self.auditor.begun(exchange.id)
        return exchange

    async def close(self) -> None:
        """Close the engine, and hold everything that happened to the auditor's rules.

        Raises AssertionError with all that is wrong.
        """
        totals = await self.ledger.totals()
        await self.engine.aclose()
        self.auditor.check(totals.cost_nano_usd)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks are left: {left}"
        assert self.transport.is_closed, "the transport was not closed"
