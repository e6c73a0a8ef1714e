"""Who sent one request, as the data plane knows them: all it is told of HTTP, and all it tells."""

from typing import Protocol

from windvane.gateway.data_plane.asgi import Receive
from windvane.gateway.data_plane.incoming import Incoming

DATA_PLANE = "/v1/"
"""Where its paths begin."""


class Caller(Protocol):
    """One request and the way back to whoever sent it. An answer is begun once and ended once.

    `lines` are headers as they go over the wire, made safe where they were made (outgoing.py).
    """

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def incoming(self) -> Incoming:
        """What the head says."""
        ...

    @property
    def response_started(self) -> bool: ...

    keep_alive: bool
    """Whether the connection may serve another request after this one."""

    def whole_body(self) -> bytes | None:
        """The body, when all of it has come already; None when some may still be on its way."""
        ...

    @property
    def receive(self) -> Receive:
        """The next of the body, as ASGI says it. A server may raise TimeoutError when it does not come."""
        ...

    async def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Send one whole answer."""
        ...

    def begin(self, status: int, lines: bytes, *, sign_of_life: bytes) -> None:
        """Begin an answer that comes in pieces; its head goes out with the first.

        From then on `sign_of_life` may be sent when nothing else has been for a while: it must be
        something that can stand between any two pieces.
        """
        ...

    async def send(self, piece: bytes) -> None:
        """Send a piece that is not empty, when the caller can take it."""
        ...

    async def end(self, piece: bytes) -> None:
        """Send the last piece, and end the answer."""
        ...
