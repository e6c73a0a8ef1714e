"""The waiting room on virtual time: who waits, for how long, in which order, and what is left behind."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from math import inf
from random import Random
from typing import Any

import msgspec
import pytest

from windvane.core.faults import (
    Fault,
    FaultKind,
    RateLimitError,
    Retry,
    Source,
    WindvaneError,
)
from windvane.core.priority import Priority
from windvane.core.shares import Shares
from windvane.core.upstream_limits import MINUTE_US, SLOTS, TRAVEL_US, UpstreamTerms
from windvane.engine.waiting_room import FREE, WAIT_MAX_S, Admission, WaitingRoom
from windvane.testing import Moment, VirtualClock, cancelled_at, run_virtual

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
MINUTE_S = (MINUTE_US + MINUTE_US // SLOTS + TRAVEL_US) / 1e6
"""When what was used at 0 s no longer counts."""
WAITS_MAX = 20


def rpm(requests: int) -> UpstreamTerms:
    return UpstreamTerms(requests_per_minute=requests)


def room_of(terms: UpstreamTerms | None = None, **options: Any) -> WaitingRoom:
    return WaitingRoom(VirtualClock(), {"m": terms} if terms else {}, **options)


async def ask(
    room: WaitingRoom,
    tenant: str = "t",
    priority: Priority = NORMAL,
    *,
    tokens: int = 10,
    within_s: float = 600.0,
    deployment: str = "m/small",
) -> Admission:
    return await room.admit(
        "m",
        deployment,
        tokens=tokens,
        tenant=tenant,
        priority=priority,
        deadline_s=asyncio.get_running_loop().time() + within_s,
    )


def start(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(coroutine)


def is_quiet(room: WaitingRoom) -> bool:
    """Nobody waits, and nothing of those who did is kept."""
    gates = room._gates.values()
    return (
        not room._busy
        and not room._deadlines
        and room._timer is None
        and all(not len(gate.queue) and gate.waiting_tokens == 0 for gate in gates)
        and not any(room.depth(priority) for priority in Priority)
    )


def refusal(retry_after_s: float | None = None, retry: Retry = Retry.SAME) -> Fault:
    return Fault(
        kind=FaultKind.RATE_LIMITED,
        source=Source.UPSTREAM,
        message="429",
        status=429,
        retry=retry,
        retry_after_s=retry_after_s,
        upstream_status=429,
    )


def virtual(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run the test on virtual time."""

    def run() -> None:
        run_virtual(test())  # type: ignore[arg-type]

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@virtual
async def test_without_a_limit_nobody_waits() -> None:
    room = room_of()
    assert room.try_admit("m", "m/small", tokens=10, tenant="t", priority=NORMAL) is FREE
    assert await ask(room) is FREE
    room.correct(FREE, 5)
    room.give_back(FREE)
    assert room.terms_of("m") is None


@virtual
async def test_with_room_nobody_waits() -> None:
    room = room_of(rpm(2))
    for _ in range(2):
        assert (await ask(room)).waited_s == 0
    assert asyncio.get_running_loop().time() == 0
    assert room.try_admit("m", "m/small", tokens=10, tenant="t", priority=NORMAL) is None


@virtual
async def test_the_next_goes_as_soon_as_there_is_room() -> None:
    room = room_of(rpm(1))
    await ask(room)
    task = start(ask(room))
    await asyncio.sleep(MINUTE_S - 0.000_01)
    assert not task.done()
    assert room.depth(NORMAL) == 1
    await asyncio.sleep(0.000_02)
    assert task.done()
    assert (await task).waited_s == pytest.approx(MINUTE_S, abs=1e-5)
    assert is_quiet(room)


async def in_order(room: WaitingRoom, *asked: tuple[str, str, Priority]) -> list[str]:
    gone: list[str] = []

    async def one(name: str, tenant: str, priority: Priority) -> None:
        await ask(room, tenant, priority)
        gone.append(name)

    async with asyncio.TaskGroup() as group:
        for each in asked:
            group.create_task(one(*each))
    return gone


@virtual
async def test_higher_priorities_go_first() -> None:
    room = room_of(rpm(1))
    await ask(room)
    asked = [("low", "a", LOW), ("normal", "a", NORMAL), ("high", "a", HIGH), ("high2", "b", HIGH)]
    assert await in_order(room, *asked) == ["high", "high2", "normal", "low"]
    assert is_quiet(room)


@virtual
async def test_tenants_take_turns() -> None:
    room = room_of(rpm(1))
    await ask(room)
    asked = [(f"hog{n}", "hog", NORMAL) for n in range(4)] + [("b", "b", NORMAL)]
    assert await in_order(room, *asked) == ["hog0", "b", "hog1", "hog2", "hog3"]


@virtual
async def test_whoever_comes_does_not_overtake_those_who_wait() -> None:
    room = room_of(rpm(60))
    for _ in range(60):
        await ask(room)
    waiting = [start(ask(room)) for _ in range(90)]
    await asyncio.sleep(MINUTE_S + 10)
    assert not all(task.done() for task in waiting)
    assert room.try_admit("m", "m/small", tokens=10, tenant="t", priority=NORMAL) is None
    await asyncio.gather(*waiting)


@virtual
async def test_what_finds_room_goes_at_once_and_the_rest_evenly() -> None:
    room = room_of(rpm(60))
    started = [start(ask(room)) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(task.done() for task in started) == 60
    await asyncio.gather(*started)
    assert asyncio.get_running_loop().time() == pytest.approx(MINUTE_S + 39, abs=1e-3)
    assert is_quiet(room)


@virtual
async def test_a_high_priority_finds_a_place_within_a_moment_in_a_long_queue() -> None:
    room = room_of(rpm(60))
    crowd = [start(ask(room, f"t{n % 7}", LOW)) for n in range(250)]
    await asyncio.sleep(MINUTE_S + 20.5)
    waits = []
    for _ in range(20):
        waits.append((await ask(room, "vip", HIGH)).waited_s)
        await asyncio.sleep(1.9)
    assert max(waits) < 2.5
    await asyncio.gather(*crowd)
    assert is_quiet(room)


@virtual
async def test_a_wait_in_vain_is_refused_at_once_with_the_exact_wait() -> None:
    room = room_of(rpm(1))
    await ask(room)
    await asyncio.sleep(10)
    with pytest.raises(RateLimitError) as caught:
        await ask(room, within_s=50)
    fault = caught.value.fault
    assert asyncio.get_running_loop().time() == 10
    assert (fault.kind, fault.source, fault.status) == ("rate_limited", "gateway", 429)
    assert (fault.code, fault.retry) == ("upstream_rate_limited", Retry.OTHER)
    assert fault.retry_after_s == pytest.approx(MINUTE_S - 10, abs=1e-6)
    assert is_quiet(room)
    await asyncio.sleep(fault.retry_after_s)
    assert room.try_admit("m", "m/small", tokens=10, tenant="t", priority=NORMAL) is not None


@virtual
async def test_a_wait_as_long_as_the_deadline_is_in_time() -> None:
    room = room_of(rpm(1))
    await ask(room)
    assert (await ask(room, within_s=MINUTE_S)).waited_s == pytest.approx(MINUTE_S)


@virtual
async def test_a_deadline_that_comes_ends_the_wait() -> None:
    """It looked well, but then others of higher priority came."""
    room = room_of(rpm(1))
    await ask(room)
    task = start(ask(room, priority=LOW, within_s=70))
    await asyncio.sleep(5)
    rest = [start(ask(room, priority=HIGH)) for _ in range(3)]
    with pytest.raises(RateLimitError) as caught:
        await task
    assert asyncio.get_running_loop().time() == pytest.approx(70, abs=1e-4)
    assert caught.value.fault.code == "upstream_rate_limited"
    assert caught.value.fault.retry_after_s
    await asyncio.gather(*rest)
    assert is_quiet(room)


@virtual
async def test_no_wait_is_endless() -> None:
    room = room_of(rpm(1))
    await ask(room)
    waiting = [start(ask(room, within_s=inf)) for _ in range(9)]
    done = await asyncio.gather(*waiting)
    assert [round(one.waited_s / MINUTE_S) for one in done] == list(range(1, 10))
    assert done[-1].waited_s < WAIT_MAX_S
    crowd = [start(ask(room, within_s=inf)) for _ in range(12)]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert sum(isinstance(one, RateLimitError) for one in outcomes) == 3
    assert is_quiet(room)


@virtual
async def test_a_full_room_refuses_and_lets_the_more_urgent_in() -> None:
    room = room_of(rpm(1), waiting_max=2)
    await ask(room)
    first, second = start(ask(room, "a", LOW)), start(ask(room, "a", LOW))
    await asyncio.sleep(1)
    with pytest.raises(RateLimitError, match="wait already"):
        await ask(room, "a", LOW)
    urgent = start(ask(room, "b", HIGH))
    with pytest.raises(RateLimitError, match="others go first"):
        await second
    assert asyncio.get_running_loop().time() == 1
    assert (await urgent).waited_s < (await first).waited_s
    assert is_quiet(room)


@virtual
async def test_a_caller_who_leaves_hands_its_turn_on() -> None:
    room = room_of(UpstreamTerms(tokens_per_minute=100))
    await ask(room, tokens=50)
    await asyncio.sleep(30)
    await ask(room, tokens=50)
    big = start(ask(room, tokens=100))
    await asyncio.sleep(1)
    small = start(ask(room, "t", tokens=50))
    await asyncio.sleep(1)
    big.cancel()
    await asyncio.sleep(0)
    assert room.depth(NORMAL) == 1
    assert (await small).waited_s == pytest.approx(MINUTE_S - 31, abs=1e-4)
    assert is_quiet(room)


@pytest.mark.parametrize("moment", list(Moment))
def test_leaving_at_every_wait_leaves_nothing_behind(moment: Moment) -> None:
    async def leave_at(k: int) -> bool:
        room = room_of(rpm(1))
        await ask(room)

        async def twice() -> None:
            for _ in range(2):
                room.give_back(await ask(room))
                await ask(room)

        was_cancelled = await cancelled_at(k, twice(), moment)
        assert is_quiet(room)
        # What it was given and never used has gone to the next: nobody waits more than a minute.
        assert (await ask(room)).waited_s <= MINUTE_S + 1e-5
        assert is_quiet(room)
        return was_cancelled

    for k in count(1):
        if not run_virtual(leave_at(k)):
            assert k > 2
            return
        assert k < WAITS_MAX


@virtual
async def test_a_leave_given_as_the_caller_left_goes_to_the_next() -> None:
    room = room_of(rpm(1))
    await ask(room)
    first, second = start(ask(room)), start(ask(room))
    await asyncio.sleep(0)
    room._gates["m"].limits.forget()
    room.configure({"m": rpm(1)})  # the first is given leave: it has not been told yet
    assert room.depth(NORMAL) == 1
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).waited_s == 0
    assert is_quiet(room)


@virtual
async def test_usage_below_the_estimate_lets_the_next_go() -> None:
    room = room_of(UpstreamTerms(tokens_per_minute=100))
    admission = await ask(room, tokens=100)
    task = start(ask(room, tokens=80))
    await asyncio.sleep(2)
    room.correct(admission, 20)
    assert (await task).waited_s == pytest.approx(2)
    assert is_quiet(room)


@virtual
async def test_what_was_never_sent_lets_the_next_go() -> None:
    room = room_of(rpm(1))
    admission = await ask(room)
    task = start(ask(room))
    await asyncio.sleep(2)
    room.give_back(admission)
    room.give_back(admission)
    assert (await task).waited_s == pytest.approx(2)
    assert room.try_admit("m", "m/small", tokens=1, tenant="t", priority=NORMAL) is None


@virtual
async def test_a_429_closes_the_gate_for_all_and_they_wait() -> None:
    room = room_of()
    sent = await ask(room)
    fault = refusal(retry_after_s=7)
    room.learn_429("m", "m/small", fault=fault, headers={}, admission=sent)
    waits = await asyncio.gather(*[ask(room, f"t{n}") for n in range(5)])
    assert [one.waited_s for one in waits] == pytest.approx([7, 7.02, 7.04, 7.06, 7.08], abs=1e-4)
    assert is_quiet(room)
    assert (await ask(room)).waited_s == 0


@virtual
async def test_a_429_without_a_word_closes_it_for_a_second_and_then_longer() -> None:
    room = room_of()
    for expected_s in (1, 2, 4):
        room.learn_429("m", "m/small", fault=refusal(), headers={})
        assert (await ask(room)).waited_s == pytest.approx(expected_s, abs=1e-5)
    room.learn("m", {})
    room.learn_429("m", "m/small", fault=refusal(), headers={})
    assert (await ask(room)).waited_s == pytest.approx(1, abs=1e-5)


@virtual
async def test_a_429_that_says_when_its_limit_resets_is_believed() -> None:
    room = room_of()
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "12s",
    }
    room.learn_429("m", "m/small", fault=refusal(), headers=headers)
    assert 12 <= (await ask(room)).waited_s < 12.5


@virtual
async def test_a_pause_that_is_too_long_is_refused_at_once() -> None:
    room = room_of()
    room.learn_429("m", "m/small", fault=refusal(retry_after_s=100), headers={})
    with pytest.raises(RateLimitError) as caught:
        await ask(room, within_s=99)
    assert caught.value.fault.retry_after_s == 100
    assert asyncio.get_running_loop().time() == 0


@virtual
async def test_limits_are_learned_from_answers() -> None:
    room = room_of()
    headers = {"x-ratelimit-limit-req-minute": "2", "x-ratelimit-remaining-req-minute": "1"}
    room.learn("m", headers, await ask(room))
    assert room.terms_of("m") == rpm(2)
    assert (await ask(room)).waited_s == 0
    assert (await ask(room)).waited_s > 0


@virtual
async def test_what_others_used_is_learned_and_a_crowd_speaks_with_one_voice() -> None:
    room = room_of(rpm(10))
    headers = {"x-ratelimit-limit-req-minute": "10", "x-ratelimit-remaining-req-minute": "1"}
    room.learn("m", headers, await ask(room))
    room.learn("m", {**headers, "x-ratelimit-limit-req-minute": "99"}, FREE)
    assert room.terms_of("m") == rpm(10)
    assert (await ask(room)).waited_s == 0
    assert (await ask(room)).waited_s > 0


@virtual
async def test_a_zero_allowance_bars_its_deployment_and_no_other_for_ten_minutes() -> None:
    room = room_of()
    headers = {"x-ratelimit-limit-req-minute": "0"}
    fault = refusal(retry_after_s=1, retry=Retry.OTHER)
    room.learn_429("m", "m/large", fault=fault, headers=headers)
    assert room.bar("m/large") == "this key has no allowance for the model"
    with pytest.raises(RateLimitError) as caught:
        await ask(room, deployment="m/large")
    assert caught.value.fault.code == "insufficient_quota"
    assert caught.value.fault.retry_after_s == 600
    assert (await ask(room, deployment="m/small")).waited_s == 0
    assert room.bar("m/small") is None
    await asyncio.sleep(600)
    assert room.bar("m/large") is None
    assert (await ask(room, deployment="m/large")).waited_s == 0


@virtual
async def test_an_exhausted_month_bars_for_an_hour_at_a_time() -> None:
    room = room_of()
    headers = {"x-ratelimit-remaining-tokens-month": "0"}
    room.learn_429("m", "m/small", fault=refusal(), headers=headers)
    with pytest.raises(RateLimitError) as caught:
        await ask(room)
    assert caught.value.fault.retry_after_s == 3_600
    room.configure({})
    assert room.bar("m/small") is None


@virtual
async def test_a_final_refusal_without_headers_is_a_bar() -> None:
    room = room_of()
    room.learn_429("m", "m/small", fault=refusal(retry=Retry.OTHER), headers={})
    assert room.bar("m/small") == "its quota is used up"


@virtual
async def test_a_provider_without_capacity_is_no_limit_of_ours() -> None:
    """Mistral's 3505 comes with 429: another model is asked, and nobody waits for this one."""
    room = room_of()
    full = msgspec.structs.replace(refusal(retry=Retry.OTHER), kind=FaultKind.OVERLOADED)
    room.learn_429("m", "m/small", fault=full, headers={})
    assert room.bar("m/small") is None
    assert room.try_admit("m", "m/small", tokens=10, tenant="t", priority=NORMAL) is not None


@virtual
async def test_those_who_wait_for_a_deployment_that_is_barred_are_told_at_its_turn() -> None:
    room = room_of(rpm(1))
    await ask(room)
    task, other = start(ask(room, deployment="m/large")), start(ask(room))
    await asyncio.sleep(1)
    headers = {"x-ratelimit-limit-req-minute": "0"}
    room.learn_429("m", "m/large", fault=refusal(), headers=headers)
    with pytest.raises(RateLimitError) as caught:
        await task
    assert caught.value.fault.code == "insufficient_quota"
    assert asyncio.get_running_loop().time() == 1
    assert (await other).waited_s == pytest.approx(MINUTE_S, abs=1e-4)


@virtual
async def test_new_terms_hold_for_those_who_wait() -> None:
    room = room_of(rpm(1))
    await ask(room)
    task = start(ask(room))
    await asyncio.sleep(3)
    room.configure({"m": rpm(5)})
    assert (await task).waited_s == 3
    room.configure({"m": UpstreamTerms()})
    assert [(await ask(room)).waited_s for _ in range(50)] == [0] * 50
    assert is_quiet(room)


def test_a_room_may_be_used_from_one_loop_after_another() -> None:
    room = room_of(rpm(1))

    async def left() -> None:
        await ask(room)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ask(room)
        start(ask(room))
        await asyncio.sleep(0)

    async def again() -> float:
        return (await ask(room)).waited_s

    run_virtual(left())
    assert run_virtual(again()) == pytest.approx(MINUTE_S, abs=1e-4)
    assert is_quiet(room)


ANSWER_S = 1.0
"""What an answer takes, whoever asked."""
COMES_S = 120.0
"""When most hogs come: the modest one has been asking all the while."""
ENDS_S = 720.0
RAISED_MAX = 1.2


class Hog(msgspec.Struct, frozen=True):
    """One who asks a hundred times as often, all the time, or so many seconds of each 240. It begins so
    long after the modest one."""

    tenant: str = "hog"
    priority: Priority = NORMAL
    works_s: float = inf
    comes_s: float = COMES_S


async def latencies_of_the_modest(
    limit: int, each_s: float, hog: Hog, seed: int, *, is_alone: bool
) -> list[float]:
    """How long one who asks each `each_s`, by chance, waits for its answers from the hog's first second."""
    room = room_of(rpm(limit), waiting_max=500)
    loop = asyncio.get_running_loop()
    latencies: list[float] = []

    async def once(tenant: str, priority: Priority, is_modest: bool) -> None:
        came_s = loop.time()
        try:
            waited_s = (await ask(room, tenant, priority, tokens=100, within_s=90)).waited_s
        except WindvaneError:
            waited_s = 90.0
        if is_modest and came_s >= hog.comes_s:
            latencies.append(waited_s + ANSWER_S)

    async def come(tenant: str, priority: Priority, every_s: float, works_s: float) -> None:
        is_modest = every_s == each_s
        rng = Random(f"{seed} {is_modest}")
        async with asyncio.TaskGroup() as group:
            while loop.time() < ENDS_S:
                await asyncio.sleep(rng.expovariate(1 / every_s))
                worked_s = loop.time() - hog.comes_s
                if is_modest or (worked_s >= 0 and worked_s % 240 < works_s):
                    group.create_task(once(tenant, priority, is_modest))

    async with asyncio.TaskGroup() as group:
        group.create_task(come("modest", NORMAL, each_s, inf))
        if not is_alone:
            group.create_task(come(hog.tenant, hog.priority, each_s / 100, hog.works_s))
    assert is_quiet(room)
    return latencies


def p99_alone_and_beside(limit: int, each_s: float, hog: Hog) -> tuple[float, float]:
    found = []
    for is_alone in (True, False):
        latencies: list[float] = []
        for seed in range(2):
            latencies += run_virtual(
                latencies_of_the_modest(limit, each_s, hog, seed, is_alone=is_alone)
            )
        found.append(sorted(latencies)[int(len(latencies) * 0.99)])
    print(f"p99: {found[0]:.3f} s alone, {found[1]:.3f} s beside {hog} ({len(latencies)} answers)")
    return found[0], found[1]


@pytest.mark.parametrize(
    ("limit", "each_s", "hog"),
    [
        (600, 3.0, Hog()),
        (600, 3.0, Hog(works_s=60)),
        (120, 6.0, Hog(works_s=60)),
        (600, 3.0, Hog(priority=LOW, works_s=60)),
        (600, 3.0, Hog(tenant="modest", priority=LOW, works_s=60)),
        (600, 3.0, Hog(comes_s=0)),
        (600, 3.0, Hog(comes_s=1)),
        (600, 3.0, Hog(comes_s=10)),
        (600, 3.0, Hog(comes_s=30)),
        (120, 6.0, Hog(comes_s=0)),
    ],
    ids=[
        "always",
        "at-times",
        "small-limit",
        "of-a-lower-class",
        "its-own-work-of-a-lower-class",
        "both-begin-at-once",
        "a-second-after",
        "ten-seconds-after",
        "half-a-minute-after",
        "both-at-once-at-a-small-limit",
    ],
)
def test_one_who_asks_a_hundred_times_more_does_not_make_others_wait(
    limit: int, each_s: float, hog: Hog
) -> None:
    """From its first second, and each time it begins anew."""
    alone, beside = p99_alone_and_beside(limit, each_s, hog)
    assert beside <= alone * RAISED_MAX


def test_if_nothing_were_kept_for_others_they_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Shares, "kept_us", lambda *_: 0)
    alone, beside = p99_alone_and_beside(600, 3.0, Hog(works_s=60))
    assert beside > alone * 10


@virtual
async def test_who_is_alone_leaves_nothing_free_and_who_has_left_is_forgotten() -> None:
    room = room_of(rpm(80))
    await ask(room, "gone")
    await asyncio.sleep(120)
    for _ in range(76):
        assert (await ask(room, "hog")).waited_s == 0
    assert room.try_admit("m", "m/small", tokens=10, tenant="hog", priority=NORMAL) is None
    await asyncio.sleep(MINUTE_S + 5)
    for _ in range(80):
        assert (await ask(room, "hog")).waited_s == 0


@virtual
async def test_who_waits_for_room_that_is_kept_goes_when_those_it_was_kept_for_have_left() -> None:
    room = room_of(rpm(80))
    await ask(room, "gone")
    await asyncio.sleep(100)
    while room.try_admit("m", "m/small", tokens=10, tenant="hog", priority=NORMAL):
        pass
    assert (await ask(room, "hog")).waited_s == pytest.approx(25, abs=0.01)
    assert is_quiet(room)


@virtual
async def test_what_is_kept_is_there_for_one_who_asked_before_and_no_wait_of_others_is_in_its_way() -> (
    None
):
    room = room_of(rpm(80))
    for _ in range(4):
        await ask(room, "modest")
    await asyncio.sleep(MINUTE_S)
    crowd = [start(ask(room, "hog")) for _ in range(90)]
    await asyncio.sleep(1)
    assert sum(task.done() for task in crowd) == 73
    assert (await ask(room, "modest")).waited_s == 0
    high = await ask(room, "other", HIGH)
    assert high.waited_s == 0
    await asyncio.gather(*crowd)
    assert is_quiet(room)


@virtual
async def test_half_of_the_turns_are_for_those_who_wait() -> None:
    """However many come who have had less: they do not go past for ever."""
    room = room_of(rpm(60))
    for number in range(60):
        await ask(room, f"t{number % 2}")
    waiting = [start(ask(room, f"t{n % 2}")) for n in range(60)]
    await asyncio.sleep(MINUTE_S)
    for number in range(60):
        waiting.append(start(ask(room, f"new{number}")))
        await asyncio.sleep(0.5)
    waits = [(await task).waited_s for task in waiting]
    assert 0 < sum(waited_s == 0 for waited_s in waits) < 30
    assert is_quiet(room)


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_who_come_and_leave_leave_nothing_behind(seed: int) -> None:
    run_virtual(storm(seed))


async def storm(seed: int) -> None:
    """Callers of all kinds at two upstreams, who leave, err, and are refused; answers that say things."""
    rng = Random(seed)
    clock = VirtualClock()
    terms = UpstreamTerms(requests_per_minute=900, tokens_per_minute=400_000)
    room = WaitingRoom(clock, {"a": terms}, waiting_max=60)
    sent: list[float] = []
    outcomes = {"sent": 0, "refused": 0, "left": 0}

    async def call() -> None:
        key = rng.choice("aab")
        tokens = rng.randint(1, 2_000)
        try:
            admission = await room.admit(
                key,
                f"{key}/1",
                tokens=tokens,
                tenant=f"t{rng.randrange(6)}",
                priority=rng.choice(list(Priority)),
                deadline_s=clock.monotonic_s() + rng.choice((0, 1, 10, 60, 600)),
            )
        except RateLimitError:
            outcomes["refused"] += 1
            return
        if rng.random() < 0.1:
            room.give_back(admission)
            return
        if key == "a":
            sent.append(clock.monotonic_s())
        try:
            await asyncio.sleep(rng.expovariate(0.5))
            if rng.random() < 0.003:
                pause_s = rng.choice((None, 0, 3, 20))
                fault = refusal(pause_s)
                room.learn_429(key, f"{key}/1", fault=fault, headers={}, admission=admission)
            else:
                left = {"x-ratelimit-limit-requests": "900"}
                left["x-ratelimit-remaining-requests"] = str(rng.randint(300, 900))
                room.learn(key, left if key == "a" else {}, admission)
            outcomes["sent"] += 1
        finally:
            room.correct(admission, rng.randint(0, 3 * tokens))

    async def impatient() -> None:
        task = start(call())
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice((0, 0, 0.01, 1, 20)))
            if task.cancel():
                outcomes["left"] += 1
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async with asyncio.TaskGroup() as group:
        for _ in range(10_000):
            await asyncio.sleep(rng.expovariate(25))
            group.create_task(impatient())
    assert is_quiet(room)
    assert min(outcomes.values()) > 500, outcomes
    for number, at_s in enumerate(sent[900:], start=900):
        assert at_s - sent[number - 900] >= 60, "more than 900 in a minute"
    loop = asyncio.get_running_loop()
    assert not [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
