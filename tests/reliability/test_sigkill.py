"""SIGKILL at any instant loses no acknowledged answer and bills nothing twice (M4).

The instants are random and the clients busy: JSON and streams, fallbacks, callers who leave. After
each kill the gateway is started again on the same folder and replays its journal. The simulator's
bill is the witness.
"""

import asyncio
import os
import random

import pytest

KILLS = int(os.environ.get("WINDVANE_KILLS", "300"))
LANES = 2
KILLS_PER_AUDIT = 25
CLIENTS = 6
LOAD_S_MAX = 0.4
"""A kill strikes within this of the gateway's first request."""

TEXTS = (
    "What is a windvane?",
    "Name three winds of the Mediterranean and where they blow from",
    "Explain how sailing boats use wind",
    "!error 503 and then some words",
    "!empty please",
    "!usage-missing count this",
    "!cut 4 in the middle",
)
MODELS = ("auto", "mistral-small-latest", "mistral-medium-latest", "gpt-4o-mini")


class Clients:
    """Callers who ask until the gateway dies, and remember what they were told."""

    def __init__(self, call, chat, rng):
        self._call = call
        self._chat = chat
        self._rng = rng
        self.acknowledged = {}
        self.calls = 0

    async def ask_until_killed(self, port, is_killed):
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._ask(port, is_killed))

    async def _ask(self, port, is_killed):
        rng = self._rng
        while not is_killed.is_set():
            self.calls += 1
            body = self._chat(
                rng.choice(TEXTS), model=rng.choice(MODELS), stream=rng.random() < 0.5
            )
            leave_after = rng.choice((None, None, None, 1, 900, 3000))
            said = await self._call(port, body, leave_after_bytes=leave_after)
            if said.is_acknowledged:
                assert said.request_id not in self.acknowledged
                self.acknowledged[said.request_id] = said.cost_nano_usd


async def _lane(place, clients, rng, kills, audit):
    """Kill `kills` times; return what the audits found wrong."""
    for kill in range(1, kills + 1):
        gateway = await place.gateway()
        try:
            is_killed = asyncio.Event()
            asking = asyncio.ensure_future(clients.ask_until_killed(gateway.port, is_killed))
            # The one sleep that must be: its length is the experiment.
            await asyncio.sleep(rng.uniform(0.0, LOAD_S_MAX))
            is_killed.set()
            await gateway.kill()
            await asking
        finally:
            await gateway.end()
        if kill % KILLS_PER_AUDIT == 0 or kill == kills:
            await _audit(place, clients, audit)


async def _audit(place, clients, audit):
    """Start once more, for the replay, stop politely, and compare the books."""
    gateway = await place.gateway()
    try:
        await gateway.stop()
    finally:
        await gateway.end()
    await place.quiet()
    assert not list((place.data / "journal").iterdir()), "all is on the ledger"
    ledger, bill = place.ledger(), await place.bill()
    wrong = audit(ledger, bill, clients.acknowledged)
    assert not wrong, f"{len(wrong)} findings: {wrong[:5]}"
    certainties = sorted(row["certainty"] for row in ledger)
    counts = {name: certainties.count(name) for name in dict.fromkeys(certainties)}
    true = {row["attempt"]: row["nano_usd"] for row in bill}
    low = sum(
        row["certainty"] == "estimated" and row["cost_nano_usd"] < true.get(row["attempt_id"], 0)
        for row in ledger
    )
    print(
        f"\n{place.folder.name}: {clients.calls} calls, {len(clients.acknowledged)} acknowledged,"
        f" {len(bill)} billed, {len(ledger)} on the ledger {counts},"
        f" {low} estimates below the bill"
    )


async def _kill(world, call, chat, audit, *, kills, lanes):
    async def one(number):
        rng = random.Random(f"sigkill {number}")
        async with world(f"lane-{number}", ttft_ms=4, tokens_per_s=1000, jitter=0.6) as place:
            clients = Clients(call, chat, rng)
            await _lane(place, clients, rng, kills, audit)
            return clients

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(lanes)]
    assert sum(len(task.result().acknowledged) for task in tasks) > kills


async def test_five_kills_lose_nothing_and_double_nothing(world, call, chat, audit):
    await _kill(world, call, chat, audit, kills=5, lanes=1)


@pytest.mark.slow
async def test_hundreds_of_kills_lose_nothing_and_double_nothing(world, call, chat, audit):
    """`WINDVANE_KILLS` says how many; both cores are used, each lane with its own books."""
    await _kill(world, call, chat, audit, kills=-(-KILLS // LANES), lanes=LANES)
