"""HTTP/1.1 as values: what was received, and the bytes of an answer's head and chunks."""

from http import HTTPStatus

from msgspec import Struct

STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Received(Struct, gc=False):
    """One request as it came off the wire; header names keep their case and order."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool
    fields: dict[bytes, bytes]

    @property
    def path(self) -> str:
        """Return the target without its query."""
        return self.target.partition("?")[0]


def bearer_of(received: Received) -> str:
    """Return the bearer token a request brings, empty when it brings none."""
    scheme, _, key = received.fields.get(b"authorization", b"").partition(b" ")
    return key.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def head(status: int, fields: str) -> bytes:
    """Return a response head; `fields` are whole header lines, each with its line end."""
    line = STATUS_LINES.get(status) or f"{status} Unassigned"
    return f"HTTP/1.1 {line}\r\n{fields}\r\n".encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body; empty data would end the body, so it gives nothing."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"
