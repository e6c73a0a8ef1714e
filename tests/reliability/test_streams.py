"""Many slow streams, and one slow reader: memory and descriptors stay bounded (S4, S5, S7).

The gateway runs in a process of its own, whose memory and descriptors are read from /proc; caller
and provider are here.
"""

import asyncio
import contextlib
import json
import socket

import pytest

from windvane.simulator.connection import Connection

STREAMS = 1_000
TOKENS = 40
TOKENS_PER_S = 5.0
"""Eight seconds a stream, 5,000 chunks a second in all: both ends run on the same two cores."""
RSS_PER_STREAM_MAX = 64 * 1024

UNREAD_TOKENS = 100_000
"""About 20 MB as server-sent events."""
UNREAD_S = 3.0
UNREAD_GROWTH_MAX = 1024 * 1024
UNREAD_RSS_MAX = 80 * 1024 * 1024
"""A gateway at rest takes about 55 MiB."""
CALLER_BUFFER_BYTES = 64 * 1024


async def _until(condition, what, timeout_s=60.0):
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


@contextlib.contextmanager
def _together():
    """What is streamed begins when the function this gives is called: until then all may come, however
    long a busy machine takes over it."""
    pump, waiting = Connection._pump, []

    def wait(connection):
        waiting.append(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_pump", wait)

        def begin():
            patch.undo()
            for connection in waiting:
                connection._due = connection._loop.time()
                pump(connection)

        yield begin


async def _stream_many(
    world, simulate, children, call, chat, *, streams, warm, tokens_per_s=TOKENS_PER_S
):
    """Run `streams` at once through a warm gateway; the bytes of memory each took."""
    simulator = await simulate(tokens_per_s=tokens_per_s)
    async with world(simulator=simulator) as place:
        gateway = await place.gateway()
        children.push_async_callback(gateway.end)
        body = chat(f"!slow 1 !loop {TOKENS}", stream=True)
        await asyncio.gather(*(call(gateway.port, body) for _ in range(warm)))
        await _until(lambda: not simulator._gauges()["open_streams"], "warm-up is over")
        base_files = gateway.open_files - simulator._gauges()["open_connections"]
        base_rss = gateway.rss_bytes

        body = chat(f"!loop {TOKENS}", stream=True)
        with _together() as begin:
            calling = [
                asyncio.ensure_future(call(gateway.port, body, timeout_s=300))
                for _ in range(streams)
            ]
            await _until(
                lambda: simulator._gauges()["open_streams"] == streams, "all are open", 120.0
            )
            begin()
        peak = gateway.rss_bytes
        while not all(task.done() for task in calling):
            peak = max(peak, gateway.rss_bytes)
            await asyncio.wait(calling, timeout=0.25)
        said = [task.result() for task in calling]
        assert all(each.is_acknowledged for each in said)
        assert len({each.body.count(b'"content":"') for each in said}) == 1
        per_stream = (peak - base_rss) / streams
        print(
            f"\n{streams} streams: {per_stream / 1024:.1f} KiB each;"
            f" {base_rss / 2**20:.1f} MiB before, {peak / 2**20:.1f} at the peak,"
            f" {gateway.rss_bytes / 2**20:.1f} after"
        )
        # What is still open rests at the provider, ready to be used again.
        assert simulator._gauges()["open_connections"] > 0
        await _until(
            lambda: gateway.open_files <= base_files + simulator._gauges()["open_connections"],
            "callers' descriptors are closed",
        )
        await simulator.stop()
        await _until(lambda: gateway.open_files <= base_files, "descriptors are back to base")
        await gateway.stop()
        ledger = place.ledger()
        assert len(ledger) == streams + warm
        assert {row["certainty"] for row in ledger} == {"exact"}
        return per_stream


@pytest.mark.slow
async def test_a_thousand_slow_streams_cost_little_memory_each(
    world, simulate, children, call, chat
):
    per_stream = await _stream_many(world, simulate, children, call, chat, streams=STREAMS, warm=50)
    assert per_stream <= RSS_PER_STREAM_MAX


class _SlowCaller(asyncio.Protocol):
    """Sends a request, and reads only when told to."""

    def __init__(self, request):
        self._request = request
        self.received = bytearray()
        self.is_closed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        transport.pause_reading()
        transport.write(self._request)

    def data_received(self, data):
        self.received += data

    def connection_lost(self, exc):
        self.is_closed.set()


@contextlib.asynccontextmanager
async def _caller_who_does_not_read(world, simulate, chat):
    """A stream on its way to nobody: the place, its gateway, the caller, the provider's end."""
    simulator = await simulate()
    async with world(simulator=simulator) as place, contextlib.AsyncExitStack() as stack:
        gateway = await place.gateway()
        stack.push_async_callback(gateway.end)
        body = json.dumps(chat(f"!loop {UNREAD_TOKENS}", stream=True)).encode()
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CALLER_BUFFER_BYTES)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", gateway.port))
        caller = _SlowCaller(request)
        transport, _ = await loop.create_connection(lambda: caller, sock=raw)
        stack.callback(transport.abort)
        await _until(lambda: simulator._gauges()["open_streams"] == 1, "it streams")
        (stream,) = (each for each in simulator._connections if each.is_streaming)
        await _held_back(stream)
        yield place, gateway, caller, stream


async def _held_back(stream):
    """Wait until the kernel's buffers, which grow for a while, are full as well."""
    loop = asyncio.get_running_loop()
    place, since_s = stream._place, loop.time()
    async with asyncio.timeout(60):
        while not stream._paused or loop.time() - since_s < 0.5:
            if stream._place != place:
                place, since_s = stream._place, loop.time()
            await asyncio.sleep(0.01)


async def test_a_caller_who_does_not_read_pauses_the_provider(world, simulate, chat):
    """The stream waits at the provider, not in the gateway's memory; and it is whole in the end."""
    async with _caller_who_does_not_read(world, simulate, chat) as (place, gateway, caller, stream):
        loop = asyncio.get_running_loop()
        held_at, base_rss, growth = stream._place, gateway.rss_bytes, 0
        ends_at = loop.time() + UNREAD_S
        async with asyncio.timeout(60):
            while loop.time() < ends_at:  # memory must stay low for all of this time
                if stream._place != held_at:  # there was room left in the kernel's buffers
                    held_at, ends_at = stream._place, loop.time() + UNREAD_S
                    base_rss, growth = gateway.rss_bytes, 0
                growth = max(growth, gateway.rss_bytes - base_rss)
                await asyncio.sleep(0.05)
        assert stream._paused
        assert stream._place == held_at < UNREAD_TOKENS
        print(
            f"\nunread for {UNREAD_S:g} s: {base_rss / 2**20:.1f} MiB, {growth / 2**10:.0f} KiB more"
            f" by its end; {held_at} of {UNREAD_TOKENS} chunks had left the provider"
        )
        assert growth <= UNREAD_GROWTH_MAX
        assert base_rss <= UNREAD_RSS_MAX
        caller.transport.resume_reading()
        async with asyncio.timeout(60):
            await caller.is_closed.wait()
        assert caller.received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert caller.received.count(b'"content":"') >= UNREAD_TOKENS
        await gateway.stop()
        (row,) = place.ledger()
        assert (row["certainty"], row["output_tokens"]) == ("exact", UNREAD_TOKENS)


async def test_a_caller_who_leaves_without_reading_is_noticed(world, simulate, chat):
    """The gateway is waiting to write to it, not to read from the provider."""
    async with _caller_who_does_not_read(world, simulate, chat) as (place, gateway, caller, stream):
        caller.transport.abort()
        await _until(lambda: stream._transport is None, "the provider sees it leave")
        await gateway.stop()
        (row,) = place.ledger()
        # How far ahead of its reader the provider was, nobody here knows.
        assert (row["certainty"], row["outcome"]) == ("assumed", "cancelled")
        assert row["cost_nano_usd"] == row["hold_nano_usd"]


async def test_a_hundred_slow_streams_leave_nothing_behind(world, simulate, children, call, chat):
    """The thousand's little sister: too few for a figure of memory, enough for a leak to show."""
    await _stream_many(
        world, simulate, children, call, chat, streams=100, warm=20, tokens_per_s=40.0
    )
