"""A crowd with little money: real sockets, a real ledger, faults, streams and callers who leave.

All run in one loop, so a sampler sees the provider's bill and the accounts in one consistent moment:
bill <= spent + held <= limit, at each. In the end the money is gone, nearly all of it, not one
nano-dollar more, and most callers were told so.
"""

import asyncio
import json
import random
import socket
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from windvane.assembly import open_engine
from windvane.config import Config
from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig, ProviderConfig
from windvane.core.events import HoldExceeded
from windvane.core.principal import GLOBAL
from windvane.core.retry import RetryPolicy
from windvane.engine.snapshot import Timeouts
from windvane.gateway.app import Gateway
from windvane.gateway.server import ServerLimits, make_server
from windvane.ports.observer import EVERYTHING, Observer
from windvane.simulator import FaultRule
from windvane.telemetry.metrics import Metrics

SAMPLE_S = 0.05
QUIET_S = 60.0
SHARE_MIN = 0.9
REFUSED_MIN = 0.8
"""Of the money that is spent in the end, and of the callers who are refused then."""
KEYS = 8
MODELS = (
    "auto",
    "mistral-small-latest",
    "mistral-small-latest",
    "ministral-8b-latest",
    "gpt-4o-mini",
    "claude-haiku-5-5",
)
FAULTS = (
    "!error 503",
    "!error 429 retry-after=0",
    "!empty",
    "!cut 5",
    "!reset",
    "!usage-missing",
    "!error-event",
)
RULES = (
    FaultRule(kind="error", models=("mistral-small-latest",), every=6, status=503),
    FaultRule(kind="cut", models=("ministral-8b-latest",), every=13, at_token=0),
)


class Breaches(Observer):
    """Counts bills above their holds. Implements `Observer`."""

    hears = EVERYTHING

    def __init__(self):
        self.entries = []

    def on(self, event):
        if isinstance(event, HoldExceeded):
            self.entries.append(event.entry)


def usd(nano):
    return Decimal(nano) / 10**9


def config_of(simulator, data_dir, limit):
    """A limit on everything; the red keys have their own besides, the blue ones their team's."""
    keys = tuple(
        KeyConfig(
            key=f"sk-crowd-{number:04}",
            name=f"k{number}",
            team="blue" if number % 2 else "red",
            budget=None if number % 2 else BudgetConfig(daily=usd(limit // 7)),
        )
        for number in range(KEYS)
    )
    return Config(
        data_dir=str(data_dir),
        auth=AuthConfig(keys=keys),
        budgets={
            "global": BudgetConfig(total=usd(limit)),
            "team:blue": BudgetConfig(monthly=usd(limit * 6 // 10)),
        },
        providers={
            "mistral": ProviderConfig(api_base=f"{simulator.url}/v1", api_key="simulated"),
            "openai": ProviderConfig(api_base=f"{simulator.url}/openai/v1", api_key="simulated"),
            "anthropic": ProviderConfig(
                api_base=f"{simulator.url}/anthropic/v1", api_key="simulated"
            ),
        },
        timeouts=Timeouts(total_s=5.0, first_token_s=2.0, inter_token_s=2.0),
        retry=RetryPolicy(backoff_base_s=0.001),
    )


@asynccontextmanager
async def gateway(config, breaches):
    """A whole gateway in this loop: its port and its engine."""
    metrics = Metrics()
    engine = await open_engine(config, (metrics, breaches))
    limits = ServerLimits(head_timeout_s=10.0, connections_max=2_000)
    server = make_server(Gateway(engine, config, metrics), host="127.0.0.1", port=0, limits=limits)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1_024)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0.001)
        yield listening.getsockname()[1], engine
    finally:
        server.should_exit = True
        await serving
        await engine.aclose()


class Crowd:
    """Callers who ask until it is over, whatever they are told."""

    def __init__(self, call, chat, rng):
        self._call = call
        self._chat = chat
        self._rng = rng
        self.requests = 0
        self.answered = 0
        self.refused = []
        self.refused_last = {}

    async def ask(self, port, number, is_over):
        rng = self._rng
        key = f"sk-crowd-{number % KEYS:04}"
        while not is_over():
            self.requests += 1
            fault = rng.choice(FAULTS) if rng.random() < 0.15 else ""
            body = self._chat(
                f"Which way does the wind blow? ({self.requests}) {fault}",
                model=rng.choice(MODELS),
                stream=rng.random() < 0.5,
            )
            if rng.random() < 0.8:
                body["max_tokens"] = rng.choice((16, 40, 100, 400))
            leaves = rng.choice((1, 700, 1_500)) if rng.random() < 0.08 else None
            headers = (("authorization", f"Bearer {key}"),)
            said = await self._call(port, body, headers=headers, leave_after_bytes=leaves)
            self.answered += said.is_acknowledged
            is_refused = said.is_whole and said.status == 429 and self._is_of_budget(said)
            if said.is_whole:
                self.refused_last[number] = is_refused
            if is_refused:
                # A caller that is told to wait does, if only a little.
                await asyncio.sleep(rng.uniform(0, 0.2))

    @property
    def refused_now(self):
        """Callers whose last answer was that the money is gone."""
        return sum(self.refused_last.values())

    def _is_of_budget(self, said):
        error = json.loads(said.body)["error"]
        if error["code"] != "budget_exceeded":
            assert "the provider answered 429" in error["message"], error
            return False
        assert "budget of" in error["message"]
        self.refused.append(said.request_id)
        return True


class Sampler:
    """Looks at the bill and at all accounts, in one step of the loop."""

    def __init__(self, simulator, engine, clock_us):
        self._simulator = simulator
        self._engine = engine
        self._clock_us = clock_us
        self.samples = 0
        self.most_held = 0

    def standings(self):
        return {
            (each.scope, each.period): each
            for each in self._engine.budgets.standings(self._clock_us())
        }

    def look(self):
        self.samples += 1
        stands = self.standings()
        for each in stands.values():
            used = each.spent_nano_usd + each.held_nano_usd
            assert used <= each.limit_nano_usd, f"over: {each}"
        (whole,) = [each for (name, _), each in stands.items() if name == GLOBAL]
        bill = self._simulator.bill.total_nano_usd
        used = whole.spent_nano_usd + whole.held_nano_usd
        assert bill <= used, f"the provider charges {bill}; spent and held are {used}"
        self.most_held = max(self.most_held, whole.held_nano_usd)

    async def run(self):
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_S)


async def run(simulate, call, chat, folder, *, clients, seconds, limit):
    simulator = await simulate(ttft_ms=2, tokens_per_s=4_000)
    simulator.set_faults(*RULES)
    crowd, breaches = Crowd(call, chat, random.Random("budget run")), Breaches()
    async with gateway(config_of(simulator, folder / "data", limit), breaches) as (port, engine):
        sampler = Sampler(simulator, engine, engine._clock.wall_us)
        sampling = asyncio.ensure_future(sampler.run())
        loop = asyncio.get_running_loop()
        until_s, has_ended = loop.time() + seconds, False

        def is_over():
            """After its time, when the money is gone and most callers are told so: a busy machine takes
            longer to spend it, and one that never comes to this fails by its last timeout."""
            nonlocal has_ended
            if not has_ended and loop.time() >= until_s:
                spent = sampler.standings()[GLOBAL, "total"].spent_nano_usd
                has_ended = spent >= SHARE_MIN * limit and crowd.refused_now > REFUSED_MIN * clients
            return has_ended

        try:
            async with asyncio.timeout(seconds + 240), asyncio.TaskGroup() as group:
                for number in range(clients):
                    group.create_task(crowd.ask(port, number, is_over))
            async with asyncio.timeout(QUIET_S):
                while engine.budgets.open_holds or simulator._gauges()["open_streams"]:
                    await asyncio.sleep(0.01)
        finally:
            sampling.cancel()
            (ended,) = await asyncio.gather(sampling, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
        sampler.look()
        stands = sampler.standings()
        for each in stands.values():
            assert each.held_nano_usd == 0
            spent = await engine.ledger.spent(each.scope, each.starts_at_us)
            assert spent == each.spent_nano_usd, f"the ledger has {spent}: {each}"
        whole = stands[GLOBAL, "total"]
        charged = {row.attempt.rpartition("-")[0] for row in simulator.bill.rows if row.nano_usd}
        for request_id in crowd.refused:
            entries = await engine.ledger.entries_of(request_id)
            # A refusal may come after attempts that failed; itself it costs nothing.
            assert entries or request_id not in charged
    share = whole.spent_nano_usd / whole.limit_nano_usd
    print(
        f"\n{crowd.requests} requests, {crowd.answered} answered, {len(crowd.refused)} refused,"
        f" {sampler.samples} samples, {share:.2%} of the budget spent, at most"
        f" {sampler.most_held / limit:.1%} held; the provider charged"
        f" {simulator.bill.total_nano_usd / whole.spent_nano_usd:.1%} of what was spent"
    )
    assert not breaches.entries
    assert SHARE_MIN <= share <= 1
    assert crowd.answered > 50
    assert sampler.samples > seconds / SAMPLE_S / 10


async def test_a_crowd_spends_its_budget_and_not_a_nano_dollar_more(simulate, call, chat, tmp_path):
    await run(simulate, call, chat, tmp_path, clients=64, seconds=6, limit=12_000_000)


@pytest.mark.slow
async def test_a_large_crowd_spends_its_budget_and_not_a_nano_dollar_more(
    simulate, call, chat, tmp_path
):
    await run(simulate, call, chat, tmp_path, clients=256, seconds=30, limit=60_000_000)
