"""The HTTP server: uvicorn, with a protocol that minds what ASGI cannot see.

1. A caller who closes the connection has its request cancelled at once, wherever it is.
2. A head must come within a time and a size; uvicorn's own timer is reset by every byte.
3. What is not HTTP is answered in JSON, as everything here is.

It stops in three steps: it goes on for a while, as unready; it takes no more and lets what is under way
end; and it tells the rest that it will not. Each has its time (`ServerLimits`), and a second SIGINT ends
the first two at once.
"""

import asyncio
import logging
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from windvane.core.faults import Fault, FaultKind, Source
from windvane.gateway.data_plane.asgi import JSON, Receive, Scope, Send
from windvane.gateway.data_plane.caller import DATA_PLANE
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.outgoing import id_headers, lines_of
from windvane.gateway.http_caller import HttpCaller
from windvane.gateway.known_head import KnownHead, known_head
from windvane.gateway.memory import GiveBack, settle_memory
from windvane.listener import Listener, address_of, listen
from windvane.system import SystemClock
from windvane.transport.cork import Cork, corked
from windvane.wire.errors import render_error

_log = logging.getLogger("windvane.gateway")

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100
KEEP_ALIVE_S = 75
"""Longer than a load balancer's 60 s, so that the balancer closes first and no request is lost."""
LAST_WORDS_S = 2.0
"""How long those who are told that the process ends may take to read it."""
LOOK_EVERY_S = 0.05
"""How often a server that stops looks whether all have gone."""
PIPELINED_MAX = 64
"""Requests that may wait behind another of their connection: they are held in memory."""
LESSONS_MAX = 3
"""Heads of a connection that are learned without one of them coming again; then no more are."""


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`new_request_id` names refusals that come before any request.

    Told to stop, the server takes requests for `unready_s` yet, and waits `grace_s` for those under way.
    """

    head_timeout_s: float
    connections_max: int
    body_timeout_s: float = 30.0
    unready_s: float = 0.0
    grace_s: float = 30.0
    new_request_id: Callable[[], str] = lambda: "none"


class Application(Protocol):
    """What is served: the data plane by callers, everything else as ASGI has it."""

    def serve(self, caller: HttpCaller) -> Coroutine[Any, Any, None]: ...

    def call_off(self) -> None:
        """The process is about to end: what is cancelled from now on has a caller who is to be told."""
        ...

    def refused(self, path: str | None, request_id: str, fault: Fault) -> None:
        """The server has answered in its place. Without a path, not so much has come of the request."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class _Cycle(RequestResponseCycle):
    """One request beyond the data plane, and its answer."""

    async def run_asgi(self, app: Any) -> None:
        """Run the application. A caller who left is no error, and needs no answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._break_off()
        except Exception:
            self.logger.exception("a request failed beyond the planes")
            self._break_off()
        else:
            if not self.response_complete:
                self._break_off()
        finally:
            self.on_response = _nothing

    def _break_off(self) -> None:
        if not self.disconnected and not self.response_complete:
            self.transport.close()

    def feed(self, piece: bytes) -> None:
        self.body += piece
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def end_body(self) -> None:
        self.more_body = False
        self.message_event.set()

    def wake(self) -> None:
        self.message_event.set()


def _nothing() -> None:
    return None


class _Openings(dict[int, bytes]):
    """How answers begin, by status: their first line and the headers that all have.

    uvicorn makes the list of those headers anew once a second, for the date.
    """

    headers: Sequence[tuple[bytes, bytes]] = ()

    def renew(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """From now, all have these headers."""
        self.clear()
        self.headers = headers

    def __missing__(self, status: int) -> bytes:
        lines = [b"%b: %b\r\n" % header for header in self.headers]
        made = self[status] = STATUS_LINE[status] + b"".join(lines)
        return made


@lru_cache(maxsize=64)
def _parts_of(url: bytes) -> tuple[str, bytes, bytes]:
    """The path, as it is meant and as it was sent, and the query."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, guarded. What stands first is set on a subclass, per server.

    Slots hold what is asked for with every request, uvicorn's own included: beyond thirty attributes
    each look into an instance's dictionary is a search.
    """

    __slots__ = (
        "_body_timer",
        "_head_bytes",
        "_head_timer",
        "_idle_since_s",
        "_is_in_head",
        "_is_packet_fresh",
        "_is_priming",
        "_known",
        "_lessons",
        "_next",
        "_owed_bytes",
        "_packet",
        "_packet_bytes",
        "_rest",
        "_running",
        "_unread",
        "_waiting",
        "_worker",
        "cycle",
        "flow",
        "headers",
        "loop",
        "parser",
        "server_state",
        "tasks",
        "timeout_keep_alive",
        "timeout_keep_alive_task",
        "transport",
        "url",
    )

    application: Application
    limits = ServerLimits(head_timeout_s=10.0, connections_max=20_000)
    openings = _Openings()
    cork: Cork
    """One for all of a server's connections."""

    cycle: Any
    """The `_Cycle` or the `HttpCaller` of the request that came last; None before there is one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of packets since a head began, or since a body's last piece
        self._packet_bytes = 0
        self._is_packet_fresh = True
        self._is_in_head = False
        self._unread = b""
        self._is_priming = False
        self._idle_since_s = 0.0
        self._known: KnownHead | None = None
        self._lessons = LESSONS_MAX
        self._owed_bytes = 0
        self._packet = b""
        self._waiting: deque[_Cycle | HttpCaller] = deque()
        self._running: asyncio.Task[None] | None = None
        self._next: HttpCaller | None = None
        self._worker: asyncio.Task[None] | None = None
        self._rest: asyncio.Future[None] | None = None

    # what the loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(corked(transport, self.cork))
        if len(self.connections) > self.limits.connections_max:
            self._refuse(503, "this gateway has too many connections", "too_many_connections")
            return
        self._arm()

    def data_received(self, data: bytes) -> None:
        self._packet_bytes, self._is_packet_fresh = len(data), True
        self._head_bytes += self._packet_bytes
        if self._known is not None:
            data = self._read_known(self._known, data)
        if data:
            self._packet = data
            self._feed(data)
            self._packet = b""
        elif not self._is_packet_fresh:
            return  # it ended a known request, and nothing came behind it: as mostly
        cycle = self.cycle
        if self._is_in_head:
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(
                    431, f"the head is larger than {HEAD_BYTES_MAX} bytes", "head_too_large"
                )
            else:
                self._arm()
        elif cycle is not None and cycle.more_body:
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431, "what stands around the body is too large", "trailers_too_large")
            self._mind_body()
        elif self._is_packet_fresh and (cycle is None or cycle.response_complete):
            # Bytes that neither begin nor end a request do not keep a connection.
            self._arm()

    def eof_received(self) -> None:
        self.cork.pull()  # the loop closes the transport itself now

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        for timer in (self._head_timer, self._body_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._body_timer = self.timeout_keep_alive_task = None
        cycle = self.cycle
        if cycle is not None:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.wake()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # type: ignore[assignment]  # as uvicorn does: it refers to us
        self._known = None
        for task in (self._running, self._worker):
            if task is not None and not task.done():
                task.cancel()
        # What refers to this connection is let go of, and so is a task, whose end remembers where it
        # struck: else all of it would stay until the collector of cycles looks at what is old.
        self._running = self._worker = self._next = self.cycle = None
        self._waiting.clear()

    def _read_known(self, known: KnownHead, data: bytes) -> bytes:
        """Take the request with the known head that `data` begins with, or more of its body: all that
        the parser would have seen in them. Returns what is left for it."""
        if not self._owed_bytes:
            cycle = self.cycle
            if self._is_in_head or cycle.more_body or not cycle.response_complete:
                return data  # it is not a head that comes next, or another is yet to be answered
            head = known if data.startswith(known.text) else known.of_other_length(data)
            if head is None:
                return data
            self._known, self._lessons = head, LESSONS_MAX
            self._head_bytes = 0  # it is no longer than heads that are known
            if self._head_timer is not None:
                self._disarm()
            data = data[head.size :]
            if len(data) == head.length:  # all of the body, as mostly
                self._is_packet_fresh = False
                # Its turn has come: the last one is answered.
                self.cycle = HttpCaller(self, head.method, head.path, head.incoming, data, False)
                self._serve(self.cycle)
                return b""
            self.cycle = HttpCaller(self, head.method, head.path, head.incoming)
            self._owed_bytes = head.length
            self._serve(self.cycle)
        piece = data[: self._owed_bytes]
        if piece:
            self._owed_bytes -= len(piece)
            self.on_body(piece)
        if not self._owed_bytes:
            self.on_message_complete()
        return data[len(piece) :]

    def _feed(self, data: bytes) -> None:
        """As uvicorn's own, but an offer to upgrade (`h2c`, from Java's HttpClient) is declined and
        the request served: httptools ends such a request at its head, and takes its body for the
        next request."""
        while data and not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                if self._unread:
                    # A parser that is inside the same body: told its framing, and nothing else.
                    framing, self._unread, self._is_priming = self._unread, b"", True
                    self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
                    self._is_priming = False
            except httptools.HttpParserError as error:
                is_ours = isinstance(error, httptools.HttpParserCallbackError)
                self.send_400_response("invalid target" if is_ours else str(error))
                return

    # what the parser calls

    def on_message_begin(self) -> None:
        if self._is_priming:
            return
        self._is_in_head = True
        # The packet a request begins in counts, unless an earlier request ended in it.
        self._head_bytes = self._packet_bytes if self._is_packet_fresh else 0
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        if not self._is_priming:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else a trailer: RFC 9110, 6.5.1 forbids to take it for a header
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The data plane's requests go to it; of all others uvicorn's cycle is made. An upgrade is
        never taken: nothing here is a web socket."""
        if self._is_priming or self.transport.is_closing():
            return
        parser = self.parser
        if parser.should_upgrade():
            self._unread = self._body_framing()
        self._disarm()
        if self._head_bytes > HEAD_BYTES_MAX and self._head_size() > HEAD_BYTES_MAX:
            self._refuse(431, f"the head is larger than {HEAD_BYTES_MAX} bytes", "head_too_large")
            return
        if len(self.headers) > HEADERS_MAX:
            self._refuse(431, f"there are more than {HEADERS_MAX} headers", "too_many_headers")
            return
        version = parser.get_http_version()
        if not self._is_plainly_framed(version):
            return
        self._is_in_head = False
        keep_alive = version != "1.0" and parser.should_keep_alive()
        method = parser.get_method().decode("ascii")
        path = _parts_of(self.url)[0]
        if not path.startswith(DATA_PLANE):
            self._begin(self._cycle_of(method, version, keep_alive))
            return
        incoming = Incoming(self.headers)
        begun_here = self._is_packet_fresh and self._head_bytes == self._packet_bytes
        if self._lessons and keep_alive and begun_here:
            self._lessons -= 1
            learned = known_head(self._packet, method, self.url, path, incoming)
            self._known = learned or self._known
        self._begin(
            HttpCaller(self, method, path, incoming, version=version, keep_alive=keep_alive)
        )

    def _begin(self, made: _Cycle | HttpCaller) -> None:
        """Serve a request whose head is complete, when it is its turn."""
        running, self.cycle = self.cycle, made
        if running is None or running.response_complete:
            self._start(made)
        elif len(self._waiting) < PIPELINED_MAX:
            self.flow.pause_reading()
            self._waiting.append(made)
        else:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not self.transport.is_closing():
            cycle.feed(body)

    def on_message_complete(self) -> None:
        if self._unread:
            return  # httptools says so at the head of an offer to upgrade; the body is still to come
        self._is_packet_fresh = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        if self.flow.read_paused:
            # By a large body; from now, reading is how a caller's end is noticed.
            self.flow.resume_reading()
        if self.cycle is not None:
            self.cycle.end_body()

    def _body_framing(self) -> bytes:
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                return name + b": " + value
        return b""

    def _is_plainly_framed(self, version: str) -> bool:
        """Refuse what llhttp takes: a body that is compressed on its way (RFC 9112, 6.1), of which it
        looks for chunks alone, and a head without one Host (3.2), which two servers may read as two."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and value.strip(b" ").lower() != b"chunked":
                self._refuse(501, "of transfer codings only chunked is known", "transfer_coding")
                return False
        if hosts > 1 or (not hosts and version == "1.1"):
            told = f"{hosts} Host headers" if hosts else "no Host header"
            self.send_400_response(f"it has {told}; one is needed")
            return False
        return True

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _cycle_of(self, method: str, version: str, keep_alive: bool) -> _Cycle:
        path, raw_path, query = _parts_of(self.url)
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        return _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=any(
                name == b"expect" and value.lower() == b"100-continue"
                for name, value in self.headers
            ),
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _start(self, cycle: _Cycle | HttpCaller) -> None:
        if isinstance(cycle, HttpCaller):
            self._serve(cycle)
            return
        task = self._running = self.loop.create_task(cycle.run_asgi(self.application))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _serve(self, caller: HttpCaller) -> None:
        """Hand a request for the data plane to the worker."""
        self._next = caller
        rest = self._rest
        if self._worker is None:
            self._worker = self.loop.create_task(self._work())
        elif rest is not None and not rest.done():
            rest.set_result(None)

    async def _work(self) -> None:
        """Serve the data plane's requests of this connection, one after another, until it is lost.

        One task for all of them: a task for each would cost more than reading its head. The connection
        ends with it: nobody would serve what comes after.
        """
        worker = self._worker
        assert worker is not None
        try:
            while True:
                while (caller := self._next) is not None:
                    self._next = None
                    self.tasks.add(worker)
                    try:
                        await self.application.serve(caller)
                    finally:
                        if not caller.response_complete:
                            caller.let_go()
                self.tasks.discard(worker)
                self._rest = self.loop.create_future()
                await self._rest
        finally:
            self.tasks.discard(worker)
            del worker  # as in `connection_lost`: its end remembers this frame
            self.transport.close()

    # what a request calls

    def opening(self, status: int) -> bytes:
        """The status line, and the headers that every answer has."""
        openings, headers = self.openings, self.server_state.default_headers
        if openings.headers is not headers:
            openings.renew(headers)
        return openings[status]

    def on_response_complete(self) -> None:
        """Serve who waits behind this request; else wait for the next.

        One timer stands behind all requests of a connection: to set one for each would cost more.
        """
        self._idle_since_s = self.loop.time()
        has_timer = self.timeout_keep_alive_task is not None
        if has_timer and not (self._waiting or self.flow.read_paused):
            return  # as mostly
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._waiting:
            self._start(self._waiting.popleft())
            self._mind_body()
        elif not has_timer:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"this is not an HTTP request ({msg})", "malformed_http")

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._on_slow_head)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_slow_head(self) -> None:
        self._head_timer = None
        within = f"{self.limits.head_timeout_s:g} s"
        self._refuse(408, f"the request's head did not arrive within {within}", "request_timeout")

    def _mind_body(self) -> None:
        """A body that is still to come has its time, from when it is its request's turn; and what is
        left of it when that is answered already."""
        cycle = self.cycle
        if not cycle.more_body or self._waiting or self._body_timer is not None:
            return
        if cycle.response_complete:
            self._body_timer = self.loop.call_later(
                self.limits.body_timeout_s, self.transport.close
            )
        elif not cycle.response_started:
            self._body_timer = self.loop.call_later(self.limits.body_timeout_s, self._on_slow_body)

    def _on_slow_body(self) -> None:
        self._body_timer = None
        cycle = self.cycle
        if cycle is None or not cycle.more_body:
            return
        if cycle.response_started:
            self._mind_body()  # it was answered meanwhile: what is left of it has its own time
        elif isinstance(cycle, HttpCaller):
            cycle.be_late()  # and is answered like everything else that is wrong with it
        else:
            within = f"{self.limits.body_timeout_s:g} s"
            self._refuse(408, f"the body did not arrive within {within}", "request_timeout")

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection is over; one whose last answer nobody reads is cut off."""
        self.timeout_keep_alive_task = None
        if not self.cycle.response_complete or self._head_timer is not None:
            return  # it is not idle; the next answer sets the timer again
        rest_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if rest_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                rest_s, self.timeout_keep_alive_handler
            )
        elif self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer in the application's place, and close; before or in the midst of another's answer, close
        alone."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        is_owed = cycle is not None and not cycle.response_complete
        if is_owed and (self._waiting or cycle.response_started or not self._is_reading_body):
            self.transport.close()
            return
        fault = Fault(
            kind=FaultKind.INVALID_REQUEST,
            source=Source.CLIENT,
            message=message,
            status=status,
            code=code,
        )
        path, incoming = self._come_so_far()
        request_id = incoming.request_id or self.limits.new_request_id()
        if self._is_reading_body:
            cycle.response_started = True
        if self._head_bytes or status != HTTPStatus.REQUEST_TIMEOUT:
            # Else not one byte has come: nothing was asked.
            self.application.refused(path, request_id, fault)
        _, body = render_error(fault, incoming.dialect, request_id)
        headers = [JSON, *id_headers(request_id), (b"connection", b"close")]
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(self.opening(status) + lines_of(headers) + length + body)
        self.transport.close()

    @property
    def _is_reading_body(self) -> bool:
        """Whether a request has come so far that it is the application's, and not to its end."""
        cycle = self.cycle
        is_open = cycle is not None and cycle.more_body and not cycle.response_complete
        return is_open and not self._is_in_head

    def _come_so_far(self) -> tuple[str | None, Incoming]:
        """What has come of the request that is being read: its path, once that is known, and its head."""
        cycle = self.cycle
        if self._is_reading_body:
            if isinstance(cycle, HttpCaller):
                return cycle.path, cycle.incoming
            return cycle.scope["path"], Incoming(cycle.scope["headers"])
        headers = self.headers if self._is_in_head else []
        incoming = Incoming(headers)
        if headers:  # before the first of them, more of the path may come
            with suppress(httptools.HttpParserInvalidURLError):
                return _parts_of(self.url)[0], incoming
        return None, incoming


class _Server(uvicorn.Server):
    """uvicorn's server, which takes a crowd at once, does not keep the memory of one that is gone, and
    returns when it was told to stop.

    uvicorn raises the signal again once it has stopped serving; the process would end there, before
    the ledger has been written and closed.
    """

    def __init__(
        self, config: uvicorn.Config, application: Application, limits: ServerLimits
    ) -> None:
        super().__init__(config)
        self._application = application
        self._limits = limits
        self._give_back = GiveBack(SystemClock())
        self._told_at_s: float | None = None

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether to stop."""
        self._give_back.look(is_busy=bool(self.server_state.tasks))
        return await super().on_tick(counter) and not self._is_only_unready()

    def _is_only_unready(self) -> bool:
        """Whether requests are taken yet, though it was told to stop: whoever sends them here needs a while
        to hear of it. Nobody does who stops it by hand."""
        if self.force_exit or signal.SIGINT in self._captured_signals:
            return False
        now_s = asyncio.get_running_loop().time()
        if self._told_at_s is None:
            self._told_at_s = now_s
        return now_s < self._told_at_s + self._limits.unready_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, and let what is under way end; what has not by the end of its time is told so."""
        state = self.server_state
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if not await self._is_empty_within(self._limits.grace_s, or_forced=True):
            _log.warning("%d requests were not over in time, and are broken off", len(state.tasks))
            self._application.call_off()
            for task in list(state.tasks):
                task.cancel()
            if not await self._is_empty_within(LAST_WORDS_S):
                for connection in list(state.connections):
                    connection.transport.abort()
        for server in self.servers:
            await server.wait_closed()

    async def _is_empty_within(self, within_s: float, *, or_forced: bool = False) -> bool:
        """Wait until nobody is connected or served, so long at the most; or until that is forced."""
        loop, state = asyncio.get_running_loop(), self.server_state
        ends_s = loop.time() + within_s
        while state.connections or state.tasks:
            rest_s = ends_s - loop.time()
            if rest_s <= 0 or (or_forced and self.force_exit):
                return False
            await asyncio.sleep(min(rest_s, LOOK_EVERY_S))
        return True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; there is no lifespan to begin. Raises OSError."""
        if sockets is None:
            sockets = [listen(self.config.host, self.config.port)]
        made: Any = self.config.http_protocol_class
        protocol = partial(made, config=self.config, server_state=self.server_state, app_state={})
        listeners: list[Any] = [Listener(listening, protocol) for listening in sockets]
        self.servers = listeners
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def make_server(app: Application, *, host: str, port: int, limits: ServerLimits) -> uvicorn.Server:
    """A server of `app`, ready to `serve()`."""
    own = {"application": app, "limits": limits, "openings": _Openings(), "cork": Cork()}
    protocol = type("Protocol", (GuardedProtocol,), own)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return _Server(config, app, limits)


OnReady = Callable[[str], None]


async def serve_until_stopped(server: uvicorn.Server, on_ready: OnReady) -> None:
    """Serve; `on_ready` is called with the address once requests are taken."""
    listening = listen(server.config.host, server.config.port)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        settle_memory()
        on_ready(address_of(listening))
    try:
        await serving
    finally:
        listening.close()
