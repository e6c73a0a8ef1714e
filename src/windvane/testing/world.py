"""A seeded world: the real engine among bad providers and impatient callers, for a simulated hour.

Everything that happens follows from the seed: the same seed gives the same trace, to the last digit,
and `World(seed).run()` is a whole bug report. What must hold is the auditor's to say.
"""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from random import Random

import msgspec

from windvane.config.schema import (
    AuthConfig,
    BudgetConfig,
    Config,
    KeyConfig,
    ModelConfig,
    ProviderConfig,
    RateConfig,
)
from windvane.core.budgets import BudgetTable
from windvane.core.chat import Completion
from windvane.core.events import AttemptSettled, Event, ExchangeEnded
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of
from windvane.core.ledger import LedgerEntry
from windvane.core.limits import RateTable
from windvane.core.routing.table import Route
from windvane.engine.sharing import AnswerStream
from windvane.engine.snapshot import Timeouts
from windvane.ports.observer import EVERYTHING, Observer
from windvane.ports.stores import Journal
from windvane.stores.memory import MemoryBudgets, MemoryLimits
from windvane.testing.loop import run_virtual
from windvane.testing.stage import LARGE_CARD, SMALL_CARD, Stage, Wrap
from windvane.testing.upstream import Call
from windvane.testing.weather import Told, tell

HOUR_S = 3_600.0
EXCHANGES = 100
FAULTY_HOLDS = 0.02
"""The share of holds that a faulty disk refuses."""
JUMPS = (-7_200.0, -3_600.0, -1.0, 0.5, 3_600.0, 42_000.0, 86_400.0, 864_000.0)
"""By how many seconds the wall clock is set: NTP, a summer time mistake, a day; over midnight, and over
the end of the month."""
KEYS = ("sk-world-poor", "sk-world-rich", "sk-world-free")
NANO = Decimal(10) ** -9


def three_providers() -> Config:
    """Three providers of seven models: strong, weak, unpriced and doubly served."""
    small, large = ModelConfig(card=SMALL_CARD), ModelConfig(card=LARGE_CARD)

    def provider(name: str, **models: ModelConfig | None) -> ProviderConfig:
        return ProviderConfig(kind="compatible", api_base=f"http://{name}.test/v1", models=models)

    return Config(
        auth=AuthConfig(
            keys=(
                KeyConfig(key=KEYS[0], name="poor", team="red", tags=("nightly",)),
                KeyConfig(key=KEYS[1], name="rich", team="red"),
                KeyConfig(key=KEYS[2], name="free"),
            )
        ),
        budgets={
            "key:poor": BudgetConfig(daily=600_000 * NANO, monthly=2_500_000 * NANO),
            "team:red": BudgetConfig(daily=6_000_000 * NANO),
            "user:*": BudgetConfig(daily=900_000 * NANO, total=4_000_000 * NANO),
            "tag:nightly": BudgetConfig(total=3_000_000 * NANO),
            "tag:spent": BudgetConfig(monthly=30_000 * NANO),
        },
        rates={
            "key:poor": RateConfig(requests_per_minute=4, burst_requests=2),
            "team:red": RateConfig(concurrency=4, tokens_per_minute=2_000),
            "user:*": RateConfig(requests_per_minute=5, concurrency=2),
            "model:mistral-large-2512": RateConfig(concurrency=3, requests_per_minute=12),
        },
        providers={
            "one": provider("one", small=small, odd=None),
            "two": provider("two", small=small, large=large),
            "three": provider("three", large=large, last=large),
        },
        routes={"auto": Route(otherwise=("small", "odd"), fallbacks=("large", "last"))},
        timeouts=Timeouts(first_token_s=20.0, inter_token_s=10.0, total_s=60.0),
    )


class Habit(msgspec.Struct, frozen=True, kw_only=True):
    """How a caller behaves."""

    arrives_s: float
    model: str
    question: str
    is_stream: bool
    output_tokens_max: int | None
    patience_s: float | None
    leaves_after_reads: int | None
    pause_s: float
    key: str
    headers: dict[bytes, bytes]


def a_habit(rng: Random) -> Habit:
    """Most callers wait to the end; some leave in a hurry, some read slowly, some stop listening."""
    return Habit(
        arrives_s=rng.uniform(0, HOUR_S) if rng.random() < 0.7 else rng.uniform(0, 60),
        model=rng.choice(("auto", "auto", "auto", "small", "large", "odd", "two/small", "nobody")),
        question="Why? " * rng.randint(1, 60),
        is_stream=rng.random() < 0.6,
        output_tokens_max=rng.choice((None, None, 64, 1_000)),
        patience_s=rng.expovariate(0.2) if rng.random() < 0.3 else None,
        leaves_after_reads=rng.randint(1, 6) if rng.random() < 0.1 else None,
        pause_s=rng.choice((0.0, 0.0, 0.0, 0.3, 4.0)),
        key=rng.choice((*KEYS, KEYS[2], KEYS[2])),
        headers=_put_down_to(rng),
    )


def _put_down_to(rng: Random) -> dict[bytes, bytes]:
    """Some callers say for whom, and for what."""
    headers = {}
    if rng.random() < 0.4:
        headers[b"x-windvane-user"] = rng.choice((b"ann", b"ann", b"bob"))
    if rng.random() < 0.1:
        headers[b"x-windvane-tags"] = rng.choice((b"nightly", b"spent", b"nightly, other"))
    return headers


class FaultyJournal:
    """A journal on a disk that is full now and then: such a hold is refused, and nothing is sent."""

    def __init__(self, journal: Journal, rng: Random, share: float = FAULTY_HOLDS) -> None:
        self._journal = journal
        self._rng = rng
        self._share = share

    def hold(self, entry: LedgerEntry) -> None:
        if self._rng.random() < self._share:
            raise error_of(
                Fault(
                    kind=FaultKind.INTERNAL,
                    source=Source.GATEWAY,
                    message="the ledger cannot be written; nothing was sent",
                    status=503,
                )
            )
        self._journal.hold(entry)

    def settle(self, entry: LedgerEntry) -> None:
        self._journal.settle(entry)


class World(Observer):
    """One seeded world. `stage` and `trace` are there to look at once it has run."""

    hears = EVERYTHING

    stage: Stage

    def __init__(
        self,
        seed: int,
        *,
        exchanges: int = EXCHANGES,
        config: Config | None = None,
        has_faulty_disk: bool = True,
        before_audit: Wrap | None = None,
        after_audit: Wrap | None = None,
        new_budgets: Callable[[BudgetTable], MemoryBudgets] = MemoryBudgets,
        new_limits: Callable[[RateTable], MemoryLimits] = MemoryLimits,
    ) -> None:
        self._new_budgets = new_budgets
        self._new_limits = new_limits
        self._rng = Random(seed)
        self._exchanges = exchanges
        self._config = config or three_providers()
        self._has_faulty_disk = has_faulty_disk
        self._before_audit = before_audit or self._as_it_is
        self._after_audit = after_audit or self._as_it_is
        self._told: dict[str, Told] = {}
        self.trace: list[str] = []

    def run(self) -> str:
        """Run to rest; the hash of its trace. Raises AssertionError with all that went wrong."""
        try:
            run_virtual(self._run())
        except ExceptionGroup as group:
            raise AssertionError(f"it crashed: {group.exceptions[0]!r}") from group
        return self.hash

    @property
    def hash(self) -> str:
        return sha256("\n".join(self.trace).encode()).hexdigest()[:16]

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of thing happened: a world without storms proves little."""
        counts: dict[str, int] = {}
        for line in self.trace:
            kind = line.split(" ", 1)[1].split(" (", 1)[0]
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def _as_it_is(self, journal: Journal) -> Journal:
        return journal

    def _engine_side(self, journal: Journal) -> Journal:
        journal = self._before_audit(journal)
        return FaultyJournal(journal, self._rng) if self._has_faulty_disk else journal

    async def _run(self) -> None:
        self.stage = Stage(
            self._config,
            seed=self._rng.getrandbits(32),
            on_sent=self._sent,
            on_closed=self._closed,
            on_connecting=self._connecting,
            observers=(self,),
            before_audit=self._engine_side,
            after_audit=self._after_audit,
            new_budgets=self._new_budgets,
            new_limits=self._new_limits,
        )
        habits = [a_habit(self._rng) for _ in range(self._exchanges)]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._set_clock())
            for habit in habits:
                group.create_task(self._live(habit))
        breaches = self.stage.auditor.breaches
        assert not breaches, f"{breaches} holds were below what honest providers billed"
        await self.stage.close()

    def _note(self, what: str) -> None:
        self.trace.append(f"{self.stage.clock.monotonic_s():.6f} {what}")

    async def _set_clock(self) -> None:
        for _ in range(5):
            await asyncio.sleep(self._rng.uniform(0, HOUR_S / 5))
            self.stage.clock.jump(self._rng.choice(JUMPS))

    def _connecting(self, call: Call) -> None:
        self._told[call.attempt_id] = told = tell(call, self._rng)
        self._note(f"asked {told.kind} ({call.attempt_id} {call.deployment})")

    def _sent(self, call: Call) -> None:
        self._note(f"sent ({call.attempt_id})")

    def _closed(self, call: Call) -> None:
        self._note(f"closed ({call.attempt_id} {call.is_whole})")

    def on(self, event: Event) -> None:
        match event:
            case AttemptSettled(entry=entry):
                how = f"{entry.certainty} {entry.outcome}"
                self._note(f"settled {how} ({entry.attempt_id} {entry.cost_nano_usd})")
            case ExchangeEnded():
                self._note(f"ended {event.status} {event.fault} ({event.request_id})")

    async def _live(self, habit: Habit) -> None:
        """One caller's life: wait, ask, listen, and leave."""
        await asyncio.sleep(habit.arrives_s)
        fields: dict[str, object] = {"stream": habit.is_stream}
        if habit.output_tokens_max is not None:
            fields["max_tokens"] = habit.output_tokens_max
        exchange = self.stage.accept(
            habit.model, habit.question, key=habit.key, headers=habit.headers, fields=fields
        )
        try:
            async with asyncio.timeout(habit.patience_s):
                await self._ask(exchange, habit)
        except WindvaneError:
            pass
        except TimeoutError:
            self._note(f"left ({exchange.id})")

    async def _ask(self, exchange: Exchange, habit: Habit) -> None:
        answer = await self.stage.engine.handle(exchange)
        if isinstance(answer, Completion):
            text = answer.choices[0].message.content or ""
            self._check(exchange, text, is_whole=True)
            return
        try:
            await self._listen(exchange, answer, habit)
        finally:
            await answer.aclose()

    async def _listen(self, exchange: Exchange, stream: AnswerStream, habit: Habit) -> None:
        text, reads = "", 0
        async for chunks in stream:
            self.stage.auditor.delivered(exchange.id)
            text += "".join(piece.content or "" for chunk in chunks for piece in chunk.choices)
            self._check(exchange, text, is_whole=False)
            reads += 1
            if reads == habit.leaves_after_reads:
                return
            await asyncio.sleep(habit.pause_s)
        self._check(exchange, text, is_whole=True)

    def _check(self, exchange: Exchange, text: str, *, is_whole: bool) -> None:
        """What a caller was given is what one provider said, in order; whole only if it was."""
        attempt = exchange.answered_by
        assert attempt is not None, f"{exchange.id} has an answer from nobody"
        told = self._told[attempt.id]
        problems = self.stage.auditor.problems
        if not told.text.startswith(text):
            problems.append(f"{attempt.id}: given {text!r} of {told.text!r}")
        if is_whole and not (told.is_sound and told.text == text):
            problems.append(f"{attempt.id}: {told.kind} ended well, with {text!r} of {told.text!r}")
