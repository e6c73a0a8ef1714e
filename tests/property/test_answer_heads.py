"""An answer of a form that is known is taken as if the parser had read it: with forms and without, what
comes of the same bytes is the same, however they are cut into packets."""

import asyncio
from itertools import pairwise
from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windvane.ports.transport import UpstreamRequest
from windvane.transport.cork import Cork
from windvane.transport.heads import Heads, known_head
from windvane.transport.http1 import _Connection

USUAL = b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport, and its loop, for a connection that is only spoken to."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    is_closed = is_closing

    def create_future(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class Keeper:
    """What such a connection has of its loop."""

    loop = Wire()
    cork = Cork(at_end=lambda end: end())

    def lost(self, connection: object) -> None: ...


class Unlearned(Heads):
    """Takes every head for a new one."""

    def read(self, head: bytes) -> dict[str, str]:
        return Heads()._learn(head)


class Counting(_Connection):
    """A connection that counts the answers that it takes without the parser."""

    taken = 0

    def _take_whole(self, data: bytes) -> bool:
        is_taken = super()._take_whole(data)
        self.taken += is_taken
        return is_taken


class Reference:
    """What httptools calls the headers of an answer."""

    def __init__(self, head: bytes) -> None:
        self.headers: dict[str, str] = {}
        httptools.HttpResponseParser(self).feed_data(head)

    def on_header(self, name: bytes, value: bytes) -> None:
        key, said = name.decode().lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {said}" if key in self.headers else said


def hear(answers: list[list[bytes]], heads: Heads) -> tuple[list[Any], int]:
    """What one connection makes of these answers, each in packets, and how many the parser did not see."""
    connection, wire = Counting(Keeper()), Wire()  # type: ignore[arg-type]
    connection.connection_made(wire)
    made: list[Any] = []
    for packets in answers:
        connection.ask(b"", UpstreamRequest("http://h/", (), "r", b"", 1.0), heads)
        for packet in packets:
            connection.data_received(packet)
            made.append(
                (
                    connection.has_head and (connection.status, dict(connection.headers)),
                    connection.take(),
                    connection.is_complete,
                    connection._keeps_alive,
                    connection.is_closed,
                    connection._fault and connection._fault.message,
                )
            )
        made.append(connection.rest(0.0))
        if not made[-1]:
            break
    return made, connection.taken


names = st.sampled_from(
    [b"X-Id", b"x-id", b"Date", b"Server", b"Set-Cookie", b"Keep-Alive", b"a.b*"]
)
values = st.sampled_from([b" a", b"", b" ", b"a: b", b"\ta \t", b" \xff", b" content-length: 3"])
lengths = st.sampled_from([b"Content-Length: %d", b"content-length: %d", b"content-length:%d "])
rare_lines = st.sampled_from(
    [
        b"",
        b"",
        b"Connection: keep-alive\r\n",
        b"Connection: close\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 2\r\n",
        b"Upgrade: x\r\n",
    ]
)
starts = st.sampled_from(
    [b"200 OK"] * 4 + [b"200 Fine", b"200", b"204 OK", b"304 OK", b"103 Early", b"429 Slow down"]
)
bodies = st.sampled_from([b"", b"{}", b'{"a": 1}', b"x" * 100, b"2\r\n{}\r\n0\r\n\r\n", USUAL])
odd_bytes = st.sampled_from(
    [bytes([byte]) for byte in b"\r\n\t :\0\x7f\x80aA09+-,"] + [b"", b"\r\n"]
)
spoils = st.sampled_from(
    [
        (b"keep-alive", b"close"),
        (b"keep-alive", b"upgrade"),
        (b"200 OK", b"204 OK"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"ength: ", b"ength: +"),
        (b"ength: ", b"ength: 00"),
        (b"-Id: ", b"-Id: \0"),
        (b"-Id: ", b"-Id: \n"),
        (b"-Id: ", b"-Id: a\r\n "),
        (b"-Id: ", b"-Id : "),
    ]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head, but for its length."""
    lines = [b"%b:%b\r\n" % line for line in draw(st.lists(st.tuples(names, values), max_size=4))]
    length = draw(lengths) + b"\r\n" + draw(rare_lines)
    lines.insert(draw(st.integers(0, len(lines))), length)
    return b"HTTP/1.1 %b\r\n%b\r\n" % (draw(starts), b"".join(lines))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in packets that end at these places."""
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(ends) if a < b]


@st.composite
def talks(draw: st.DrawFn) -> list[list[bytes]]:
    """Answers with heads of few forms, that come again and again; now and then a byte is another."""
    few = [draw(heads()), USUAL.replace(b"%b", b"one")]
    answers: list[list[bytes]] = []
    for _ in range(draw(st.integers(2, 6))):
        body = draw(bodies)
        said = draw(st.sampled_from(few)) % len(body)
        if draw(st.booleans()):
            at = draw(st.integers(0, len(said) - 1))
            said = said[:at] + draw(odd_bytes) + said[at + draw(st.integers(0, 1)) :]
        elif draw(st.booleans()):
            said = said.replace(*draw(spoils))
        surplus = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"HTT", USUAL % (b"late", 0)]))
        places = draw(st.lists(st.integers(0, 500), max_size=2))
        answers.append(cut(said + body + surplus, places))
    return answers


FIRST = [USUAL % (b"one", 2) + b"{}"]


@given(talks())
@example([FIRST, FIRST, [USUAL % (b"two", 3) + b"{ }"], [USUAL % (b"", 0)]])
@example([FIRST, [USUAL % (b"two", 3) + b"{ ", b"}"], [USUAL % (b"", 3), b"{ }"]])
@example([FIRST, [USUAL % (b"two", 2) + b"{}x"]])
@example([FIRST, [USUAL % (b"two", 2) + b"{}", USUAL % (b"late", 0)]])
@example([FIRST, [USUAL % (b"a\0b", 2) + b"{}"]])
@example([FIRST, [USUAL % (b"a\r\n b", 2) + b"{}"]])
@example([FIRST, [USUAL % (b"a\nX-Id: b", 2) + b"{}"]])
@example([FIRST, [(USUAL % (b"a", 20)).replace(b" 20", b" +2") + b"{}"]])
@example([FIRST, [(USUAL % (b"a", 2)).replace(b": 2", b": 2 ") + b"{}"]])
@example([FIRST, [(USUAL % (b"a", 2)).replace(b"keep-alive", b"close") + b"{}"]] * 2)
@example([FIRST, [(USUAL % (b"a", 2)).replace(b"1.1", b"1.0") + b"{}"]] * 2)
@example([FIRST, [(USUAL % (b"a", 2)).replace(b"200", b"204") + b"{}"]] * 2)
@example([FIRST, [(USUAL % (b"a", 2)).replace(b"200 OK", b"103 X") + USUAL % (b"b", 0)]] * 2)
@example([FIRST, [USUAL % (b"y" * 70_000, 2) + b"{}"]])
@example([FIRST, [USUAL % (b"a", 70_000) + b"x" * 70_000]])
def test_what_is_heard_is_what_the_parser_would_have_read(answers):
    assert hear(answers, Heads())[0] == hear(answers, Unlearned())[0]


@given(st.lists(heads(), min_size=1, max_size=3))
@example([b"HTTP/1.1 200 OK\r\n\r\n"] * 2)
def test_what_a_head_says_is_what_the_parser_calls_its_headers(few):
    known = Heads()
    for said in few * 2:
        head = said % 7 if b"%d" in said else said
        try:
            reference = Reference(head).headers
        except httptools.HttpParserError:
            continue
        read = known.read(head)
        assert dict(read) == reference
        assert read.keys() == reference.keys()
        assert len(read) == len(reference)
        for name in (*reference, "x-none"):
            assert read.get(name) == reference.get(name)
        plain = known_head(known.plain, head + b"body")
        assert plain is None or dict(plain) == reference


@pytest.mark.parametrize("start", [b"200 OK", b"503 Busy"])
def test_a_plain_answer_whose_form_is_known_is_not_parsed(start):
    first = [FIRST[0].replace(b"200 OK", start)]
    answers = [first, [USUAL % (b"two", 3) + b"{ }"], [USUAL % (b"", 0)], FIRST]
    made, taken = hear(answers, Heads())
    assert made[-1]
    assert taken == 3
