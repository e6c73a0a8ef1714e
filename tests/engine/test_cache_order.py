"""When another than the route's first choice goes first (an outage, a budget near its end), what is
stored of the first choice is found all the same; and what is stored of the other is, too."""

from decimal import Decimal

import msgspec
import pytest
from tests.engine.scene import HEAD_S, Got, Scene, fails, plays
from tests.engine.test_flights import all_of, with_others

from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig, ModelConfig, RouterConfig
from windvane.core.breaker import Breaker, BreakerState
from windvane.core.cache.invalidation import model_tag
from windvane.core.routing.table import Route
from windvane.testing.answers_kept import OtherProcess
from windvane.testing.stage import SMALL_CARD, two_providers

LARGE_FIRST = {"auto": Route(otherwise="large", fallbacks=("small",))}
OLD = {"ttl_s": 10, "stale_if_error_s": 500}


def rests(scene: Scene, *deployments: str) -> None:
    """Their breakers are open; those of all others are shut."""
    health = scene.engine.health
    shut = Breaker(state=BreakerState.OPEN, opened=1, until_s=1e9)
    health._breakers = dict.fromkeys(deployments, shut)
    health.is_all_well = not deployments


def shown(got: Got) -> tuple[str, str, str]:
    attempt = got.exchange.final_attempt
    return got.how, got.text, "" if attempt is None else attempt.deployment.id


# an outage


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "mistral"])
def test_a_fresh_answer_is_given_while_its_model_rests(stream: bool, dialect: str) -> None:
    @plays()
    async def script(scene: Scene) -> None:
        first = await scene.ask("why")
        usual = await scene.ask("why")
        rests(scene, "one/small")
        got = await scene.ask("why", stream=stream, dialect=dialect)
        assert shown(got) == ("hit", first.text, "one/small")
        assert got.exchange.cache_key == usual.exchange.cache_key
        assert got.exchange.decision == usual.exchange.decision
        assert len(scene.calls) == 1

    script()


@plays()
async def test_it_is_given_to_who_wants_no_other(scene: Scene) -> None:
    await scene.ask("why")
    rests(scene, "one/small")
    assert (await scene.ask("why", says="only-if-cached")).text == "why #1"
    refused = await scene.ask("how", says="only-if-cached")
    assert refused.fault is not None and refused.fault.status == 504


@plays()
async def test_it_is_given_when_all_rest(scene: Scene) -> None:
    await scene.ask("why")
    rests(scene, "one/small", "two/large")
    assert (await scene.ask("why")).how == "hit"


@plays()
async def test_the_others_answers_are_found_as_well_and_stay_its_own(scene: Scene) -> None:
    rests(scene, "one/small")
    got = [await scene.ask("why") for _ in range(2)]
    assert [shown(each) for each in got] == [
        ("miss", "why #1", "two/large"),
        ("hit", "why #1", "two/large"),
    ]
    rests(scene)
    assert shown(await scene.ask("why")) == ("miss", "why #2", "one/small")
    rests(scene, "one/small")
    assert shown(await scene.ask("why")) == ("hit", "why #2", "one/small")
    assert shown(await scene.ask("why", "large")) == ("hit", "why #1", "two/large")


@plays()
async def test_the_second_choice_may_rest_and_nothing_changes(scene: Scene) -> None:
    await scene.ask("why")
    rests(scene, "two/large")
    got = await scene.ask("why")
    assert got.how == "hit"
    assert got.exchange.decision is not None and got.exchange.decision.own is None


@plays()
async def test_what_was_taken_back_is_not_given(scene: Scene) -> None:
    await scene.ask("why")
    rests(scene, "one/small")
    await scene.engine.invalidate(model_tag("small"))
    assert shown(await scene.ask("why")) == ("miss", "why #2", "two/large")


@plays(
    settings={
        "auth": AuthConfig(keys=(KeyConfig(key="sk-large-only", name="l", models=("large",)),))
    }
)
async def test_a_key_is_given_nothing_of_a_model_that_it_may_not_use(scene: Scene) -> None:
    rests(scene, "one/small")
    got = await scene.ask("why", key="sk-large-only")
    assert got.exchange.decision is not None and got.exchange.decision.own is None


@plays(scope="shared")
async def test_wishes_hold_for_it_too(scene: Scene) -> None:
    await scene.ask("why")
    rests(scene, "one/small")
    await scene.rest(100)
    assert (await scene.ask("why", says="max-age=10")).text == "why #2"
    assert (await scene.ask("why", says="no-cache")).text == "why #3"
    # Of two that are fresh, the newer: who asked for a new one should not be given the old one again.
    assert (await scene.ask("why")).text == "why #3"


SAME = ModelConfig(card=SMALL_CARD)
BOTH_SERVE = {
    name: msgspec.structs.replace(provider, models={"small": SAME})
    for name, provider in two_providers().providers.items()
}


@plays(settings={"providers": BOTH_SERVE, "routes": {}})
async def test_it_holds_for_a_model_by_name_that_two_providers_serve(scene: Scene) -> None:
    assert shown(await scene.ask("why", "small")) == ("miss", "why #1", "one/small")
    rests(scene, "one/small")
    assert shown(await scene.ask("why", "small")) == ("hit", "why #1", "one/small")
    assert shown(await scene.ask("how", "small")) == ("miss", "how #2", "two/small")


# stale


@pytest.mark.parametrize("stream", [False, True])
def test_an_old_answer_of_the_first_choice_is_better_than_a_failure(stream: bool) -> None:
    @plays(**OLD)
    async def script(scene: Scene) -> None:
        good = await scene.ask("why")
        await scene.rest(20)
        scene.scripts = [fails(503)] * 99
        for resting in ([], ["one/small"], ["two/large", "one/small"]):
            rests(scene, *resting)
            tasks = [scene.start("why", stream=stream) for _ in range(2)]
            got = await all_of(*tasks)
            assert {(each.how, each.text) for each in got} == {("hit", good.text)}
            assert {each.exchange.cache_forward for each in got} == {"stale"}
            (event,) = {scene.ended(each.exchange).model for each in got}
            assert event == "small"

    script()


@plays(**OLD)
async def test_while_the_other_can_answer_an_old_answer_is_not_given(scene: Scene) -> None:
    await scene.ask("why")
    await scene.rest(20)
    rests(scene, "one/small")
    got = await scene.ask("why")
    assert shown(got) == ("miss", "why #2", "two/large")
    assert got.exchange.cache_forward == "stale"
    assert shown(await scene.ask("why")) == ("hit", "why #2", "two/large")


@plays(ttl_s=10, stale_while_revalidate_s=500)
async def test_a_stale_answer_of_a_model_that_rests_stands_in_for_none_that_can_be_had(
    scene: Scene,
) -> None:
    """Nobody would fetch a fresh one of it: it would be given for all of its stale time."""
    await scene.ask("why")
    await scene.rest(20)
    rests(scene, "one/small")
    assert shown(await scene.ask("why")) == ("miss", "why #2", "two/large")
    assert shown(await scene.ask("why")) == ("hit", "why #2", "two/large")
    await scene.rest(20)
    assert shown(await scene.ask("why")) == ("hit", "why #2", "two/large"), (
        "the other's is refreshed"
    )
    await scene.rest(HEAD_S + 0.1)
    assert shown(await scene.ask("why")) == ("hit", "why #3", "two/large")
    rests(scene)
    assert shown(await scene.ask("why")) == ("hit", "why #1", "one/small")
    await scene.rest(HEAD_S + 0.1)
    assert shown(await scene.ask("why")) == ("hit", "why #4", "one/small")


# a budget


BUDGETED = {
    "budgets": {"global": BudgetConfig(total=Decimal("0.0002"))},
    "routes": LARGE_FIRST,
    "router": RouterConfig(economy_at_percent=40),
}


@pytest.mark.parametrize("is_used_up", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_near_a_budgets_end_and_beyond_what_is_stored_is_given(
    is_used_up: bool, stream: bool
) -> None:
    @plays(settings=BUDGETED)
    async def script(scene: Scene) -> None:
        first = await scene.ask("why", max_tokens=5)
        assert shown(first) == ("miss", "why #1", "two/large")
        for n in range(100):
            more = await scene.ask(f"more {n}", "auto", max_tokens=5)
            if more.fault or (not is_used_up and shown(more)[2] == "one/small"):
                break
        assert bool(more.fault) == is_used_up
        calls = len(scene.calls)
        got = await scene.ask("why", max_tokens=5, stream=stream)
        assert shown(got) == ("hit", first.text, "two/large")
        assert (got.exchange.cost_nano_usd, len(scene.calls)) == (0, calls)
        assert (scene.entries[-1].outcome, scene.entries[-1].reason) == ("hit", "default")
        assert (await scene.ask("why", max_tokens=5, says="only-if-cached")).how == "hit"

    script()


# other processes


def test_what_others_have_kept_of_either_is_found_and_all_hear_of_it() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        cache = scene.stage.cache
        for model in ("small", "large"):
            await scene.ask(model, model)
            await scene.ask(f"also {model}", model)
        cache.behind, cache.kept = dict(cache.kept), {}
        rests(scene, "one/small")
        looks, calls, claims = cache.looks, len(scene.calls), others.claims
        for model in ("small", "large"):
            got = await all_of(*(scene.start(model) for _ in range(20)))
            assert {shown(each)[::2] for each in got} == {
                ("hit", got[0].exchange.final_attempt.deployment.id)
            }  # type: ignore[union-attr]
            assert {each.text for each in got} == {got[0].text}
        assert (len(scene.calls), others.claims - claims) == (calls, 0)
        assert cache.looks - looks <= 80

    with_others(script)


def test_a_crowd_that_finds_neither_asks_once() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        rests(scene, "one/small")
        scene.stage.cache.look_s = 0.01
        got = await all_of(*(scene.start("why") for _ in range(20)))
        assert sorted(each.how for each in got) == ["joined"] * 19 + ["miss"]
        assert (others.claims, scene.stage.cache.looks) == (1, 2)

    with_others(script, claim_s=0.01)


def test_who_waits_for_another_process_hears_what_it_has_kept_of_either() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        cache = scene.stage.cache
        await scene.ask("why")
        ((small, kept),) = cache.kept.items()
        cache.kept = {}
        rests(scene, "one/small")
        others.holds = {each for each in await keys_of(scene) if each != small}
        tasks = [scene.start("why") for _ in range(20)]
        await scene.rest(1.0)
        cache.behind[small] = kept
        got = await all_of(*tasks)
        assert {shown(each) for each in got} == {("hit", "why #1", "one/small")}
        assert len(scene.calls) == 2

    with_others(script)


async def keys_of(scene: Scene) -> set[bytes]:
    """Where answers to `why` of the large model are kept."""
    await scene.ask("why", "large")
    keys = set(scene.stage.cache.kept)
    scene.stage.cache.kept = {}
    return keys


BOTH_WAYS = {
    "auto": Route(otherwise="small", fallbacks=("large",)),
    "back": Route(otherwise="large", fallbacks=("small",)),
}


def test_who_looks_for_one_alone_does_not_look_for_those_who_look_for_both() -> None:
    """By the order of now they would share a flight."""

    async def script(scene: Scene, others: OtherProcess) -> None:
        cache = scene.stage.cache
        await scene.ask("why", "small")
        cache.behind, cache.kept = dict(cache.kept), {}
        rests(scene, "one/small")
        cache.look_s = 0.01
        one, both = await all_of(scene.start("why", "back"), scene.start("why", "auto"))
        assert shown(one) == ("miss", "why #2", "two/large")
        assert shown(both) == ("hit", "why #1", "one/small")

    with_others(script, claim_s=0.01, settings={"routes": BOTH_WAYS})


def test_an_old_answer_elsewhere_is_found_by_all_who_may_need_it() -> None:
    """Also by those who come while another looks for a fresh one."""

    async def script(scene: Scene, others: OtherProcess) -> None:
        cache = scene.stage.cache
        old = await scene.ask("why", "small")
        await scene.rest(20)
        cache.behind, cache.kept = dict(cache.kept), {}
        cache.look_s = 0.01
        scene.scripts = [fails(503)] * 99
        got = await all_of(*(scene.start("why", "small") for _ in range(3)))
        assert {(each.how, each.text) for each in got} == {("hit", old.text)}

    with_others(script, claim_s=0.01, **OLD)


# what is said, and fetched anew


@plays(ttl_s=100, early_refresh=10)
async def test_a_fresh_answer_of_who_rests_is_not_fetched_anew_of_another(scene: Scene) -> None:
    await scene.ask("why")
    await scene.rest(95)
    for resting, calls in ((["one/small"], 1), ([], 2)):
        rests(scene, *resting)
        for _ in range(10):  # the dice would fall so for most of them
            assert shown(await scene.ask("why")) == ("hit", "why #1", "one/small")
        await scene.rest(HEAD_S + 0.1)
        assert len(scene.calls) == calls


@plays()
async def test_why_another_was_asked_is_told_of_the_first_choices_answer_too(scene: Scene) -> None:
    await scene.ask("why")
    rests(scene, "one/small")
    await scene.rest(5)
    got = [await scene.ask(text, says="max-age=1") for text in ("why", "how")]
    assert [each.exchange.cache_forward for each in got] == ["request", "miss"]


ALIAS = "mistral-small-latest"
TWO_NAMES = {
    **two_providers().providers,
    "one": msgspec.structs.replace(
        two_providers().providers["one"], models={SMALL_CARD: SAME, ALIAS: SAME}
    ),
}


@plays(
    settings={
        "providers": TWO_NAMES,
        "routes": {"auto": Route(otherwise=ALIAS, fallbacks=("large",))},
    }
)
async def test_what_is_taken_back_by_a_name_is_not_given_to_who_asks_by_it(scene: Scene) -> None:
    """It was made for one that asked by another name of the same model."""
    await scene.ask("why", SMALL_CARD)
    rests(scene, f"one/{ALIAS}", f"one/{SMALL_CARD}")
    assert shown(await scene.ask("why")) == ("hit", "why #1", f"one/{ALIAS}")
    await scene.engine.invalidate(model_tag(ALIAS))
    assert shown(await scene.ask("why")) == ("miss", "why #2", "two/large")
