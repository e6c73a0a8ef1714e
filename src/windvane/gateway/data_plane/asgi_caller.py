"""A caller behind any ASGI server."""

from typing import cast

from windvane.gateway.data_plane.asgi import HeaderList, Message, Receive, Scope, Send, send_whole
from windvane.gateway.data_plane.incoming import Incoming


class AsgiCaller:
    """A `Caller` in ASGI's words, for servers other than ours: it sends no signs of life."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method = cast(str, scope["method"])
        self.path = cast(str, scope["path"])
        self.incoming = Incoming(cast(HeaderList, scope["headers"]))
        self.keep_alive = True
        self.response_started = False
        self.receive = receive
        self._send = send

    def whole_body(self) -> bytes | None:
        return None

    async def answer(self, status: int, lines: bytes, body: bytes) -> None:
        self.response_started = True
        await send_whole(self._send, status, _headers_in(lines), body)

    def begin(self, status: int, lines: bytes, *, sign_of_life: bytes) -> None:
        self._head: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": _headers_in(lines),
        }

    async def send(self, piece: bytes) -> None:
        await self._write(piece, more_body=True)

    async def end(self, piece: bytes) -> None:
        await self._write(piece, more_body=False)

    async def _write(self, piece: bytes, *, more_body: bool) -> None:
        if not self.response_started:
            self.response_started = True
            await self._send(self._head)
        await self._send({"type": "http.response.body", "body": piece, "more_body": more_body})


def _headers_in(lines: bytes) -> HeaderList:
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
    return [(name, value) for name, _, value in pairs]
