"""The bill: exact against sums done by hand, and true for answers that did not end well."""

import asyncio
import subprocess
import sys
import time
from datetime import date

import pytest

from windvane.config.resolve import shipped_catalog
from windvane.core.catalog.prices import cost
from windvane.core.usage import Usage
from windvane.simulator.catalogue import ANTHROPIC_MODELS, MISTRAL_MODELS, OPENAI_MODELS
from windvane.simulator.prices import price_on

BY_HAND = [
    # model, day, input, cached, output, nano-dollars
    ("mistral-small-2603", "2026-11-20", 1000, 0, 500, 1000 * 150 + 500 * 600),
    ("mistral-small-2603", "2026-11-20", 1000, 640, 0, 360 * 150 + 640 * 15),
    ("mistral-medium-3-5", "2026-11-20", 7, 0, 3, 7 * 1500 + 3 * 7500),
    ("mistral-large-4-0", "2026-10-10", 100, 0, 10, 100 * 680 + 10 * 2090),
    ("mistral-large-4-0", "2026-10-20", 100, 0, 10, 100 * 1360 + 10 * 4180),
    ("mistral-large-4-0", "2026-11-20", 100, 64, 10, 36 * 700 + 64 * 70 + 10 * 2100),
    ("gpt-4o", "2026-11-20", 9, 0, 21, 9 * 2500 + 21 * 10_000),
    ("gpt-5-nano", "2026-11-20", 3, 1, 1, 2 * 50 + 5 + 400),
    ("gpt-5.4", "2026-11-20", 272_000, 0, 1, 272_000 * 2500 + 15_000),
    ("gpt-5.4", "2026-11-20", 272_001, 0, 2, 272_001 * 5000 + 2 * 22_500),
    ("mistral-embed-2312", "2026-11-20", 12, 0, 0, 1200),
]


@pytest.mark.parametrize(("model", "day", "given", "cached", "made", "expected"), BY_HAND)
def test_prices_match_sums_by_hand(model, day, given, cached, made, expected):
    price = price_on(model, day, given)
    cost = price.nano_usd(input_tokens=given, cached_tokens=cached, output_tokens=made)
    assert cost == expected


def test_an_unknown_price_is_never_zero():
    with pytest.raises(KeyError):
        price_on("mistral-huge", "2026-11-20", 1)


@pytest.mark.parametrize(
    "model", [each.id for each in (*MISTRAL_MODELS, *OPENAI_MODELS, *ANTHROPIC_MODELS)]
)
def test_the_two_opinions_on_a_price_agree(model):
    """The simulator has its own table; a model that only one of them prices has no sound bill."""
    day = date(2026, 11, 20)
    card = shipped_catalog().resolve(model, day)
    price = card and card.price_on(day)
    assert price is not None
    for given in (1_000, 300_000):
        ours = cost(price, Usage(input_tokens=given, output_tokens=7, cache_read_input_tokens=64))
        theirs = price_on(model, str(day), given)
        assert theirs.nano_usd(input_tokens=given, cached_tokens=64, output_tokens=7) == ours


async def test_a_finished_answer_is_billed_by_its_usage(start, ask, chat):
    simulator = await start()
    said = await ask(simulator, chat("Explain wind"), headers=(("x-request-id", "attempt-1"),))
    usage = said.json["usage"]
    row = simulator.bill.by_attempt()["attempt-1"]
    assert row.input_tokens == usage["prompt_tokens"]
    assert row.output_tokens == row.delivered_tokens == usage["completion_tokens"]
    assert row.nano_usd == row.input_tokens * 150 + row.output_tokens * 600
    assert row.finished
    assert simulator.bill.total_nano_usd == row.nano_usd


async def test_an_attempt_seen_twice_keeps_both_rows(start, ask, chat):
    simulator = await start()
    for _ in range(2):
        await ask(simulator, chat("x"), headers=(("x-request-id", "same"),))
    assert set(simulator.bill.by_attempt()) == {"same", "same#2"}


async def test_dated_prices_follow_the_price_date(start, ask, chat):
    totals = []
    for day in ("2026-10-10", "2026-10-25", "2026-11-01"):
        simulator = await start(price_date=day)
        await ask(simulator, chat("x", model="mistral-large-4", reasoning_effort="none"))
        row = simulator.bill.rows[0]
        totals.append(row.nano_usd)
    assert totals[1] > totals[2] > totals[0]


@pytest.mark.parametrize("policy", ["stop", "run_to_end"])
async def test_a_client_that_leaves_a_stream_is_billed_by_policy(start, ask, chat, until, policy):
    simulator = await start(tokens_per_s=200, abort_billing=policy)
    body = chat("Explain how sailing boats use wind in 2000 words", stream=True)
    await ask(simulator, body, leave_after=3000)
    await until(lambda: simulator.bill.rows)
    row = simulator.bill.rows[0]
    assert row.aborted
    assert not row.finished
    assert 0 < row.delivered_tokens < 2000
    if policy == "stop":
        assert row.output_tokens == row.delivered_tokens
    else:
        assert row.output_tokens > 2000
    assert row.nano_usd == row.input_tokens * 150 + row.output_tokens * 600
    assert simulator.tape[0].disconnected_at is not None


async def test_a_client_that_leaves_before_a_json_answer_pays_what_was_generated(
    start, ask, chat, until
):
    simulator = await start(tokens_per_s=100)
    await ask(
        simulator,
        chat("Explain wind in 2000 words"),
        leave_when=lambda: any(time.time() - each.received_at > 0.3 for each in simulator.tape),
    )
    await until(lambda: simulator.bill.rows)
    row = simulator.bill.rows[0]
    (entry,) = simulator.tape
    made_s = entry.disconnected_at - entry.received_at
    assert row.aborted
    assert row.delivered_tokens == 0
    assert 15 <= row.output_tokens <= 100 * made_s + 5


async def test_stopping_settles_what_is_under_way(start, ask, chat, until):
    simulator = await start(tokens_per_s=50)
    asking = asyncio.create_task(ask(simulator, chat("Explain wind in 300 words", stream=True)))
    await until(lambda: simulator._gauges()["open_streams"])
    await simulator.stop()
    await asking
    assert simulator.bill.rows[0].aborted


def test_the_simulator_imports_nothing_else_of_the_gateway():
    code = (
        "import sys, windvane.simulator\n"
        "names = [n for n in sys.modules if n.startswith('windvane.')]\n"
        "own = ('windvane.simulator', 'windvane.listener', 'windvane._version')\n"
        "print([n for n in names if not n.startswith(own)])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
