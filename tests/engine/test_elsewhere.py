"""What is kept of those who would be asked next is found before they are asked, and before anybody is told
that no answer can be had: the first choice is asked here, and fails; its breaker is shut."""

import asyncio
from itertools import count

import msgspec
import pytest
from tests.engine.scene import HEAD_S, Scene, ScriptOf, echo, fails, plays, says
from tests.engine.test_cache_order import rests, shown
from tests.engine.test_flights import SHORT, all_of, never, with_others

from windvane.config.schema import Config, RateConfig, UpstreamLimitsConfig
from windvane.core.cache.invalidation import model_tag
from windvane.core.retry import RetryPolicy
from windvane.engine.flights import Flight
from windvane.testing import Call, Moment, cancelled_at, run_virtual
from windvane.testing.answers import Script
from windvane.testing.answers_kept import OtherProcess
from windvane.testing.stage import two_providers

ONCE = {"retry": RetryPolicy(attempts_per_deployment_max=1)}
OLD = {"ttl_s": 10, "stale_if_error_s": 500}


def down(scene: Scene, *providers: str, by: ScriptOf | None = None) -> None:
    """These fail from now on, whoever asks; the others echo. Nobody rests."""

    def script(call: Call) -> Script:
        is_down = call.deployment.partition("/")[0] in providers
        return (by or fails(503))(call) if is_down else echo(call)

    scene.scripts = [script] * 999
    rests(scene)


def calls_of(scene: Scene, provider: str) -> int:
    return sum(call.deployment.startswith(f"{provider}/") for call in scene.calls)


def empty(call: Call) -> Script:
    """A stream that says nothing."""
    begin, *_, marker, end = echo(call)
    return [begin, marker, end]


def limited(**requests: int) -> Config:
    """With so many requests a minute at these providers."""
    config = two_providers()
    providers = {
        name: msgspec.structs.replace(
            provider, limits=UpstreamLimitsConfig(requests_per_minute=requests[name])
        )
        for name, provider in config.providers.items()
    }
    return msgspec.structs.replace(config, providers=providers)


# before it is paid for again


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "mistral"])
def test_what_a_fallback_has_answered_is_not_paid_for_again(stream: bool, dialect: str) -> None:
    @plays()
    async def script(scene: Scene) -> None:
        down(scene, "one")
        first = await scene.ask("why", stream=not stream)
        assert shown(first)[::2] == ("miss", "two/large")
        await scene.rest(20)
        for _ in range(3):
            rests(scene)
            got = await scene.ask("why", stream=stream, dialect=dialect)
            assert shown(got) == ("hit", first.text, "two/large")
            assert (got.exchange.cost_nano_usd, calls_of(scene, "two")) == (0, 1)
            assert got.exchange.cache_age_s == pytest.approx(20, abs=10)
            assert got.usage is not None
            assert got.id not in (first.id, "")
            # It was asked for in vain, so it counts as no hit.
            assert scene.ended(got.exchange).counted_as == "miss"
            entries = [each for each in scene.entries if each.request_id == got.exchange.id]
            assert [each.outcome for each in entries][-1] == "hit"
            assert {each.outcome for each in entries[:-1]} == {"overloaded"}

    script()


@plays(settings=ONCE)
async def test_those_who_wait_together_are_given_it_together(scene: Scene) -> None:
    down(scene, "one")
    first = await scene.ask("why")
    rests(scene)
    calls = len(scene.calls)
    got = await all_of(*(scene.start("why", stream=bool(n % 2)) for n in range(20)))
    assert {shown(each) for each in got} == {("hit", first.text, "two/large")}
    assert len({each.id for each in got}) == 20
    assert len(scene.calls) == calls + 1
    counted = [scene.ended(each.exchange).counted_as for each in got]
    assert (counted.count("miss"), counted.count("hit")) == (1, 19)


@plays(settings=ONCE)
async def test_each_is_given_what_it_wishes(scene: Scene) -> None:
    down(scene, "one")
    first = await scene.ask("why")
    await scene.rest(100)
    rests(scene)
    leads, joins, wants = (
        scene.start("why"),
        scene.start("why"),
        scene.start("why", says="max-age=10", stream=True),
    )
    got = await all_of(leads, joins)
    assert {shown(each) for each in got} == {("hit", first.text, "two/large")}
    assert (await wants).text not in ("", first.text), "it has asked for itself"
    assert calls_of(scene, "two") == 2
    rests(scene)
    fresh = await all_of(scene.start("why", says="max-age=1"), scene.start("why"))
    assert {each.text for each in fresh} == {fresh[0].text}


@plays(settings=ONCE)
async def test_who_has_left_is_not_waited_for(scene: Scene) -> None:
    down(scene, "one")
    first = await scene.ask("why")
    rests(scene)
    leads, joins = scene.start("why"), scene.start("why")
    await scene.rest(HEAD_S / 2)
    leads.cancel()
    assert shown(await joins) == ("hit", first.text, "two/large")
    assert [scene.ended(each).status for each in scene.asked] == [200, 499, 200]


@pytest.mark.parametrize("said", ["no-cache", "no-store"])
def test_who_wants_nothing_kept_is_given_nothing_kept(said: str) -> None:
    @plays(settings=ONCE)
    async def script(scene: Scene) -> None:
        down(scene, "one")
        first = await scene.ask("why")
        rests(scene)
        looks = scene.stage.cache.looks
        assert (await scene.ask("why", says=said)).text not in ("", first.text)
        assert scene.stage.cache.looks == looks
        down(scene, "one", "two")
        refused = await scene.ask("why", says=said)
        assert refused.fault is not None and refused.fault.status == 503

    script()


@plays(settings=ONCE)
async def test_what_was_taken_back_is_asked_anew(scene: Scene) -> None:
    down(scene, "one")
    first = await scene.ask("why")
    await scene.engine.invalidate(model_tag("large"))
    rests(scene)
    assert (await scene.ask("why")).text not in ("", first.text)


ONE_AT_ONCE = {"rates": {"key:*": RateConfig(tokens_per_minute=300)}}
"""A rate of tokens with room for one request, whose estimate is about 260."""


def test_what_is_taken_back_as_it_is_found_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    @plays(settings={**ONCE, **ONE_AT_ONCE})
    async def script(scene: Scene) -> None:
        first = await scene.ask("why", "large")
        down(scene, "one")

        def spare(flight: Flight) -> None:
            scene.stage.invalidations.invalidate_now(model_tag("large"))
            spare_as_ever(flight)

        spare_as_ever = Flight.spare
        monkeypatch.setattr(Flight, "spare", spare)
        got = await all_of(scene.start("why"), scene.start("why", stream=True))
        assert {each.text == first.text for each in got} == {False}
        assert {each.fault for each in got} == {None}
        assert calls_of(scene, "two") == 2

    script()


@plays(settings=ONCE)
async def test_of_another_models_answer_the_first_ones_invalidation_takes_nothing(
    scene: Scene,
) -> None:
    first = await scene.ask("why", "large")
    await scene.engine.invalidate(model_tag("small"))
    down(scene, "one")
    assert shown(await scene.ask("why")) == ("hit", first.text, "two/large")
    rests(scene, "one/small")
    assert shown(await scene.ask("why")) == ("hit", first.text, "two/large")


@plays(settings=ONCE, stale_while_revalidate_s=500, ttl_s=10)
async def test_a_stale_one_is_asked_anew_of_who_would_be_next(scene: Scene) -> None:
    """Nobody would fetch a fresh one in the background."""
    down(scene, "one")
    await scene.ask("why")
    await scene.rest(20)
    rests(scene)
    got = await scene.ask("why")
    assert shown(got)[::2] == ("miss", "two/large")
    assert calls_of(scene, "two") == 2


@plays(config=limited(one=1, two=3))
async def test_while_the_first_choice_has_no_room_the_other_is_not_paid_again(scene: Scene) -> None:
    other = await scene.ask("why", "large")
    await scene.ask("something else")
    got = await scene.ask("why")
    assert shown(got) == ("hit", other.text, "two/large")
    assert scene.ended(got.exchange).counted_as == "hit", "nobody was asked"
    began_s = scene.now_s()
    more = await all_of(*(scene.start(f"more {n}", "large") for n in range(2)))
    assert {each.at_s - began_s for each in more} == {HEAD_S}, "what room it had was given back"


@pytest.mark.parametrize("stream", [False, True])
def test_after_a_poor_answer_the_stronger_models_is_looked_for_too(stream: bool) -> None:
    @plays()
    async def script(scene: Scene) -> None:
        poor = empty if stream else says(content="")
        scene.scripts = [poor]
        first = await scene.ask("why", stream=stream)
        assert shown(first) == ("miss", "why #2", "two/large")
        scene.scripts = [poor]
        got = await scene.ask("why", stream=stream)
        assert shown(got) == ("hit", "why #2", "two/large")
        assert (len(scene.calls), len(got.exchange.attempts)) == (3, 1)
        assert (got.exchange.cost_nano_usd or 0) > 0, "the poor one is paid for"

    script()


@plays(settings={**ONCE, "rates": {"model:small": RateConfig(requests_per_minute=1)}})
async def test_a_model_whose_rate_is_used_up_is_not_asked_and_costs_nothing(scene: Scene) -> None:
    other = await scene.ask("why", "large")
    await scene.ask("something else")
    got = await scene.ask("why")
    assert shown(got) == ("hit", other.text, "two/large")
    assert (len(got.exchange.attempts), scene.ended(got.exchange).counted_as) == (0, "hit")


@plays()
async def test_with_the_first_choice_well_nothing_else_is_looked_for(scene: Scene) -> None:
    await scene.ask("why", "large")
    looks = scene.stage.cache.looks
    assert shown(await scene.ask("why"))[::2] == ("miss", "one/small")
    assert scene.stage.cache.looks == looks + 1


# before a failure is told


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("attempts", [1, 4])
def test_a_fresh_answer_of_anyone_is_better_than_a_failure(stream: bool, attempts: int) -> None:
    @plays(settings={"retry": RetryPolicy(attempts_max=attempts, attempts_per_deployment_max=1)})
    async def script(scene: Scene) -> None:
        first = await scene.ask("why", "large")
        down(scene, "one", "two")
        got = await all_of(*(scene.start("why", stream=stream) for _ in range(3)))
        assert {shown(each) for each in got} == {("hit", first.text, "two/large")}
        assert {scene.ended(each.exchange).model for each in got} == {"large"}
        rests(scene, "one/small", "two/large")
        assert shown(await scene.ask("why", stream=stream)) == ("hit", first.text, "two/large")

    script()


@pytest.mark.parametrize("stream", [False, True])
def test_of_old_answers_the_newest_is_given(stream: bool) -> None:
    @plays(**OLD, settings=ONCE)
    async def script(scene: Scene) -> None:
        small = await scene.ask("why", "small")
        await scene.rest(20)
        large = await scene.ask("why", "large")
        await scene.ask("how", "large")
        await scene.rest(20)
        how = await scene.ask("how", "small")
        await scene.rest(20)
        down(scene, "one", "two")
        rests(scene, "one/small")
        looks = scene.stage.cache.looks
        await scene.ask("neither")
        assert scene.stage.cache.looks - looks == 2, "for each once"
        for resting in ([], ["one/small"], ["two/large"], ["one/small", "two/large"]):
            rests(scene, *resting)
            whys = await all_of(*(scene.start("why", stream=stream) for _ in range(3)))
            assert {shown(each) for each in whys} == {("hit", large.text, "two/large")}
            rests(scene, *resting)
            got = await scene.ask("how", stream=stream)
            assert shown(got) == ("hit", how.text, "one/small")
            assert got.exchange.cache_ttl_s is not None and got.exchange.cache_ttl_s < 0
        assert small.text != large.text

    script()


@plays(settings=ONCE, **{**OLD, "stale_if_error_s": 0})
async def test_what_is_old_is_not_given_where_nobody_says_so(scene: Scene) -> None:
    await scene.ask("why", "large")
    await scene.rest(20)
    down(scene, "one", "two")
    refused = await scene.ask("why")
    assert refused.fault is not None and refused.fault.status == 503


@plays(settings=ONCE)
async def test_the_callers_own_fault_is_told(scene: Scene) -> None:
    await scene.ask("why", "large")
    down(scene, "one", by=fails(400))
    refused = await scene.ask("why")
    assert refused.fault is not None and refused.fault.status == 400


@plays(settings={**ONCE, "timeouts": SHORT})
async def test_when_all_time_is_over_a_fresh_answer_is_given_to_all(scene: Scene) -> None:
    first = await scene.ask("why", "large")
    down(scene, "one", by=never)
    began_s = scene.now_s()
    leads = scene.start("why")
    await scene.rest(5)
    got = await all_of(leads, scene.start("why"), scene.start("why", stream=True))
    assert {shown(each) for each in got} == {("hit", first.text, "two/large")}
    assert all(each.at_s - began_s == pytest.approx(10, abs=0.1) for each in got)


@plays(settings=ONCE)
async def test_who_has_joined_one_that_wants_nothing_kept_is_given_it(scene: Scene) -> None:
    first = await scene.ask("why", "large")
    down(scene, "one", "two")
    leads, joins = await all_of(scene.start("why", says="no-cache"), scene.start("why"))
    assert leads.fault is not None and leads.fault.status == 503
    assert shown(joins) == ("hit", first.text, "two/large")


# what nobody is asked for


@plays(**OLD, settings=ONCE)
async def test_who_wants_no_other_is_given_what_the_route_would_give(scene: Scene) -> None:
    down(scene, "one")
    first = await scene.ask("why")
    for resting in ([], ["one/small"], ["two/large"], ["one/small", "two/large"]):
        rests(scene, *resting)
        got = await scene.ask("why", says="only-if-cached", stream=bool(resting))
        assert shown(got) == ("hit", first.text, "two/large")
    for said in ("only-if-cached, max-age=0", "only-if-cached, no-cache"):
        await scene.rest(5)
        refused = await scene.ask("why", says=said)
        assert refused.fault is not None and refused.fault.status == 504
    await scene.rest(20)
    refused = await scene.ask("why", says="only-if-cached")
    assert refused.fault is not None and refused.fault.status == 504
    calls = len(scene.calls)
    assert (await scene.ask("why", says="only-if-cached, max-stale=99")).text == first.text
    assert len(scene.calls) == calls


# elsewhere


LOOK_S = 0.02


def test_both_are_looked_for_at_once_where_that_takes_a_while() -> None:
    async def script(scene: Scene, _: OtherProcess) -> None:
        rests(scene, "one/small")
        scene.stage.cache.look_s = LOOK_S
        got = await scene.ask("why")
        assert shown(got) == ("miss", "why #1", "two/large")
        assert got.at_s == pytest.approx(HEAD_S + LOOK_S)

    with_others(script)


def test_of_both_the_newer_is_given() -> None:
    """Also of two that others have kept."""

    async def script(scene: Scene, _: OtherProcess) -> None:
        cache = scene.stage.cache
        await scene.ask("why", "small")
        await scene.rest(5)
        large = await scene.ask("why", "large")
        cache.behind, cache.kept = dict(cache.kept), {}
        rests(scene, "one/small")
        assert shown(await scene.ask("why")) == ("hit", large.text, "two/large")

    with_others(script)


def test_what_others_have_kept_is_found_and_they_are_told_that_nothing_comes() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        cache = scene.stage.cache
        first = await scene.ask("why", "large")
        cache.behind, cache.kept = dict(cache.kept), {}
        down(scene, "one")
        cache.look_s, looks = LOOK_S, cache.looks
        got = await all_of(*(scene.start("why") for _ in range(20)))
        assert {shown(each) for each in got} == {("hit", first.text, "two/large")}
        assert calls_of(scene, "two") == 1
        assert cache.looks - looks == 2
        assert len(others.everyones) == 1, "the lease was dismissed: each asks for itself"

    with_others(script, settings=ONCE, claim_s=LOOK_S)


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("is_down", [("one",), ("one", "two")])
def test_whoever_leaves_and_whenever_nothing_is_left(
    moment: Moment, is_alone: bool, is_down: tuple[str, ...]
) -> None:
    async def left_at(k: int) -> bool:
        scene = Scene(settings=ONCE, **OLD)
        scene.stage.cache.look_s = LOOK_S
        first = await scene.ask("why", "large")
        if len(is_down) > 1:
            await scene.rest(20)
        down(scene, *is_down)
        leads = scene.listen(scene.accept("why"))
        leaving = asyncio.create_task(cancelled_at(k, leads, moment))
        await scene.rest()
        joins = [] if is_alone else [scene.start("why", stream=bool(n)) for n in range(2)]
        for got in await all_of(*joins):
            assert shown(got) == ("hit", first.text, "two/large")
        was_cancelled = await leaving
        await scene.close()
        return was_cancelled

    for k in count(1):
        if not run_virtual(left_at(k)):
            assert k > 2
            break
