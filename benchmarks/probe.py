"""Small blocking HTTP calls of the driver: is it up, does it answer, how often was it asked."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable

from benchmarks.children import Child
from benchmarks.payloads import Request

POLL_S = 0.002
"""Pause between two tries. It bounds the error of a cold start and leaves its core alone."""

CALL_TIMEOUT_S = 5.0
ANSWER_BYTES_SHOWN = 300


class NotReadyError(Exception):
    """A server did not come up; the message says what it wrote last."""


def get(port: int, path: str) -> tuple[int, bytes]:
    """Send one GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def call(port: int, request: bytes) -> tuple[int, bytes]:
    """Send one prepared request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=CALL_TIMEOUT_S) as sock:
        sock.sendall(request)
        response = http.client.HTTPResponse(sock)
        response.begin()
        return response.status, response.read()


def wait_until(child: Child, ask: Callable[[], tuple[int, bytes]], timeout_s: float) -> float:
    """Ask until the answer is 200; return the seconds since the child was spawned.

    Raises NotReadyError when the child ends or the time does.
    """
    last = "it never answered"
    while time.perf_counter() - child.started_s < timeout_s:
        try:
            status, body = ask()
        except (OSError, http.client.HTTPException):
            if child.has_ended():
                raise NotReadyError(f"it ended: {child.log_tail()}") from None
        else:
            if status == 200:
                return time.perf_counter() - child.started_s
            last = f"{status} {body[:ANSWER_BYTES_SHOWN]!r}"
        time.sleep(POLL_S)
    message = f"not ready after {timeout_s:.0f} s, last answer: {last}\n{child.log_tail()}"
    raise NotReadyError(message)


def wait_for_path(child: Child, port: int, path: str, timeout_s: float) -> float:
    """Wait until GET ``path`` answers 200."""
    return wait_until(child, lambda: get(port, path), timeout_s)


def wait_for_chat(
    child: Child, port: int, request: Request, number: int, timeout_s: float
) -> float:
    """Wait until a real chat call answers 200; each try is a call of its own."""
    tries = iter(range(number, number + 10**9))
    return wait_until(child, lambda: call(port, request.numbered(next(tries))), timeout_s)


def posts(port: int) -> int:
    """Return how many calls the upstream has seen."""
    _, body = get(port, "/__count")
    return int(json.loads(body)["posts"])


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
