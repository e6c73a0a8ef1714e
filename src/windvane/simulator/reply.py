"""A reply as a plan: which bytes, at what pace, how many tokens each carries, and how it ends.

Everything is decided here, before the first byte is written; the connection only carries it out.
That is what lets faults be small: they change the plan (fault_effects.py).
"""

import zlib
from enum import Enum

from msgspec import Struct

from windvane.simulator.bill import Metered
from windvane.simulator.http_message import LAST_CHUNK, chunk, head

Frame = tuple[bytes, int]
"""Bytes of the body, and how many tokens were generated to make them."""

PROMISED_BUT_UNSENT_BYTES = 64
"""How much longer than the truth the `truncated` fault says the body is."""


class Ending(Enum):
    """What happens to the connection after the last byte."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    SILENCE = "silence"


class Reply(Struct, kw_only=True):
    """A planned reply. Delays are seconds; `streamed` bodies are chunked."""

    status: int
    frames: list[Frame]
    content_type: str = "application/json"
    fields: str = ""
    streamed: bool = False
    ending: Ending = Ending.KEEP
    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    is_whole: bool = True
    terminated: bool = True
    truncated: bool = False
    gzipped: bool = False
    bytewise: bool = False
    silent: bool = False
    metered: Metered | None = None

    @property
    def tokens(self) -> int:
        """Return the tokens of the whole plan."""
        return sum(frame[1] for frame in self.frames)


def wire_frames(reply: Reply, date: str) -> list[Frame]:
    """Return the frames as they go over the wire: framed, headed, terminated, or lying."""
    if reply.silent:
        return []
    bodies = _compressed(reply.frames) if reply.gzipped else reply.frames
    if not reply.streamed:
        return _with_length(reply, bodies, date)
    if reply.bytewise:
        bodies = [
            (body[i : i + 1], size if i == 0 else 0)
            for body, size in bodies
            for i in range(len(body))
        ]
    framed = [(chunk(body), size) for body, size in bodies]
    if reply.truncated:
        framed.append((b"%x\r\n" % PROMISED_BUT_UNSENT_BYTES, 0))
    elif reply.terminated:
        framed.append((LAST_CHUNK, 0))
    return [(_head(reply, date, "transfer-encoding: chunked\r\n"), 0), *framed]


def _with_length(reply: Reply, bodies: list[Frame], date: str) -> list[Frame]:
    length = sum(len(body) for body, _ in bodies)
    if reply.truncated:
        length += PROMISED_BUT_UNSENT_BYTES
    first = _head(reply, date, f"content-length: {length}\r\n")
    if len(bodies) == 1 and not reply.bytewise:
        return [(first + bodies[0][0], bodies[0][1])]
    if reply.bytewise:
        joined = b"".join(body for body, _ in bodies)
        size = reply.tokens
        bodies = [(joined[i : i + 1], size if i == 0 else 0) for i in range(len(joined))]
    return [(first, 0), *bodies]


def _head(reply: Reply, date: str, framing: str) -> bytes:
    extra = "content-encoding: gzip\r\n" if reply.gzipped else ""
    closing = "" if reply.ending is Ending.KEEP else "connection: close\r\n"
    kind = f"content-type: {reply.content_type}\r\n"
    return head(reply.status, f"date: {date}\r\n{kind}{framing}{extra}{closing}{reply.fields}")


def _compressed(frames: list[Frame]) -> list[Frame]:
    packer = zlib.compressobj(wbits=31)
    packed = [
        (packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH), size) for body, size in frames
    ]
    packed.append((packer.flush(), 0))
    return packed
