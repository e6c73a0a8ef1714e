"""The HTTP/1.1 transport against servers that lie, stall, cut and reset.

The servers are raw asyncio: a script says what goes over the wire and when the connection ends.
"""

import asyncio
import contextlib
import itertools
import random
import re
import socket
import ssl
import struct
import subprocess
import sys

import msgspec
import pytest
import uvloop
from tests.blackhole import blackhole, connecting_to
from tests.entries import PLAIN_ENTRY

from windvane.core.deployment import Deployment
from windvane.core.exchange import Attempt, AttemptState
from windvane.core.faults import FaultKind, Retry, WindvaneError
from windvane.ports.transport import UpstreamRequest
from windvane.transport.heads import FORMS_MAX, Heads
from windvane.transport.http1 import (
    HEAD_BYTES_MAX,
    PENDING_BYTES_MAX,
    Http1Transport,
    _Connection,
    _Keeper,
)

LIMIT_S = 30.0
"""Far more than any wait here takes; what does not happen would not in an hour."""


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def event_loop_policy(request):
    """The gateway runs on uvloop, tests and libraries on asyncio: both must hold."""
    if request.param == "uvloop":
        return uvloop.EventLoopPolicy()
    return asyncio.DefaultEventLoopPolicy()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Peer:
    """One connection as the server sees it."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    async def receive(self):
        """One whole request: its head and body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        return head, await self._reader.readexactly(length)

    async def say(self, data):
        self._writer.write(data)
        await self._writer.drain()

    def close(self):
        self._writer.close()

    def reset(self):
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def see_end(self):
        """Wait until the client has closed."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass


class Server:
    """Plays `script(peer)` on each connection, and knows how many there were and are."""

    def __init__(self, script, tls=None):
        self._script = script
        self._tls = tls
        self._tasks = set()
        self.connections = 0
        self.open = 0
        self._is_quiet = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, backlog=1024, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        self.open += 1
        self._is_quiet.clear()
        try:
            await self._script(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self.open -= 1
            if not self.open:
                self._is_quiet.set()

    async def quiet(self):
        """Wait until no connection is open."""
        async with asyncio.timeout(LIMIT_S):
            await self._is_quiet.wait()

    def request(self, tag="req-1", body=b'{"a":1}', scheme="http", host="127.0.0.1"):
        return UpstreamRequest(
            url=f"{scheme}://{host}:{self.port}/v1/chat/completions",
            headers=(("authorization", "Bearer k"), ("content-type", "application/json")),
            request_id=tag,
            body=body,
            connect_timeout_s=LIMIT_S,
        )


def request_to(url, *headers, connect_timeout_s=LIMIT_S, attempt=None):
    return UpstreamRequest(
        url=url,
        headers=headers,
        request_id="r",
        body=b"{}",
        connect_timeout_s=connect_timeout_s,
        attempt=attempt,
    )


def new_attempt():
    deployment = Deployment(id="d", provider="p", model="m")
    return Attempt("a", 1, deployment, PLAIN_ENTRY, 0.0)


@pytest.fixture
async def transport():
    made = Http1Transport()
    yield made
    await made.aclose()


async def ask(transport, request):
    """The whole exchange: status, headers and body."""
    async with asyncio.timeout(LIMIT_S):
        response = await transport.open(request)
        pieces = []
        try:
            while piece := await response.read():
                pieces.append(piece)
        finally:
            response.close()
        return response.status, response.headers, b"".join(pieces)


def answering(*pieces, then="wait"):
    """A script: after each request say `pieces`, one write each; `then` close, reset or wait."""

    async def script(peer):
        while True:
            await peer.receive()
            for piece in pieces:
                await peer.say(piece)
            if then == "close":
                return peer.close()
            if then == "reset":
                await asyncio.sleep(0.01)  # the bytes before a reset must have left the socket
                return peer.reset()

    return script


def bytewise(data):
    return [data[place : place + 1] for place in range(len(data))]


GOOD = {
    "content-length": (answering(OK), 200, b"ok"),
    "one byte at a time": (answering(*bytewise(OK)), 200, b"ok"),
    "chunked": (answering(CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), 200, b"ok"),
    "chunked, byte by byte": (
        answering(*bytewise(CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n")),
        200,
        b"ok",
    ),
    "chunk extensions and trailers": (
        answering(CHUNKED + b'2;name="v;w"\r\nok\r\n0;x\r\nx-checksum: 1\r\nx-more: 2\r\n\r\n'),
        200,
        b"ok",
    ),
    "no content": (answering(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, b""),
    "empty": (answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), 200, b""),
    "100 first": (answering(b"HTTP/1.1 100 Continue\r\n\r\n", OK), 200, b"ok"),
    "102 and 103 in one write": (
        answering(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK
        ),
        200,
        b"ok",
    ),
    "ends with its connection": (
        answering(b"HTTP/1.1 200 OK\r\n\r\n", b"o", b"k", then="close"),
        200,
        b"ok",
    ),
    "HTTP/1.0": (answering(b"HTTP/1.0 200 OK\r\n\r\nok", then="close"), 200, b"ok"),
    "an error with a body": (
        answering(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"),
        503,
        b"busy",
    ),
    "200 kB in one write": (
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000),
        200,
        b"x" * 200_000,
    ),
    "200 headers": (
        answering(
            b"HTTP/1.1 200 OK\r\n"
            + b"".join(b"x-%d: v\r\n" % n for n in range(200))
            + b"content-length: 2\r\n\r\nok"
        ),
        200,
        b"ok",
    ),
    "extra bytes after the answer": (answering(OK + b"surplus"), 200, b"ok"),
    "a second answer nobody asked for": (answering(OK + OK), 200, b"ok"),
}


@pytest.mark.parametrize("name", GOOD)
async def test_an_answer_is_read_whatever_its_form(transport, name):
    script, status, body = GOOD[name]
    async with Server(script) as server:
        got = await ask(transport, server.request())
        assert (got[0], got[2]) == (status, body)


async def accepts_then_nothing(peer):
    peer.close()


async def resets_at_once(peer):
    peer.reset()


async def resets_after_the_request(peer):
    await peer.receive()
    peer.reset()


BROKEN = {
    "closes at once": accepts_then_nothing,
    "resets at once": resets_at_once,
    "resets after the request": resets_after_the_request,
    "closes in the status line": answering(b"HTTP/1.1 2", then="close"),
    "closes in the head": answering(b"HTTP/1.1 200 OK\r\ncontent-le", then="close"),
    "resets in the head": answering(b"HTTP/1.1 200 OK\r\ncontent-le", then="reset"),
    "content-length too long": answering(
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", then="close"
    ),
    "resets in a sized body": answering(
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", then="reset"
    ),
    "closes in a chunk": answering(CHUNKED + b"9\r\nok", then="close"),
    "closes between chunks": answering(CHUNKED + b"2\r\nok\r\n", then="close"),
    "closes before the last line": answering(CHUNKED + b"2\r\nok\r\n0\r\n", then="close"),
    "resets in chunks": answering(CHUNKED + b"2\r\nok\r\n", then="reset"),
    "resets a body that ends at close": answering(b"HTTP/1.1 200 OK\r\n\r\nok", then="reset"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_an_answer_cut_short_is_never_taken_for_whole(transport, name):
    async with Server(BROKEN[name]) as server:
        with pytest.raises(WindvaneError) as caught:
            await ask(transport, server.request())
        fault = caught.value.fault
        assert fault.kind is FaultKind.STREAM_BROKEN
        assert fault.billed
        assert server.connections == 1
        await server.quiet()


NOT_HTTP = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "a control character in a header": b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
    "two lengths that differ": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
    "length and chunks": CHUNKED[:-2] + b"content-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "a chunk size that is no number": CHUNKED + b"zz\r\nok\r\n0\r\n\r\n",
    "a chunk size that overflows": CHUNKED + b"fffffffffffffffffff\r\nok",
    "a switch of protocols": b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "a head in one write, too large": b"HTTP/1.1 200 OK\r\nx: "
    + b"y" * HEAD_BYTES_MAX
    + b"\r\ncontent-length: 2\r\n\r\nok",
    "too many headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"x-%d: v\r\n" % n for n in range(300))
    + b"content-length: 2\r\n\r\nok",
    "one header, again and again": b"HTTP/1.1 200 OK\r\n"
    + b"x: v\r\n" * 40_000
    + b"content-length: 2\r\n\r\nok",
    "1xx for ever": b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" * 4_000,
}


@pytest.mark.parametrize("name", NOT_HTTP)
async def test_what_is_not_http_is_refused_and_the_connection_dropped(transport, name):
    async with Server(answering(NOT_HTTP[name])) as server:
        with pytest.raises(WindvaneError) as caught:
            await ask(transport, server.request())
        assert caught.value.fault.kind is FaultKind.UPSTREAM_ERROR
        assert caught.value.fault.retry is Retry.OTHER
        await server.quiet()


async def test_a_head_that_never_ends_is_refused_at_its_bound(transport):
    async def endless(peer):
        await peer.receive()
        await peer.say(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            await peer.say(b"y" * 8192)

    async with Server(endless) as server:
        with pytest.raises(WindvaneError, match="too large"):
            await ask(transport, server.request())
        await server.quiet()


async def test_the_body_is_let_go_of_while_the_answer_is_awaited(transport):
    body = bytes(100_000)
    references = [sys.getrefcount(body)]

    async def slow(peer):
        await peer.receive()
        references.append(sys.getrefcount(body))
        await peer.say(OK)

    async with Server(slow) as server:
        assert (await ask(transport, server.request(body=body)))[2] == b"ok"
    assert references[1] == references[0]


async def test_refused_is_not_billed_and_says_so(transport):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        request = UpstreamRequest(
            url=url, headers=(), request_id="r", body=b"{}", connect_timeout_s=LIMIT_S
        )
        with pytest.raises(WindvaneError, match="connection refused") as caught:
            await ask(transport, request)
    assert caught.value.fault.kind is FaultKind.CONNECT_FAILED
    assert not caught.value.fault.billed


async def test_a_connection_that_is_never_taken_times_out():
    transport = Http1Transport()
    with blackhole() as port:
        request = request_to(f"http://127.0.0.1:{port}/v1", connect_timeout_s=0.05)
        with pytest.raises(WindvaneError, match=r"no connection within 0\.05 s"):
            await ask(transport, request)


async def test_a_request_is_not_taken_while_its_connection_is_being_made(transport):
    """Who gives up then has sent nothing, and owes nothing."""
    attempt = new_attempt()
    with blackhole() as port:
        request = request_to(f"http://127.0.0.1:{port}/v1", attempt=attempt)
        before = connecting_to(port)
        task = asyncio.ensure_future(ask(transport, request))
        async with asyncio.timeout(LIMIT_S):
            while connecting_to(port) == before:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert connecting_to(port) == before
    assert (attempt.state, request.body) == (AttemptState.HELD, b"{}")


async def test_a_request_is_not_taken_during_the_handshake_of_tls(transport):
    silent = asyncio.Event()

    async def says_nothing(peer):
        assert await peer._reader.read(1) == b"\x16"  # a hello, which is never answered
        silent.set()
        await peer.see_end()

    attempt = new_attempt()
    async with Server(says_nothing) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        task = asyncio.ensure_future(ask(transport, request_to(url, attempt=attempt)))
        async with asyncio.timeout(LIMIT_S):
            await silent.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.quiet()
    assert attempt.state is AttemptState.HELD


class Wire(asyncio.Transport):
    """The transport under a connection: it notes in which state an attempt was as bytes were written."""

    def __init__(self, attempt, is_closing=False):
        super().__init__()
        self._attempt = attempt
        self._is_closing = is_closing
        self.written = []

    def write(self, data):
        self.written.append((self._attempt.state, data))

    def is_closing(self):
        return self._is_closing


async def test_an_attempt_is_sent_before_its_first_byte_is():
    attempt = new_attempt()
    wire = Wire(attempt)
    connection = _Connection(_Keeper(asyncio.get_running_loop(), {}))
    connection.connection_made(wire)
    request = request_to("http://one.test/", attempt=attempt)
    connection.ask(b"POST / HTTP/1.1\r\n", request, Heads())
    await asyncio.sleep(0)
    assert [state for state, _ in wire.written] == [AttemptState.SENT]
    assert b"".join(data for _, data in wire.written).endswith(b"\r\ncontent-length: 2\r\n\r\n{}")
    assert not request.body


async def test_nothing_is_taken_for_a_connection_that_was_closed_at_once():
    attempt = new_attempt()
    wire = Wire(attempt, is_closing=True)
    connection = _Connection(_Keeper(asyncio.get_running_loop(), {}))
    connection.connection_made(wire)
    request = request_to("http://one.test/", attempt=attempt)
    with pytest.raises(WindvaneError, match="closed the connection at once"):
        connection.ask(b"POST / HTTP/1.1\r\n", request, Heads())
    assert (attempt.state, request.body, wire.written) == (AttemptState.HELD, b"{}", [])


async def test_an_attempt_stays_sent_whatever_becomes_of_its_connection(transport):
    """The server has the request, or may have it."""
    reached = asyncio.Event()

    async def dies(peer):
        await peer.receive()
        reached.set()
        peer.reset()

    attempt = new_attempt()
    async with Server(dies) as server:
        request = request_to(f"http://127.0.0.1:{server.port}/v1", attempt=attempt)
        with pytest.raises(WindvaneError):
            await ask(transport, request)
    assert reached.is_set()
    assert attempt.state is AttemptState.SENT


async def test_a_whole_answer_keeps_its_connection(transport):
    async with Server(answering(OK)) as server:
        for _ in range(20):
            assert (await ask(transport, server.request()))[2] == b"ok"
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"surplus",
        OK + OK,
    ],
)
async def test_a_connection_that_is_not_clean_is_not_kept(transport, answer):
    async with Server(answering(answer)) as server:
        for _ in range(3):
            assert (await ask(transport, server.request()))[2] == b"ok"
        await server.quiet()
        assert server.connections == 3


async def test_bytes_on_a_resting_connection_end_it(transport):
    """They answer nothing, so they must never answer the next request."""
    spoke = asyncio.Event()
    is_late = asyncio.Event()

    async def script(peer):
        body = (await peer.receive())[1]
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n" + body)
        if not spoke.is_set():
            spoke.set()
            await is_late.wait()
            await peer.say(OK)
        await peer.see_end()

    async with Server(script) as server:
        assert (await ask(transport, server.request(body=b"first.7")))[2] == b"first.7"
        is_late.set()
        await server.quiet()
        assert (await ask(transport, server.request(body=b"second7")))[2] == b"second7"
        assert server.connections == 2


async def test_a_request_is_sent_once_even_on_a_connection_closed_under_our_feet(transport):
    """It looks like a server that took the request and died, which may have billed it."""
    received = []

    async def script(peer):
        received.append((await peer.receive())[0])
        await peer.say(OK)
        received.append((await peer.receive())[0])
        peer.close()  # not one byte of an answer

    async with Server(script) as server:
        await ask(transport, server.request("first"))
        with pytest.raises(WindvaneError) as caught:
            await ask(transport, server.request("second"))
        assert caught.value.fault.kind is FaultKind.STREAM_BROKEN
        assert caught.value.fault.billed
        assert [b"second" in head for head in received] == [False, True]


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:30]])
async def test_a_kept_connection_that_spoke_is_not_repeated(transport, said):
    async def script(peer):
        await peer.receive()
        await peer.say(OK)
        await peer.receive()
        await peer.say(said)
        peer.close()

    async with Server(script) as server:
        await ask(transport, server.request())
        with pytest.raises(WindvaneError):
            await ask(transport, server.request())
        assert server.connections == 1


async def test_a_new_connection_is_never_repeated(transport):
    async with Server(accepts_then_nothing) as server:
        with pytest.raises(WindvaneError):
            await ask(transport, server.request())
        assert server.connections == 1


async def test_a_server_may_answer_before_it_has_the_body(transport):
    async def script(peer):
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig")
        await peer.see_end()

    async with Server(script) as server:
        status, _, body = await ask(transport, server.request(body=b"x" * 4_000_000))
        assert (status, body) == (413, b"big")
        await server.quiet()


async def test_a_connection_that_still_sends_is_not_kept(transport):
    """Its next request would wait behind a body that nobody reads."""

    async def script(peer):
        head = await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say(OK)
        if b"large" in head:
            peer._writer.transport.pause_reading()
            await asyncio.Event().wait()
        await peer.see_end()

    async with Server(script) as server:
        assert (await ask(transport, server.request("large", b"x" * 32_000_000)))[2] == b"ok"
        assert (await ask(transport, server.request("small")))[2] == b"ok"
        assert server.connections == 2


async def test_a_slow_reader_holds_the_server_back(transport):
    """Unread body is bounded, and everything is there when it is read at last."""
    size = 20_000_000
    sent = 0

    async def script(peer):
        nonlocal sent
        await peer.receive()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        piece = b"x" * 50_000
        for _ in range(size // len(piece)):
            await peer.say(piece)
            sent += len(piece)

    async with Server(script) as server, asyncio.timeout(LIMIT_S):
        response = await transport.open(server.request())
        connection = response._connection
        while not connection._is_paused:
            await asyncio.sleep(0.001)
        assert connection._pending_bytes < PENDING_BYTES_MAX + 512 * 1024
        assert sent < size
        total = 0
        while piece := await response.read():
            total += len(piece)
        response.close()
        assert total == size


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


async def test_a_body_that_has_come_is_handed_over_whole_and_once(transport):
    async with Server(answering(CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n")) as server:
        async with asyncio.timeout(LIMIT_S):
            response = await transport.open(server.request())
            assert response.whole() == b"ok"
            assert response.whole() == await response.read() == b""
            response.close()
            again = await transport.open(server.request())
            assert response.whole() is None  # its connection serves another by now
            assert again.whole() == b"ok"
            again.close()
        assert server.connections == 1


@pytest.mark.parametrize("read_first", [True, False])
async def test_a_body_still_to_come_is_not_touched(transport, read_first):
    said = asyncio.Event()

    async def script(peer):
        await peer.receive()
        await peer.say(WHOLE + b"ab")
        await said.wait()
        await peer.say(b"cd")

    async with Server(script) as server, asyncio.timeout(LIMIT_S):
        response = await transport.open(server.request())
        assert response.whole() is None
        begun = await response.read() if read_first else b""
        assert response.whole() is None
        said.set()
        rest = b""
        while (whole := response.whole()) is None:
            rest += await response.read()
        assert begun + rest + whole == b"abcd"
        response.close()


async def test_header_names_are_one_however_they_are_written(transport):
    heads = iter(
        (
            b"X-Tag: one\r\nx-tag: Two\r\nX-TAG: three",
            b"x-tag: four",
            b"X-Tag: five",
            b"x-other: six",
        )
    )

    async def script(peer):
        while True:
            await peer.receive()
            await peer.say(b"HTTP/1.1 200 OK\r\n" + next(heads) + b"\r\ncontent-length: 0\r\n\r\n")

    async with Server(script) as server:
        said = [(await ask(transport, server.request()))[1] for _ in range(4)]
        assert [headers.get("x-tag") for headers in said] == [
            "one, Two, three",
            "four",
            "five",
            None,
        ]
        assert [set(headers.keys()) for headers in said[:3]] == [{"x-tag", "content-length"}] * 3
        assert dict(said[3]) == {"x-other": "six", "content-length": "0"}
        assert server.connections == 1


async def test_a_trailer_is_no_header(transport):
    """RFC 9110, 6.5.1: and there may be as many as there will, for none is kept."""
    trailers = b"".join(b"x-%d: v\r\n" % n for n in range(300))
    answer = CHUNKED + b"2\r\nok\r\n0\r\nx-request-id: late\r\n" + trailers + b"\r\n"
    async with Server(answering(answer)) as server:
        _, headers, body = await ask(transport, server.request())
        assert body == b"ok"
        assert dict(headers) == {"transfer-encoding": "chunked"}


@pytest.mark.parametrize("name", [b"\r\nx-%d: ", b"%d"], ids=["many", "one that does not end"])
async def test_trailers_without_end_are_the_end_of_the_connection(transport, name):
    async def script(peer):
        await peer.receive()
        await peer.say(CHUNKED + b"2\r\nok\r\n0\r\nx-first: a")
        for number in range(1_000):
            await peer.say(name % number + b"a" * 1_000)

    async with Server(script) as server:
        with pytest.raises(WindvaneError, match="around the body"):
            await ask(transport, server.request())


@pytest.mark.parametrize("count", [1, 2 * FORMS_MAX])
async def test_of_the_forms_of_heads_only_some_short_ones_are_remembered(transport, count):
    heads = iter([b"x-%s: a" % (b"n" * 50_000), *(b"x-%d: b" % number for number in range(count))])

    async def script(peer):
        while True:
            await peer.receive()
            await peer.say(b"HTTP/1.1 200 OK\r\n" + next(heads) + b"\r\ncontent-length: 0\r\n\r\n")

    async with Server(script) as server:
        for _ in range(1 + count):
            await ask(transport, server.request())
        assert server.connections == 1
        (heads_of_origin,) = transport._heads.values()
        forms = heads_of_origin._any, heads_of_origin.plain
        assert [len(known) for known in forms] == [min(count, FORMS_MAX)] * 2
        assert forms[0][0].places.keys() == {"x-0", "content-length"}


async def test_an_interim_answer_s_head_is_not_taken_for_the_answer_s(transport):
    """Though it is of the same form."""
    form = b"x-tag: %b\r\n\r\n"
    interim = b"HTTP/1.1 103 Early Hints\r\n" + form % b"early"
    last = b"\r\n\r\nHTTP/1.1 204 No Content\r\n" + form % b"last"
    async with Server(answering(interim + last)) as server:
        for _ in range(3):
            _, headers, _ = await ask(transport, server.request())
            assert dict(headers) == {"x-tag": "last"}
        assert server.connections == 1


async def test_a_connection_at_rest_holds_nothing_of_its_last_answer(transport):
    async with Server(answering(OK)) as server:
        for _ in range(2):
            await ask(transport, server.request())
        ((connection,),) = transport._idle.values()
        assert not connection.headers
        assert connection._known is None
        assert connection._head == b""
        assert not connection.pieces


async def test_what_was_closed_reads_as_ended(transport):
    """Its connection may serve another by now: not a byte of that may come out here."""
    async with Server(answering(OK)) as server:
        async with asyncio.timeout(LIMIT_S):
            first = await transport.open(server.request())
            while await first.read():
                pass
            first.close()
            second = await transport.open(server.request())
            assert await first.read() == b""
            assert await second.read() == b"ok"
            second.close()
        assert server.connections == 1


async def cut_short(phase, transport, server, rng):
    """Begin a call and cancel it in `phase`."""
    reached = asyncio.Event()

    async def run():
        response = await transport.open(server.request())
        try:
            if phase == "finishing":
                await response.read()
                reached.set()
                await response.finish()
            else:
                while await response.read():
                    reached.set()
        finally:
            if phase != "finishing":
                response.close()

    task = asyncio.ensure_future(run())
    if phase in ("reading", "finishing"):
        async with asyncio.timeout(LIMIT_S):
            await reached.wait()
    for _ in range(rng.randrange(4) if phase == "any" else 2):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def answers_half(peer):
    await peer.receive()
    await peer.say(CHUNKED + b"2\r\nok\r\n")
    await peer.see_end()


async def answers_nothing(peer):
    await peer.receive()
    await peer.see_end()


@pytest.mark.parametrize(
    ("phase", "script"),
    [
        ("connecting", answers_nothing),
        ("waiting", answers_nothing),
        ("reading", answers_half),
        ("finishing", answers_half),
    ],
)
async def test_cancelling_closes_the_socket_at_once(transport, phase, script):
    async with Server(script) as server:
        for _ in range(5):
            if phase == "waiting":
                task = asyncio.ensure_future(transport.open(server.request()))
                async with asyncio.timeout(LIMIT_S):
                    while not server.open:
                        await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await cut_short(phase, transport, server, random.Random(1))
            if server.connections:
                await server.quiet()
        assert not server.open


async def test_two_thousand_cancels_cross_no_replies_and_leave_no_socket():
    """Tagged requests, cancelled at random moments on connections that are reused meanwhile."""
    calls, clients = 4_000, 40
    rng = random.Random("cancels")
    whole = cancelled = 0

    async def script(peer):
        while True:
            _, tag = await peer.receive()
            half = len(tag) // 2
            await peer.say(CHUNKED + b"%x\r\n%b\r\n" % (half, tag[:half]))
            await asyncio.sleep(rng.random() * 0.002)
            await peer.say(b"%x\r\n%b\r\n0\r\n\r\n" % (len(tag) - half, tag[half:]))

    transport = Http1Transport()
    async with Server(script) as server:

        async def client(number):
            nonlocal whole, cancelled
            for turn in itertools.count():
                if turn >= calls // clients and cancelled > 2_000 and whole > 1_000:
                    return
                tag = b"tag-%d-%d" % (number, turn)
                call = ask(transport, server.request(tag.decode(), tag))
                if rng.random() < 0.6:
                    task = asyncio.ensure_future(call)
                    await asyncio.sleep(rng.choice((0, 0.0005, 0.001, 0.002, 0.003)) * rng.random())
                    task.cancel()
                    (got,) = await asyncio.gather(task, return_exceptions=True)
                else:
                    got = await call
                if isinstance(got, asyncio.CancelledError):
                    cancelled += 1
                else:
                    whole += 1
                    assert got[2] == tag

        async with asyncio.timeout(4 * LIMIT_S), asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(client(number))
        idle = sum(len(kept) for kept in transport._idle.values())
        async with asyncio.timeout(LIMIT_S):
            while server.open != idle:
                await asyncio.sleep(0.001)
        await transport.aclose()
        await server.quiet()


async def test_idle_connections_too_old_are_closed_and_not_used(transport, monkeypatch):
    async with Server(answering(OK)) as server:
        await ask(transport, server.request())
        monkeypatch.setattr("windvane.transport.http1.IDLE_S", 0.0)
        assert (await ask(transport, server.request()))[2] == b"ok"
        assert server.connections == 2
        async with asyncio.timeout(LIMIT_S):
            while server.open > 1:
                await asyncio.sleep(0.001)


async def test_kept_connections_close_without_another_request(transport, monkeypatch):
    """As on virtual time, in test_keeping.py; here on sockets."""
    monkeypatch.setattr("windvane.transport.http1.IDLE_S", 0.2)
    monkeypatch.setattr("windvane.transport.http1.LATENESS_MAX_S", 0.01)
    async with Server(answering(OK)) as server:
        await asyncio.gather(*[ask(transport, server.request()) for _ in range(20)])
        await server.quiet()
        assert not transport._keeper._open


def test_a_connection_of_a_loop_that_is_gone_is_dropped_in_silence():
    """A client used from two `asyncio.run` has one transport and two loops."""
    made = Http1Transport()

    async def first():
        async with Server(answering(OK)) as server:
            await ask(made, server.request())

    async def second():
        (kept,) = made._idle.values()
        async with Server(answering(OK)) as server:
            made._idle = {("http", "127.0.0.1", server.port): kept}
            response = await made.open(server.request())
            kept.appendleft(gone)
            made._keeper._look()
            assert gone not in kept
            await response.read()
            response.close()
            kept.appendleft(gone)
            await made.aclose()

    asyncio.run(first())
    ((gone,),) = made._idle.values()
    asyncio.run(second())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, made for this run."""
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem",
         "-out", "cert.pem"],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder


async def test_a_self_signed_certificate_is_refused(transport, certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    seen = []

    async def serve(reader, writer):
        seen.append(await reader.read(65_536))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's complaint
    port = server.sockets[0].getsockname()[1]
    url = f"https://127.0.0.1:{port}/v1"
    request = request_to(url, ("authorization", "Bearer secret"))
    with pytest.raises(WindvaneError, match="certificate is not valid") as caught:
        await ask(transport, request)
    server.close()
    assert caught.value.fault.kind is FaultKind.CONNECT_FAILED
    assert not caught.value.fault.billed
    assert not any(seen)


async def test_over_tls_it_is_the_same(transport, certificate):
    """Whole answers keep their connection; a cancelled call closes it at once."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    transport._tls = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    async def script(peer):
        while True:
            _, body = await peer.receive()
            if body == b"wait":
                return await peer.see_end()
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with Server(script, tls=context) as server:
        for number in range(5):
            body = b"%d" % number * 50_000
            assert (await ask(transport, server.request(body=body, scheme="https")))[2] == body
        assert server.connections == 1
        task = asyncio.ensure_future(ask(transport, server.request(body=b"wait", scheme="https")))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.quiet()


async def test_each_request_goes_with_its_own_headers(transport):
    """Several keys may be asked with at one address, in turn or again and again."""
    heads = []

    async def script(peer):
        while True:
            head, _ = await peer.receive()
            heads.append(head)
            await peer.say(OK)

    one, same, other = ((("authorization", f"Bearer {key}"),) for key in ("one", "one", "other"))
    asked = [one, one, other, same, one, other, other, ()]
    async with Server(script) as server:
        for headers in asked:
            await ask(transport, msgspec.structs.replace(server.request(), headers=headers))
        assert server.connections == 1
    told = [re.findall(rb"authorization: Bearer (\w+)", head) for head in heads]
    assert told == [[value.split()[1].encode() for _, value in headers] for headers in asked]


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b"])
async def test_a_header_cannot_be_split(transport, value):
    request = request_to("http://127.0.0.1:9/v1", ("x", value))
    with pytest.raises(ValueError, match="line break"):
        await transport.open(request)


@pytest.mark.parametrize("url", ["ftp://h/", "http:///v1", "file:///etc/passwd", "/v1"])
async def test_only_http_addresses_are_asked(transport, url):
    request = UpstreamRequest(url=url, headers=(), request_id="r", body=b"", connect_timeout_s=2.0)
    with pytest.raises(ValueError, match="not an http"):
        await transport.open(request)
