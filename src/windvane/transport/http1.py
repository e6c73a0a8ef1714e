"""The default transport: HTTP/1.1 on asyncio's own protocols, parsed by httptools.

Why our own, when libraries abound: the gateway's promise is that a caller who leaves stops the
provider's meter at once, at any phase, and leaves nothing behind; and this is the hottest code it
has. A connection here belongs to one call at a time. A call that ends in any way but a whole, clean
answer destroys its connection, so a late byte can never reach another call. docs/adr/0004 has the
measurements.

Laws:
1. Nothing is followed, decoded or kept: no redirects, no compression, no cookies.
2. Head and pieces are bounded; reading pauses when the reader is slow.
3. A request is sent once. A server that closes an idle connection under our feet looks like one that
   took the request and died, and may bill it: whether to ask again, with a hold of its own, is the
   engine's to decide. `IDLE_S` keeps such races rare.
4. A request is taken in the moment it is written. While a connection is still being made, nothing of it has
   left, and whoever gives up owes nothing.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import httptools
import msgspec

from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of
from windvane.ports.transport import UpstreamRequest
from windvane.transport.cork import Cork, corked
from windvane.transport.heads import END, Headers, Heads, known_head

HEAD_BYTES_MAX = 64 * 1024
PENDING_BYTES_MAX = 256 * 1024
"""Above this much unread body, the socket is not read until the reader has caught up."""

IDLE_S = 55.0
"""Below the 60 s and 75 s after which common servers close an idle connection themselves."""

LATENESS_MAX_S = 1.0
"""Idle connections whose time ends this close together are closed together."""

FINISH_S = 0.05
"""How long the last bytes of an answer already whole may take before its connection is dropped."""

IDLE_CONNECTIONS_MAX = 1_024
"""Kept open per origin; beyond it, a connection is closed after its answer."""

WAYS_MAX = 1_024
"""Ways whose request heads are kept ready; they differ by address and credential alone."""

Origin = tuple[str, str, int]
"""Scheme, host and port. A kept connection serves its own origin alone."""

NO_HEADERS: Mapping[str, str] = {}


class _Connection(asyncio.Protocol):
    """One connection, serving one call at a time."""

    def __init__(self, keeper: "_Keeper") -> None:
        self.loop = keeper.loop
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        # One parser for all answers: a kept connection's last answer has left it as it began.
        self._parser = httptools.HttpResponseParser(self)
        self._heads = Heads()
        self._head = b""
        """What has come of the answer, until its head has."""
        self._known: Headers | None = None
        """Its head, if it began with one of a known form."""
        self._is_asked = False
        self._waiter: asyncio.Future[None] | None = None
        self._pending_bytes = 0
        self._head_bytes = 0
        self._is_paused = False
        self._fault: Fault | None = None
        """Why it is of no use. An error would remember who was told it, and so this connection."""
        self._is_informational = False
        self._keeps_alive = False
        self.is_closed = False
        self.pieces: list[bytes] = []
        """What has come of the body, and has not been taken."""
        self.has_head = False
        self.is_complete = False
        self.idle_since = 0.0
        self.status = 0
        self.headers: Mapping[str, str] = NO_HEADERS

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = corked(transport, self._keeper.cork)

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:
            # Bytes nobody asked for: an answer to nothing. The connection is worth nothing now.
            self.destroy()
            return
        if not self.has_head:
            if not self._head and self._take_whole(data):
                self._wake()
                return
            self._head += data
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(_protocol_fault("it switched protocols unasked"))
        except (httptools.HttpParserError, ValueError) as error:
            self._fail(_protocol_fault(f"its answer is not HTTP: {error}"))
        # Only what is unfinished is measured so: the read that ends a head may hold body as well.
        if self._head_bytes > HEAD_BYTES_MAX and not self.is_complete:
            what = "what stands around the body" if self.has_head else "the head"
            self._fail(_protocol_fault(f"{what} of its answer is too large"))
        self._wake()

    def _take_whole(self, data: bytes) -> bool:
        """Take an answer of a plain form that is known, if `data` is it, no less and no more."""
        known = known_head(self._heads.plain, data)
        if known is None:
            return False
        said, size = known.said, len(data)
        end = said.end()
        if int(said[known.form.length_place]) != size - end or size > HEAD_BYTES_MAX:
            self._known = known
            return False
        self.status = 200
        self.headers = known
        if end < size:
            self.pieces.append(data[end:])
        self.has_head = self.is_complete = self._keeps_alive = True
        return True

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        del self._parser  # it refers to us
        self._keeper.lost(self)
        if self._is_asked and not self.is_complete and self._fault is None:
            if exc is None and self._ends_at_close():
                self.is_complete = True
            else:
                self._fault = _broken(exc)
        self._wake()

    def _ends_at_close(self) -> bool:
        """A body without length or chunks ends where the connection does."""
        return (
            self.has_head
            and "content-length" not in self.headers
            and "transfer-encoding" not in self.headers
        )

    # what the parser calls

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("more than one answer")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._is_informational = 100 <= status < 200
        # The parser passes over empty lines before a head.
        text = self._head.lstrip(b"\r\n")
        end = text.index(END) + len(END)
        known, self._known = self._known, None
        if self._is_informational:
            self._head = text[end:]
            return
        if end > HEAD_BYTES_MAX:
            raise ValueError("the head is too large")
        self._head = b""
        self.headers = self._heads.read(text[:end]) if known is None else known
        self.status = status
        self.has_head = True
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self.pieces.append(body)
        self._pending_bytes += len(body)
        if self._pending_bytes > PENDING_BYTES_MAX and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._is_informational:
            self.is_complete = True
            # To be asked here and now: the parser forgets the answer's framing when it is over.
            self._keeps_alive = self._parser.should_keep_alive()

    # what the call does

    def ask(self, head: bytes, request: UpstreamRequest, heads: Heads) -> "asyncio.Future[None]":
        """Send a request that begins with `head`, and be awaited as `news` is. The head of its answer is
        read by `heads`."""
        transport = self._transport
        assert transport is not None
        if self.is_closed or transport.is_closing():
            raise error_of(_unreachable("it closed the connection at once"))
        self._is_asked = True
        self._heads = heads
        self._head_bytes = 0
        self.has_head = self.is_complete = self._keeps_alive = False
        self._waiter = waiter = self.loop.create_future()
        body = request.take()
        transport.write(
            b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (head, request.request_id.encode("ascii"), len(body), body)
        )
        return waiter

    def news(self) -> "asyncio.Future[None]":
        """To be awaited: the next thing that happens here. Raises when nothing more can.

        A future rather than a coroutine: it is waited for at the bottom of every request.
        """
        if self._fault is not None:
            raise error_of(self._fault)
        if self.is_closed and not self.is_complete:
            raise error_of(_broken(None))
        self._waiter = self.loop.create_future()
        return self._waiter

    def take(self) -> bytes:
        """What has come of the body, and has not been taken."""
        pieces = self.pieces
        if not pieces:
            return b""
        taken = pieces.pop()
        if pieces:
            pieces.append(taken)
            taken = b"".join(pieces)
            pieces.clear()
        self._pending_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return taken

    def waiting_bytes(self) -> int | None:
        """How much has come of the body and was not taken; None when there may be more in the socket."""
        return None if self._is_paused else sum(map(len, self.pieces))

    def rest(self, now_s: float) -> bool:
        """Wait to be asked again, if its answer has left it clean; say whether it has."""
        is_clean = (
            self._keeps_alive
            and not self.pieces
            and not self.is_closed
            and self._fault is None
            and not self._is_paused
            and self._transport is not None
            # An answer may come before the request has left: what is left of it would go first.
            and not self._transport.get_write_buffer_size()
        )
        if is_clean:
            self._is_asked = False
            self.headers = NO_HEADERS
            self.idle_since = now_s
        return is_clean

    def destroy(self) -> None:
        """Close at once, without ceremony. Safe to call at any time, even after its loop's end."""
        self.is_closed = True
        if self._transport is not None and not self.loop.is_closed():
            self._transport.abort()

    def _fail(self, fault: Fault) -> None:
        if self._fault is None:
            self._fault = fault
        self.destroy()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


class _Keeper:
    """What the connections of one loop have in common: it corks them, and closes those that were kept and
    that nobody takes for `IDLE_S`.

    One timer stands behind all of them. It is set as long as any connection is open, in use or not: so
    nothing need be done for one that comes to rest, which most do after every answer.
    """

    __slots__ = ("_idle", "_open", "_timer", "cork", "loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, idle: Mapping[Origin, deque[_Connection]]
    ) -> None:
        self.loop = loop
        self.cork = Cork()
        self._idle = idle
        self._open: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: _Connection) -> None:
        """A connection has been made; it may be lost by now."""
        if connection.is_closed:
            return
        self._open.add(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(IDLE_S, self._look)

    def lost(self, connection: _Connection) -> None:
        """A connection is gone; without any, there is nothing to look after."""
        self._open.discard(connection)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Close what has rested too long; of each origin, what has rested longest stands first."""
        now_s = self.loop.time()
        next_s = now_s + IDLE_S
        for kept in self._idle.values():
            while kept and self._is_over(kept[0], now_s):
                kept.popleft().destroy()
            if kept:
                next_s = min(next_s, kept[0].idle_since + IDLE_S)
        self._timer = self.loop.call_at(max(next_s, now_s + LATENESS_MAX_S), self._look)

    def _is_over(self, connection: _Connection, now_s: float) -> bool:
        is_ours = connection.loop is self.loop
        return connection.is_closed or not is_ours or now_s - connection.idle_since >= IDLE_S


class Http1Response(msgspec.Struct, eq=False):
    """An answer whose head has come. Closing it gives the connection back or destroys it."""

    _connection: _Connection
    _kept: deque[_Connection]
    """Where its connection goes when it is clean."""
    status: int
    headers: Mapping[str, str]
    _is_open: bool = True

    def whole(self) -> bytes | None:
        connection = self._connection
        return connection.take() if self._is_open and connection.is_complete else None

    async def read(self) -> bytes:
        if not self._is_open:
            # The connection may be serving another call by now.
            return b""
        connection = self._connection
        while not connection.pieces and not connection.is_complete:
            await connection.news()
        return connection.take()

    def waiting_bytes(self) -> int | None:
        return self._connection.waiting_bytes() if self._is_open else 0

    async def finish(self) -> None:
        try:
            if self._is_open and not self._connection.is_complete:
                with suppress(TimeoutError, WindvaneError):
                    async with asyncio.timeout(FINISH_S):
                        while await self.read():
                            pass
        finally:
            self.close()

    def close(self) -> None:
        """Keep the connection if its answer was read to its end; destroy it if not."""
        if not self._is_open:
            return
        self._is_open = False
        connection, kept = self._connection, self._kept
        if len(kept) < IDLE_CONNECTIONS_MAX and connection.rest(connection.loop.time()):
            kept.append(connection)
        else:
            connection.destroy()


class _Way(msgspec.Struct, frozen=True, eq=False):
    """The way to one address with one credential: all of a request's head that does not change, and the
    connections that are kept to its origin."""

    origin: Origin
    headers: tuple[tuple[str, str], ...]
    """As the request said them."""
    head: bytes
    kept: deque[_Connection]
    heads: Heads

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return f"_Way({self.origin})"


class Http1Transport:
    """Connections to providers, kept and reused by origin, the freshest first."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._heads: dict[Origin, Heads] = {}
        self._ways: dict[tuple[str, tuple[tuple[str, str], ...]], _Way] = {}
        self._latest: dict[str, _Way] = {}
        """The way last taken to each address, where its headers need not be looked at to find it."""
        self._tls: ssl.SSLContext | None = None
        self._keeper: _Keeper | None = None

    async def open(self, request: UpstreamRequest) -> Http1Response:
        way = self._latest.get(request.url)
        if way is None or way.headers is not request.headers:
            way = self._way_of(request)
        head, kept = way.head, way.kept
        if request.credential is not None:
            # A caller's own: for this request alone, and not among the heads that are kept.
            name, value = request.credential
            head = b"%b%b: %b\r\n" % (head, name.encode("ascii"), _header_value(value))
        connection = _take(kept) if kept else None
        if connection is None:
            connection = await self._connect(way.origin, request.connect_timeout_s)
        try:
            await connection.ask(head, request, way.heads)
            while not connection.has_head:
                await connection.news()
        except BaseException:
            connection.destroy()
            raise
        return Http1Response(connection, kept, connection.status, connection.headers)

    async def _connect(self, origin: Origin, timeout_s: float) -> _Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        tls = self._tls_context() if scheme == "https" else None
        keeper = self._keeper
        if keeper is None or keeper.loop is not loop:
            # The first loop, or another than before (a client used from a second `asyncio.run`).
            keeper = self._keeper = _Keeper(loop, self._idle)
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(keeper), host, port, ssl=tls
                )
        except TimeoutError as error:
            limit = f"no connection within {timeout_s:g} s"
            raise error_of(_unreachable(limit)) from error
        except (OSError, ssl.SSLError) as error:
            raise error_of(_unreachable(_reason(error))) from error
        keeper.opened(connection)
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _way_of(self, request: UpstreamRequest) -> _Way:
        key = request.url, request.headers
        way = self._ways.get(key)
        if way is None:
            if len(self._ways) >= WAYS_MAX:
                self._ways.clear()
                self._latest.clear()
            origin, head = _write_head(request)
            kept = self._idle.setdefault(origin, deque())
            heads = self._heads.setdefault(origin, Heads())
            way = self._ways[key] = _Way(origin, request.headers, head, kept, heads)
        self._latest[request.url] = way
        return way

    async def aclose(self) -> None:
        for kept in self._idle.values():
            for connection in kept:
                connection.destroy()
            kept.clear()
        await asyncio.sleep(0)


def _take(kept: deque[_Connection]) -> _Connection | None:
    """The freshest of the kept connections that can be asked; the others are dropped."""
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    while kept:
        connection = kept.pop()
        if connection.loop is not loop:
            continue  # of a loop that is gone, and its sockets with it
        if not connection.is_closed and now_s - connection.idle_since < IDLE_S:
            return connection
        connection.destroy()
    return None


def _write_head(request: UpstreamRequest) -> tuple[Origin, bytes]:
    parts = urlsplit(request.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http(s) address: {request.url}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = parts.path or "/"
    target = f"{path}?{parts.query}" if parts.query else path
    host = parts.netloc.rpartition("@")[2]
    lines = [f"POST {target} HTTP/1.1", f"host: {host}"]
    for name, value in request.headers:
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the header {name} holds a line break")
        lines.append(f"{name}: {value}")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n"
    return (parts.scheme, parts.hostname, port), head


def _header_value(text: str) -> bytes:
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError("a credential holds a line break")
    return text.encode("latin-1")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return type(error).__name__ if not str(error) else str(error)[:200]


def _unreachable(how: str) -> Fault:
    return Fault(
        kind=FaultKind.CONNECT_FAILED,
        source=Source.UPSTREAM,
        message=f"the provider cannot be reached: {how}",
        status=502,
        retry=Retry.SAME,
    )


def _broken(error: Exception | None) -> Fault:
    """The connection ended before the answer did: what the provider received is not known."""
    how = type(error).__name__ if error else "it was closed"
    return Fault(
        kind=FaultKind.STREAM_BROKEN,
        source=Source.UPSTREAM,
        message=f"the connection to the provider broke before its answer was whole ({how})",
        status=502,
        retry=Retry.SAME,
        billed=True,
    )


def _protocol_fault(how: str) -> Fault:
    return Fault(
        kind=FaultKind.UPSTREAM_ERROR,
        source=Source.UPSTREAM,
        message=f"the provider's answer cannot be read: {how}",
        status=502,
        retry=Retry.OTHER,
        billed=True,
    )
