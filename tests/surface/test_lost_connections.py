"""A connection that was lost leaves nothing behind that only the collector of cycles would find.

The collector seldom looks at what has lived for long: a crowd's connections would stay in memory until it
does, and each crowd between two looks adds its own.
"""

import gc
import socket
import threading
from collections.abc import Callable

import msgspec
import pytest
from tests.surface.conftest import KEY, WAIT_S, Surface

from windvane.core.exchange import Exchange
from windvane.gateway.http_caller import HttpCaller
from windvane.gateway.server import GuardedProtocol
from windvane.transport.http1 import _Connection

KEPT = (GuardedProtocol, HttpCaller, Exchange, _Connection)
CROWD = 12


def _send(port: int, word: str, *, is_stream: bool) -> socket.socket:
    body = msgspec.json.encode(
        {
            "model": "mistral-small-latest",
            "stream": is_stream,
            "messages": [{"role": "user", "content": f"Say something. {word}"}],
        }
    )
    caller = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    caller.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )
    return caller


def _to_the_end(caller: socket.socket) -> None:
    heard = b""
    while not heard.endswith((b"}", b"0\r\n\r\n")):
        heard += caller.recv(65_536)


def _a_little(caller: socket.socket) -> None:
    caller.recv(300)


def _nothing(caller: socket.socket) -> None:
    pass


def _alive() -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in gc.get_objects():
        if isinstance(each, KEPT):
            counts[type(each).__name__] = counts.get(type(each).__name__, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("word", "is_stream", "read"),
    [
        ("", False, _to_the_end),
        ("", True, _to_the_end),
        ("!stall", True, _a_little),
        ("!hang", False, _nothing),
        ("!cut", True, _to_the_end),
    ],
)
def test_a_lost_connection_is_gone_without_the_collector(
    surface: Surface, word: str, is_stream: bool, read: Callable[[socket.socket], None]
) -> None:
    port = int(surface.url.rsplit(":", 1)[1])

    def crowd() -> None:
        before = len(surface.sent())
        callers = [_send(port, word, is_stream=is_stream) for _ in range(CROWD)]
        surface.until(lambda: len(surface.sent()) >= before + CROWD)
        readers = [threading.Thread(target=read, args=(caller,)) for caller in callers]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(WAIT_S)
        for caller in callers:
            caller.close()
        for _ in callers:
            surface.ended.next()

    crowd()
    gc.collect()
    before = _alive()
    # As many may be kept for who comes next as ever were used at once: more this time than the last.
    before[_Connection.__name__] = max(before.get(_Connection.__name__, 0), CROWD)
    gc.disable()
    try:
        crowd()
        surface.until(lambda: _few_more(before))
    finally:
        gc.enable()


def _few_more(before: dict[str, int]) -> bool:
    now = _alive()
    return all(count - before.get(kind, 0) < CROWD // 2 for kind, count in now.items())
