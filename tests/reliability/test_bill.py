"""Every reckoning of the same money agrees: ledger, provider's bill, statistics, usage reports as JSON, as
CSV and on the command line, metrics, headers.

One process, real sockets: requests of every kind, on all upstream dialects, a third of them through
faults or left by their callers, some of them answered from the cache.
"""

import asyncio
import csv
import json
import os
import random
import socket
import sys
from contextlib import asynccontextmanager

import pytest

from windvane.assembly import ADMIN_FILE, open_engine
from windvane.config import Config
from windvane.config.schema import CacheConfig, ProviderConfig
from windvane.core.ledger import FREE
from windvane.core.money import NANO_PER_USD
from windvane.core.retry import RetryPolicy
from windvane.core.usage_report import UsageQuery
from windvane.engine.snapshot import Timeouts
from windvane.gateway.app import Gateway
from windvane.gateway.server import ServerLimits, make_server
from windvane.simulator import FaultRule
from windvane.telemetry.metrics import Metrics

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
    "claude-sonnet-5-5",
    "claude-haiku-4-5",
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
MARKS = ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"})
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
            "anthropic": ProviderConfig(
                api_base=f"{simulator.url}/anthropic/v1", api_key="simulated"
            ),
        },
        timeouts=Timeouts(total_s=60.0, first_token_s=30.0, inter_token_s=30.0),
        retry=RetryPolicy(backoff_base_s=0.001),
        cache=CacheConfig(scope="key"),
    )
    metrics = Metrics()
    engine = await open_engine(config, (metrics,))
    limits = ServerLimits(head_timeout_s=10.0, connections_max=1_000)
    server = make_server(Gateway(engine, config, metrics), host="127.0.0.1", port=0, limits=limits)
    listening = socket.create_server(("127.0.0.1", 0))
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


def _request(chat, rng, number):
    """One request and when its caller leaves, by dice."""
    fault = rng.choice(FAULTS) if rng.random() < 0.3 else ""
    body = chat(
        f"{rng.choice(TEXTS)} ({number}) {fault}",
        model=rng.choice(MODELS),
        stream=rng.random() < 0.5,
    )
    kind = rng.random()
    if rng.random() < 0.2:
        # Asked again and again, so that some of it is known already.
        return chat(rng.choice(TEXTS), stream=rng.random() < 0.5), None
    if kind < 0.15:
        body["tools"] = [TOOL]
        body["messages"][0]["content"] += " !badargs" if kind < 0.02 else ""
    elif kind < 0.25:
        body["n"] = 2
    elif kind < 0.35:
        body["max_tokens"] = rng.randrange(1, 40)
    elif kind < 0.45:
        body["prompt_cache_key"] = "tests"
        body["cache_control"] = rng.choice(MARKS)
        body["messages"][0]["content"] = "The same long preamble. " * 80 + TEXTS[0]
    elif kind < 0.5 and body["stream"]:
        body["stream_options"] = {"include_usage": True}
    leaves = rng.choice((1, 700, 1_500, 2_500)) if rng.random() < 0.1 else None
    return body, leaves


def _sum_of(scraped: str, name: str) -> float:
    """All samples of a counter, added up."""
    lines = [line for line in scraped.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def _reports(call, port, folder):
    """What an operator is told was spent, by each way of asking."""
    admin = (("authorization", f"Bearer {(folder / ADMIN_FILE).read_text()}"),)

    async def ask(query):
        path = f"/admin/usage?{query}"
        return (await call(port, None, path=path, headers=admin)).body.decode()

    whole = json.loads(await ask("by=model"))
    days = json.loads(await ask("by=day,provider,route"))
    table = list(csv.DictReader((await ask("by=model,user&format=csv")).splitlines()))
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "windvane", "usage", "--by", "model", "--json"),
        *("--url", f"http://127.0.0.1:{port}"),
        env={**os.environ, "WINDVANE_ADMIN_KEY": (folder / ADMIN_FILE).read_text()},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await command.communicate()
    return {
        "json": sum(row["cost_nano_usd"] for row in whole["rows"]),
        "days": sum(row["cost_nano_usd"] for row in days["rows"]),
        "csv": sum(int(row["cost_nano_usd"]) for row in table),
        "command": json.loads(printed)["totals"]["cost_nano_usd"],
    }


@pytest.mark.parametrize("requests", [1_500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_all_reckonings_of_the_same_money_agree(
    simulate, call, chat, audit, tmp_path, requests
):
    simulator = await simulate(ttft_ms=1, tokens_per_s=20_000)
    simulator.set_faults(*FALLBACKS)
    rng = random.Random(f"bill {requests}")
    told = {}
    refused = 0
    async with _gateway(simulator, tmp_path / "data") as (port, engine):
        numbers = iter(range(requests))

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

        async with asyncio.timeout(900), asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(worker())
        async with asyncio.timeout(60):
            while simulator._gauges()["open_streams"]:
                await asyncio.sleep(0.001)

        # As text first: whoever scrapes has asked for nothing else before.
        scraped = (await call(port, None, path="/metrics")).body.decode()
        json_wanted = (("accept", "application/json"),)
        stats = json.loads((await call(port, None, path="/user/stats")).body)
        metrics = json.loads((await call(port, None, path="/metrics", headers=json_wanted)).body)
        reports = await _reports(call, port, tmp_path / "data")
        (whole,) = await engine.ledger.usage(UsageQuery())
        totals = whole.totals
        rows = await engine.ledger.usage(UsageQuery(by=("model",)))
        by_model = {row.group[0]: row.totals for row in rows}
        ledger = []
        asked = {row.attempt.rpartition("-")[0] for row in simulator.bill.rows}
        for request_id in asked | told.keys():
            ledger += [
                {name: getattr(entry, name) for name in entry.__struct_fields__}
                for entry in await engine.ledger.entries_of(request_id)
            ]

    billed = [{"attempt": row.attempt, "nano_usd": row.nano_usd} for row in simulator.bill.rows]
    assert not audit(ledger, billed, told)
    assert not simulator.violations

    free = [row for row in ledger if row["outcome"] in FREE]
    unasked = [row for row in ledger if not row["provider"]]
    ledger = [row for row in ledger if row["provider"] and row["outcome"] not in FREE]
    assert len(free) > requests / 10
    assert sum(row["cost_nano_usd"] for row in (*free, *unasked)) == 0
    saved = sum(row["saved_nano_usd"] for row in free)
    assert metrics["saved_nano_usd_total"] == stats["saved_nano_usd"] == saved > 0
    lookups = metrics["cache_lookups_by_result"]
    assert sum(lookups.values()) == metrics["requests_total"]
    asked = [lookups[name] for name in ("hit", "joined", "miss")]
    assert asked == [stats[f"cache_{name}"] for name in ("hits", "joins", "misses")]
    assert asked[0] + asked[1] >= len(free)

    spent = sum(row["cost_nano_usd"] for row in ledger)
    assert reports == {"json": spent, "days": spent, "csv": spent, "command": spent}
    assert totals.cost_nano_usd == spent
    assert sum(each.cost_nano_usd for each in by_model.values()) == spent
    assert stats["cost_nano_usd"] == spent
    assert metrics["cost_nano_usd_total"] == spent
    assert _sum_of(scraped, "windvane_cost_usd_total") == pytest.approx(
        spent / NANO_PER_USD, rel=1e-12
    )
    assert _sum_of(scraped, "windvane_saved_usd_total") == pytest.approx(
        saved / NANO_PER_USD, rel=1e-12
    )
    assert _sum_of(scraped, "windvane_upstream_attempts_total") == len(ledger)
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
    assert len(told) > requests / 2
    assert sum(row["number"] > 1 and row["outcome"] == "ok" for row in ledger) > 10
