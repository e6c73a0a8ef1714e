"""A head that is known again is served as if the parser had read it: with it and without, what comes
through is the same, however the bytes are cut into packets."""

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st

from windvane.core.faults import Fault
from windvane.gateway import known_head, server
from windvane.gateway.data_plane.asgi import HeaderList, Receive, Scope, Send
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.http_caller import HttpCaller
from windvane.transport.cork import Cork

Request = tuple[str, str, HeaderList, bytes]

HASTY = "/v1/hasty"
"""Where the answer does not wait for the body."""
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n"
    b"Authorization: Bearer one\r\nContent-Type: application/json\r\n\r\n"
)
HASTY_HEAD = HEAD.replace(b"chat/completions", b"hasty")
CHUNKED = b"POST /v1/models HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that remembers what is written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Recorder:
    """An application that remembers what was asked, and answers."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def serve(self, caller: HttpCaller) -> Coroutine[Any, Any, None]:
        return self._serve(caller)

    async def _serve(self, caller: HttpCaller) -> None:
        body = b"" if caller.path == HASTY else caller.whole_body()
        if body is None:
            body, is_more = b"", True
            while is_more:
                message = await caller.receive()
                if message["type"] == "http.disconnect":
                    return
                piece, is_more = message["body"], bool(message["more_body"])
                assert isinstance(piece, bytes)
                body += piece
        incoming = caller.incoming
        assert incoming.headers == dict(incoming.said)
        self.asked.append((caller.method, caller.path, incoming.said, body))
        await caller.answer(200, b"", body)

    def refused(self, path: str | None, request_id: str, fault: Fault) -> None:
        self.asked.append(("REFUSED", path or "", [], b"%d" % fault.status))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nothing else is asked for here")


async def _talk(packets: list[bytes], lessons: int) -> tuple[list[Request], bytes, bool, int]:
    """What an application is asked, what goes back, whether the connection is closed, and how many
    requests the parser has not seen."""
    recorder, wire = Recorder(), Wire()
    own = {"application": recorder, "openings": server._Openings(), "cork": Cork()}
    made: Any = type("Protocol", (server.GuardedProtocol,), own)
    state = uvicorn.server.ServerState()
    config = uvicorn.Config(recorder, log_config=None)
    protocol = made(config=config, server_state=state, app_state={})
    protocol._lessons = lessons
    parsed = 0
    on_headers_complete = protocol.on_headers_complete

    def count() -> None:
        nonlocal parsed
        parsed += 1
        on_headers_complete()

    protocol.on_headers_complete = count
    protocol.parser = server.httptools.HttpRequestParser(protocol)
    protocol.connection_made(wire)
    for packet in packets:
        if not wire.is_closed:
            protocol.data_received(packet)
        for _ in range(8):
            await asyncio.sleep(0)
    is_closed = wire.is_closed
    protocol.connection_lost(None)
    assert protocol._known is None
    await asyncio.sleep(0)
    return recorder.asked, wire.written, is_closed, len(recorder.asked) - parsed


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in packets that end at these places."""
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(ends) if a < b]


names = st.sampled_from(
    [b"Host", b"host", b"Authorization", b"X-Api-Key", b"Accept", b"Expect", b"x"]
)
values = st.sampled_from(
    [b"", b"a", b"Bearer one", b"Bearer two", b"100-continue", b"content-length: 3"]
)
lengths = st.sampled_from(
    [
        b"Content-Length: %d",
        b"content-length:%d",
        b"CONTENT-LENGTH:   %d",
        b"Content-Length: 0%d",
        b"Transfer-Encoding: chunked\r\nx: %d",
    ]
)
bodies = st.sampled_from([b"", b"{}", b'{"a": 1}', b"x" * 300, HEAD % 2])
lines = st.lists(st.tuples(names, values), max_size=4)
rare_lines = st.sampled_from(
    [
        b"",
        b"",
        b"",
        b"Content-Length: 2\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
    ]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head, but for its length."""
    target = draw(
        st.sampled_from([b"/v1/chat/completions", b"/v1/h%61sty?x", b"/v1/models"])
    ).replace(b"%", b"%%")
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    said = [b"%b: %b\r\n" % line for line in draw(lines)]
    length = draw(lengths) + b"\r\n" + draw(rare_lines)
    said.insert(draw(st.integers(0, len(said))), length)
    return b"POST %b HTTP/%b\r\n%b\r\n" % (target, version, b"".join(said))


@st.composite
def talks(draw: st.DrawFn) -> list[bytes]:
    """Packets of a connection on which few heads come again and again."""
    few = draw(st.lists(heads(), min_size=1, max_size=2))
    packets: list[bytes] = []
    for _ in range(draw(st.integers(2, 6))):
        body = draw(bodies)
        request = draw(st.sampled_from(few)) % len(body) + body
        strays = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"POST "]))
        packets += cut(request + strays, draw(st.lists(st.integers(0, 500), max_size=2)))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(packets) - 1))
        packets[at : at + 2] = [b"".join(packets[at : at + 2])]
    return packets


@given(talks())
@example([HEAD % 2 + b"{}", HEAD % 8 + b'{"a": 1}', HEAD % 8, b'{"a"', b": 1}" + HEAD % 2 + b"{}"])
@example(
    [HEAD % 2 + b"{}", (HEAD % 2).replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"{}"]
)
@example([HEAD % 2 + b"{}", b"POST ", HEAD % 2 + b"{}"])
@example([HASTY_HEAD % 300 + b"{", HASTY_HEAD % 2 + b"{}"])
@example([CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", HEAD % 2 + b"{}", HEAD % 2 + b"{}"])
@example([HEAD % 2 + b"{}", HEAD % 2 + b"{", HEAD % 2 + b"{}", HEAD % 2 + b"{}"])
@example([HEAD % 2 + b"{}", (HEAD % 20).replace(b"20", b"+2") + b"{}"])
@example([HEAD % 2 + b"{}", (HEAD % 2).replace(b"one", b"two") + b"{}", HEAD % 3 + b"{ }"])
def test_what_comes_through_is_what_the_parser_would_have_read(packets):
    known = asyncio.run(_talk(packets, server.LESSONS_MAX))
    parsed = asyncio.run(_talk(packets, 0))
    assert known[:3] == parsed[:3]


def test_a_head_that_comes_again_is_not_parsed_again():
    body = b'{"a": "other length"}'
    packets = [HEAD % 2 + b"{}", HEAD % 2 + b"{}", HEAD % len(body), body, HEAD % 2 + b"{}"]
    asked, _, _, unparsed = asyncio.run(_talk(packets, server.LESSONS_MAX))
    assert [body for *_, body in asked] == [b"{}", b"{}", body, b"{}"]
    assert unparsed == 3


def test_what_came_before_is_not_counted_with_a_head():
    """However much a connection has carried, in whole requests or in pieces."""
    body = b"x" * 300
    whole = [HEAD % len(body) + body] * (2 * server.HEAD_BYTES_MAX // len(body))
    pieces = [HEAD % len(body), body[:100], body[100:]]
    asked, _, is_closed, unparsed = asyncio.run(
        _talk([*whole, *pieces, *whole, *pieces], server.LESSONS_MAX)
    )
    assert not is_closed
    assert len(asked) == 2 * len(whole) + 2
    assert unparsed == len(asked) - 1


def test_heads_that_never_come_again_are_learned_a_few_times_only(monkeypatch):
    learned = []

    def learn(*arguments: Any) -> known_head.KnownHead | None:
        learned.append(arguments)
        return known_head.known_head(*arguments)

    monkeypatch.setattr(server, "known_head", learn)
    packets = [
        (HEAD % 2).replace(b"Host: a", b"Host: a%d" % number) + b"{}" for number in range(10)
    ]
    asked, *_, unparsed = asyncio.run(_talk(packets, server.LESSONS_MAX))
    assert (len(asked), unparsed, len(learned)) == (10, 0, server.LESSONS_MAX)


def test_what_was_worked_out_of_a_head_goes_along_with_it():
    incoming = Incoming([(b"content-length", b"2"), (b"authorization", b"Bearer one")])
    incoming.check("POST")
    other = incoming.with_length(b"3")
    assert other.is_checked
    assert other.headers == {b"content-length": b"3", b"authorization": b"Bearer one"}
    assert incoming.headers[b"content-length"] == b"2"
    assert other.credentials() == incoming.credentials()
