"""How old an answer may be: what the route allows, what the caller wishes, and what the clock says."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.engine.scene import COST, HEAD_S, Scene, fails, outcomes, plays

from windvane.config.schema import CacheRouteConfig
from windvane.core.cache import freshness
from windvane.core.cache.freshness import CLOCKS_APART_MAX_S
from windvane.core.cache.invalidation import ALL
from windvane.stores.memory.cache import MemoryCache
from windvane.stores.tiers import TieredCache
from windvane.testing import Call, run_virtual
from windvane.testing.answers import Breaks, Script

HOUR_S = 3_600.0
TARGETED = b"windvane-cache-control"


async def hows(scene: Scene, *said: str | None, **fields: Any) -> list[str]:
    return [(await scene.ask("why", "small", says=each, **fields)).how for each in said]


# how long


@plays()
async def test_an_answer_lives_an_hour_unless_told(scene: Scene) -> None:
    assert await hows(scene, None) == ["miss"]
    await scene.rest(HOUR_S - 0.01)
    assert await hows(scene, None) == ["hit"]
    await scene.rest(0.02)
    assert await hows(scene, None) == ["miss"]


@plays(ttl_s=10, routes={"auto": CacheRouteConfig(ttl_s=100)})
async def test_a_route_may_say_otherwise(scene: Scene) -> None:
    await scene.ask("a", "small")
    await scene.ask("b", "auto")
    await scene.rest(11)
    assert (await scene.ask("a", "small")).how == "miss"
    assert (await scene.ask("b", "auto")).how == "hit"
    await scene.rest(90)
    assert (await scene.ask("b", "auto")).how == "miss"


@plays(ttl_s=10, routes={"auto": CacheRouteConfig(ttl_s=100)})
async def test_what_another_route_kept_for_longer_is_no_fresher_here(scene: Scene) -> None:
    await scene.ask("why", "auto")
    await scene.rest(9)
    got = await scene.ask("why", "small")
    assert (got.how, got.exchange.cache_ttl_s) == ("hit", 1)
    await scene.rest(2)
    assert (await scene.ask("why", "auto")).how == "hit"
    assert (await scene.ask("why", "small")).how == "miss"


@plays(ttl_s=100, ttl_max_s=200, routes={"auto": CacheRouteConfig(ttl_max_s=300)})
async def test_a_request_may_say_so_up_to_the_routes_longest(scene: Scene) -> None:
    for model, longest_s in (("small", 200), ("auto", 300)):
        await scene.ask(model, model, says="s-maxage=999999999")
        await scene.rest(longest_s - 0.1)
        assert (await scene.ask(model, model)).how == "hit"
        await scene.rest(0.2)
        assert (await scene.ask(model, model)).how == "miss"


@plays(ttl_s=100)
async def test_a_request_may_ask_for_less_and_for_no_more(scene: Scene) -> None:
    assert await hows(scene, "s-maxage=500", None) == ["miss", "hit"]
    await scene.rest(99.9)
    assert await hows(scene, None) == ["hit"]
    await scene.rest(0.2)
    assert await hows(scene, None) == ["miss"]


@plays(ttl_s=100, ttl_max_s=1_000)
async def test_a_request_may_say_otherwise(scene: Scene) -> None:
    assert await hows(scene, "s-maxage=5", None) == ["miss", "hit"]
    await scene.rest(5.1)
    assert await hows(scene, "s-maxage=500", None) == ["miss", "hit"]
    await scene.rest(499)
    assert await hows(scene, None) == ["hit"]
    await scene.rest(1.1)
    scene.stage.cache.kept.clear()
    assert await hows(scene, "s-maxage=0") == ["miss"]
    assert scene.kept == 0 and not scene.asked[-1].is_stored


@plays(ttl_s=100)
async def test_age_and_what_is_left_are_told(scene: Scene) -> None:
    await scene.ask("why")
    await scene.rest(30.5)
    told = (await scene.ask("why")).exchange
    assert (told.cache_age_s, told.cache_ttl_s) == (30, 69)


# what the caller wishes


@plays()
async def test_max_age(scene: Scene) -> None:
    await hows(scene, None)
    await scene.rest(10)
    assert await hows(scene, "max-age=11", "max-age=9", "max-age=9") == ["hit", "miss", "hit"]


@plays(ttl_s=100)
async def test_min_fresh(scene: Scene) -> None:
    await hows(scene, None)
    await scene.rest(60)
    assert await hows(scene, "min-fresh=39", "min-fresh=41", "min-fresh=41") == [
        "hit",
        "miss",
        "hit",
    ]


@plays(ttl_s=100, stale_if_error_s=50)
async def test_max_stale(scene: Scene) -> None:
    await hows(scene, None)
    await scene.rest(120)
    assert await hows(scene, "max-stale=30") == ["hit"]
    assert scene.asked[-1].cache_ttl_s is not None and scene.asked[-1].cache_ttl_s < 0
    assert await hows(scene, "max-stale=10") == ["miss"]


@plays()
async def test_no_cache_asks_anew_and_keeps_the_answer(scene: Scene) -> None:
    await hows(scene, None)
    assert await hows(scene, "no-cache") == ["miss"]
    assert (await scene.ask("why", "small")).text == "why #2"


@plays()
async def test_no_cache_joins_nobody_and_may_be_joined(scene: Scene) -> None:
    first = scene.start("why", "small")
    await scene.rest(0.1)
    anew = scene.start("why", "small", says="no-cache")
    await scene.rest(0.1)
    after = scene.start("why", "small")
    assert [(await task).how for task in (first, anew, after)] == ["miss", "miss", "joined"]
    assert [(await task).text for task in (first, anew, after)] == ["why #1", "why #2", "why #2"]


@plays()
async def test_no_store_neither_reads_nor_keeps(scene: Scene) -> None:
    await hows(scene, None)
    assert await hows(scene, "no-store") == ["bypass"]
    assert (await scene.ask("why", "small")).text == "why #1"


@plays()
async def test_only_if_cached_asks_nobody(scene: Scene) -> None:
    for said in ("only-if-cached", "only-if-cached, no-cache", "only-if-cached, no-store"):
        got = await scene.ask("why", "small", says=said)
        assert got.fault is not None
        assert (got.fault.status, got.fault.code) == (504, "not_cached")
        assert got.how == "miss"
    assert not scene.calls
    await hows(scene, None)
    assert await hows(scene, "only-if-cached") == ["hit"]


@plays(routes={"auto": CacheRouteConfig(enabled=False)})
async def test_only_if_cached_asks_nobody_where_nothing_is_kept(scene: Scene) -> None:
    got = await scene.ask("why", "auto", says="only-if-cached")
    assert got.fault is not None and got.fault.code == "not_cached"
    assert not scene.calls


@plays(ttl_s=10, stale_while_revalidate_s=50)
async def test_only_if_cached_takes_a_stale_answer_and_asks_nobody(scene: Scene) -> None:
    await hows(scene, None)
    await scene.rest(20)
    assert await hows(scene, "only-if-cached") == ["hit"]
    await scene.rest(20)
    assert len(scene.calls) == 1


@plays()
async def test_only_if_cached_does_not_join(scene: Scene) -> None:
    task = scene.start("why", "small")
    await scene.rest(0.1)
    got = await scene.ask("why", "small", says="only-if-cached")
    assert got.fault is not None and got.fault.code == "not_cached"
    await task


@plays()
async def test_the_targeted_header_wins(scene: Scene) -> None:
    await hows(scene, None)
    said = await scene.ask("why", "small", says="no-store", headers={TARGETED: b"max-age=60"})
    assert said.how == "hit"
    said = await scene.ask("why", "small", says="max-age=60", headers={TARGETED: b"no-cache"})
    assert said.how == "miss"
    said = await scene.ask("why", "small", says="no-store", headers={TARGETED: b"x"})
    assert said.how == "hit"


@pytest.mark.parametrize("empty", [b"", b"  ", b" , "])
def test_an_empty_targeted_header_is_passed_over(empty: bytes) -> None:
    async def main() -> None:
        scene = Scene()
        said = await scene.ask("why", "small", says="no-store", headers={TARGETED: empty})
        assert (said.how, scene.kept) == ("bypass", 0)
        await scene.close()

    run_virtual(main())


@plays(ttl_s=100, stale_if_error_s=50, stale_while_revalidate_s=10)
async def test_why_nothing_stored_was_given_is_told(scene: Scene) -> None:
    async def why(said: str | None = None) -> tuple[str, str]:
        exchange = (await scene.ask("why", "small", says=said)).exchange
        return exchange.cache_status, exchange.cache_forward

    assert await why() == ("miss", "miss")
    assert await why("no-cache") == ("miss", "request")
    await scene.rest(10)
    assert await why("max-age=5") == ("miss", "request")
    await scene.rest(10)
    assert await why("min-fresh=95") == ("miss", "request")
    await scene.rest(120)
    assert await why() == ("miss", "stale")
    await scene.rest(1_000)
    assert await why() == ("miss", "miss")


@plays(ttl_s=100)
async def test_what_memory_is_not_believed_in_is_no_wish_of_the_callers(scene: Scene) -> None:
    is_believed = True
    memory = MemoryCache(1_000_000, monotonic_s=scene.stage.clock.monotonic_s, rng=Random(1))
    cache = TieredCache(memory, is_believed=lambda: is_believed)
    scene.engine._sharing._lookup._cache = cache
    assert (await scene.ask("why", "small")).how == "miss"
    assert (await scene.ask("why", "small")).how == "hit"
    is_believed = False
    for said, why in ((None, "miss"), ("s-maxage=9", "miss"), ("min-fresh=200", "request")):
        exchange = (await scene.ask("why", "small", says=said)).exchange
        assert (exchange.cache_status, exchange.cache_forward) == ("miss", why)


@plays()
async def test_nonsense_is_not_heard(scene: Scene) -> None:
    nonsense = "max-age=ten, =, ;;, min-fresh=-1, s-maxage=1e3, no_store, stale-if-error"
    assert await hows(scene, nonsense, nonsense) == ["miss", "hit"]
    latin = await scene.ask(
        "why", "small", headers={b"cache-control": b"\xff\xfe=\x00, max-age=\xb2"}
    )
    assert latin.how == "hit"


# stale while a fresh one is fetched


@plays(ttl_s=10, stale_while_revalidate_s=50)
async def test_a_stale_answer_is_served_at_once_while_a_fresh_one_is_fetched(scene: Scene) -> None:
    await scene.ask("why")
    await scene.rest(20)
    begun_s = scene.now_s()
    stale = [await scene.ask("why", stream=bool(n % 2)) for n in range(10)]
    assert {(each.how, each.text, each.at_s) for each in stale} == {("hit", "why #1", begun_s)}
    assert stale[0].exchange.cache_ttl_s is not None and stale[0].exchange.cache_ttl_s < 0
    await scene.rest(HEAD_S + 0.1)
    assert len(scene.calls) == 2
    fresh = await scene.ask("why")
    assert (fresh.how, fresh.text) == ("hit", "why #2")
    paid = [entry for entry in scene.entries if entry.outcome == "ok"]
    assert [(entry.key_id, entry.cost_nano_usd) for entry in paid] == [("anonymous", COST)] * 2
    assert len(scene.stage.auditor.ended) == len(scene.asked) + 1


@plays(ttl_s=10, stale_while_revalidate_s=50)
async def test_the_refresh_of_a_stream_is_listened_to_by_nobody_and_kept(scene: Scene) -> None:
    await scene.ask("why", stream=True)
    await scene.rest(20)
    assert (await scene.ask("why", stream=True)).text == "why #1"
    await scene.rest(5)
    assert (await scene.ask("why")).text == "why #2"


@plays(ttl_s=10, stale_while_revalidate_s=50)
async def test_a_refresh_that_fails_harms_nobody(scene: Scene) -> None:
    def broken(call: Call) -> Script:
        return [(0.1, Breaks())]

    await scene.ask("why", "small")
    await scene.rest(20)
    scene.scripts = [fails(400), broken, broken]
    for _ in range(2):
        assert (await scene.ask("why", "small")).how == "hit"
        await scene.rest(5)
    assert (await scene.ask("why", "small")).text == "why #1"
    await scene.rest(5)
    assert (await scene.ask("why", "small")).text == f"why #{len(scene.calls)}"


@plays(ttl_s=10, stale_while_revalidate_s=50)
async def test_who_comes_to_a_refresh_too_late_for_stale_joins_it(scene: Scene) -> None:
    await scene.ask("why")
    await scene.rest(59.6)
    assert (await scene.ask("why")).how == "hit"
    await scene.rest(0.5)
    joined = await scene.ask("why")
    assert (joined.how, joined.text) == ("joined", "why #2")


@plays(ttl_s=10, stale_while_revalidate_s=50)
async def test_the_engine_closes_over_a_refresh(scene: Scene) -> None:
    await scene.ask("why")
    await scene.rest(20)
    assert (await scene.ask("why")).how == "hit"
    await scene.rest(0.1)
    await scene.engine._sharing.aclose()
    await scene.rest()
    assert scene.entries[-1].outcome == "cancelled"


# stale when nothing else can be had


@plays(ttl_s=10, stale_if_error_s=50)
async def test_an_old_answer_is_better_than_a_failure(scene: Scene) -> None:
    for stream in (False, True):
        text = f"why {stream}"
        good = await scene.ask(text, "small", stream=stream)
        await scene.rest(20)
        scene.scripts = [fails(503)] * 9
        tasks = [scene.start(text, "small", stream=stream, pause_s=0.5) for _ in range(3)]
        got = [await task for task in tasks]
        assert {each.text for each in got} == {good.text}
        assert [each.how for each in got] == ["hit"] * 3
        ended = [scene.ended(each.exchange) for each in got]
        assert [(each.status, each.fault) for each in ended] == [(200, None)] * 3
        scene.scripts = []
        await scene.rest(60)
    saved = [saved for outcome, _, saved in outcomes(scene.entries) if outcome == "hit"]
    assert saved == [COST] * 6


@plays(ttl_s=10, stale_if_error_s=50)
async def test_what_is_taken_back_while_the_provider_is_asked_is_no_spare(scene: Scene) -> None:
    for stream in (False, True):
        await scene.ask("why", "small", stream=stream)
        await scene.rest(20)
        scene.scripts = [fails(503)] * 9
        tasks = [scene.start("why", "small", stream=stream) for _ in range(3)]
        await scene.rest(0.5)
        await scene.engine.invalidate(ALL)
        got = [await task for task in tasks]
        assert [each.fault and each.fault.status for each in got] == [503] * 3
        assert [scene.ended(each.exchange).status for each in got] == [503] * 3
        scene.scripts = []
        await scene.rest(60)


@plays(ttl_s=10, stale_if_error_s=50)
async def test_when_the_provider_is_well_it_is_asked(scene: Scene) -> None:
    await scene.ask("why", "small")
    await scene.rest(20)
    assert (await scene.ask("why", "small")).text == "why #2"


@plays(ttl_s=10, stale_if_error_s=50)
async def test_a_fault_of_the_callers_is_told(scene: Scene) -> None:
    await scene.ask("why", "small")
    await scene.rest(20)
    scene.scripts = [fails(400)]
    tasks = [scene.start("why", "small") for _ in range(2)]
    got = [await task for task in tasks]
    assert [each.fault and each.fault.status for each in got] == [400, 400]
    assert [scene.ended(each.exchange).status for each in got] == [400, 400]


@plays(ttl_s=10, stale_if_error_s=50)
async def test_who_leaves_while_the_spare_is_not_yet_needed_has_left(scene: Scene) -> None:
    await scene.ask("why", "small")
    await scene.rest(20)
    scene.scripts = [fails(503)] * 3
    leader = scene.start("why", "small")
    joiner = scene.start("why", "small")
    await scene.rest(0.5)
    leader.cancel()
    assert (await joiner).how == "hit"
    statuses = [scene.ended(exchange).status for exchange in scene.asked[1:]]
    assert statuses == [503, 200]  # the flight's own end, and the joiner's


@plays(ttl_s=10, stale_if_error_s=50)
async def test_who_leads_when_the_process_ends_is_told_so_and_what_it_cost(scene: Scene) -> None:
    """An exchange that is answered from the spare entry ends before its attempt does, as if free."""
    await scene.ask("why", "small")
    await scene.rest(20)
    leader = scene.start("why", "small")
    await scene.rest(0.5)
    scene.engine.call_off()
    leader.cancel()
    got = await leader
    assert got.fault is not None and got.fault.kind == "shutting_down"
    await scene.rest()
    assert scene.ended(got.exchange).fault == "shutting_down"
    assert scene.ended(got.exchange).cost_nano_usd == scene.entries[-1].cost_nano_usd
    assert [entry.outcome for entry in scene.entries] == ["ok", "shutting_down"]


@plays(ttl_s=10, stale_if_error_s=50)
async def test_no_spare_is_served_beyond_its_time(scene: Scene) -> None:
    await scene.ask("why", "small")
    await scene.rest(61)
    scene.scripts = [fails(503)] * 3
    assert (await scene.ask("why", "small")).fault is not None
    await scene.ask("other", "small")
    await scene.rest(30)
    scene.scripts = [fails(503)] * 3
    asked = await scene.ask("other", "small", says="stale-if-error=5")
    assert asked.fault is not None


# early


def test_a_hot_answer_is_fetched_anew_before_its_end() -> None:
    """By one of its readers, with dice: seeded, so the same each time."""

    async def play(seed: int) -> tuple[int, float]:
        scene = Scene(ttl_s=60, early_refresh=1.0, seed=seed)
        await scene.ask("why")
        for _ in range(598):
            await scene.rest(0.1)
            assert (await scene.ask("why")).how == "hit"
        at_s = [call._due_s for call in scene.calls]
        await scene.rest(2)
        calls = len(scene.calls)
        assert (await scene.ask("why")).text == f"why #{calls}"
        await scene.close()
        return calls, at_s[-1]

    played = [run_virtual(play(seed)) for seed in range(3)]
    assert {calls for calls, _ in played} == {2}
    assert all(at_s > 50 for _, at_s in played)
    assert run_virtual(play(1)) == played[1]


# clocks


@pytest.mark.parametrize("jump_s", [-86_400.0, -30.0, 30.0, 86_400.0, 10 * 365 * 86_400.0])
def test_no_jump_of_the_clock_lets_an_entry_outlive_itself(jump_s: float) -> None:
    async def main() -> None:
        scene = Scene(ttl_s=100, stale_while_revalidate_s=20, stale_if_error_s=20)
        await scene.ask("why", "small")
        made_s = scene.now_s()
        await scene.rest(50)
        scene.stage.clock.jump(jump_s)
        for _ in range(30):
            got = await scene.ask("why", "small")
            if got.text == "why #1":
                assert scene.now_s() - made_s <= 100 + 20
            exchange = got.exchange
            assert exchange.cache_age_s is None or exchange.cache_age_s >= 0
            await scene.rest(10)
        await scene.close()

    run_virtual(main())


@plays(ttl_s=100, stale_if_error_s=100_000)
async def test_an_entry_of_a_clock_that_was_wrong_is_not_believed(scene: Scene) -> None:
    scene.stage.clock.jump(86_400)
    await scene.ask("why", "small")
    scene.stage.clock.jump(-86_400)
    assert (await scene.ask("why", "small")).how == "miss"
    assert (await scene.ask("why", "small")).how == "hit"
    scene.stage.clock.jump(-CLOCKS_APART_MAX_S / 2)
    assert (await scene.ask("why", "small")).how == "hit"


# what these tests would say of a worse cache


def would_notice(test: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        test()


def test_believing_any_clock_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "CLOCKS_APART_MAX_S", 1e9)
    would_notice(test_an_entry_of_a_clock_that_was_wrong_is_not_believed)


def test_keeping_for_as_long_as_is_asked_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness.CachePolicy, "longest_s", 10**9)
    would_notice(test_a_request_may_ask_for_less_and_for_no_more)
    would_notice(test_a_request_may_say_so_up_to_the_routes_longest)
    would_notice(test_what_another_route_kept_for_longer_is_no_fresher_here)


def test_a_spare_for_everyone_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from windvane.engine import sharing

    monkeypatch.setattr(sharing, "may_be_spared", lambda _: True)
    would_notice(test_a_fault_of_the_callers_is_told)
