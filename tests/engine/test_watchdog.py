"""The one timer behind all deadlines: on a second loop it starts afresh, and it never bites twice."""

import asyncio
import math

import pytest

from windvane.core.faults import FaultKind
from windvane.engine.watchdog import Watch, Watchdog
from windvane.testing import run_virtual


async def waits(dog: Watchdog, within_s: float, for_s: float) -> FaultKind | None:
    """How waiting for `for_s` ends."""
    dog.expect("it", within_s)
    try:
        await asyncio.sleep(for_s)
    except asyncio.CancelledError as cancelled:
        if (timeout := dog.fault_of_cancellation()) is not None:
            assert timeout.fault.kind is FaultKind.TIMEOUT
            return timeout.fault.kind
        raise cancelled from None
    finally:
        dog.rest()
    return None


def test_a_timer_that_a_loop_left_behind_is_nothing_to_the_next_loop() -> None:
    """A client used from two `asyncio.run`: the second loop's clock may be far behind the first's."""
    watch = Watch()

    async def first() -> None:
        await asyncio.sleep(1_000.0)
        dog = watch.start(500.0)
        assert await waits(dog, 100.0, 1.0) is None

    async def second() -> None:
        dog = watch.start(10.0)
        began_s = asyncio.get_running_loop().time()
        assert await waits(dog, 2.0, 5.0) is FaultKind.TIMEOUT
        assert asyncio.get_running_loop().time() - began_s < 2.1
        dog.stop()
        assert not watch.dogs

    run_virtual(first())
    for _ in range(2):
        run_virtual(second())


def test_one_task_s_timeouts_do_not_add_up() -> None:
    """As on a connection, whose requests share a task."""

    async def story() -> None:
        watch, task = Watch(), asyncio.current_task()
        assert task is not None
        for number in range(6):
            dog = watch.start(10.0)
            late = number % 2
            assert (await waits(dog, 1.0, 0.5 + late)) is (FaultKind.TIMEOUT if late else None)
            dog.stop()
            assert task.cancelling() == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.sleep(1.0)
        assert task.cancelling() == 0

    run_virtual(story())


@pytest.mark.parametrize("first", ["watchdog", "caller"])
def test_a_caller_who_leaves_as_the_deadline_comes_is_not_held(first: str) -> None:
    async def story() -> None:
        watch = Watch()
        dogs: list[Watchdog] = []

        async def request() -> object:
            dogs.append(watch.start(10.0))
            return await waits(dogs[0], 5.0, 9.0)

        task = asyncio.ensure_future(request())
        await asyncio.sleep(1.0)
        for who in (first, {"watchdog": "caller", "caller": "watchdog"}[first]):
            if who == "caller":
                task.cancel()
            else:
                dogs[0].bite()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(story())


@pytest.mark.parametrize(
    ("within_s", "message"),
    [
        (2.0, "timed out waiting for it"),
        (4.0, "the answer was not whole within 5 s, all that its request has"),
        (math.inf, "the answer was not whole within 5 s, all that its request has"),
    ],
)
def test_a_timeout_tells_which_of_its_two_deadlines_came(within_s: float, message: str) -> None:
    """Words may come all the while, and the answer take too long: the next word is not what is late."""

    async def story() -> None:
        dog = Watch().start(5.0)
        for _ in range(4):
            dog.expect("it", within_s)
            await asyncio.sleep(0.3)
            dog.rest()
        dog.expect("it", within_s)
        try:
            await asyncio.sleep(10.0)
        except asyncio.CancelledError:
            timeout = dog.fault_of_cancellation()
            assert timeout is not None and timeout.fault.message == message
        dog.stop()

    run_virtual(story())
