"""The stage: a real engine, with everything around it scripted, seeded and audited."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import Random

import msgspec

from windvane.config.resolve import resolve
from windvane.config.schema import Config, ModelConfig, ProviderConfig
from windvane.core.budgets import BudgetTable
from windvane.core.exchange import Credentials, Exchange
from windvane.core.limits import RateTable
from windvane.core.routing.table import Route
from windvane.core.usage_report import UsageQuery
from windvane.engine.engine import Engine
from windvane.engine.keyring import KeyDesk, Keyring
from windvane.ports.observer import Observer
from windvane.ports.stores import FlightLeases, Journal
from windvane.stores.memory import MemoryBudgets, MemoryKeys, MemoryLedger, MemoryLimits
from windvane.testing.answers_kept import KeptAnswers, KnownInvalidations
from windvane.testing.auditor import Auditor
from windvane.testing.clock import MICROSECONDS, SeededIds, VirtualClock
from windvane.testing.upstream import Call, ScriptedTransport
from windvane.wire.chat_request import chat_request_of

SMALL_CARD = "mistral-small-2603"
LARGE_CARD = "mistral-large-2512"
ROUTE = "auto"
PEPPER = b"pepper"

Heard = Callable[[Call], None]
Wrap = Callable[[Journal], Journal]


def _as_it_is(journal: Journal) -> Journal:
    return journal


def _nothing(_: Call) -> None:
    return None


def two_providers(**settings: object) -> Config:
    """Two providers: `one` serves `small`, `two` serves the stronger `large`.

    `auto` asks the first, then the second; a model's own name leads to it alone. `odd` has no known
    price.
    """
    config = Config(
        providers={
            "one": ProviderConfig(
                kind="compatible",
                api_base="http://one.test/v1",
                models={
                    "small": ModelConfig(card=SMALL_CARD),
                    "odd": None,
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
        on_connecting: Heard = _nothing,
        observers: tuple[Observer, ...] = (),
        before_audit: Wrap = _as_it_is,
        after_audit: Wrap = _as_it_is,
        new_budgets: Callable[[BudgetTable], MemoryBudgets] = MemoryBudgets,
        new_limits: Callable[[RateTable], MemoryLimits] = MemoryLimits,
        leases: FlightLeases | None = None,
    ) -> None:
        rng = Random(seed)
        self.clock = VirtualClock()
        self.ledger = MemoryLedger()
        self.transport = ScriptedTransport(self._sent, on_closed, on_connecting)
        self._on_sent = on_sent
        day = datetime.fromtimestamp(self.clock.wall_us() / MICROSECONDS, UTC).date()
        snapshot = resolve(config or two_providers(), pepper=PEPPER, day=day)
        budgets, rates = BudgetTable(snapshot.budgets), RateTable(snapshot.rates)
        self.auditor = Auditor(
            after_audit(self.ledger), budgets=budgets, rates=rates, now_s=self.clock.monotonic_s
        )
        self.budgets = new_budgets(budgets)
        self.limits = new_limits(rates)
        self.keyring = Keyring(
            pepper=PEPPER, fixed=snapshot.keys, made=(), roll=rng.getrandbits, clock=self.clock
        )
        self.desk = KeyDesk(
            keyring=self.keyring,
            store=MemoryKeys(),
            ledger=self.ledger,
            budgets=self.budgets,
            limits=self.limits,
            configured=(budgets, rates),
            clock=self.clock,
        )
        self.cache = KeptAnswers(self.clock)
        self.invalidations = KnownInvalidations()
        self.engine = Engine(
            snapshot=snapshot,
            cache=self.cache,
            invalidations=self.invalidations,
            leases=leases,
            budgets=self.budgets,
            limits=self.limits,
            keyring=self.keyring,
            desk=self.desk,
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

    def accept(
        self,
        model: str,
        text: str,
        *,
        key: str | None = None,
        headers: dict[bytes, bytes] | None = None,
        fields: Mapping[str, object] | None = None,
        **more: object,
    ) -> Exchange:
        """An exchange for one question, as a surface would have decoded it. `fields` and `more` are
        the request's own."""
        messages = [{"role": "user", "content": text}]
        body: dict[str, object] = {"model": model, "messages": messages, **(fields or {}), **more}
        exchange = self.engine.accept(
            chat_request_of(body),
            dialect="openai",
            credentials=Credentials(bearer=key),
            body_bytes=len(msgspec.json.encode(body)),
            headers=headers,
        )
        self.auditor.begun(exchange.id)
        return exchange

    async def close(self) -> None:
        """Close the engine, and hold everything that happened to the auditor's rules.

        Raises AssertionError with all that is wrong.
        """
        (usage,) = await self.ledger.usage(UsageQuery())
        await self.engine.aclose()
        self.auditor.check(usage.totals.cost_nano_usd)
        assert not self.transport.open_calls, f"{self.transport.open_calls} are still being made"
        assert not self.budgets.open_holds, f"{self.budgets.open_holds} holds are left"
        self.auditor.check_standings(self.budgets.standings(self.clock.wall_us()))
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks are left: {left}"
        assert self.transport.is_closed, "the transport was not closed"
