"""SIGKILL at any instant loses no acknowledged answer and bills nothing twice (M4).

The instants are random and the clients busy: JSON and streams, fallbacks, callers who leave, users
whose budgets are small. After each kill the gateway is started again on the same folder and replays
its journal: what the dead one held is assumed, and each account has spent what the ledger says, within
its limit. The simulator's bill is the witness.
"""

import asyncio
import json
import os
import random
import sqlite3
from collections import Counter

import pytest

KILLS = int(os.environ.get("WINDVANE_KILLS", "500"))
LANES = 2
KILLS_PER_AUDIT = 25
MORE_KILLS_MAX = 50
KILLS_PER_CHECK = 3
"""In a long run; looking at the accounts takes as long as starting does."""
CLIENTS = 6
BUDGETS = {
    "global": {"total": 90_000},
    "user:*": {"total": 0.01},
    "key:anonymous": {"total": 80_000},
}
KILLS_PER_USER = 4
"""So often a user's money is tried before the next one comes."""
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
        self.call = call
        self._chat = chat
        self._rng = rng
        self.acknowledged = {}
        self.calls = 0
        self.refused = 0
        self.kills = 0

    def body(self, text, user):
        return self._chat(text, model="mistral-small-latest", max_tokens=1, user=user)

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
            if rng.random() < 0.3:
                body["max_tokens"] = rng.choice((16, 200))
            if rng.random() < 0.5:
                body["user"] = f"u{self.kills // KILLS_PER_USER}"
            said = await self.call(port, body, leave_after_bytes=leave_after)
            self.refused += said.status == 429 and b"budget_exceeded" in said.body
            if said.is_acknowledged:
                assert said.request_id not in self.acknowledged
                self.acknowledged[said.request_id] = said.cost_nano_usd


async def _lane(place, clients, rng, kills, audit):
    """Kill `kills` times; and more often, where a busy machine has answered too few in between."""
    kill = 0
    while kill < kills or (len(clients.acknowledged) <= kills and kill < MORE_KILLS_MAX):
        clients.kills = kill = kill + 1
        gateway = await place.gateway()
        try:
            if kills < KILLS_PER_AUDIT or kill % KILLS_PER_CHECK == 0:
                await _check_accounts(place, gateway.port, clients)
            is_killed = asyncio.Event()
            asking = asyncio.ensure_future(clients.ask_until_killed(gateway.port, is_killed))
            # The one sleep that must be: its length is the experiment.
            await asyncio.sleep(rng.uniform(0.0, LOAD_S_MAX))
            is_killed.set()
            await gateway.kill()
            await asking
        finally:
            await gateway.end()
        if kill % KILLS_PER_AUDIT == 0:
            await _audit(place, clients, audit)
    if kill % KILLS_PER_AUDIT:
        await _audit(place, clients, audit)


async def _check_accounts(place, port, clients):
    """A gateway that has just come up: its accounts say what the ledger does, each within its limit."""
    user = f"u{clients.kills // KILLS_PER_USER}"
    # An account of a kind is opened by its first use: a question of one word.
    await clients.call(port, clients.body("Word", user))
    async with asyncio.timeout(60):
        while True:
            stands = await _standings(clients, port, (place.data / "admin.key").read_text())
            said = {each["scope"]: each["spent_nano_usd"] for each in stands}
            is_at_rest = not any(each["held_nano_usd"] for each in stands)
            if is_at_rest and said == _spent(place.data / "ledger.db", user):
                break
            # The last entries are on their way to the file for a fraction of a second.
            await asyncio.sleep(0.02)
    for each in stands:
        assert each["spent_nano_usd"] <= each["limit_nano_usd"], each


async def _standings(clients, port, key):
    headers = (("authorization", f"Bearer {key.strip()}"),)
    said = await clients.call(port, None, path="/admin/budgets", headers=headers)
    assert said.status == 200, said.body
    return json.loads(said.body)["data"]


def _spent(path, user):
    """What the ledger says of the three scopes, row by row."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT user, sum(cost_nano_usd) FROM ledger GROUP BY 1"
        ).fetchall()
    finally:
        connection.close()
    total = sum(cost for _, cost in rows)
    return {"global": total, "key:anonymous": total, f"user:{user}": dict(rows).get(user, 0)}


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
    by_user = Counter()
    for row in ledger:
        if row["user"] is not None:
            by_user[row["user"]] += row["cost_nano_usd"]
    limit = int(BUDGETS["user:*"]["total"] * 1_000_000_000)
    assert max(by_user.values()) <= limit, by_user
    certainties = sorted(row["certainty"] for row in ledger)
    counts = {name: certainties.count(name) for name in dict.fromkeys(certainties)}
    print(
        f"\n{place.folder.name}: {clients.calls} calls, {len(clients.acknowledged)} acknowledged,"
        f" {len(bill)} billed, {len(ledger)} on the ledger {counts},"
        f" {clients.refused} refused by a budget, the dearest user"
        f" spent {max(by_user.values()) / limit:.1%} of it"
    )


def _set_budgets(path):
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "budgets": BUDGETS}))


async def _kill(world, call, chat, audit, *, kills, lanes):
    async def one(number):
        rng = random.Random(f"sigkill {number}")
        async with world(f"lane-{number}", ttft_ms=4, tokens_per_s=1000, jitter=0.6) as place:
            _set_budgets(place.folder / "windvane.yaml")
            clients = Clients(call, chat, rng)
            await _lane(place, clients, rng, kills, audit)
            return clients

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(lanes)]
    assert sum(len(task.result().acknowledged) for task in tasks) > kills
    assert kills < 20 or sum(task.result().refused for task in tasks) > kills


async def test_five_kills_lose_nothing_and_double_nothing(world, call, chat, audit):
    await _kill(world, call, chat, audit, kills=5, lanes=1)


@pytest.mark.slow
async def test_hundreds_of_kills_lose_nothing_and_double_nothing(world, call, chat, audit):
    """`WINDVANE_KILLS` says how many; both cores are used, each lane with its own books."""
    await _kill(world, call, chat, audit, kills=-(-KILLS // LANES), lanes=LANES)
