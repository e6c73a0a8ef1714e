"""How connections are let in: a crowd at once, a rest without descriptors, nobody after the end (S7)."""

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import uvloop

from windvane.listener import AT_ONCE_MAX, PAUSE_S, Listener, listen

PATIENCE_S = 60.0
ROUNDS = 8
"""A connection is taken in one round of the loop, made in another, and told of in a third."""


class _Guest(asyncio.Protocol):
    def __init__(self, guests: list["_Guest"]) -> None:
        self._guests = guests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._guests.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guests.remove(self)


class _House:
    """A listener, who is in, and who has come to its door."""

    def __init__(self) -> None:
        self.guests: list[_Guest] = []
        self.callers: list[socket.socket] = []
        listening = listen("127.0.0.1", 0)
        self.address = listening.getsockname()
        self.listener = Listener(listening, lambda: _Guest(self.guests))

    def come(self, count: int) -> None:
        """Connections that the kernel has completed, and nobody has taken yet."""
        self.callers += [socket.create_connection(self.address) for _ in range(count)]

    async def close(self) -> None:
        self.listener.close()
        await self.listener.wait_closed()
        for guest in list(self.guests):
            guest.transport.close()
        for caller in self.callers:
            caller.close()
        await asyncio.sleep(0)


async def _until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():
            await asyncio.sleep(PAUSE_S / 10)


async def _rounds(count: int = ROUNDS) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)

    return run


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_a_crowd_is_let_in_within_a_few_rounds(run: Run) -> None:
    """Not one a round: on a busy loop each round takes as long as all who are in together."""

    async def crowd() -> None:
        house = _House()
        house.come(100)
        await _rounds()
        assert len(house.guests) == 100
        await house.close()

    run(crowd())


def test_a_larger_crowd_does_not_keep_the_others_waiting(run: Run) -> None:
    async def crowd() -> None:
        house = _House()
        house.come(2 * AT_ONCE_MAX + 1)
        counts = [0]
        while counts[-1] < len(house.callers) and len(counts) < 100:
            await asyncio.sleep(0)
            counts.append(len(house.guests))
        assert counts[-1] == len(house.callers)
        assert max(b - a for a, b in pairwise(counts)) <= AT_ONCE_MAX
        await house.close()

    run(crowd())


def test_an_answer_does_not_wait_for_more_to_say(run: Run) -> None:
    """Nagle's algorithm would hold small pieces of a stream back for 40 ms."""

    async def nagle() -> None:
        house = _House()
        house.come(1)
        await _rounds()
        taken = house.guests[0].transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await house.close()

    run(nagle())


@contextmanager
def _no_descriptors() -> Iterator[None]:
    lowest_free = os.dup(0)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_descriptor_callers_wait_and_the_loop_does_not_spin(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def exhausted() -> None:
        house = _House()
        house.come(3)
        with _no_descriptors():
            await asyncio.sleep(2.5 * PAUSE_S)
            assert not house.guests
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await _until(lambda: len(house.guests) == 3)
        await house.close()

    run(exhausted())


def test_nobody_is_let_in_after_the_end(run: Run) -> None:
    async def late() -> None:
        house = _House()
        house.come(1)
        await _rounds(1)  # taken, and not made yet
        house.listener.close()
        await house.listener.wait_closed()
        await _rounds()
        assert not house.guests
        caller = house.callers[0]
        caller.settimeout(PATIENCE_S)
        with suppress(ConnectionResetError):
            assert caller.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(house.address, timeout=PATIENCE_S)
        caller.close()

    run(late())


@pytest.mark.parametrize("rounds", range(ROUNDS))
def test_whoever_is_told_of_a_connection_is_told_of_its_loss(run: Run, rounds: int) -> None:
    """A server at its end waits for all who are in, and those half in may be so by then."""

    async def half_in() -> None:
        house = _House()
        house.come(3)
        await _rounds(rounds)
        were_in = list(house.guests)
        house.listener.close()
        for guest in were_in:
            guest.transport.close()
        await house.listener.wait_closed()
        await _rounds()
        assert not house.guests
        for caller in house.callers:
            caller.close()

    run(half_in())


def test_closed_in_a_pause_it_stays_closed(run: Run) -> None:
    async def paused() -> None:
        house = _House()
        house.come(1)
        with _no_descriptors():
            await _rounds(5)
        await house.close()
        house.listener.close()
        await asyncio.sleep(2 * PAUSE_S)
        assert not house.guests

    run(paused())
