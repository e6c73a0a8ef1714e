"""What nobody said is never settled below the bill: at any provider, in any script, however it ends.

The simulator counts tokens in a way of its own, keeps the bill, and shares no code with the gateway. Some
of it is settled again by a rule that goes by what is usual: that must be caught.
"""

import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from tests.surface.served import Served, chat, raw_request, serving

from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig
from windvane.core.chat import Completion
from windvane.core.deployment import Deployment
from windvane.core.events import AttemptSettled
from windvane.core.exchange import Exchange
from windvane.core.ledger import LedgerEntry
from windvane.core.usage import Certainty
from windvane.engine import estimating, settlement
from windvane.engine.estimating import Came
from windvane.simulator import SimulatorConfig
from windvane.wire.fold import Fold

KEY, OTHER, POOR = "sk-plain-key", "sk-other-key", "sk-poor-key"
LIMIT_NANO_USD = 10_000_000
MODELS = ("mistral-small-latest", "gpt-4.1", "claude-haiku-4-5")
TEXTS = {
    "prose": "the wind blows over the hills",
    "digits": "1234567890 9876543210 5555",
    "han": "風見鶏とは何ですか詳しく説明してください",
    "cyrillic": "что такое флюгер и зачем он нужен людям",
    "emoji": "🌬🐓 🧭🌪 👩‍🚀🏴‍☠️ 🌬🐓",
}
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
UNCOUNTED = ("!usage-missing", "!usage-zero", "!no-done !usage-missing")
CUTS = ("!cut {}", "!cut-clean {}", "!error-event {}")


@pytest.fixture(scope="module", params=[1, 16], ids=["a token a chunk", "16 tokens a chunk"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    keys = (
        KeyConfig(key=KEY, name="plain"),
        KeyConfig(key=OTHER, name="other"),
        KeyConfig(key=POOR, name="poor", budget=BudgetConfig(total=Decimal("0.01"))),
    )
    simulated = SimulatorConfig(chunk_tokens=request.param)
    with serving(simulated, auth=AuthConfig(keys=keys)) as running:
        running.headers["authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(autouse=True)
def only_this_tests_attempts(served: Served) -> None:
    served.seen.settled.clear()
    served.sim.bill.clear()
    served.engine.room.forget()


def settled(served: Served) -> list[LedgerEntry]:
    return [event.entry for event in served.seen.settled if isinstance(event, AttemptSettled)]


def below_the_bill(served: Served) -> list[LedgerEntry]:
    """The settlements that are less than the provider charges; none is above its hold."""
    entries = settled(served)
    assert entries
    served.until(
        lambda: {each.attempt_id for each in entries} <= served.sim.bill.by_attempt().keys(), "bill"
    )
    rows = served.sim.bill.by_attempt()
    low = []
    for entry in entries:
        row, cost, hold = rows[entry.attempt_id], entry.cost_nano_usd, entry.hold_nano_usd
        assert cost is not None and hold is not None and cost <= hold, entry
        is_low = cost < row.nano_usd
        if entry.certainty is Certainty.ESTIMATED:
            is_low |= entry.input_tokens < row.input_tokens
            is_low |= entry.output_tokens < row.output_tokens
        if is_low:
            low.append(entry)
    return low


def certainties(served: Served) -> Counter[Certainty]:
    return Counter(entry.certainty for entry in settled(served))


def ask_all_ways(served: Served, model: str, text: str) -> None:
    """Whole answers and streams that were not counted, and streams that were cut."""
    for fault in UNCOUNTED:
        for is_stream in (False, True):
            served.ask(chat(f"{fault} {text}", model=model, stream=is_stream, max_tokens=300))
    for cut in CUTS:
        for place in (0, 1, 2, 5):
            fault = cut.format(place)
            served.ask(chat(f"{fault} {text}", model=model, stream=True, max_tokens=300))


@pytest.mark.parametrize("script", TEXTS)
@pytest.mark.parametrize("model", MODELS)
def test_no_estimate_is_below_the_bill(served: Served, model: str, script: str) -> None:
    ask_all_ways(served, model, TEXTS[script] * 5)
    assert not below_the_bill(served)
    assert certainties(served)[Certainty.ESTIMATED] >= 3


@pytest.mark.parametrize("model", MODELS)
def test_nor_is_that_of_a_call(served: Served, model: str) -> None:
    for fault in (*UNCOUNTED, "!badargs !usage-missing", *(f"!cut {each}" for each in range(4))):
        for is_stream in (False, True):
            text = f"{fault} What is the wind at Marseille?"
            asked = chat(text, model=model, stream=is_stream, tools=[TOOL], tool_choice="required")
            served.ask(asked)
    assert not below_the_bill(served)


@pytest.mark.parametrize("model", MODELS)
def test_a_cut_at_every_piece(served: Served, model: str) -> None:
    for place in range(26):
        for n in (1, 2) if model == "gpt-4.1" else (1,):
            text = f"!cut {place} {TEXTS['han']}"
            served.ask(chat(text, model=model, stream=True, max_tokens=24, n=n))
    assert not below_the_bill(served)


@pytest.mark.parametrize("sign", [b"choices", b"content"])
@pytest.mark.parametrize("model", MODELS)
def test_a_caller_who_leaves(served: Served, model: str, sign: bytes) -> None:
    for script in TEXTS.values():
        before = len(served.seen.settled)
        body = chat(f"!slow 2 !loop 200 {script}", model=model, stream=True)
        with served.open() as connection:
            connection.sendall(
                raw_request(json.dumps(body).encode(), f"authorization: Bearer {KEY}")
            )
            came = b""
            while sign not in came and (piece := connection.recv(65536)):
                came += piece
        served.until(lambda before=before: len(served.seen.settled) > before, "settling")  # type: ignore[misc]
    assert not below_the_bill(served)


def test_the_bill_of_cut_streams_stays_within_a_budget_whatever_others_sent(served: Served) -> None:
    """Another's digits, of which each is a token, make nobody's prose count for less."""
    for _ in range(40):
        digits = chat("sum these: " + "1234567890 " * 60, max_tokens=16)
        assert served.ask(digits, authorization=f"Bearer {OTHER}").status == 200
    served.seen.settled.clear()
    served.sim.bill.clear()
    body = chat("!cut 3 " + "the wind blows over the hills " * 70, stream=True, max_tokens=50)
    for _ in range(400):
        if served.ask(body, authorization=f"Bearer {POOR}").status == 429:
            break
    else:
        raise AssertionError("no budget refused")
    assert not below_the_bill(served)
    spent = sum(entry.cost_nano_usd or 0 for entry in settled(served))
    assert served.sim.bill.total_nano_usd <= spent <= LIMIT_NANO_USD


def _usual_input(exchange: Exchange, _: Deployment) -> int:
    assert exchange.analysis is not None
    return int(exchange.analysis.input_tokens * 0.5 * 1.1) + 1


def _usual_text(answer: Completion) -> Came:
    text = sum(len(each.message.content or "") for each in answer.choices)
    return Came(text // 3 + 1, text)


def _usual_stream(fold: Fold) -> Came:
    usual = _usual_text(fold.completion())
    return Came(max(fold.chunks, usual.tokens_max), usual.text_bytes)


def _few_pieces(*_: Any) -> int:
    return 4


def test_what_is_usual_would_be_caught(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters by three, and input by a ratio that other texts have taught."""
    monkeypatch.setattr(estimating, "input_bound", _usual_input)
    ask_all_ways(served, "mistral-small-latest", TEXTS["prose"] * 20)
    assert below_the_bill(served)
    served.seen.settled.clear()
    monkeypatch.undo()
    monkeypatch.setattr(settlement, "came_whole", _usual_text)
    monkeypatch.setattr(settlement, "came_streamed", _usual_stream)
    monkeypatch.setattr(settlement, "tokens_unseen", _few_pieces)
    for script in ("han", "emoji"):
        ask_all_ways(served, "mistral-small-latest", TEXTS[script] * 5)
    assert below_the_bill(served)
