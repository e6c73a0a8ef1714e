"""One task serves the requests of a connection: what befalls one of them must not befall the next."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import uvicorn

from windvane.core.faults import Fault
from windvane.gateway.http_caller import HttpCaller
from windvane.gateway.server import PIPELINED_MAX, GuardedProtocol, ServerLimits, make_server

WAIT_S = 30.0
IMPATIENCE_S = 0.3
"""How long a server waits where a test outwaits it; elsewhere `WAIT_S`, lest a stall do so."""
ANSWER = b"content-type: text/plain\r\n"


def _cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


class Stub:
    """Serves by the path: what it does is its name."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.cancelled: list[str] = []
        self.cancelling: list[int] = []
        self.refusals: list[tuple[str | None, int]] = []
        self.gate = asyncio.Event()
        self.is_called_off = False

    async def serve(self, caller: HttpCaller) -> None:
        what = caller.path.rpartition("/")[2]
        self.served.append(what)
        self.cancelling.append(_cancelling())
        try:
            await self._serve(caller, what)
        except asyncio.CancelledError:
            self.cancelled.append(what)
            raise

    async def _serve(self, caller: HttpCaller, what: str) -> None:
        if what == "waits":
            await self.gate.wait()
        if what == "times-out":
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(WAIT_S)
            except TimeoutError:
                pass
        if what == "streams":
            caller.begin(200, ANSWER, sign_of_life=b":\n")
            await caller.send(b"first")
            await self.gate.wait()
            await caller.end(b"last")
            return
        if what == "breaks":
            raise RuntimeError("a bug of the application's")
        if what == "forgets":
            return
        if what == "forgets-the-end":
            caller.begin(200, ANSWER, sign_of_life=b":\n")
            await caller.send(b"first")
            return
        if what == "early":
            await caller.answer(200, ANSWER, b"early")
            return
        try:
            body = caller.whole_body() or (await caller.receive())["body"]
        except TimeoutError:
            caller.keep_alive = False
            await caller.answer(408, ANSWER, b"request_timeout")
            return
        assert isinstance(body, bytes)
        await caller.answer(200, ANSWER, what.encode() + body[:1] + b"%d" % len(body))
        if what == "breaks-late":
            raise RuntimeError("a bug of the application's")

    def call_off(self) -> None:
        self.is_called_off = True

    def refused(self, path: str | None, request_id: str, fault: Fault) -> None:
        self.refusals.append((path, fault.status))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.served.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


class Running:
    def __init__(self, server: uvicorn.Server, app: Stub, task: asyncio.Task[None]) -> None:
        self.server, self.app, self.task = server, app, task
        self.port = server.servers[0].sockets[0].getsockname()[1]

    def limit(self, **limits: float) -> None:
        """From now on it waits so long; what it has begun to wait for keeps its time."""
        protocol: Any = self.server.config.http_protocol_class
        protocol.limits = msgspec.structs.replace(protocol.limits, **limits)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def protocols(self) -> set[Any]:
        return self.server.server_state.connections  # type: ignore[return-value]


@asynccontextmanager
async def running(**limits: float) -> AsyncIterator[Running]:
    app = Stub()
    terms: Any = {"head_timeout_s": WAIT_S, "body_timeout_s": WAIT_S, "connections_max": 10_000}
    terms |= limits
    server = make_server(app, host="127.0.0.1", port=0, limits=ServerLimits(**terms))
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.002)
    try:
        yield Running(server, app, task)
    finally:
        app.gate.set()
        server.should_exit = server.force_exit = True
        await task


def get(what: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET /v1/{what} HTTP/1.1", "host: a", *lines, "", ""]).encode()


def post(what: str, size: int, *lines: str) -> bytes:
    return get(what, f"content-length: {size}", *lines).replace(b"GET", b"POST")


async def until(happened: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not happened():
            await asyncio.sleep(0.002)


async def read_for(reader: asyncio.StreamReader, mark: bytes) -> bytes:
    """What comes, until it has the mark."""
    came = b""
    async with asyncio.timeout(WAIT_S):
        while mark not in came:
            piece = await reader.read(65536)
            assert piece, came
            came += piece
    return came


async def test_both_planes_take_turns_on_one_connection() -> None:
    async with running() as on:
        reader, writer = await on.open()
        other = get("x").replace(b"/v1/x", b"/metrics")
        paths = [get("one"), other, get("two"), other, other, get("three"), get("last")]
        writer.write(b"".join(paths))
        await read_for(reader, b"last")
        assert on.app.served == ["one", "/metrics", "two", "/metrics", "/metrics", "three", "last"]
        writer.close()
        await until(lambda: not on.server.server_state.tasks and not on.protocols)


async def test_what_was_answered_before_its_callers_end_is_sent() -> None:
    """A caller who closes its sending half: the loop closes the transport, and asks nobody."""
    async with running() as on:
        reader, _ = await on.open()
        await until(lambda: on.protocols)
        (protocol,) = on.protocols
        protocol.cork.at_once = 0
        protocol.transport.write(b"the answer")
        assert not protocol.eof_received()
        protocol.transport._transport.close()
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b"the answer"


async def test_a_lost_connection_leaves_nothing_of_what_waited_behind_its_request() -> None:
    async with running() as on:
        _, writer = await on.open()
        writer.write(get("waits") + get("two") + get("three"))
        await until(lambda: any(len(each._waiting) == 2 for each in on.protocols))
        (protocol,) = on.protocols
        lost = weakref.ref(protocol)
        gc.collect()
        gc.disable()
        try:
            protocol.transport.abort()
            del protocol
            await until(lambda: not on.protocols)
            await until(lambda: lost() is None)
        finally:
            gc.enable()
        writer.close()


async def test_a_timeout_of_one_request_is_nothing_to_the_next() -> None:
    async with running() as on:
        reader, writer = await on.open()
        for _ in range(3):
            writer.write(get("times-out"))
            await read_for(reader, b"times-out")
        assert on.app.cancelling == [0, 0, 0]
        writer.close()


@pytest.mark.parametrize("together", [True, False])
async def test_one_who_leaves_takes_all_that_waits_behind_along(together: bool) -> None:
    async with running() as on:
        _, writer = await on.open()
        writer.write(get("waits") + get("next") if together else get("waits"))
        await until(lambda: on.app.served)
        if not together:
            writer.write(get("next"))
            await asyncio.sleep(0.02)
        writer.close()
        await until(lambda: not on.protocols)
        await until(lambda: on.app.cancelled == ["waits"])
        await until(lambda: not on.server.server_state.tasks)
        await asyncio.sleep(0.01)
        assert on.app.served == ["waits"]


@pytest.mark.parametrize("what", ["breaks", "breaks-late"])
async def test_a_request_that_breaks_leaves_nobody_waiting(what: str) -> None:
    """Whoever waits behind it is answered, or sees the connection close."""
    async with running() as on:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        reader, writer = await on.open()
        writer.write(get(what) + get("next"))
        async with asyncio.timeout(WAIT_S):
            came = b""
            while b"next" not in came and (piece := await reader.read(65536)):
                came += piece
        writer.close()
        reader, writer = await on.open()
        writer.write(get("again"))
        await read_for(reader, b"again")
        writer.close()


@pytest.mark.parametrize("what", ["forgets", "forgets-the-end"])
async def test_an_answer_that_is_not_ended_is_broken_off(what: str) -> None:
    async with running() as on:
        reader, writer = await on.open()
        writer.write(get(what))
        async with asyncio.timeout(WAIT_S):
            came = await reader.read(-1)
        assert not came.endswith(b"0\r\n\r\n")
        await until(lambda: not on.server.server_state.tasks and not on.protocols)
        gc.collect()  # no timer holds who has left
        assert not [
            each
            for each in gc.get_objects()
            if isinstance(each, HttpCaller) and each.path.endswith(what)
        ]
        writer.close()


async def test_a_refused_request_s_late_body_ends_no_connection() -> None:
    """It was answered before its body came; the body's bytes begin no request, and are no sloth."""
    async with running() as on:
        reader, writer = await on.open()
        writer.write(post("early", 10))
        await read_for(reader, b"early")
        writer.write(b"01234")
        await asyncio.sleep(0.02)
        writer.write(b"56789")
        (protocol,) = on.protocols
        await until(lambda: not protocol.cycle.more_body)
        assert protocol._head_timer is protocol._body_timer is None
        writer.write(get("next"))
        assert (await read_for(reader, b"next")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_body_behind_a_slow_request_has_its_time_when_its_turn_has_come() -> None:
    async with running(body_timeout_s=IMPATIENCE_S) as on:
        reader, writer = await on.open()
        writer.write(get("waits"))
        await until(lambda: on.app.served)
        writer.write(post("next", 100_000))
        await asyncio.sleep(0.02)
        writer.write(b"x" * 50_000)
        await asyncio.sleep(0.5)  # longer than a body may take: it cannot come before it is read
        on.limit(body_timeout_s=WAIT_S)
        on.app.gate.set()
        assert (await read_for(reader, b"waits")).startswith(b"HTTP/1.1 200")
        writer.write(b"x" * 50_000)
        assert b"nextx" in await read_for(reader, b"next")
        on.limit(body_timeout_s=IMPATIENCE_S)
        writer.write(get("waits") + post("next", 10))
        answers = await read_for(reader, b"request_timeout")  # its body never comes
        assert answers.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answers
        writer.close()


async def test_garbage_behind_a_stream_is_not_answered_in_its_midst() -> None:
    async with running() as on:
        reader, writer = await on.open()
        writer.write(get("streams"))
        came = await read_for(reader, b"first")
        writer.write(get("next") + b"\x16\x03\x01garbage\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            came += await reader.read(-1)
        assert came.count(b"HTTP/1.1") == 1
        writer.close()


async def test_a_client_cannot_heap_up_requests_that_wait() -> None:
    async with running() as on:
        reader, writer = await on.open()
        writer.write(get("waits"))
        await until(lambda: on.app.served)
        writer.write(get("next") * 50_000)
        async with asyncio.timeout(WAIT_S):
            with suppress(ConnectionResetError):
                assert not await reader.read()
        writer.close()
        assert on.app.served == ["waits"]

        reader, writer = await on.open()
        on.app.gate.set()
        writer.write(get("next") * PIPELINED_MAX + get("last"))
        await read_for(reader, b"last")
        writer.close()


async def test_a_server_that_stops_lets_streams_end_and_idle_connections_go() -> None:
    async with running() as on:
        idle_reader, idle = await on.open()
        idle.write(get("one"))
        await read_for(idle_reader, b"one")
        reader, writer = await on.open()
        writer.write(get("streams"))
        came = await read_for(reader, b"first")
        on.server.should_exit = True
        async with asyncio.timeout(WAIT_S):
            assert await idle_reader.read() == b""
        assert not on.task.done()
        on.app.gate.set()
        async with asyncio.timeout(WAIT_S):
            came += await reader.read()
            assert came.endswith(b"4\r\nlast\r\n0\r\n\r\n")
            await on.task
        writer.close()
        idle.close()


async def test_a_cancelled_request_closes_its_connection() -> None:
    """As uvicorn does to those that outlast its patience at the end."""
    async with running() as on:
        reader, writer = await on.open()
        writer.write(get("one"))
        await read_for(reader, b"one")
        assert not on.server.server_state.tasks
        writer.write(get("waits"))
        await until(lambda: on.server.server_state.tasks)
        for task in list(on.server.server_state.tasks):
            task.cancel()
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b""
        writer.close()
        assert on.app.cancelled == ["waits"]


async def test_connections_leave_nothing_behind() -> None:
    async with running() as on:
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            pairs = [await on.open() for _ in range(50)]
            for number, (_, writer) in enumerate(pairs):
                writer.write(get(("one", "waits", "streams")[number % 3]) * (number % 2 + 1))
            for reader, _ in pairs[::3]:
                await read_for(reader, b"one")
            for _, writer in pairs:
                writer.close()
            await until(lambda: not on.protocols)
            del pairs, reader, writer
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert not on.server.server_state.tasks
        gc.collect()
        state = on.server.server_state
        protocols = [each for each in gc.get_objects() if isinstance(each, GuardedProtocol)]
        callers = [each for each in gc.get_objects() if isinstance(each, HttpCaller)]
        # Other tests of this process may have gateways of their own.
        assert not [each for each in protocols if each.server_state is state]
        assert not [
            each for each in callers if getattr(each._connection, "server_state", None) is state
        ]


TRAILERS = "transfer-encoding: chunked"


@pytest.mark.parametrize("what", ["one", "early"])
@pytest.mark.parametrize("piece", [b"x: a\r\n" * 1_000, b"a" * 4_000], ids=["many", "one of them"])
async def test_trailers_without_end_are_cut_off(what: str, piece: bytes) -> None:
    """None is kept, and what the parser keeps of an unfinished one is bounded like a head."""
    async with running() as on:
        reader, writer = await on.open()
        writer.write(get(what, TRAILERS).replace(b"GET", b"POST") + b"1\r\na\r\n0\r\nfirst: ")
        with suppress(ConnectionError):
            for _ in range(100):
                writer.write(piece)
                await writer.drain()
            assert await reader.read()
        await until(lambda: not on.protocols)
        writer.close()


async def test_a_trailer_that_never_comes_ends_after_the_body_s_time() -> None:
    async with running(body_timeout_s=IMPATIENCE_S) as on:
        reader, writer = await on.open()
        writer.write(get("early", TRAILERS).replace(b"GET", b"POST") + b"1\r\na\r\n")
        await read_for(reader, b"early")
        writer.write(b"0\r\nx: a\r\n")
        async with asyncio.timeout(WAIT_S):
            with suppress(ConnectionResetError):  # it may have ended before this was written
                assert await reader.read() == b""
        writer.close()
