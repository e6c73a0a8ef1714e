"""A provider that bills the whole of an answer nobody waits for: budgets hold, where that is said.

The simulator bills so, and keeps the bill. Without the setting the same calls cost more than was settled:
it is what holds the budget.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Literal

import pytest
from tests.surface.served import Served, chat, raw_request, serving

from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig
from windvane.core.events import AttemptSettled
from windvane.core.ledger import LedgerEntry
from windvane.simulator import SimulatorConfig

KEY = "sk-leaving-key"
LIMIT_NANO_USD = 30_000_000
ESSAY = "an essay on wind !loop 2000"
TOKENS_MAX = 2_000
CALLS_MAX = 60
MODELS = ("mistral-small-latest", "gpt-4.1-mini", "claude-haiku-4-5")


@contextmanager
def billed_whole(said: Literal["stop", "run_to_end"]) -> Iterator[Served]:
    """A provider that bills to the end, and what is said of it."""
    budget = BudgetConfig(total=Decimal(LIMIT_NANO_USD) / 10**9)
    keys = (KeyConfig(key=KEY, name="leaving", budget=budget),)
    simulated = SimulatorConfig(abort_billing="run_to_end", tokens_per_s=2_000)
    with serving(simulated, abort_billing=said, auth=AuthConfig(keys=keys)) as running:
        running.headers["authorization"] = f"Bearer {KEY}"
        yield running


def leave(served: Served, model: str, fault: str = "") -> bytes:
    """Begin to read a stream, and leave; or read one that is cut. Returns what came."""
    text = f"{fault} {ESSAY}"
    body = json.dumps(chat(text, model=model, stream=True, max_tokens=TOKENS_MAX)).encode()
    came = b""
    with served.open() as connection:
        connection.sendall(raw_request(body, f"authorization: Bearer {KEY}"))
        while b"content" not in came and (piece := connection.recv(65536)):
            came += piece
    return came


def entries(served: Served) -> list[LedgerEntry]:
    return [event.entry for event in served.seen.settled if isinstance(event, AttemptSettled)]


def leave_until_refused(served: Served, model: str) -> None:
    """Every second stream is cut by its provider, the others by their caller."""
    for number in range(CALLS_MAX):
        before = len(served.seen.settled)
        came = leave(served, model, "!cut 3" if number % 2 else "")
        if b"budget_exceeded" in came:
            return
        served.until(lambda before=before: len(served.seen.settled) > before, "settling")  # type: ignore[misc]
    raise AssertionError("no budget refused")


def billed(served: Served) -> int:
    names = {entry.attempt_id for entry in entries(served)}
    served.until(lambda: names <= served.sim.bill.by_attempt().keys(), "bill")
    return served.sim.bill.total_nano_usd


def standing(served: Served) -> Any:
    (found,) = served.engine.budgets.standings(time.time_ns() // 1_000)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_bill_is_within_the_budget_where_the_setting_is_true(model: str) -> None:
    with billed_whole("run_to_end") as served:
        leave_until_refused(served, model)
        found = standing(served)
        assert billed(served) <= found.spent_nano_usd + found.held_nano_usd <= LIMIT_NANO_USD
        assert found.held_nano_usd == 0
        for entry in entries(served):
            assert entry.certainty.value == "assumed"
            assert entry.cost_nano_usd == entry.hold_nano_usd


def test_what_came_whole_is_exact_all_the_same() -> None:
    with billed_whole("run_to_end") as served:
        for is_stream in (False, True):
            assert served.ask(chat("Say wind.", stream=is_stream, max_tokens=50)).status == 200
        assert [entry.certainty.value for entry in entries(served)] == ["exact", "exact"]
        assert billed(served) == standing(served).spent_nano_usd


def test_without_the_setting_the_same_calls_would_pass_it() -> None:
    with billed_whole("stop") as served:
        for _ in range(8):
            before = len(served.seen.settled)
            leave(served, MODELS[0])
            served.until(lambda before=before: len(served.seen.settled) > before, "settling")  # type: ignore[misc]
        assert billed(served) > standing(served).spent_nano_usd
