"""What is written in one turn of the loop leaves together, in its order, and before its end."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from windvane.transport.cork import (
    ALONE_TURNS,
    ALONE_WRITES,
    HELD_MAX,
    WAITING_BYTES_MAX,
    Cork,
    corked,
)

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class _Wire(asyncio.Transport):
    """A transport that notes what is done to it."""

    def __init__(self, done: list[tuple[str, object]], name: str = "wire") -> None:
        super().__init__()
        self._done = done
        self._name = name
        self._is_closing = False

    def write(self, data: Any) -> None:
        self._done.append((self._name, data))

    def close(self) -> None:
        self._is_closing = True
        self._done.append((self._name, "closed"))

    def abort(self) -> None:
        self._is_closing = True
        self._done.append((self._name, "aborted"))

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return 7


def _wires(*names: str) -> tuple[list[tuple[str, object]], Cork, list[asyncio.Transport]]:
    done: list[tuple[str, object]] = []
    cork = Cork()
    return done, cork, [corked(_Wire(done, name), cork) for name in names]


async def test_what_is_written_in_a_turn_leaves_at_its_end_in_its_order() -> None:
    done, _, (one, other) = _wires("one", "other")
    one.write(b"1")
    other.write(b"2")
    one.write(b"3")
    assert done == []
    await asyncio.sleep(0)
    assert done == [("one", b"13"), ("other", b"2")]


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_what_waits_leaves_before_its_transport_is_closed(way: str) -> None:
    done, _, (one, other) = _wires("one", "other")
    other.write(b"before")
    one.write(b"last words")
    getattr(one, way)()
    assert done == [
        ("other", b"before"),
        ("one", b"last words"),
        ("one", "closed" if way == "close" else "aborted"),
    ]
    await asyncio.sleep(0)
    assert len(done) == 3


async def test_nothing_is_written_to_who_was_lost_meanwhile() -> None:
    done: list[tuple[str, object]] = []
    lost, cork = _Wire(done, "lost"), Cork()
    corked(lost, cork).write(b"nobody reads this")
    corked(_Wire(done, "there"), cork).write(b"somebody this")
    lost.close()
    await asyncio.sleep(0)
    assert done == [("lost", "closed"), ("there", b"somebody this")]


async def test_what_waits_counts_as_not_yet_written() -> None:
    _, _, (wire,) = _wires("wire")
    wire.write(b"12345")
    wire.write(b"678")
    assert wire.get_write_buffer_size() == 8 + 7
    await asyncio.sleep(0)
    assert wire.get_write_buffer_size() == 7


async def test_the_first_does_not_wait_for_a_crowd() -> None:
    done, _, wires = _wires(*map(str, range(HELD_MAX + 1)))
    for wire in wires[: HELD_MAX - 1]:
        wire.write(b".")
    assert done == []
    wires[HELD_MAX - 1].write(b".")
    assert len(done) == HELD_MAX
    wires[HELD_MAX].write(b".")
    assert len(done) == HELD_MAX
    await asyncio.sleep(0)
    assert len(done) == HELD_MAX + 1


async def test_only_so_much_waits_for_who_writes_without_pause() -> None:
    done, _, (wire,) = _wires("wire")
    piece = bytes(WAITING_BYTES_MAX // 4)
    for _ in range(4):
        wire.write(piece)
    assert done == []
    wire.write(b".")
    assert done == [("wire", 4 * piece + b".")]
    await asyncio.sleep(0)
    assert len(done) == 1


async def test_what_is_large_does_not_wait_and_passes_nothing() -> None:
    done, _, (wire,) = _wires("wire")
    wire.write(b"small")
    large = bytes(WAITING_BYTES_MAX)
    wire.write(large)
    assert done == [("wire", b"small" + large)]


async def test_who_is_alone_does_not_wait_but_now_and_then() -> None:
    done, _, (wire,) = _wires("wire")

    async def waits() -> bool:
        before = len(done)
        wire.write(b".")
        has_waited = len(done) == before
        await asyncio.sleep(0)
        return has_waited

    assert [await waits() for _ in range(ALONE_TURNS)] == [True] * ALONE_TURNS
    for _ in range(3):
        assert [await waits() for _ in range(ALONE_WRITES)] == [False] * ALONE_WRITES
        assert await waits()


async def test_who_was_alone_is_not_when_others_come() -> None:
    done, _, (one, other) = _wires("one", "other")
    for _ in range(ALONE_TURNS):
        one.write(b".")
        await asyncio.sleep(0)
    for _ in range(ALONE_WRITES):
        one.write(b".")
    done.clear()
    for _ in range(3):
        one.write(b"1")
        other.write(b"2")
        assert done == []
        await asyncio.sleep(0)
        assert done == [("one", b"1"), ("other", b"2")]
        done.clear()


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("seed", range(4))
def test_a_reader_gets_every_byte_that_was_written_before_the_end(
    new_loop: Callable[[], asyncio.AbstractEventLoop], seed: int
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_write_and_read(random.Random(seed)))


async def _write_and_read(dice: random.Random) -> None:
    """Twelve connections to one server, which writes to them in a random order and in random pieces, and
    closes each after its last."""
    loop, cork = asyncio.get_running_loop(), Cork()
    writers: list[asyncio.Transport] = []
    said: list[bytes] = [b""] * 12

    class _Speaker(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            writers.append(corked(transport, cork))

    server = await loop.create_server(_Speaker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def read() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heard = await reader.read()
        writer.close()
        return heard

    readers = [asyncio.create_task(_timely(read())) for _ in range(12)]
    while len(writers) < 12:
        await asyncio.sleep(0.001)
    left = list(range(12))
    while left:
        number = dice.choice(left)
        piece = dice.randbytes(dice.choice((1, 30, 900, 40_000)))
        said[number] += piece
        writers[number].write(piece)
        if dice.random() < 0.1:
            writers[number].close()
            left.remove(number)
        if dice.random() < 0.2:
            await asyncio.sleep(0)
    heard = await asyncio.gather(*readers)
    assert sorted(heard) == sorted(said)
    server.close()


async def _timely(work: Coroutine[Any, Any, bytes]) -> bytes:
    async with asyncio.timeout(20):
        return await work
