"""The tape: what the simulator received, when, and when a client left.

It keeps the last requests only. The bearer token is masked when a request is put on the tape, so
that no copy of it is ever read back.
"""

from collections import deque

import msgspec
from msgspec import Struct

from windvane.simulator.http_message import Received
from windvane.simulator.json_types import Json, JsonObject

TAPE_MAX = 2_000
"""Requests kept."""
BODY_BYTES_MAX = 64 * 1024
"""Bytes of each body kept: at most 128 MB in all."""
_KEY_CHARS_SHOWN = 4

_SECRET_HEADERS = frozenset({b"authorization", b"x-api-key", b"cookie"})
_SECRET_LENGTHS = frozenset(map(len, _SECRET_HEADERS))


class TapeEntry(Struct, kw_only=True):
    """One request and its fate; times are wall-clock seconds."""

    attempt: str
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    body_bytes: int
    received_at: float
    status: int | None = None
    first_byte_at: float | None = None
    finished_at: float | None = None
    disconnected_at: float | None = None
    faults: list[str] = []

    def as_json(self) -> JsonObject:
        """Return the entry for reading: text headers, the body parsed where it can be."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["path"] = self.target.partition("?")[0]
        shown["headers"] = [
            [name.decode("latin-1").lower(), value.decode("latin-1")]
            for name, value in self.headers
        ]
        shown["body"] = _readable(self.body)
        return shown


class Violation(Struct, frozen=True):
    """A request no well-behaved client would send."""

    attempt: str
    kind: str
    says: str


class Tape:
    """The last requests and all broken rules."""

    def __init__(self) -> None:
        self.entries: deque[TapeEntry] = deque(maxlen=TAPE_MAX)

    def record(self, received: Received, attempt: str, at_s: float) -> TapeEntry:
        """Put a request on the tape and return its entry, to be completed later."""
        entry = TapeEntry(
            attempt=attempt,
            method=received.method,
            target=received.target,
            headers=[
                header if len(header[0]) not in _SECRET_LENGTHS else _masked(header)
                for header in received.headers
            ],
            body=received.body[:BODY_BYTES_MAX],
            body_bytes=len(received.body),
            received_at=at_s,
        )
        self.entries.append(entry)
        return entry


def _masked(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    name, value = header
    if name.lower() not in _SECRET_HEADERS:
        return header
    scheme, space, secret = value.partition(b" ")
    if not space:
        scheme, secret = b"", value
    shown = secret[:_KEY_CHARS_SHOWN] if len(secret) > 2 * _KEY_CHARS_SHOWN else b""
    return name, scheme + space + shown + b"***"


def _readable(body: bytes) -> Json:
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")
