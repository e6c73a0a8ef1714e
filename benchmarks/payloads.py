"""The requests sent: chat calls of a known size, each with a number of its own.

The number makes every body unique, so that neither a response cache nor the joining of equal
calls can answer for the upstream. It has a fixed width, so the length of a request never changes:
a load writes ``head + number + tail`` and computes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PATH = "/v1/chat/completions"
NUMBER_DIGITS = 12
NUMBER_MARK = "#" * NUMBER_DIGITS

SMALL_BYTES = 1_024
LARGE_BYTES = 100 * 1_024

SYSTEM = "You answer questions about the harbour. Be brief, name your source, and never guess."
QUESTION = "Which pilot brought in the brig last Tuesday, and how deep was the water at the bar?"
ANSWER = 'The log names pilot Jensen; the bar had 4.2 m at 06:40.\nSource: "tide book", page 12.'
PROSE = "When the wind turns north the second book is the thicker one; pilots read it first.\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to number: the bytes before the number and those after it."""

    head: bytes
    tail: bytes

    def numbered(self, number: int) -> bytes:
        """Return one whole request."""
        return b"%b%0*d%b" % (self.head, NUMBER_DIGITS, number, self.tail)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write both parts where a load process reads them."""
        head, tail = folder / "request-head", folder / "request-tail"
        head.write_bytes(self.head)
        tail.write_bytes(self.tail)
        return head, tail


def first_number() -> int:
    """Return a number from which no earlier run has counted: 10,000 are free per millisecond."""
    return time.time_ns() // 1_000_000 % 10**8 * 10**4


def chat(*, body_bytes: int, is_stream: bool, headers: Mapping[str, str], port: int) -> Request:
    """Build a chat request with a body of exactly ``body_bytes``."""
    body = _body(body_bytes, is_stream=is_stream)
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = f"POST {PATH} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    before, _, after = body.partition(NUMBER_MARK.encode())
    return Request(head=head.encode() + b"\r\n" + before, tail=after)


def _body(body_bytes: int, *, is_stream: bool) -> bytes:
    """Fill the last message with prose until the body has its size."""
    bare = _encode("", is_stream=is_stream)
    missing = body_bytes - len(bare)
    escaped_line_bytes = len(json.dumps(PROSE)) - 2
    prose = PROSE * (missing // escaped_line_bytes)
    prose += "." * (body_bytes - len(_encode(prose, is_stream=is_stream)))
    return _encode(prose, is_stream=is_stream)


def _encode(prose: str, *, is_stream: bool) -> bytes:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": f"Entry {NUMBER_MARK}. {prose}"},
    ]
    call = {"model": "auto", "messages": messages, "temperature": 0.3, "max_tokens": 256}
    if is_stream:
        call["stream"] = True
    return json.dumps(call, separators=(",", ":")).encode()
