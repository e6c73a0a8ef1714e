"""Every reckoning of the same money agrees: ledger, provider's bill, statistics, metrics, headers.

One process, real sockets: about 1,500 requests of every kind, on both upstream dialects, a third of
them through faults or left by their callers.
"""

import asyncio
import json
import random
import socket
from contextlib import asynccontextmanager

import pytest

from windvane.assembly import open_engine
from windvane.config import Config
from windvane.config.schema import ProviderConfig
from windvane.core.retry import RetryPolicy
from windvane.core.usage_report import UsageQuery
from windvane.engine.snapshot import Timeouts
from windvane.gateway.app import Gateway
from windvane.gateway.server import ServerLimits, make_server
from windvane.simulator import FaultRule
from windvane.telemetry.metrics import Metrics

REQUESTS = 1_500
WORKERS = 24

MODELS = (
    "auto",
    "mistral-small-latest",
    "mistral-medium-latest",
    "ministral-8b-latest",
    "codestral-latest",
    "gpt-4o-mini",
    "gpt-5-nano",
    "gpt-4.1",
)
TEXTS = (
    "What is a windvane?",
    "Which way does the mistral blow, and for how many days?",
    "Prove that the sum of two odd numbers is even, step by step",
    "Écris trois phrases sur le vent du nord, s'il te plaît",
)
FAULTS = (
    *("!error 503", "!error 429 retry-after=0", "!error 400", "!error 500", "!html", "!reset"),
    *("!garbage", "!empty", "!empty !no-done", "!refuse", "!usage-missing", "!cut 5"),
    *("!cut-clean 5", "!error-event", "!truncated", "!gzip", "!wrong-type", "!crlf"),
    *("!comments", "!no-done", "!loop 40", "!badjson", "!cut 0", "!late 20"),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "wind_at",
        "description": "The wind at a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "knots": {"type": "boolean"}},
            "required": ["place"],
        },
    },
}
FALLBACKS = (
    FaultRule(kind="error", models=("mistral-small-latest",), every=6, status=503),
    FaultRule(kind="empty", models=("mistral-small-latest",), every=11),
    FaultRule(kind="cut", models=("mistral-medium-latest",), every=13, at_token=0),
)


@asynccontextmanager
async def _gateway(simulator, data_dir):
    """A whole gateway in this loop: its port, its engine and its metrics."""
    config = Config(
        data_dir=str(data_dir),
        providers={
            "mistral": ProviderConfig(api_base=f"{simulator.url}/v1", api_key="simulated"),
            "openai": ProviderConfig(api_base=f"{simulator.url}/openai/v1", api_key="simulated"),
        },
        timeouts=Timeouts(total_s=5.0, first_token_s=2.0, inter_token_s=2.0),
        retry=RetryPolicy(backoff_base_s=0.001),
    )
    metrics = Metrics()
    engine = await open_engine(config, (metrics,))
    limits = ServerLimits(head_timeout_s=10.0, connections_max=1_000)
    server = make_server(Gateway(engine, config, metrics), host="127.0.0.1", port=0, limits=limits)
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.001)
        yield listening.getsockname()[1], engine
    finally:
        server.should_exit = True
        await serving
        await engine.aclose()


def _request(chat, rng, number):
    """One request and when its caller leaves, by dice."""
    fault = rng.choice(FAULTS) if rng.random() < 0.3 else ""
    body = chat(
        f"{rng.choice(TEXTS)} ({number}) {fault}",
        model=rng.choice(MODELS),
        stream=rng.random() < 0.5,
    )
    kind = rng.random()
    if kind < 0.15:
        body["tools"] = [TOOL]
        body["messages"][0]["content"] += " !badargs" if kind < 0.02 else ""
    elif kind < 0.25:
        body["n"] = 2
    elif kind < 0.35:
        body["max_tokens"] = rng.randrange(1, 40)
    elif kind < 0.45:
        body["prompt_cache_key"] = "tests"
        body["messages"][0]["content"] = "The same long preamble. " * 80 + TEXTS[0]
    elif kind < 0.5 and body["stream"]:
        body["stream_options"] = {"include_usage": True}
    leaves = rng.choice((1, 700, 1_500, 2_500)) if rng.random() < 0.1 else None
    return body, leaves


@pytest.mark.parametrize("seed", ["bill 1"])
async def test_all_reckonings_of_the_same_money_agree(simulate, call, chat, audit, tmp_path, seed):
    simulator = await simulate(ttft_ms=1, tokens_per_s=20_000)
    simulator.set_faults(*FALLBACKS)
    rng = random.Random(seed)
    told = {}
    refused = 0
    async with _gateway(simulator, tmp_path / "data") as (port, engine):
        numbers = iter(range(REQUESTS))

        async def worker():
            nonlocal refused
            for number in numbers:
                body, leaves = _request(chat, rng, number)
                said = await call(port, body, leave_after_bytes=leaves)
                if said.is_acknowledged:
                    told[said.request_id] = said.cost_nano_usd
                elif said.is_whole and said.status != 200:
                    refused += 1
                elif leaves is None and not said.is_stream:
                    raise AssertionError(f"{body} had no whole answer: {said}")

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(worker())
        async with asyncio.timeout(5):
            while simulator._gauges()["open_streams"]:
                await asyncio.sleep(0.001)

        json_wanted = (("accept", "application/json"),)
        stats = json.loads((await call(port, None, path="/user/stats")).body)
        metrics = json.loads((await call(port, None, path="/metrics", headers=json_wanted)).body)
        (whole,) = await engine.ledger.usage(UsageQuery())
        totals = whole.totals
        rows = await engine.ledger.usage(UsageQuery(by=("model",)))
        by_model = {row.group[0]: row.totals for row in rows}
        ledger = []
        for request_id in {row.attempt.rpartition("-")[0] for row in simulator.bill.rows}:
            ledger += [
                {name: getattr(entry, name) for name in entry.__struct_fields__}
                for entry in await engine.ledger.entries_of(request_id)
            ]

    billed = [{"attempt": row.attempt, "nano_usd": row.nano_usd} for row in simulator.bill.rows]
    assert not audit(ledger, billed, told)
    assert not simulator.violations

    spent = sum(row["cost_nano_usd"] for row in ledger)
    assert totals.cost_nano_usd == spent
    assert sum(each.cost_nano_usd for each in by_model.values()) == spent
    assert stats["cost_nano_usd"] == spent
    assert metrics["cost_nano_usd_total"] == spent
    assert metrics["unpriced_attempts_total"] == stats["unpriced_attempts"] == 0
    assert metrics["attempts_total"] == stats["attempts"] == len(ledger)
    for name in ("input_tokens", "output_tokens"):
        assert metrics[f"{name}_total"] == stats[name] == sum(row[name] for row in ledger)

    certainties = {}
    true = {}
    for row in billed:
        true[row["attempt"]] = true.get(row["attempt"], 0) + row["nano_usd"]
    for row in ledger:
        known = certainties.setdefault(row["certainty"].value, [0, 0, 0, 0])
        charged = true.get(row["attempt_id"], 0)
        known[0] += 1
        known[1] += row["cost_nano_usd"]
        known[2] += charged
        known[3] += row["cost_nano_usd"] < charged
    print(f"\n{len(told)} answered, {refused} refused, {len(ledger)} attempts")
    for name, (count, cost, charged, low) in certainties.items():
        print(f"{name}: {count} attempts, {cost} on the ledger, {charged} billed, {low} below")
    assert certainties["exact"][1] == certainties["exact"][2]
    assert set(certainties) == {"exact", "estimated", "assumed"}
    assert len(told) > REQUESTS / 2
    assert sum(row["number"] > 1 and row["outcome"] == "ok" for row in ledger) > 10
