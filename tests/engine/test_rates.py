"""Rates and concurrency, as scripts: who is refused, for how long, and what is given back."""

import asyncio
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from windvane.config.schema import (
    AuthConfig,
    BudgetConfig,
    Config,
    KeyConfig,
    RateConfig,
    UpstreamLimitsConfig,
)
from windvane.core.faults import (
    AuthenticationError,
    BudgetExceededError,
    Fault,
    LimitReached,
    PermissionDeniedError,
)
from windvane.core.keys import KeyTerms
from windvane.core.ledger import LedgerEntry
from windvane.core.limits import RateRefusal, least
from windvane.core.principal import GLOBAL
from windvane.core.priority import Priority
from windvane.engine.admission import rate_limited
from windvane.stores.memory import MemoryLedger
from windvane.testing import run_virtual
from windvane.testing.auditor import Auditor
from windvane.testing.playbook import (
    Breached,
    Failed,
    Finished,
    HungUp,
    Left,
    Play,
    Playbook,
    Said,
    Sent,
    Settled,
    answer,
    ask,
    breaks,
    done,
    finishes,
    leaves,
    opens,
    passes,
    says,
    status,
)
from windvane.testing.stage import Stage, two_providers


def limited(rates: dict[str, RateConfig], *keys: KeyConfig, **settings: object) -> Config:
    return two_providers(rates=rates, auth=AuthConfig(keys=keys), **settings)


def asked(script: Playbook, model: str = "small", **fields: Any) -> Playbook:
    script = script >> ask(model, **fields) << Sent("one/small")
    return script >> answer("hello") << Settled("exact", "ok") << Said("hello")


def fault_of(play: Play, number: int = -1) -> Fault:
    fault = play.exchanges[number].fault
    assert fault is not None
    return fault


def test_requests_a_minute_and_exactly_when_the_next_may_come() -> None:
    script = Playbook(limited({"global": RateConfig(requests_per_minute=6, burst_requests=2)}))
    script = asked(asked(script)) >> passes(4.0) >> ask("small") << Failed("rate_limited", 429)
    fault = fault_of(script.run())
    assert fault.retry_after_s == pytest.approx(6.0, abs=0.001)
    assert fault.limit is not None
    assert (fault.limit.scope, fault.limit.what, fault.limit.period) == (
        "global",
        "requests",
        "minute",
    )


@pytest.mark.parametrize(("short_s", "is_refused"), [(0.001, True), (-0.001, False)])
def test_the_retry_after_is_true_to_the_millisecond(short_s: float, is_refused: bool) -> None:
    script = Playbook(limited({"global": RateConfig(requests_per_minute=7, burst_requests=1)}))
    script = asked(script) >> passes(60 / 7 - short_s)
    script = script >> ask("small")
    if is_refused:
        script = script << Failed("rate_limited", 429)
    else:
        script = script << Sent("one/small") >> answer("x") << Settled("exact", "ok") << Said("x")
    script.run()


@pytest.mark.parametrize(
    ("name", "who", "other"),
    [
        ("key:one", {"key": "sk-number-1"}, {"key": "sk-number-2"}),
        ("key:*", {"key": "sk-number-1"}, {"key": "sk-number-2"}),
        ("team:red", {"key": "sk-number-1"}, {"key": "sk-number-2"}),
        ("user:ann", {"key": "sk-number-1", "user": "ann"}, {"key": "sk-number-1", "user": "bob"}),
        ("user:*", {"key": "sk-number-1", "user": "ann"}, {"key": "sk-number-1", "user": "bob"}),
        (
            "tag:x",
            {"key": "sk-number-1", "headers": {b"x-windvane-tags": b"x,x, y"}},
            {"key": "sk-number-1"},
        ),
    ],
)
@pytest.mark.parametrize("rate", [RateConfig(requests_per_minute=1), RateConfig(concurrency=1)])
def test_each_scope_has_its_own(
    name: str, who: dict[str, Any], other: dict[str, Any], rate: RateConfig
) -> None:
    keys = (
        KeyConfig(key="sk-number-1", name="one", team="red", tags=("t", "t")),
        KeyConfig(key="sk-number-2", name="two", team="blue"),
    )
    play = (
        Playbook(limited({name: rate}, *keys))
        >> ask("small", **who)
        << Sent("one/small")
        >> ask("small", **who)
        << Failed("rate_limited", 429)
        >> ask("small", **other)
        << Sent("one/small")
        >> answer("b")
        << Settled("exact", "ok")
        << Said("b")
        >> answer("a")
        << Settled("exact", "ok")
        << Said("a")
    ).run()
    fault = fault_of(play, 1)
    assert fault.limit is not None and fault.limit.scope.partition(":")[0] == name.partition(":")[0]


def test_a_tag_that_a_key_names_twice_counts_once() -> None:
    key = KeyConfig(key="sk-number-1", name="one", tags=("t", "t"))
    script = Playbook(limited({"tag:t": RateConfig(requests_per_minute=2)}, key))
    script = asked(asked(script, key="sk-number-1"), key="sk-number-1")
    (script >> ask("small", key="sk-number-1") << Failed("rate_limited", 429)).run()


ENDINGS = {
    "its whole answer": (answer("x"), [Settled("exact", "ok"), Said("x")]),
    "an error": (status(400), [Settled("exact", "invalid_request"), Failed("invalid_request")]),
    "its caller's leaving": (
        leaves(),
        [HungUp("one/small"), Settled("assumed", "cancelled"), Left()],
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_slot_is_free_again_after(ending: str) -> None:
    happening, facts = ENDINGS[ending]
    script = Playbook(limited({"global": RateConfig(concurrency=1)})) >> ask("small")
    script = script << Sent("one/small") >> ask("small") << Failed("rate_limited", 429)
    script = script >> (leaves(0) if ending.endswith("leaving") else happening)
    for fact in facts:
        script = script << fact
    fault = fault_of(asked(script).run(), 1)
    assert fault.retry_after_s == 1.0
    assert fault.limit == LimitReached(
        scope="global", what="concurrency", period="now", limit=1, used=1, left=0
    )


STREAM_ENDINGS = {
    "its good end": ([finishes(output_tokens=1), done()], [Settled("exact", "ok"), Finished()]),
    "its break": ([breaks()], [Settled("estimated", "stream_broken"), Failed("stream_broken")]),
    "its caller's leaving": (
        [leaves(0)],
        [HungUp("one/small"), Settled("estimated", "cancelled"), Left()],
    ),
}


@pytest.mark.parametrize("ending", STREAM_ENDINGS)
def test_a_streams_slot_is_held_to(ending: str) -> None:
    happenings, facts = STREAM_ENDINGS[ending]
    script = Playbook(limited({"global": RateConfig(concurrency=1)})) >> ask("small", stream=True)
    script = script << Sent("one/small") >> opens() >> says("one") << Said("one") >> passes(5)
    script = script >> ask("small") << Failed("rate_limited", 429)
    for happening in happenings:
        script = script >> happening
    for fact in facts:
        script = script << fact
    asked(script).run()


def tokens_left(play: Play, number: int) -> int:
    """What an exchange is told remains of its tokens a minute."""
    lease = play.exchanges[number].lease
    assert lease is not None and lease.tokens is not None
    left = least(lease.tokens)
    assert left is not None
    return left[1]


def test_tokens_are_taken_by_estimate_and_given_back_by_usage() -> None:
    script = Playbook(limited({"global": RateConfig(tokens_per_minute=1_000)}))
    script = asked(asked(script, max_tokens=900), max_tokens=900)
    play = script.run()
    # The first left all but what it used: 9 tokens of input, and 1 of output.
    assert tokens_left(play, 0) < 100
    assert tokens_left(play, 1) == tokens_left(play, 0) - 10


def test_tokens_that_were_not_enough_are_a_debt() -> None:
    script = Playbook(limited({"global": RateConfig(tokens_per_minute=60)}))
    script = script >> ask("small", max_tokens=1) << Sent("one/small")
    script = (
        script
        >> answer("word " * 111)
        << Breached()
        << Settled("exact", "ok")
        << Said("word " * 111)
    )
    script = script >> ask("small", max_tokens=1) << Failed("rate_limited", 429)
    fault = fault_of(script.run())
    # 120 were used of 60; a token comes back each second, and the next asks for some.
    expected = play_tokens(max_tokens=1)
    assert fault.retry_after_s == pytest.approx(60 + expected, abs=0.01)
    assert fault.limit is not None and fault.limit.what == "tokens"


def play_tokens(max_tokens: int) -> int:
    """What `ask("small", max_tokens=..)` is expected to use."""
    from windvane.core.analysis import analyze
    from windvane.wire.chat_request import chat_request_of

    body: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Hello?"}]}
    return analyze(chat_request_of(body)).input_tokens + max_tokens


def test_a_request_refused_for_its_tokens_takes_no_place_among_requests() -> None:
    rate = RateConfig(tokens_per_minute=300, requests_per_minute=1, burst_requests=2)
    script = asked(Playbook(limited({"global": rate})), max_tokens=10)
    script = script >> ask("small", max_tokens=295) << Failed("rate_limited", 429)
    asked(script, max_tokens=10).run()


def test_what_is_unknown_gives_no_tokens_back() -> None:
    script = Playbook(limited({"global": RateConfig(tokens_per_minute=1_000)}))
    script = script >> ask("small", max_tokens=900) << Sent("one/small") >> leaves()
    script = script << HungUp("one/small") << Settled("assumed", "cancelled") << Left()
    (script >> ask("small", max_tokens=900) << Failed("rate_limited", 429)).run()


@pytest.mark.parametrize("name", ["model:mistral-small-2603", "model:small", "model:one/small"])
def test_a_full_model_is_passed_over_for_the_next(name: str) -> None:
    for rate in (RateConfig(requests_per_minute=1), RateConfig(concurrency=1)):
        play = (
            Playbook(limited({name: rate}))
            >> ask("auto")
            << Sent("one/small")
            >> ask("auto")
            << Sent("two/large")
            >> ask("small")
            << Failed("rate_limited", 429)
            >> answer("a", at="one/small")
            << Settled("exact", "ok")
            << Said("a")
            >> answer("b", at="two/large")
            << Settled("exact", "ok")
            << Said("b")
        ).run()
        assert len(play.exchanges[1].attempts) == 1


def test_a_models_slot_is_held_for_the_attempt_alone() -> None:
    """The answer is another's by then."""
    (
        Playbook(limited({"model:mistral-small-2603": RateConfig(concurrency=1)}))
        >> ask("auto")
        << Sent("one/small")
        >> status(429, retry_after=30)
        << Settled("exact", "rate_limited")
        << Sent("two/large")
        >> ask("small")
        << Sent("one/small")
        >> answer("a", at="one/small")
        << Settled("exact", "ok")
        << Said("a")
        >> answer("b", at="two/large")
        << Settled("exact", "ok")
        << Said("b")
    ).run()


def test_an_attempt_that_a_bug_prevents_gives_its_models_slot_back() -> None:
    class Breaks(Auditor):
        def hold(self, entry: LedgerEntry) -> None:
            raise RuntimeError("a bug")

    async def story() -> None:
        config = limited({"model:mistral-small-2603": RateConfig(concurrency=1)})
        stage = Stage(config, before_audit=lambda _: Breaks(MemoryLedger()))
        for _ in range(2):  # the second finds the slot free, and meets the bug as well
            with pytest.raises(RuntimeError, match="a bug"):
                await stage.engine.handle(stage.accept("small", "Hello?"))
        assert not stage.budgets.open_holds

    run_virtual(story())


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_is_revoked_while_its_request_waits_sends_nothing(stream: bool) -> None:
    async def story() -> None:
        one = two_providers().providers["one"]
        limits = UpstreamLimitsConfig(requests_per_minute=1)
        stage = Stage(
            two_providers(providers={"one": msgspec.structs.replace(one, limits=limits)}, routes={})
        )
        key, secret = await stage.desk.create(KeyTerms(name="one"))
        room = stage.engine.room

        def asking() -> "asyncio.Task[object]":
            exchange = stage.accept("small", "Hello?", key=secret, stream=stream)
            return asyncio.get_running_loop().create_task(stage.engine.handle(exchange))

        first = asking()
        await asyncio.sleep(1)
        waiting = asking()
        await asyncio.sleep(1)
        assert sum(room.depth(priority) for priority in Priority) == 1
        await stage.desk.revoke(key.id)
        with pytest.raises(AuthenticationError):
            await waiting
        assert len(stage.transport.calls) == 1
        first.cancel()
        await asyncio.wait([first])
        assert not stage.budgets.open_holds

    run_virtual(story())


@pytest.mark.parametrize("model", ["small", "large"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_barred_does_not_hide_the_limit_that_refused(
    model: str, stream: bool
) -> None:
    async def story() -> None:
        config = two_providers(budgets={"global": BudgetConfig(daily=Decimal("0.0000001"))})
        stage = Stage(config)
        there = {"small": "one/small", "large": "two/large"}[model]
        stage.engine.room.bars[there] = (10**15, "no credit")
        with pytest.raises(BudgetExceededError) as raised:
            await stage.engine.handle(stage.accept("auto", "Hello?", stream=stream))
        assert raised.value.fault.limit is not None
        assert not stage.transport.calls

    run_virtual(story())


@pytest.mark.parametrize("terms", [{"models": ("big",)}, {"endpoints": ("models",)}])
def test_a_key_that_may_less_when_its_requests_turn_comes_sends_nothing(
    terms: dict[str, tuple[str, ...]],
) -> None:
    async def story() -> None:
        one = two_providers().providers["one"]
        limits = UpstreamLimitsConfig(requests_per_minute=1)
        stage = Stage(
            two_providers(providers={"one": msgspec.structs.replace(one, limits=limits)}, routes={})
        )
        key, secret = await stage.desk.create(KeyTerms(name="one"))

        def asking() -> "asyncio.Task[object]":
            exchange = stage.accept("small", "Hello?", key=secret)
            return asyncio.get_running_loop().create_task(stage.engine.handle(exchange))

        first = asking()
        await asyncio.sleep(1)
        waiting = asking()
        await asyncio.sleep(1)
        await stage.desk.update(key.id, KeyTerms(name="one", **terms))
        with pytest.raises(PermissionDeniedError):
            await waiting
        assert len(stage.transport.calls) == 1
        first.cancel()
        await asyncio.wait([first])

    run_virtual(story())


@pytest.mark.parametrize("refused", [0, 48])
def test_a_refusal_says_what_is_left_of_a_rate_when_something_is(refused: int) -> None:
    refusal = RateRefusal(scope=GLOBAL, what="tokens", limit=600, wait_us=10**7, left=refused)
    message = rate_limited(refusal, None, 0).fault.message
    assert ("600 tokens a minute are used up" in message) is (refused == 0)
    assert ("of 600 tokens a minute 48 are left" in message) is (refused == 48)


def test_a_refusal_tells_the_burst_that_is_used_up() -> None:
    script = Playbook(limited({"global": RateConfig(requests_per_minute=30, burst_requests=1)}))
    fault = fault_of((asked(script) >> ask("small") << Failed("rate_limited", 429)).run())
    assert fault.limit is not None
    assert (fault.limit.limit, fault.limit.used, fault.limit.left) == (30, 1, 0)
    assert "of 30 requests a minute, at most 1 at once, none is free" in fault.message


def test_a_wall_clock_that_jumps_moves_no_rate() -> None:
    from windvane.testing.playbook import jumps

    script = Playbook(limited({"global": RateConfig(requests_per_minute=1)}))
    script = asked(script) >> jumps(86_400) >> ask("small") << Failed("rate_limited", 429)
    script = script >> jumps(-2 * 86_400) >> ask("small") << Failed("rate_limited", 429)
    asked(script >> passes(60)).run()


def test_rates_are_of_requests_that_run_at_once_too() -> None:
    """A crowd in one moment: as many as the burst go, and no more."""
    script = Playbook(limited({"global": RateConfig(requests_per_minute=60, burst_requests=5)}))
    for _ in range(5):
        script = script >> ask("small") << Sent("one/small")
    for _ in range(5):
        script = script >> ask("small") << Failed("rate_limited", 429)
    for _ in range(5):
        script = script >> answer("x") << Settled("exact", "ok") << Said("x")
    script.run()
