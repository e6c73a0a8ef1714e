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

import msgspec
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


class HttpCaller(msgspec.Struct, eq=False):
    """Implements `data_plane.caller.Caller`; the second group of methods is the server's.

    A Struct, for it is made with every request, and most of it stays as it is by default.
    """

    _connection: Connection
    method: str
    path: str
    incoming: Incoming
    _body: bytes | None = None
    """All of the body, when nobody has asked for it before it was whole."""
    more_body: bool = True
    version: str = "1.1"
    keep_alive: bool = True
    disconnected: bool = False
    response_started: bool = False
    response_complete: bool = False
    _pieces: list[bytes] = []
    _unread_bytes: int = 0
    _is_reading: bool = False
    _is_late: bool = False
    _news: asyncio.Future[None] | None = None
    _head: bytes = b""
    _is_chunked: bool = False
    _sign_of_life: bytes = b""
    _sent_s: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return f"HttpCaller({self.method} {self.path})"

    # what the data plane calls

    def whole_body(self) -> bytes | None:
        body, self._body = self._body, None
        return body

    async def receive(self) -> Message:
        connection = self._connection
        if not self._is_reading:
            self._is_reading = True
            self._let_continue()
        connection.flow.resume_reading()
        while self.more_body and not self._pieces:
            if self._is_late:
                raise TimeoutError("the body has not come in its time")
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
        connection.transport.write(
            b"".join(
                (
                    connection.opening(status),
                    lines,
                    b"content-length: %d\r\n\r\n" % len(body),
                    b"" if self.method == "HEAD" else body,
                )
            )
        )
        self._complete()

    def begin(self, status: int, lines: bytes, *, sign_of_life: bytes) -> None:
        self.response_started = True
        self._is_chunked = self.version != "1.0"
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

    # what the server calls

    def feed(self, piece: bytes) -> None:
        """More of the body has come."""
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > HIGH_WATER_LIMIT:
            self._connection.flow.pause_reading()
        if self._news is not None:
            self.wake()

    def end_body(self) -> None:
        """The body is whole."""
        self.more_body = False
        if not self._is_reading:
            self._body = self._take()
        if self._news is not None:
            self.wake()

    def be_late(self) -> None:
        """The body has not come in its time: who waits for it is told, and answers."""
        self._is_late = True
        if self._news is not None:
            self.wake()

    def wake(self) -> None:
        """Something has happened that `receive` may wait for."""
        news = self._news
        if news is not None:
            self._news = None
            if not news.done():
                news.set_result(None)

    def let_go(self) -> None:
        """The data plane has done with it: an answer that is not whole by now is broken off."""
        if self._timer is not None:
            self._stop_timer()
        if not self.response_complete and not self.disconnected:
            self._connection.transport.close()

    # how it is done

    def _take(self) -> bytes:
        """What has come of the body since the last time."""
        if self._body is not None:
            taken, self._body = self._body, None
            return taken
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
