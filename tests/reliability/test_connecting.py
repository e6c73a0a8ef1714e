"""A caller who leaves while the provider is being connected to owes nothing; a moment later, the hold.

The provider is a real socket: one that lets nobody in, or one that takes the request and says nothing.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from tests.blackhole import blackhole, connecting_to

LIMIT_S = 60.0


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


async def left_while(world, children, call, chat, port, stream, is_reached):
    """The ledger's row of a call to a provider at `port`, whose caller left when `is_reached` said so."""
    async with world(simulator=SimpleNamespace(port=port)) as place:
        gateway = await place.gateway()
        children.push_async_callback(gateway.end)
        leave = asyncio.Event()
        body = chat("Hello?", stream=stream, max_tokens=50)
        calling = asyncio.ensure_future(call(gateway.port, body, leave=leave))
        async with asyncio.timeout(LIMIT_S):
            await is_reached()
        leave.set()
        assert not (await calling).is_whole
        await gateway.stop()
        (row,) = place.ledger()
        return row


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_caller_who_leaves_while_connecting_owes_nothing(
    world, children, call, chat, stream
):
    with blackhole() as port:
        before = connecting_to(port)

        async def is_connecting():
            while connecting_to(port) == before:
                await asyncio.sleep(0.001)

        row = await left_while(world, children, call, chat, port, stream, is_connecting)
    assert row["hold_nano_usd"] > 0
    assert (row["outcome"], row["certainty"], row["cost_nano_usd"]) == ("cancelled", "exact", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_caller_who_leaves_when_one_byte_was_sent_owes_the_hold(
    world, children, call, chat, stream
):
    with listening() as listener:

        async def has_a_byte():
            loop = asyncio.get_running_loop()
            taken, _ = await loop.sock_accept(listener)
            children.callback(taken.close)
            assert await loop.sock_recv(taken, 1) == b"P"

        port = listener.getsockname()[1]
        row = await left_while(world, children, call, chat, port, stream, has_a_byte)
    assert (row["outcome"], row["certainty"]) == ("cancelled", "assumed")
    assert row["cost_nano_usd"] == row["hold_nano_usd"] > 0
