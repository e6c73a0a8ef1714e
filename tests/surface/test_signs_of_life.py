"""A stream in which the provider is silent says that it lives, between its events and nowhere else."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from tests.surface.served import WAIT_S, Served, chat, raw_request, read_all, serving

from windvane.gateway import http_caller
from windvane.wire.sse import COMMENT

SILENCE_S = 0.1
SILENT = "Write 4 words about wind. !slow 350"
LIVELY = "Write 60 words about wind."


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch, serving() as running:
        patch.setattr(http_caller, "SILENCE_S", SILENCE_S)
        yield running


def request_for(text: str, *lines: str) -> bytes:
    return raw_request(json.dumps(chat(text, stream=True)).encode(), *lines)


def read_stream(connection: socket.socket) -> bytes:
    """One chunked answer, to its last byte."""
    came = b""
    while not came.endswith(b"0\r\n\r\n"):
        came += connection.recv(65536)
    return came


def pieces_of(answer: bytes) -> list[bytes]:
    """The chunks of a chunked body."""
    rest = answer.partition(b"\r\n\r\n")[2]
    pieces = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    assert pieces.pop() == b""
    return pieces


def test_silence_is_filled_with_comments_between_events(served):
    began = time.monotonic()
    with served.open() as connection:
        connection.sendall(request_for(SILENT))
        pieces = pieces_of(read_stream(connection))
    took_s = time.monotonic() - began
    assert 1 <= pieces.count(COMMENT) <= took_s / SILENCE_S
    assert COMMENT not in (pieces[0], pieces[-1])
    assert all(piece.startswith(b"data: ") for piece in pieces if piece != COMMENT)
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    assert pieces[-1].endswith(b"data: [DONE]\n\n")


def test_a_stream_that_speaks_needs_no_comment(served, monkeypatch):
    monkeypatch.setattr(http_caller, "SILENCE_S", WAIT_S)
    with served.open() as connection:
        connection.sendall(request_for(LIVELY))
        assert COMMENT not in pieces_of(read_stream(connection))


def test_a_stream_that_is_over_is_silent_for_good(served):
    """The next answer on its connection begins with its own head."""
    with served.open() as connection:
        connection.sendall(request_for(SILENT))
        read_stream(connection)
        assert read_all(connection, rest_s=SILENCE_S * 3) == b""
        connection.settimeout(WAIT_S)
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_caller_who_leaves_in_a_silence_is_accounted_for(served):
    ended = len(served.seen.ended)
    connection = served.open()
    connection.sendall(request_for("Write 60 words about wind. !stall 3"))
    came = b""
    while came.count(COMMENT) < 3:  # one after the other, as long as it lasts
        came += connection.recv(65536)
    connection.close()
    served.until(lambda: len(served.seen.ended) > ended, "the exchange's end")
    assert served.seen.ended[-1].status == 499
    assert served.seen.settled[-1].entry.outcome == "cancelled"
