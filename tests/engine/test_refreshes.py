"""Background refreshes: nobody's request, on somebody's account, and one for all processes."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from tests.engine.scene import COST, HEAD_S, Scene, echo, fails, plays
from tests.engine.test_flights import keys, with_others

from windvane.config.schema import BudgetConfig, RateConfig, UpstreamLimitsConfig
from windvane.core.cache.entry import pack, unpack
from windvane.core.usage_report import UsageQuery
from windvane.telemetry.metrics import Metrics
from windvane.testing.answers_kept import OtherProcess
from windvane.testing.stage import two_providers

STALE = {"ttl_s": 10, "stale_while_revalidate_s": 50}


async def grows_stale(scene: Scene, **fields: Any) -> None:
    """Ask a first time, and let the answer grow old."""
    await scene.ask("why", "small", **fields)
    await scene.rest(20)


async def refreshes(scene: Scene, **fields: Any) -> int:
    """How many calls a hit on the old answer begins."""
    before = len(scene.calls)
    got = await scene.ask("why", "small", **fields)
    assert (got.how, got.text) == ("hit", "why #1")
    await scene.rest(HEAD_S + 0.1)
    return len(scene.calls) - before


# the account it is on


@plays(**STALE, settings={"rates": {"key:*": RateConfig(requests_per_minute=3, concurrency=1)}})
async def test_a_refresh_is_no_request_of_the_callers(scene: Scene) -> None:
    """It takes no place in its rate, and no slot."""
    await grows_stale(scene)  # three may come from now
    assert (await scene.ask("why", "small")).how == "hit"
    while_it_runs = await scene.ask("why", "small")
    assert (while_it_runs.how, while_it_runs.text) == ("hit", "why #1")
    await scene.rest(HEAD_S + 0.1)
    assert len(scene.calls) == 2
    third, fourth = [(await scene.ask("why", "small")).fault for _ in range(2)]
    assert third is None
    assert fourth is not None and fourth.kind == "rate_limited"


@plays(**STALE)
async def test_a_refresh_is_counted_as_no_request_and_its_attempt_is_paid(scene: Scene) -> None:
    await grows_stale(scene)
    assert await refreshes(scene) == 1
    await two_requests_are_counted(scene)


@plays(**STALE)
async def test_nor_is_one_that_fails(scene: Scene) -> None:
    await grows_stale(scene)
    scene.scripts = [fails(500)] * 4
    assert (await scene.ask("why", "small")).how == "hit"
    await scene.rest(60)
    await two_requests_are_counted(scene)


async def two_requests_are_counted(scene: Scene) -> None:
    """By metrics and by the ledger's sums; the attempts of a refresh are all there besides."""
    metrics = Metrics()
    for event in scene.stage.auditor.ended.values():
        metrics.on(event)
    assert metrics.totals()["requests_total"] == 2
    (row,) = await scene.stage.ledger.usage(UsageQuery())
    assert row.totals.requests == 2
    first, hit, *refreshing = sorted(scene.entries, key=lambda entry: entry.started_at_us)
    assert (first.number, hit.outcome) == (1, "hit")
    assert [entry.number for entry in refreshing] == [*range(2, 2 + len(refreshing))]
    assert row.totals.attempts == 1 + len(refreshing) > 1


TOKENS = 300
"""A rate of tokens with room for one request, whose estimate is about 260."""


@plays(**STALE, settings={"rates": {"key:*": RateConfig(tokens_per_minute=TOKENS)}})
async def test_a_refresh_takes_the_callers_tokens(scene: Scene) -> None:
    await grows_stale(scene)
    await scene.ask("why", "small")
    await scene.rest()
    refused = await scene.ask("something else", "small")
    assert refused.fault is not None and refused.fault.kind == "rate_limited"
    await scene.rest(HEAD_S + 0.1)
    assert len(scene.calls) == 2
    allowed = await scene.ask("something else", "small")  # what it did not use was given back
    assert allowed.fault is None


@plays(**STALE, settings={"rates": {"key:*": RateConfig(tokens_per_minute=TOKENS)}})
async def test_a_refresh_without_tokens_is_left_and_the_old_answer_is_given(scene: Scene) -> None:
    await grows_stale(scene)
    other = scene.start("something else", "small")
    await scene.rest(0.1)
    assert await refreshes(scene) == 0
    await other
    ended = len(scene.stage.auditor.ended)
    assert await refreshes(scene) == 1
    assert len(scene.stage.auditor.ended) == ended + 2  # the hit, and the refresh


POOR = BudgetConfig(daily=Decimal("0.000004"))
"""As much as one answer costs, and half of another."""


@plays(**STALE, scope="shared", settings=keys("rich", "poor", poor={"budget": POOR}))
async def test_a_refresh_is_held_in_the_callers_budget_or_left(scene: Scene) -> None:
    await grows_stale(scene, key="wv-key-rich")
    assert await refreshes(scene, key="wv-key-poor") == 0
    spent = [entry.key_id for entry in scene.entries if entry.cost_nano_usd]
    assert spent == ["rich"]
    assert await refreshes(scene, key="wv-key-rich") == 1


@plays(**STALE, settings={"budgets": {"global": BudgetConfig(daily=Decimal(1))}})
async def test_while_a_refresh_runs_its_worst_case_is_held(scene: Scene) -> None:
    await grows_stale(scene)
    await scene.ask("why", "small")
    await scene.rest(0.1)
    (running,) = scene.stage.budgets.standings(scene.stage.clock.wall_us())
    assert running.spent_nano_usd == COST
    assert running.held_nano_usd > COST
    await scene.rest(HEAD_S)
    (done,) = scene.stage.budgets.standings(scene.stage.clock.wall_us())
    assert (done.spent_nano_usd, done.held_nano_usd) == (2 * COST, 0)


# the provider's limits


def limited(requests: int) -> Any:
    config = two_providers()
    limits = UpstreamLimitsConfig(requests_per_minute=requests)
    one = msgspec.structs.replace(config.providers["one"], limits=limits)
    return msgspec.structs.replace(config, providers={**config.providers, "one": one})


@plays(**STALE, config=limited(3))
async def test_a_refresh_takes_room_at_the_provider_and_waits_for_none(scene: Scene) -> None:
    """Nobody waits for it, and it keeps nobody from a place in the queue."""
    await grows_stale(scene)
    await scene.ask("a", "small")
    others = [scene.start(text, "small") for text in "bcd"]
    await scene.rest(0.1)
    calls = len(scene.calls)
    assert (await scene.ask("why", "small")).how == "hit"
    await scene.rest(0.1)
    assert len(scene.calls) == calls
    assert scene.engine.flights_count == len(others), "the refresh is not among them"
    for other in others:
        assert (await other).fault is None


@plays(**STALE)
async def test_a_refresh_asks_the_model_that_was_looked_up_alone(scene: Scene) -> None:
    """Another model's answer would be kept as that one's, and the old one would stay as it is."""
    await scene.ask("why", "auto")
    await scene.rest(20)
    scene.scripts = [fails(401)]
    assert (await scene.ask("why", "auto")).how == "hit"
    await scene.rest(5)
    assert [call.deployment for call in scene.calls] == ["one/small", "one/small"]


@plays(**STALE)
async def test_who_has_joined_a_refresh_that_fails_asks_for_itself(scene: Scene) -> None:
    await scene.ask("why", "auto")
    await scene.rest(20)
    scene.scripts = [fails(401), fails(401), echo]
    assert (await scene.ask("why", "auto")).how == "hit"
    fresh = await scene.ask("why", "auto", says="max-age=5")
    assert (fresh.how, fresh.text) == ("miss", "why #4")
    assert scene.calls[-1].deployment == "two/large"


# other processes


def a_newer(scene: Scene, text: str, **changes: Any) -> tuple[bytes, Any]:
    """The one entry that is kept, as another process would have made it just now."""
    ((key, (data, tags, until_s)),) = scene.stage.cache.kept.items()
    entry = unpack(data, key)
    assert entry is not None
    now_us = scene.stage.clock.wall_us()
    assert entry.rest is not None
    rest = entry.rest.replace(b"why #1", text.encode())
    times = {"created_at_us": now_us, "fresh_until_us": now_us + 10_000_000, **changes}
    newer = msgspec.structs.replace(entry, rest=rest, **times)
    return key, (pack(newer, key), tags, until_s)


def test_of_several_processes_one_refreshes() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await grows_stale(scene)
        others.holds_all = True
        for _ in range(3):
            assert await refreshes(scene) == 0
        others.holds_all = False
        assert await refreshes(scene) == 1
        assert (await scene.ask("why", "small")).text == "why #2"

    with_others(script, **STALE)


def test_what_another_process_has_fetched_is_taken_and_not_fetched_again() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await grows_stale(scene)
        key, newer = a_newer(scene, "theirs")
        scene.stage.cache.behind[key] = newer
        assert await refreshes(scene) == 0
        got = await scene.ask("why", "small")
        assert (got.how, got.text) == ("hit", "theirs")
        assert got.exchange.cache_ttl_s is not None and got.exchange.cache_ttl_s > 0

    with_others(script, **STALE)


def test_what_others_have_is_no_reason_when_it_is_what_we_have() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await grows_stale(scene)
        scene.stage.cache.behind.update(scene.stage.cache.kept)
        assert await refreshes(scene) == 1

    with_others(script, **STALE)


def test_who_joins_a_refresh_that_is_left_is_given_what_others_have() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await grows_stale(scene)
        key, newer = a_newer(scene, "theirs")
        assert (await scene.ask("why", "small")).how == "hit"
        task = scene.start("why", "small", says="max-age=5")
        await scene.rest(0.01)
        scene.stage.cache.behind[key] = newer
        got = await task
        assert (got.how, got.text) == ("hit", "theirs")
        assert len(scene.calls) == 1

    with_others(script, **STALE, claim_s=0.02)


@pytest.mark.parametrize("says", [None, "max-age=5"])
def test_a_spare_in_memory_does_not_hide_what_others_have_since(says: str | None) -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        await grows_stale(scene)
        key, newer = a_newer(scene, "theirs")
        scene.stage.cache.behind[key] = newer
        got = await scene.ask("why", "small", says=says)
        assert (got.how, got.text) == ("hit", "theirs")
        assert others.granted == 1  # for the first answer

    with_others(script, ttl_s=10, stale_if_error_s=100)


@plays(ttl_s=10, stale_if_error_s=100)
async def test_what_is_older_than_our_own_is_not_taken(scene: Scene) -> None:
    await grows_stale(scene)
    key, older = a_newer(scene, "theirs", created_at_us=1)
    scene.stage.cache.behind[key] = older
    scene.scripts = [fails(503)] * 3
    assert (await scene.ask("why", "small")).text == "why #1"


# what these tests would say of a worse cache


def would_notice(test: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        test()


def test_waiting_for_room_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.engine.dispatch import Dispatch

    admit = Dispatch._admit

    async def patient(self: Any, exchange: Any, *rest: Any) -> Any:
        exchange.may_wait = True
        return await admit(self, exchange, *rest)

    monkeypatch.setattr(Dispatch, "_admit", patient)
    would_notice(test_a_refresh_takes_room_at_the_provider_and_waits_for_none)


def test_never_looking_for_what_others_have_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from windvane.engine.lookup import Lookup

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(Lookup, "find_newer", nothing)
    would_notice(test_what_another_process_has_fetched_is_taken_and_not_fetched_again)
    would_notice(lambda: test_a_spare_in_memory_does_not_hide_what_others_have_since(None))


def test_taking_no_tokens_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.engine.admission import Admission

    monkeypatch.setattr(Admission, "take_tokens_unasked", lambda *_: None)
    would_notice(test_a_refresh_takes_the_callers_tokens)
    would_notice(test_a_refresh_without_tokens_is_left_and_the_old_answer_is_given)
