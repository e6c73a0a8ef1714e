"""The data plane's callers over HTTP/1.1: they are served straight from the protocol.

ASGI's messages between would cost as much as reading the request. A caller is made when a head is
complete, fed by the protocol while the body comes, and written to by the endpoint, whose task is
cancelled when the connection is lost.

Laws:
1. An answer is begun once and ended once. What is not whole when the data plane lets go is broken off.
2. The head goes out with the first bytes of the body, in one write.
3. The headers an endpoint gives are written as they are: they have been made safe where they were made
   (data_plane/outgoing.py).
"""

import asyncio
from typing import Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from windvane.gateway.data_plane.asgi import Message
from windvane.gateway.data_plane.incoming import Incoming

STALL_S = 60.0
"""How long a caller may leave an answer unread: its stream holds an upstream connection meanwhile."""

SILENCE_S = 15.0
"""After so long without a byte a stream says that it lives: proxies close what is silent for 30 s."""


class Connection(Protocol):
    """What a caller needs of the protocol that serves it."""

    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop

    def opening(self, status: int) -> bytes:
        """The status line, and the headers that every answer has."""
        ...

    def on_response_complete(self) -> None: ...


class HttpCaller:
    """Implements `data_plane.caller.Caller`; the second group of methods is the server's."""

    __slots__ = (
        "_connection",
        "_head",
        "_is_chunked",
        "_is_reading",
        "_news",
        "_pieces",
        "_sent_s",
        "_sign_of_life",
        "_timer",
        "_unread_bytes",
        "_version",
        "disconnected",
        "incoming",
        "keep_alive",
        "method",
        "more_body",
        "path",
        "response_complete",
        "response_started",
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: str,
        incoming: Incoming,
        *,
        version: str = "1.1",
        keep_alive: bool = True,
    ) -> None:
        self._connection = connection
        self.method = method
        self.path = path
        self.incoming = incoming
        self._version = version
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._is_reading = False
        self._news: asyncio.Future[None] | None = None
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None

    # what the data plane calls

    def whole_body(self) -> bytes | None:
        if self.more_body:
            return None
        pieces = self._pieces
        return pieces.pop() if len(pieces) == 1 else self._take()

    async def receive(self) -> Message:
        connection = self._connection
        if not self._is_reading:
            self._is_reading = True
            self._let_continue()
        connection.flow.resume_reading()
        while self.more_body and not self._pieces:
            if self.disconnected or self.response_complete:
                return {"type": "http.disconnect"}
            self._news = connection.loop.create_future()
            await self._news
        return {"type": "http.request", "body": self._take(), "more_body": self.more_body}

    async def answer(self, status: int, lines: bytes, body: bytes) -> None:
        connection = self._connection
        if connection.flow.write_paused:
            await self._drain()
        if self.disconnected:
            return
        self.response_started = True
        shown = b"" if self.method == "HEAD" else body
        connection.transport.write(
            b"%b%bcontent-length: %d\r\n\r\n%b"
            % (connection.opening(status), lines, len(body), shown)
        )
        self._complete()

    def begin(self, status: int, lines: bytes, *, sign_of_life: bytes) -> None:
        self.response_started = True
        self._is_chunked = self._version != "1.0"
        if not self._is_chunked:
            # HTTP/1.0 knows no chunks: the answer ends with the connection.
            self.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._is_chunked else b"\r\n"
        self._head = self._connection.opening(status) + lines + framing
        self._sign_of_life = sign_of_life

    async def send(self, piece: bytes) -> None:
        connection = self._connection
        if connection.flow.write_paused:
            await self._drain()
        if self.disconnected:
            return
        self._write(piece)
        self._sent_s = connection.loop.time()
        if self._timer is None:
            self._timer = connection.loop.call_later(SILENCE_S, self._on_silence)

    async def end(self, piece: bytes) -> None:
        connection = self._connection
        if connection.flow.write_paused:
            await self._drain()
        if self.disconnected:
            return
        self._write(piece, last=b"0\r\n\r\n")
        self._complete()

    def let_go(self) -> None:
        if self._timer is not None:
            self._stop_timer()
        if not self.response_complete and not self.disconnected:
            self._connection.transport.close()

    # what the server calls

    def feed(self, piece: bytes) -> None:
        """More of the body has come."""
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > HIGH_WATER_LIMIT:
            self._connection.flow.pause_reading()
        if self._news is not None:
            self.wake()

    def feed_whole(self, body: bytes) -> None:
        """The body has come in one piece, with the head."""
        self._pieces.append(body)
        self.more_body = False

    def end_body(self) -> None:
        """The body is whole."""
        self.more_body = False
        if self._news is not None:
            self.wake()

    def wake(self) -> None:
        """Something has happened that `receive` may wait for."""
        news = self._news
        if news is not None:
            self._news = None
            if not news.done():
                news.set_result(None)

    # how it is done

    def _take(self) -> bytes:
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread_bytes = 0
        return taken

    def _let_continue(self) -> None:
        """Tell a caller that waits to be told (RFC 9110, 10.1.1) to send its body."""
        transport = self._connection.transport
        if self.more_body and not self._pieces and not transport.is_closing():
            for name, value in self.incoming.said:
                if name == b"expect" and value.lower() == b"100-continue":
                    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _write(self, piece: bytes, last: bytes = b"") -> None:
        if self._is_chunked:
            piece = b"%b%x\r\n%b\r\n%b" % (self._head, len(piece), piece, last)
        else:
            piece = self._head + piece
        self._head = b""
        self._connection.transport.write(piece)

    def _stop_timer(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None

    def _complete(self) -> None:
        if self._timer is not None:
            self._stop_timer()
        self.response_complete = True
        if self._news is not None:
            self.wake()
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()

    def _on_silence(self) -> None:
        """The timer is not set anew with every piece; it looks how long the last one is ago."""
        loop = self._connection.loop
        rest_s = self._sent_s + SILENCE_S - loop.time()
        if rest_s <= 0:
            rest_s = SILENCE_S
            # Whoever has not yet read what was sent before does not wait for us.
            if not self.disconnected and not self._connection.flow.write_paused:
                self._write(self._sign_of_life)
        self._timer = loop.call_later(rest_s, self._on_silence)

    async def _drain(self) -> None:
        """Wait for a slow reader; one who does not read at all for too long is cut off."""
        try:
            async with asyncio.timeout(STALL_S):
                await self._connection.flow.drain()
        except TimeoutError:
            # The loss of the connection cancels this request, wherever it is.
            self._connection.transport.abort()
            await asyncio.sleep(0)
