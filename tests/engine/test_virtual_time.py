"""The loop on virtual time: what it promises those who run on it."""

import asyncio

import pytest

from windvane.testing import Deadlock, VirtualClock, run_virtual


def test_a_day_passes_in_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(86_400)


def test_waiting_for_nobody_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run_virtual(main())


def test_what_a_callback_raises_is_not_lost() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(ZeroDivisionError):
        run_virtual(main())


def test_timers_run_in_order_whatever_the_order_they_were_set_in() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        async with asyncio.TaskGroup() as group:
            for number in (3, 1, 2):
                group.create_task(append(order, number))
        return order

    async def append(order: list[int], number: int) -> None:
        await asyncio.sleep(number)
        order.append(number)

    assert run_virtual(main()) == [1, 2, 3]


def test_only_the_wall_clock_jumps() -> None:
    async def main() -> None:
        clock = VirtualClock()
        before = clock.monotonic_s(), clock.wall_us()
        clock.jump(-3_600)
        assert (clock.monotonic_s(), clock.wall_us()) == (before[0], before[1] - 3_600_000_000)

    run_virtual(main())
