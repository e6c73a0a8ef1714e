"""Budgets, as scripts: what is held, what is refused and how, and from which day it is paid."""

import asyncio
import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from windvane.config.schema import (
    AuthConfig,
    BudgetConfig,
    Config,
    KeyConfig,
    ModelConfig,
    ProviderConfig,
)
from windvane.core.budgets import BudgetTerms, Period, Standing
from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, LimitReached, Source, error_of
from windvane.core.keys import KeyTerms
from windvane.core.ledger import LedgerEntry
from windvane.core.money import NANO_PER_USD, NanoUsd
from windvane.core.principal import Scope, scope
from windvane.core.retry import RetryPolicy
from windvane.engine.relay import ChunkStream
from windvane.ports.stores import Journal
from windvane.testing import Moment, Stage, cancelled_at, run_virtual
from windvane.testing.answers import Breaks, Ends, Piece, chunk, completion, event_head, json_head
from windvane.testing.clock import MICROSECONDS, START
from windvane.testing.playbook import (
    Breached,
    Failed,
    Finished,
    Happening,
    HungUp,
    Left,
    Play,
    Playbook,
    Reached,
    Said,
    Sent,
    Settled,
    Slept,
    answer,
    ask,
    breaks,
    done,
    finishes,
    jumps,
    leaves,
    opens,
    passes,
    says,
    sends,
    status,
)
from windvane.testing.stage import two_providers
from windvane.testing.upstream import Call

INPUT, OUTPUT = 150, 600
"""Nano-dollars a token of `small`; `large` costs 500 and 1500."""
NOON_US = int(START.timestamp()) * MICROSECONDS
HOUR_S = 3_600
SPENT = 9 * INPUT + 1 * OUTPUT
"""What an answer of one word costs at `small`."""
NO_RETRY = RetryPolicy(attempts_max=1)
JITTER = Slept(0.1, 0.3)


def held(tokens: int, model: str = "small", rates: tuple[int, int] = (INPUT, OUTPUT)) -> int:
    """The worst case of `ask(model, max_tokens=tokens)`."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello?"}],
        "max_tokens": tokens,
    }
    return (len(msgspec.json.encode(body)) + 32) * rates[0] + tokens * rates[1]


def usd(nano: int) -> Decimal:
    return Decimal(nano) / NANO_PER_USD


def budget(**nano: int) -> BudgetConfig:
    return BudgetConfig(**{period: usd(amount) for period, amount in nano.items()})


def under(limits: dict[str, BudgetConfig], *keys: KeyConfig, **settings: object) -> Config:
    return two_providers(budgets=limits, auth=AuthConfig(keys=keys), **settings)


def standing(play: Play, at_us: int = NOON_US, period: Period | None = None) -> Standing:
    """Of the one account there is, at rest."""
    (found,) = [
        each for each in play.stage.budgets.standings(at_us) if period in (None, each.period)
    ]
    return found


def fault_of(play: Play, asked: int = -1) -> Fault:
    fault = play.exchanges[asked].fault
    assert fault is not None
    return fault


def test_what_is_held_for_one_is_not_there_for_another() -> None:
    play = (
        Playbook(under({"global": budget(total=held(50))}))
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> ask("small", max_tokens=50)
        << Failed("budget_exceeded", 429)
        >> answer("hello")
        << Settled("exact", "ok", cost=SPENT)
        << Said("hello")
    ).run()
    fault = fault_of(play)
    assert (fault.code, fault.retry_after_s) == ("budget_exceeded", 1.0)
    assert fault.limit == LimitReached(
        scope="global",
        what="budget",
        period="total",
        limit=held(50),
        used=held(50),
        left=0,
        needed=held(16),
    )
    assert "held for requests that are running" in fault.message
    after = standing(play)
    assert (after.spent_nano_usd, after.held_nano_usd) == (SPENT, 0)


def test_a_budget_that_is_spent_says_when_it_renews() -> None:
    limit = held(16)
    play = (
        Playbook(under({"global": budget(daily=limit)}))
        >> ask("small", max_tokens=16)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok", cost=SPENT)
        << Said("hello")
        >> passes(60)
        >> ask("small", max_tokens=16)
        << Failed("budget_exceeded", 429)
    ).run()
    fault = fault_of(play)
    assert fault.limit is not None
    assert fault.limit.renews_at_us == NOON_US + 12 * HOUR_S * MICROSECONDS
    assert fault.retry_after_s == pytest.approx(12 * HOUR_S - 60, abs=0.01)
    assert (fault.limit.period, fault.limit.left) == ("daily", limit - SPENT)
    assert "it renews at 2026-11-21T00:00:00Z" in fault.message


def test_a_longer_answer_than_the_budget_covers_is_made_as_long_as_it_covers() -> None:
    play = (
        Playbook(under({"global": budget(total=held(1000) - 900 * OUTPUT)}))
        >> ask("small", max_tokens=1000)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    assert play.stage.transport.calls[0].body["max_tokens"] == 100
    assert play.exchanges[0].clamped_to == 100


def test_one_nano_dollar_less_is_one_token_less() -> None:
    play = (
        Playbook(under({"global": budget(total=held(1000) - 900 * OUTPUT - 1)}))
        >> ask("small", max_tokens=1000)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    assert play.stage.transport.calls[0].body["max_tokens"] == 99


def test_a_request_that_fits_goes_as_it_came_and_one_without_a_limit_gets_one() -> None:
    play = (
        Playbook(under({"global": budget(total=10**12)}))
        >> ask("small", max_tokens=77)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
        >> ask("small")
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    first, second = play.stage.transport.calls
    assert first.body["max_tokens"] == 77
    assert isinstance(second.body["max_tokens"], int)
    assert [exchange.clamped_to for exchange in play.exchanges] == [None, None]


def test_a_key_that_must_not_be_clamped_is_refused() -> None:
    key = KeyConfig(key="sk-strict-1", name="strict", clamp=False, budget=budget(total=held(99)))
    play = (
        Playbook(under({}, key))
        >> ask("small", key="sk-strict-1", max_tokens=100)
        << Failed("budget_exceeded", 429)
        >> ask("small", key="sk-strict-1", max_tokens=99)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    assert play.exchanges[0].fault is not None and play.exchanges[0].fault.limit is not None
    assert play.exchanges[0].fault.limit.needed == held(100)


def test_a_key_that_must_not_be_clamped_has_its_fair_share_without_a_limit() -> None:
    """`clamp: false` is about a limit that its caller has stated."""
    total = 20 * held(4_096)
    key = KeyConfig(key="sk-strict-1", name="strict", clamp=False, budget=budget(total=total))
    play = (
        Playbook(under({}, key))
        >> ask("small", key="sk-strict-1")
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    sent = play.stage.transport.calls[0].body["max_tokens"]
    assert isinstance(sent, int)
    assert sent >= 4_096
    assert play.exchanges[0].clamped_to == sent


def test_nor_is_it_refused_what_is_left_when_that_is_little() -> None:
    key = KeyConfig(key="sk-strict-1", name="strict", clamp=False, budget=budget(total=held(99)))
    play = (
        Playbook(under({}, key))
        >> ask("small", key="sk-strict-1")
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    sent = play.stage.transport.calls[0].body["max_tokens"]
    assert isinstance(sent, int) and 99 <= sent < 4_096


def test_a_route_that_is_refused_says_what_its_cheapest_model_needs() -> None:
    """`large` is asked after `small`, and needs more than all of the budget."""
    limit = held(16, "auto") + SPENT - 1
    assert limit < held(16, "auto", (500, 1500))
    play = (
        Playbook(under({"global": budget(daily=limit)}))
        >> ask("small", max_tokens=16)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok", cost=SPENT)
        << Said("hello")
        >> ask("auto", max_tokens=16)
        << Failed("budget_exceeded", 429)
    ).run()
    fault = fault_of(play)
    assert fault.limit is not None and fault.limit.needed == held(16, "auto")
    assert fault.retry_after_s is not None and "it renews at" in fault.message


def test_what_costs_more_than_a_whole_budget_is_promised_no_renewal() -> None:
    play = (
        Playbook(under({"global": budget(daily=held(16) - 1)}))
        >> ask("small", max_tokens=16)
        << Failed("budget_exceeded", 429)
    ).run()
    fault = fault_of(play)
    assert fault.retry_after_s is None
    assert "that is more than all of it" in fault.message and "renews" not in fault.message


def test_the_key_has_enough_and_its_team_has_not() -> None:
    keys = [
        KeyConfig(key=f"sk-member-{n}", name=f"m{n}", team="t", budget=budget(daily=10**9))
        for n in (1, 2)
    ]
    play = (
        Playbook(under({"team:t": budget(daily=held(20))}, *keys))
        >> ask("small", key="sk-member-1", max_tokens=20)
        << Sent("one/small")
        >> ask("small", key="sk-member-2", max_tokens=20)
        << Failed("budget_exceeded", 429)
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    assert fault_of(play).limit is not None
    stands = {each.scope: each for each in play.stage.budgets.standings(NOON_US)}
    assert stands[Scope("key:m1")].spent_nano_usd == stands[Scope("team:t")].spent_nano_usd == SPENT
    assert stands[Scope("key:m2")].left_nano_usd == 10**9, "nothing was held of it in passing"


@pytest.mark.parametrize(
    ("limits", "named", "said"),
    [
        ("user:*", "user:ann", {"user": "ann"}),
        ("user:ann", "user:ann", {"headers": {b"x-windvane-user": b"ann"}}),
        ("tag:x", "tag:x", {"headers": {b"x-windvane-tags": b"y, x"}}),
        ("tag:*", "tag:y", {"metadata": {"tags": ["y"]}}),
        ("model:mistral-small-2603", "model:mistral-small-2603", {}),
        ("model:mistral-small-latest", "model:mistral-small-2603", {}),
        ("model:small", "model:mistral-small-2603", {}),
        ("model:one/small", "model:mistral-small-2603", {}),
        ("key:*", "key:anonymous", {}),
    ],
)
def test_users_tags_models_and_keys_have_budgets(
    limits: str, named: str, said: dict[str, Any]
) -> None:
    play = (
        Playbook(under({limits: budget(total=30_000)}))
        >> ask("small", max_tokens=10, **said)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
        >> ask("small", "word " * 500, max_tokens=10, **said)
        << Failed("budget_exceeded", 429)
        >> ask("large", max_tokens=10)
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    )
    if limits == "key:*":
        # The same caller's.
        play._lines[-4:] = [Failed("budget_exceeded", 429)]
    fault = fault_of(play.run(), 1)
    assert fault.limit is not None and fault.limit.scope == named


def test_what_has_no_price_is_not_sent_under_a_budget() -> None:
    play = (
        Playbook(under({"global": budget(total=10**12)}))
        >> ask("odd")
        << Failed("forbidden", 403)
        >> ask("small", web_search_options={})
        << Failed("forbidden", 403)
    ).run()
    assert {exchange.fault and exchange.fault.code for exchange in play.exchanges} == {
        "unpriceable"
    }
    assert not play.stage.transport.calls
    assert standing(play).held_nano_usd == 0


def test_a_field_that_nobody_here_knows_is_not_sent_under_a_budget() -> None:
    """It may undo the limit that is sent, as `n_predict` does at some servers. A route asks its next model,
    which is not told it; without a budget it goes along."""
    keys = (KeyConfig(key="sk-number-1", name="one"), KeyConfig(key="sk-number-2", name="two"))
    config = two_providers(budgets={"key:one": budget(total=10**12)}, auth=AuthConfig(keys=keys))
    mistrals = ProviderConfig(
        kind="mistral", api_base="http://two.test/v1", models=config.providers["two"].models
    )
    config = msgspec.structs.replace(config, providers={**config.providers, "two": mistrals})
    play = (
        Playbook(config)
        >> ask("small", key="sk-number-1", max_tokens=20, n_predict=30_000)
        << Failed("forbidden", 403)
        >> ask("auto", key="sk-number-1", max_tokens=20, n_predict=30_000)
        << Sent("two/large")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
        >> ask("small", key="sk-number-2", max_tokens=20, n_predict=30_000)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
        >> ask("small", key="sk-number-1", max_tokens=20, top_k=3, min_p=0.1)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    fault = fault_of(play, 0)
    assert fault.code == "unpriceable" and "the field 'n_predict' (not among" in fault.message
    assert "n_predict" not in play.stage.transport.calls[0].body
    assert play.stage.transport.calls[1].body["n_predict"] == 30_000


def test_an_operator_may_know_that_a_field_costs_nothing() -> None:
    config = under({"global": budget(total=10**12)})
    one = msgspec.structs.replace(config.providers["one"], free_fields=("ours",))
    (
        Playbook(msgspec.structs.replace(config, providers={**config.providers, "one": one}))
        >> ask("small", ours=1)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
        >> ask("small", theirs=1)
        << Failed("forbidden", 403)
    ).run()


SPOKEN = {"role": "user", "content": [{"type": "input_audio", "input_audio": "QQ=="}]}
HEARS = {
    "three": ProviderConfig(
        kind="compatible",
        api_base="http://three.test/v1",
        models={"hears": ModelConfig(card="voxtral-small-2507")},
    )
}


def test_the_price_of_a_model_that_hears_is_that_of_text() -> None:
    """Audio is billed apart, and usage does not tell how much of it there was."""
    (
        Playbook(two_providers(providers=HEARS, routes={}))
        >> ask("hears")
        << Sent("three/hears")
        >> answer("hello")
        << Settled("exact", "ok", cost=9 * 100 + 1 * 400)
        << Said("hello")
        >> ask("hears", messages=[SPOKEN])
        << Sent("three/hears")
        >> answer("hello")
        << Settled("exact", "ok", cost=None)
        << Said("hello")
        >> ask("hears", messages=[SPOKEN], stream=True)
        << Sent("three/hears")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> breaks()
        << Settled("estimated", "stream_broken", cost=None)
        << Failed("stream_broken")
    ).run()


def test_a_spoken_answer_has_not_the_price_of_text() -> None:
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    (
        Playbook(two_providers(providers=HEARS, routes={}))
        >> ask("hears", **spoken)
        << Sent("three/hears")
        >> answer("hello")
        << Settled("exact", "ok", cost=None)
        << Said("hello")
    ).run()


def test_a_model_that_hears_can_be_asked_in_text_under_a_budget() -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}, providers=HEARS, routes={}))
        >> ask("hears")
        << Sent("three/hears")
        >> answer("hello")
        << Settled("exact", "ok", cost=9 * 100 + 1 * 400)
        << Said("hello")
        >> ask("hears", messages=[SPOKEN])
        << Failed("forbidden", 403)
    ).run()
    fault = fault_of(play, 1)
    assert fault.code == "unpriceable" and "audio input" in fault.message


def test_an_attempt_of_a_second_before_midnight_is_paid_from_the_old_day() -> None:
    limit = held(50) + SPENT
    midnight_us = NOON_US + 12 * HOUR_S * MICROSECONDS
    play = (
        Playbook(under({"global": budget(daily=limit)}))
        >> jumps(12 * HOUR_S - 1)
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> passes(2)
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok", cost=SPENT)
        << Said("hello")
    )
    play = play >> answer("hello") << Settled("exact", "ok", cost=SPENT) << Said("hello")
    stage = play.run().stage
    (new,) = stage.budgets.standings(midnight_us)
    (old,) = stage.budgets.standings(midnight_us - 1)
    assert (old.spent_nano_usd, new.spent_nano_usd) == (SPENT, SPENT)


def test_a_clock_that_jumps_over_midnight_and_back_spends_no_day_twice() -> None:
    """Neither day gives more than its limit, whichever way the clock went between."""
    limit = held(50)
    answered = (Settled("exact", "ok", cost=SPENT), Said("hello"))
    script = Playbook(under({"global": budget(daily=limit)})) >> jumps(11.5 * HOUR_S)
    script = script >> ask("small", max_tokens=50) << Sent("one/small") >> answer("hello")
    script = script << answered[0] << answered[1] >> jumps(HOUR_S)
    script = script >> ask("small", max_tokens=50) << Sent("one/small") >> answer("hello")
    script = script << answered[0] << answered[1] >> jumps(-HOUR_S)
    script = script >> ask("small", max_tokens=50) << Sent("one/small")
    play = (script >> answer("hello") << Settled("exact", "ok") << Said("hello")).run()
    # Back in the old day there was only what it had left.
    longest = (50 * OUTPUT - SPENT) // OUTPUT
    assert play.exchanges[2].clamped_to == longest
    (old,) = play.stage.budgets.standings(NOON_US)
    (new,) = play.stage.budgets.standings(NOON_US + 13 * HOUR_S * MICROSECONDS)
    assert (old.spent_nano_usd, new.spent_nano_usd) == (2 * SPENT, SPENT)


@pytest.mark.parametrize("days", [2, 40, 1_220, -2])
def test_a_clock_that_jumps_far_and_returns_gives_no_day_twice_and_freezes_none(days: int) -> None:
    day_s = 24 * HOUR_S
    limit = held(16) + SPENT
    script = Playbook(under({"global": budget(daily=limit)}))
    for jump_s in (0, days * day_s):
        # One request spends what a day has, or all but what a request needs; one more is sent in between.
        script = script >> jumps(jump_s) >> ask("small", max_tokens=16) << Sent("one/small")
        script = script >> answer("hello " * 16) << Settled("exact", "ok") << Said("hello " * 16)
    script = script >> jumps(-days * day_s) >> ask("small", max_tokens=16)
    script = script << Failed("budget_exceeded", 429) >> jumps(day_s) >> ask("small", max_tokens=16)
    play = (
        script << Sent("one/small") >> answer("hello") << Settled("exact", "ok") << Said("hello")
    ).run()
    refused = play.exchanges[2].fault
    assert refused is not None and refused.retry_after_s == pytest.approx(day_s / 2, abs=1)


def test_a_month_ends_and_the_next_begins_whole() -> None:
    play = (
        Playbook(under({"global": budget(monthly=held(20))}))
        >> jumps(10.5 * 24 * HOUR_S - 1)
        >> ask("small", max_tokens=20)
        << Sent("one/small")
        >> passes(2)
        >> ask("small", max_tokens=20)
        << Sent("one/small")
        >> answer("a")
        << Settled("exact", "ok")
        << Said("a")
        >> answer("b")
        << Settled("exact", "ok")
        << Said("b")
    ).run()
    day_us = 24 * HOUR_S * MICROSECONDS
    (november,) = play.stage.budgets.standings(NOON_US)
    (december,) = play.stage.budgets.standings(NOON_US + 12 * day_us)
    assert november.renews_at_us == december.starts_at_us == NOON_US + day_us * 21 // 2
    assert november.spent_nano_usd == december.spent_nano_usd == SPENT


def test_a_retry_after_an_attempt_of_which_nothing_is_known_needs_money_for_both() -> None:
    both = 2 * held(50)
    script = (
        Playbook(under({"global": budget(total=both)}))
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> breaks()
        << Reached("global", 500)
        << Settled("assumed", "stream_broken", cost=held(50))
        << JITTER
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok", cost=SPENT)
        << Said("hello")
    )
    assert standing(script.run()).spent_nano_usd == held(50) + SPENT

    short = (
        Playbook(under({"global": budget(total=held(50) + held(15))}))
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> breaks()
        << Reached("global", 500)
        << Settled("assumed", "stream_broken", cost=held(50))
        << JITTER
        << Failed("budget_exceeded", 429)
    ).run()
    assert standing(short).spent_nano_usd == held(50)


def test_a_fallback_has_a_hold_of_its_own() -> None:
    limit = held(20, "auto") + 10_000
    large = held(20, "auto", (500, 1500))
    assert limit < large
    script = (
        Playbook(under({"global": budget(total=limit)}, retry=RetryPolicy(attempts_max=4)))
        >> ask("auto", max_tokens=20)
        << Sent("one/small")
        >> status(429, retry_after=30)
        << Settled("exact", "rate_limited", cost=0)
    )
    least = held(16, "auto", (500, 1500))
    assert limit < least
    play = (script << Failed("budget_exceeded", 429)).run()
    fault = fault_of(play)
    assert fault.limit is not None and fault.limit.needed == least
    assert standing(play).spent_nano_usd == 0


def test_a_stream_that_is_left_early_is_paid_by_what_came() -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=900, stream=True)
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
        >> passes(10)
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled")
        << Left()
    ).run()
    after = standing(play)
    assert 0 < after.spent_nano_usd < held(900) // 4
    assert after.held_nano_usd == 0


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "wind", "parameters": {}}}


@pytest.mark.parametrize(
    ("offered", "silent_s", "tokens_least"),
    [
        ({"tools": [TOOL]}, 1.0, 9_000),
        ({"functions": [TOOL["function"]]}, 1.0, 9_000),
        ({"tools": [TOOL]}, 0.1, 3_000),
        ({"tools": [TOOL], "n": 2}, 0.1, 6_000),
    ],
)
def test_a_call_that_was_being_written_when_the_caller_left_is_paid(
    offered: dict[str, Any], silent_s: float, tokens_least: int
) -> None:
    """It would have come whole: of what was written of it, not a byte had come."""
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=9_000, stream=True, **offered)
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
        >> passes(silent_s)
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled")
        << Left()
    ).run()
    (entry,) = play.stage.ledger.entries
    assert tokens_least <= entry.output_tokens <= 9_000 * offered.get("n", 1)
    assert entry.output_tokens < 1.2 * tokens_least


SPEAKS = chunk("word").replace(b'"index":0', b'"index":1')


@pytest.mark.parametrize(
    ("pieces", "choices"), [(chunk(""), 1), (chunk(usage=(9, 2)), 1), (SPEAKS, 2)]
)
def test_a_call_is_being_written_whatever_else_comes_meanwhile(pieces: bytes, choices: int) -> None:
    """A piece with nothing in it keeps a connection open, and another choice may speak."""
    playbook = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=9_000, stream=True, tools=[TOOL], n=choices)
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
    )
    for _ in range(20):
        playbook = playbook >> passes(0.05) >> sends(pieces)
        if choices > 1:
            playbook = playbook << Said("word")
    play = (
        playbook >> leaves() << HungUp("one/small") << Settled("estimated", "cancelled") << Left()
    ).run()
    (entry,) = play.stage.ledger.entries
    assert entry.output_tokens >= 9_000


def test_who_reads_late_and_leaves_pays_the_call_that_was_written_meanwhile() -> None:
    """Its words lay there unread: that the call had not come by then is no news of now."""

    def says_two_words(call: Call) -> None:
        words = [(0.0, Piece(data=chunk(text), output_tokens=1)) for text in ("one", "two")]
        call.play([(0.0, event_head()), words[0], (0.1, words[1][1]), (9.0, Ends())])

    async def main() -> None:
        stage = Stage(under({"global": budget(total=10**9)}), on_sent=says_two_words)
        exchange = stage.accept("small", "Hello?", max_tokens=9_000, stream=True, tools=[TOOL])
        stream = await stage.engine.handle(exchange)
        assert isinstance(stream, ChunkStream)
        chunks = aiter(stream)
        await anext(chunks)
        await asyncio.sleep(1)
        await anext(chunks)
        await stream.aclose()
        (entry,) = stage.ledger.entries
        assert entry.output_tokens >= 9_000
        await stage.close()

    run_virtual(main())


def test_once_an_answer_has_ended_no_call_is_being_written() -> None:
    """Its usage alone is still to come."""
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=9_000, stream=True, tools=[TOOL])
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
        >> finishes()
        >> passes(1)
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled")
        << Left()
    ).run()
    (entry,) = play.stage.ledger.entries
    assert entry.output_tokens < 900


@pytest.mark.parametrize(
    "refusing",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [TOOL["function"]], "function_call": "none"},
    ],
)
def test_where_no_tool_may_be_called_a_silence_says_nothing(refusing: dict[str, Any]) -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=900, stream=True, **refusing)
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
        >> passes(10)
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled")
        << Left()
    ).run()
    assert standing(play).spent_nano_usd < held(900) // 4


HIDING = ({"include_reasoning": False}, {"reasoning_format": "hidden"}, {"stream_reasoning": False})
SHOWING = ({"include_reasoning": True}, {"reasoning_format": "parsed"}, {"stream_reasoning": None})


@pytest.mark.parametrize("fields", [*HIDING, *SHOWING])
def test_who_will_not_see_what_is_thought_pays_the_hold_when_it_leaves(
    fields: dict[str, Any],
) -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=900, stream=True, **fields)
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
        >> leaves()
        << HungUp("one/small")
        << Settled("assumed" if fields in HIDING else "estimated", "cancelled")
        << Left()
    ).run()
    (entry,) = play.stage.ledger.entries
    assert (entry.cost_nano_usd == entry.hold_nano_usd) is (fields in HIDING)


def says_of_its_usage(usage: dict[str, Any]) -> Happening:
    """It bills what it says of both, however that adds up."""
    whole = msgspec.json.decode(completion("word", None))
    data = msgspec.json.encode({**whole, "usage": usage})

    async def bills(play: Play) -> None:
        (call,) = play.stage.transport.open_calls
        call.input_tokens = usage["prompt_tokens"]
        play.play(json_head(), Piece(data=data, output_tokens=usage["completion_tokens"]), Ends())

    return Happening(f"bills {usage}", bills)


@pytest.mark.parametrize("details", [{"cached_tokens": 10**6}, {"cache_write_tokens": 10**6}])
def test_a_usage_that_contradicts_itself_is_no_more_than_the_request_can_be(
    details: dict[str, int],
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": details}
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=100)
        << Sent("one/small")
        >> says_of_its_usage(usage)
        << Settled("estimated", "ok")
        << Said("word")
    ).run()
    (entry,) = play.stage.ledger.entries
    assert entry.cost_nano_usd is not None and entry.cost_nano_usd <= held(100)
    assert entry.cache_creation_input_tokens <= entry.input_tokens < 10**6


@pytest.mark.parametrize(
    "contradiction",
    [
        {"total_tokens": 10**6 + 920},
        {"prompt_tokens_details": {"cached_tokens": 10**6 + 1}},
    ],
)
def test_what_a_provider_counts_of_a_request_is_not_cut_for_what_else_it_says(
    contradiction: dict[str, Any],
) -> None:
    """It is its bill, though it is more than the request can be: that is told."""
    usage = {"prompt_tokens": 10**6, "completion_tokens": 900, **contradiction}
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=100)
        << Sent("one/small")
        >> says_of_its_usage(usage)
        << Breached()
        << Settled("estimated", "ok")
        << Said("word")
    ).run()
    (entry,) = play.stage.ledger.entries
    assert entry.cost_nano_usd is not None
    assert entry.cost_nano_usd >= 10**6 * INPUT + 900 * OUTPUT


def mistral_alone() -> Config:
    """A provider with service tiers of several prices, under a budget."""
    return msgspec.structs.replace(
        under({"global": budget(total=10**9)}),
        providers={
            "one": ProviderConfig(
                kind="mistral",
                api_base="http://one.test/v1",
                models={"small": ModelConfig(card="mistral-small-2603")},
            )
        },
        routes={},
    )


@pytest.mark.parametrize(("tier", "permille"), [(None, 1000), ("priority", 1750), ("flex", 1000)])
def test_an_estimate_is_at_the_price_of_the_tier_that_was_asked_for(
    tier: str | None, permille: int
) -> None:
    fields = {} if tier is None else {"service_tier": tier}
    play = (
        Playbook(mistral_alone())
        >> ask("small", max_tokens=900, stream=True, **fields)
        << Sent("one/small")
        >> opens()
        >> says("one", "two")
        << Said("onetwo")
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled")
        << Left()
    ).run()
    (entry,) = play.stage.ledger.entries
    listed = entry.input_tokens * INPUT + entry.output_tokens * OUTPUT
    assert entry.cost_nano_usd == -(-listed * permille // 1000)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tier", "permille", "certainty"),
    [
        (None, 1000, "exact"),
        ("priority", 1750, "estimated"),
        ("auto", 1750, "estimated"),
        ("standard_only", 1000, "exact"),
        ("flex", 1000, "exact"),
    ],
)
def test_an_answer_that_names_no_tier_is_paid_at_the_dearest_that_was_asked_for(
    tier: str | None, permille: int, certainty: str, stream: bool
) -> None:
    fields = {} if tier is None else {"service_tier": tier}
    asked = (
        Playbook(mistral_alone())
        >> ask("small", max_tokens=900, stream=stream, **fields)
        << Sent("one/small")
    )
    settled = Settled(certainty, "ok", cost=-(-SPENT * permille // 1000))
    if stream:
        said = asked >> opens() >> says("hello") << Said("hello") >> finishes(output_tokens=1)
        play = said >> done() << settled << Finished()
    else:
        play = asked >> answer("hello") << settled << Said("hello")
    (entry,) = play.run().stage.ledger.entries
    assert (entry.input_tokens, entry.output_tokens) == (9, 1)


def test_an_attempt_that_is_left_before_a_word_is_paid_whole() -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> passes(1)
        >> leaves()
        << Settled("assumed", "cancelled", cost=held(50))
        << Left()
    ).run()
    assert standing(play).spent_nano_usd == held(50)


def bills_900() -> Happening:
    dear = Piece(data=completion("hi", (9, 900)), output_tokens=900)

    async def bills(play: Play) -> None:
        play.play(json_head(), dear, Ends())

    return Happening("bills 900 tokens", bills)


def test_a_provider_that_bills_more_than_was_held_is_told_of() -> None:
    play = (
        Playbook(under({"global": budget(total=held(50))}))
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> bills_900()
    )
    cost = 9 * INPUT + 900 * OUTPUT
    play = play << Reached("global", 1000) << Breached() << Settled("exact", "ok", cost=cost)
    ended = (play << Said("hi")).run()
    assert standing(ended).spent_nano_usd == cost
    assert standing(ended).left_nano_usd == 0


@pytest.mark.parametrize(
    ("ending", "outcome"), [(leaves, "cancelled"), (breaks, "stream_broken"), (done, "ok")]
)
def test_a_stream_that_goes_on_past_its_limit_is_paid_by_what_came(
    ending: Callable[[], Happening], outcome: str
) -> None:
    """Nobody says what was used; but 4,000 words are not 50 tokens. The limit is not heeded there, so no
    budget pays for another."""
    words = ("word",) * 4_000
    asked = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=50, stream=True)
        << Sent("one/small")
        >> opens()
        >> says(*words)
        << Said("".join(words))
    )
    settled = Settled("estimated", outcome)
    if ending is leaves:
        play = asked >> leaves() << HungUp("one/small") << Breached() << settled << Left()
    elif ending is breaks:
        play = asked >> breaks() << Breached() << settled << Failed("stream_broken")
    else:
        play = asked >> finishes("length") >> done() << Breached() << settled << Finished()
    play = (play >> ask("small", max_tokens=50) << Failed("forbidden", 403)).run()
    (entry,) = play.stage.ledger.entries
    assert entry.output_tokens >= 16_000, "no vocabulary makes more tokens than bytes"
    assert standing(play).spent_nano_usd == entry.cost_nano_usd
    assert (entry.cost_nano_usd or 0) >= 4_000 * OUTPUT > (entry.hold_nano_usd or 0)


def test_a_whole_answer_far_past_its_limit_is_paid_by_what_came() -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", max_tokens=50)
        << Sent("one/small")
        >> answer("word " * 2_000, is_counted=False)
        << Breached()
        << Settled("estimated", "ok")
        << Said("word " * 2_000)
    ).run()
    assert standing(play).spent_nano_usd >= 2_000 * OUTPUT


LINE = "-" * 128
"""One token, to some."""


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("Hello?", (LINE,) * 50),
        ("Hello?", ("a word ",) * 80),
        ("Hello?", tuple("a word of 50 tokens ") * 20),
        ("say it again: " + "x" * 9_000, ("x" * 9_000, *("a",) * 49)),
    ],
    ids=["long tokens", "short pieces", "letter by letter", "what was said before"],
)
def test_an_answer_that_may_be_of_its_length_is_paid_at_its_limit(
    prompt: str, pieces: tuple[str, ...]
) -> None:
    play = (
        Playbook(under({"global": budget(total=10**9)}))
        >> ask("small", prompt, max_tokens=50, stream=True)
        << Sent("one/small")
        >> opens()
        >> sends(b"".join(map(chunk, pieces)), output_tokens=50)
        << Said("".join(pieces))
        >> leaves()
        << HungUp("one/small")
        << Settled("estimated", "cancelled", output_tokens=50)
        << Left()
    ).run()
    (entry,) = play.stage.ledger.entries
    assert (entry.cost_nano_usd or 0) <= (entry.hold_nano_usd or 0)


def test_a_bill_above_the_hold_is_told_of_whatever_tier_was_asked_for() -> None:
    """The answer names no tier: it is paid at the dearest, and not cut to what was held."""
    play = (
        Playbook(mistral_alone())
        >> ask("small", max_tokens=50, service_tier="priority")
        << Sent("one/small")
        >> bills_900()
        << Breached()
        << Settled("estimated", "ok", cost=-(-(9 * INPUT + 900 * OUTPUT) * 1750 // 1000))
        << Said("hi")
        >> ask("small", max_tokens=50)
        << Failed("forbidden", 403)
    ).run()
    fault = play.exchanges[1].fault
    assert fault is not None and "what one/small costs at most" in fault.message


def test_what_was_used_in_a_tier_without_a_price_is_paid_whole() -> None:
    play = (
        Playbook(two_providers())
        >> ask("small", max_tokens=50, service_tier="auto")
        << Sent("one/small")
        >> answer("hello")
        << Settled("assumed", "ok")
        << Said("hello")
    ).run()
    (entry,) = play.stage.ledger.entries
    assert (entry.input_tokens, entry.output_tokens) == (9, 1)
    assert entry.cost_nano_usd == entry.hold_nano_usd


def test_a_deployment_that_billed_more_than_its_bound_is_paid_for_by_no_budget() -> None:
    """Whoever asks, and however much is left: its next answer might take a budget past its limit. Others
    are asked instead, and who has no budget may still ask it."""
    keys = (KeyConfig(key="sk-number-1", name="one"), KeyConfig(key="sk-number-2", name="two"))
    paid, free = {"key": "sk-number-1"}, {"key": "sk-number-2"}
    config = two_providers(
        budgets={"key:one": budget(total=held(5_000, "large"))}, auth=AuthConfig(keys=keys)
    )
    cost = 9 * INPUT + 900 * OUTPUT
    play = (
        Playbook(config)
        >> ask("small", max_tokens=50, **free)
        << Sent("one/small")
        >> ask("small", max_tokens=50, **paid)
        << Sent("one/small")
        >> bills_900()
        << Breached()
        << Settled("exact", "ok", cost=cost)
        << Said("hi")
        >> ask("small", max_tokens=50, **paid)
        << Failed("forbidden", 403)
        >> ask("auto", max_tokens=50, **paid)
        << Sent("two/large")
        >> answer("hello", at="two/large")
        << Settled("exact", "ok")
        << Said("hello")
        >> answer("hello", at="one/small")
        << Settled("exact", "ok")
        << Said("hello")
        >> ask("small", max_tokens=50, **free)
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()
    fault = play.exchanges[2].fault
    assert fault is not None and fault.code == "unpriceable"
    assert "what one/small costs at most" in fault.message


def test_a_request_that_no_budget_would_have_paid_for_proves_nothing_of_a_bound() -> None:
    """What a web search adds to a request's input is in no bound, and its caller has no budget."""
    keys = (KeyConfig(key="sk-number-1", name="one"), KeyConfig(key="sk-number-2", name="two"))
    config = two_providers(
        budgets={"key:one": budget(total=NANO_PER_USD)}, auth=AuthConfig(keys=keys)
    )
    (
        Playbook(config)
        >> ask("small", max_tokens=50, key="sk-number-2", web_search_options={"a": 1})
        << Sent("one/small")
        >> bills_900()
        << Breached()
        << Settled("exact", "ok", cost=9 * INPUT + 900 * OUTPUT)
        << Said("hi")
        >> ask("small", max_tokens=50, key="sk-number-1")
        << Sent("one/small")
        >> answer("hello")
        << Settled("exact", "ok")
        << Said("hello")
    ).run()


def test_a_budget_that_is_nearly_spent_and_refuses_is_used_up() -> None:
    """One that refuses a single dear request is not: nobody is told of it."""
    script = Playbook(under({"global": budget(total=100 * SPENT)}))
    script = script >> ask("small", "word " * 9_000, max_tokens=1) << Failed("budget_exceeded", 429)
    for number in range(1, 91):
        script = script >> ask("small", max_tokens=1) << Sent("one/small") >> answer("hello")
        if number in (50, 80):
            script = script << Reached("global", number * 10)
        script = script << Settled("exact", "ok", cost=SPENT) << Said("hello")
    script = script >> ask("small", "word " * 9_000, max_tokens=1) << Reached("global", 1000)
    (script << Failed("budget_exceeded", 429)).run()


def test_shares_are_told_once_a_day_each() -> None:
    """Each answer costs the same; sixty of them are the budget but for one hold."""
    limit = 60 * SPENT + held(1)
    script = Playbook(under({"global": budget(daily=limit)}))
    told = []
    for day in (0, 1):
        for number in range(1, 61):
            script = script >> ask("small", max_tokens=1) << Sent("one/small") >> answer("hello")
            before, after = SPENT * (number - 1) * 1000 // limit, SPENT * number * 1000 // limit
            for permille in (500, 800):
                if before < permille <= after:
                    script = script << Reached("global", permille)
                    told.append((day, permille))
            script = script << Settled("exact", "ok") << Said("hello")
        if day == 0:
            script = script >> jumps(24 * HOUR_S)
    script.run()
    assert told == [(0, 500), (0, 800), (1, 500), (1, 800)]


def test_a_hold_that_cannot_be_written_is_held_by_nobody() -> None:
    class Full:
        def __init__(self, journal: Journal) -> None:
            self.settle = journal.settle

        def hold(self, _: LedgerEntry) -> None:
            said = Fault(kind=FaultKind.INTERNAL, source=Source.GATEWAY, message="full", status=503)
            raise error_of(said)

    async def main() -> None:
        stage = Stage(under({"global": budget(total=held(20))}), before_audit=Full)
        for _ in range(3):
            with pytest.raises(Exception, match="full"):
                await stage.engine.handle(stage.accept("small", "Hello?", max_tokens=20))
        (said,) = stage.budgets.standings(stage.clock.wall_us())
        assert said.held_nano_usd == said.spent_nano_usd == 0
        await stage.close()

    run_virtual(main())


# Keys that get a budget while they are used.


async def _key_with(stage: Stage, **limits: int) -> str:
    """The id of the first key there is, made or changed to have these limits."""
    terms = KeyTerms(
        name="late",
        budget=BudgetTerms(**{name: NanoUsd(nano) for name, nano in limits.items()}),
    )
    return (await stage.desk.update(stage.desk.keys[0].id, terms)).id


def test_a_budget_set_while_requests_run_counts_them_once() -> None:
    """Spent before, in flight, settled and begun while the ledger is asked, and after: all of it, and
    none of it twice."""

    async def main() -> None:
        gates: list[asyncio.Event] = []

        def sent(call: Call) -> None:
            call.input_tokens = 9
            gate = asyncio.Event()
            gates.append(gate)

            async def give() -> None:
                await gate.wait()
                body = Piece(data=completion("hello", (9, 1)), output_tokens=1)
                call.play([(0.0, json_head()), (0.0, body), (0.0, Ends())])

            tasks.append(asyncio.get_running_loop().create_task(give()))

        tasks: list[asyncio.Task[Any]] = []
        stage = Stage(two_providers(), on_sent=sent)
        key, secret = await stage.desk.create(KeyTerms(name="late"))

        def go() -> asyncio.Task[Any]:
            exchange = stage.accept("small", "Hello?", key=secret, max_tokens=20)
            task = asyncio.get_running_loop().create_task(stage.engine.handle(exchange))
            tasks.append(task)
            return task

        async def finish(number: int) -> None:
            gates[number].set()
            await asyncio.sleep(0.001)

        answer_spent = stage.ledger.spent

        async def spent_slowly(name: Scope, since_us: int) -> int:
            """As of the asking, however long it takes."""
            found = await answer_spent(name, since_us)
            await asyncio.sleep(1)
            return found

        go(), go(), go(), go()
        await asyncio.sleep(0.001)
        await finish(0)
        stage.ledger.spent = spent_slowly  # type: ignore[method-assign]
        changing = asyncio.get_running_loop().create_task(
            _key_with(stage, daily=10**9, total=10**9)
        )
        await asyncio.sleep(0.5)
        await finish(1)
        go()
        await asyncio.sleep(0.001)
        await changing
        stage.ledger.spent = answer_spent  # type: ignore[method-assign]
        stands = stage.budgets.standings(stage.clock.wall_us())
        assert [each.spent_nano_usd for each in stands] == [2 * SPENT, 2 * SPENT]
        assert [each.held_nano_usd for each in stands] == [3 * held(20), 3 * held(20)]
        go()
        await asyncio.sleep(0.001)
        for number in (2, 3, 4, 5):
            await finish(number)
        await asyncio.gather(*tasks)
        stands = stage.budgets.standings(stage.clock.wall_us())
        assert [each.spent_nano_usd for each in stands] == [6 * SPENT, 6 * SPENT]
        assert [each.held_nano_usd for each in stands] == [0, 0]
        assert await stage.ledger.spent(scope("key", key.id), 0) == 6 * SPENT
        await _key_with(stage, daily=6 * SPENT)
        with pytest.raises(Exception, match="budget of key:"):
            await stage.engine.handle(stage.accept("small", "Hello?", key=secret, max_tokens=1))
        await stage.close()

    run_virtual(main())


def test_two_changes_at_once_and_one_that_fails_count_what_was_spent() -> None:
    """The ledger is slow, and down for the first of three."""

    async def main() -> None:
        stage = Stage(two_providers())
        key, _ = await stage.desk.create(KeyTerms(name="late"))
        asked = 0

        async def spent(name: Scope, _: int) -> int:
            nonlocal asked
            asked += 1
            is_first = asked == 1
            await asyncio.sleep(1)
            if is_first:
                raise OSError("the disk is away")
            return 500

        stage.ledger.spent = spent  # type: ignore[method-assign]
        changes = [_key_with(stage, daily=limit) for limit in (700, 800, 900)]
        failed, *fine = await asyncio.gather(*changes, return_exceptions=True)
        assert isinstance(failed, OSError)
        assert fine == [key.id, key.id]
        (said,) = stage.budgets.standings(stage.clock.wall_us())
        assert (said.limit_nano_usd, said.spent_nano_usd) == (900, 500)
        await stage.engine.aclose()

    run_virtual(main())


@pytest.mark.parametrize("days", [1, 2, 40])
def test_a_budget_set_while_the_clock_is_behind_counts_what_the_right_day_has_spent(
    days: int,
) -> None:
    async def main() -> None:
        def sent(call: Call) -> None:
            call.input_tokens = 9
            body = Piece(data=completion("hello", (9, 1)), output_tokens=1)
            call.play([(0.0, json_head()), (0.0, body), (0.0, Ends())])

        async def spend() -> None:
            exchange = stage.accept("small", "Hello?", key=secret, max_tokens=20)
            await stage.engine.handle(exchange)

        stage = Stage(two_providers(), on_sent=sent)
        _, secret = await stage.desk.create(KeyTerms(name="late"))
        right_us, behind_s = stage.clock.wall_us(), days * 24 * HOUR_S
        await spend()
        stage.clock.jump(-behind_s)
        await _key_with(stage, daily=10**9, monthly=10**9, total=10**9)
        await spend()
        stage.clock.jump(behind_s)
        for spent in (1, 2):
            found = {each.period: each for each in stage.budgets.standings(right_us)}
            assert found[Period.DAILY].spent_nano_usd == spent * SPENT
            assert found[Period.TOTAL].spent_nano_usd == (spent + 1) * SPENT
            in_month = spent + (days < 10)
            assert found[Period.MONTHLY].spent_nano_usd == in_month * SPENT
            await spend()
        await stage.close()

    run_virtual(main())


def test_a_key_revoked_while_it_is_changed_stays_revoked() -> None:
    async def main() -> None:
        stage = Stage(two_providers())
        key, secret = await stage.desk.create(KeyTerms(name="late"))

        async def slow(*_: object) -> int:
            await asyncio.sleep(1)
            return 0

        stage.ledger.spent = slow  # type: ignore[method-assign]
        changing = asyncio.get_running_loop().create_task(_key_with(stage, daily=9))
        await asyncio.sleep(0.5)
        revoking = asyncio.get_running_loop().create_task(stage.desk.revoke(key.id))
        await asyncio.sleep(0)
        assert stage.keyring.find(secret) is None, "at once"
        await asyncio.gather(changing, revoking)
        assert stage.keyring.find(secret) is None
        assert stage.desk.get(key.id).revoked_at_us is not None
        (kept,) = await stage.desk._store.keys()
        assert kept.revoked_at_us is not None
        await stage.close()

    run_virtual(main())


# Whenever a caller leaves, nothing stays held.


def streamed(call: Call) -> None:
    call.input_tokens = 9
    call.play(
        [
            (0.1, event_head()),
            *((0.1, Piece(data=chunk(f"w{n} "), output_tokens=1)) for n in range(3)),
            (0.1, Piece(data=chunk(finish="stop", usage=(9, 3)))),
            (0.0, Ends()),
        ]
    )


def broken_then_whole(call: Call) -> None:
    if call.number == 1:
        call.play([(0.1, Breaks())])
    else:
        call.input_tokens = 9
        body = Piece(data=completion("hello", (9, 1)), output_tokens=1)
        call.play([(0.1, json_head()), (0.1, body), (0.0, Ends())])


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize(("on_sent", "stream"), [(streamed, True), (broken_then_whole, False)])
def test_nothing_stays_held_wherever_the_caller_leaves(
    on_sent: Callable[[Call], None], stream: bool, moment: Moment
) -> None:
    async def one(k: int) -> bool:
        stage = Stage(
            under({"global": budget(total=10**9), "key:*": budget(daily=10**9)}), on_sent=on_sent
        )

        async def caller(exchange: Exchange) -> None:
            found = await stage.engine.handle(exchange)
            if isinstance(found, ChunkStream):
                try:
                    async for _ in found:
                        pass
                finally:
                    await found.aclose()

        exchange = stage.accept("small", "Hello?", max_tokens=20, stream=stream)
        was_cancelled = await cancelled_at(k, caller(exchange), moment)
        spent = sum(entry.cost_nano_usd or 0 for entry in stage.ledger.entries)
        for said in stage.budgets.standings(stage.clock.wall_us()):
            assert (said.held_nano_usd, said.spent_nano_usd) == (0, spent)
        await stage.close()
        return was_cancelled

    places = 0
    for k in itertools.count(1):
        if not run_virtual(one(k)):
            break
        places += 1
    assert places >= 2
