"""Equal requests that wait for another process: one of them looks, and all hear what it finds."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from tests.engine.scene import HEAD_S, Got, Scene
from tests.engine.test_flights import SHORT, all_of, entry_of, never, with_others

from windvane.core.cache.entry import CacheEntry
from windvane.engine import sharing as sharing_module
from windvane.engine.lookouts import Lookouts
from windvane.engine.turns import POLL_S
from windvane.testing import Moment, cancelled_at, run_virtual
from windvane.testing.answers_kept import OtherProcess

CROWD = 100
KEY, DATA = entry_of("why")


def looks_in(seconds: float) -> int:
    """How often one may look in so long."""
    return int(seconds / (POLL_S / 2)) + 2


def keep(scene: Scene) -> None:
    """The other process has its answer, and this one has not heard of it."""
    scene.stage.cache.behind[KEY] = DATA, (), 1e9


@pytest.mark.parametrize("away_s", [0.0, 0.001, 0.01])
def test_a_crowd_asks_the_store_no_more_than_one_does(away_s: float) -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {KEY}
        scene.stage.cache.look_s = away_s
        tasks = [scene.start("why", "small", stream=bool(n % 2)) for n in range(CROWD)]
        await scene.rest(1.5)
        tasks += [scene.start("why", "small") for _ in range(CROWD)]
        await scene.rest(1.5)
        assert scene.stage.cache.looks <= looks_in(3)
        assert others.claims <= looks_in(3)
        keep(scene)
        got = await all_of(*tasks)
        assert {(each.how, each.text) for each in got} == {("hit", "why #1")}
        assert all(3.0 < each.at_s < 3.2 for each in got)
        assert scene.stage.cache.looks <= looks_in(3.2)

    scene, _ = with_others(script, claim_s=away_s)
    assert not scene.calls


def test_what_was_found_is_told_also_where_memory_has_no_room_for_it() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {KEY}
        tasks = [scene.start("why", "small") for _ in range(CROWD)]
        await scene.rest(1.0)
        scene.stage.cache.get_now = lambda _: None  # type: ignore[method-assign]
        keep(scene)
        looks = scene.stage.cache.looks
        assert {each.how for each in await all_of(*tasks)} == {"hit"}
        assert scene.stage.cache.looks - looks <= looks_in(POLL_S)

    with_others(script)


def test_a_crowd_that_comes_at_once_claims_once() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        got = await all_of(*(scene.start("why", "small") for _ in range(CROWD)))
        assert sorted(each.how for each in got) == ["joined"] * (CROWD - 1) + ["miss"]
        assert (others.claims, scene.stage.cache.looks) == (1, 1)

    with_others(script, claim_s=0.01)


def test_who_goes_on_when_the_leaders_time_is_over_claims_once_as_well() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        scene.scripts = [never]
        first = scene.start("why", "small")
        await scene.rest(4)
        tasks = [scene.start("why", "small") for _ in range(CROWD)]
        await scene.rest(1)
        claims, looks = others.claims, scene.stage.cache.looks
        got = await all_of(first, *tasks)
        assert sorted(each.how for each in got[1:]) == ["joined"] * (CROWD - 1) + ["miss"]
        assert others.claims - claims <= looks_in(2 * POLL_S)
        assert scene.stage.cache.looks - looks <= looks_in(2 * POLL_S)

    with_others(script, claim_s=0.001, settings={"timeouts": SHORT})


def test_each_waits_for_others_as_long_as_it_will() -> None:
    """Who looks asks when its own time is over, and leads; who only heard has its time as well."""

    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {KEY}
        first = scene.start("why", "small")
        await scene.rest(3.0)
        second = scene.start("why", "small")
        await scene.rest(1.0)
        first.cancel()
        got = await second
        assert (got.how, got.text) == ("miss", "why #1")
        assert 8.0 <= got.at_s - HEAD_S <= 8.2

    with_others(script, wait_s=5.0)


def test_when_the_time_of_who_looks_is_over_the_others_join_it() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {KEY}
        first = scene.start("why", "small")
        await scene.rest(3.0)
        second = scene.start("why", "small")
        got = await all_of(first, second)
        assert [each.how for each in got] == ["miss", "joined"]
        assert {each.at_s for each in got} == {got[0].at_s}
        assert 5.0 <= got[0].at_s - HEAD_S <= 5.2

    with_others(script, wait_s=5.0)


def test_what_is_too_old_for_who_looks_is_given_to_whom_it_will_do() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {KEY}
        fussy = scene.start("why", "small", says="min-fresh=9999")
        await scene.rest()
        plain = [scene.start("why", "small") for _ in range(9)]
        await scene.rest(1.0)
        keep(scene)
        assert {each.how for each in await all_of(*plain)} == {"hit"}
        assert (await fussy).how == "miss"

    with_others(script, wait_s=3.0)


def test_an_answer_taken_back_meanwhile_is_given_to_nobody() -> None:
    async def script(scene: Scene, others: OtherProcess) -> None:
        others.holds = {KEY}
        tasks = [scene.start("why", "small") for _ in range(9)]
        await scene.rest(1.0)
        await scene.stage.invalidations.invalidate("all")
        keep(scene)
        got = await all_of(*tasks)
        assert "hit" not in {each.how for each in got}
        assert {each.fault for each in got} == {None}

    with_others(script, wait_s=3.0)


# leaving at every wait there is


def brings_an_answer(scene: Scene, _: OtherProcess) -> None:
    keep(scene)


def dies(_: Scene, others: OtherProcess) -> None:
    others.holds = set()


def goes_on(_: Scene, __: OtherProcess) -> None:
    """And the others have had enough of it."""


async def leave_at(
    k: int, moment: Moment, leaver: int, becomes: Callable[[Scene, OtherProcess], None]
) -> bool:
    """Three wait for another process; one of them leaves at its k-th wait."""
    others = OtherProcess(claim_s=0.004)
    others.holds = {KEY}
    scene = Scene(leases=others, wait_s=0.4)
    scene.stage.cache.look_s = 0.003
    was_cancelled = False

    async def caller(place: int) -> Got | None:
        nonlocal was_cancelled
        await asyncio.sleep(0.02 * place)
        fields = {"stream": place == 1}
        if place != leaver:
            return await scene.ask("why", "small", **fields)
        listening = scene.listen(scene.accept("why", "small", **fields))
        was_cancelled = await cancelled_at(k, listening, moment)
        return None

    tasks = [asyncio.get_running_loop().create_task(caller(place)) for place in range(3)]
    await scene.rest(0.2)
    becomes(scene, others)
    stayed = [got for got in await asyncio.gather(*tasks) if got is not None]
    assert {got.fault for got in stayed} == {None}
    assert len({got.text for got in stayed}) == 1
    assert len(scene.calls) <= 2  # the first is called off where it is the leaver's alone
    assert max(got.at_s for got in stayed) <= 0.5 + 3 * HEAD_S
    assert others.claims <= looks_in(0.6) + 3
    await scene.close()
    assert others.released == others.granted
    return was_cancelled


@pytest.mark.parametrize("becomes", [brings_an_answer, dies, goes_on])
@pytest.mark.parametrize("leaver", range(3))
@pytest.mark.parametrize("moment", list(Moment))
def test_who_leaves_hands_the_looking_over_at_every_wait(
    moment: Moment, leaver: int, becomes: Callable[[Scene, OtherProcess], None]
) -> None:
    for k in count(1):
        if not run_virtual(leave_at(k, moment, leaver, becomes)):
            assert k > 1
            return
        assert k < 60


# what these tests would say of worse lookouts


class Alone(Lookouts):
    """Lets everyone look for itself."""

    def begin(self, sought: Any) -> bool:
        return True

    def has(self, sought: Any) -> bool:
        return False

    def end(self, sought: Any, found: CacheEntry | None) -> None: ...


class Silent(Lookouts):
    """Tells nobody that who looked has gone."""

    def end(self, sought: Any, found: CacheEntry | None) -> None:
        del self._waiting[sought]


def test_looking_each_for_itself_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "Lookouts", Alone)
    with pytest.raises(AssertionError):
        test_a_crowd_asks_the_store_no_more_than_one_does(0.001)


def test_not_to_hand_over_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "Lookouts", Silent)
    with pytest.raises((AssertionError, ValueError, KeyError)):
        test_a_crowd_asks_the_store_no_more_than_one_does(0.0)
