"""The HTTP server: uvicorn, with a protocol that minds what ASGI cannot see.

1. A caller who closes the connection has its request cancelled at once, wherever it is.
2. A head must come within a time and a size; uvicorn's own timer is reset by every byte.
3. What is not HTTP is answered in JSON, as everything here is.
"""

import asyncio
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
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

from windvane.core.faults import Fault, FaultKind, Source, WindvaneError
from windvane.gateway.data_plane.asgi import ASGIApp, HeaderList
from windvane.wire.dialect import Dialect
from windvane.wire.errors import render_error

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100
KEEP_ALIVE_S = 75
"""Longer than a load balancer's 60 s, so that the balancer closes first and no request is lost."""
GRACEFUL_S = 30
STALL_S = 60.0
"""How long a caller may leave an answer unread: its stream holds an upstream connection meanwhile."""
BACKLOG = 2_048
DATA_PLANE = "/v1/"


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`new_request_id` names refusals that come before any request."""

    head_timeout_s: float
    connections_max: int
    body_timeout_s: float = 30.0
    new_request_id: Callable[[], str] = lambda: "none"


class _Cycle(RequestResponseCycle):
    """One request and its answer.

    The data plane's answers are written here: head and body in one piece, without the checks of
    headers that uvicorn owes to any application and ours have passed already
    (gateway/data_plane/outgoing.py). All other answers go uvicorn's way.
    """

    _head = b""

    async def run_asgi(self, app: Any) -> None:
        """Run the application. A caller who left is no error, and needs no answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._break_off()
        except WindvaneError:
            # A stream died after its head had gone out, and could not say so: break it off.
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

    async def send(self, message: Any) -> None:
        if self.scope["method"] == "HEAD" or not self.scope["path"].startswith(DATA_PLANE):
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self._drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._head = self._write_head(message["status"], message["headers"])
        else:
            self._write_body(message["body"], message.get("more_body", False))

    async def _drain(self) -> None:
        """Wait for a slow reader; one who does not read at all for too long is cut off."""
        try:
            async with asyncio.timeout(STALL_S):
                await self.flow.drain()
        except TimeoutError:
            # The loss of the connection cancels this request, wherever it is.
            self.transport.abort()
            await asyncio.sleep(0)

    def _write_head(self, status: int, headers: HeaderList) -> bytes:
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = True
        written = [STATUS_LINE[status]]
        for name, value in self.default_headers:
            written += (name, b": ", value, b"\r\n")
        for name, value in headers:
            written += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self.chunked_encoding = False
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
        if self.chunked_encoding and self.scope["http_version"] == "1.0":
            # HTTP/1.0 knows no chunks: the answer ends with the connection.
            self.chunked_encoding, self.keep_alive = False, False
        elif self.chunked_encoding:
            written.append(b"transfer-encoding: chunked\r\n")
        written.append(b"\r\n")
        return b"".join(written)

    def _write_body(self, body: bytes, is_more: bool) -> None:
        if self.chunked_encoding:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(body), body) if body else self._head
            if not is_more:
                data += b"0\r\n\r\n"
        else:
            data = self._head + body
        self._head = b""
        if data:
            self.transport.write(data)
        if not is_more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def _nothing() -> None:
    return None


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, guarded. `limits` is set on a subclass, per server."""

    limits = ServerLimits(head_timeout_s=10.0, connections_max=20_000)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._packet_bytes = 0
        self._is_packet_fresh = True
        self._is_in_head = False
        self._unread = b""
        self._is_priming = False
        self._running: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections_max:
            self._refuse(503, "this gateway has too many connections", "too_many_connections")
            return
        self._arm()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        self._packet_bytes, self._is_packet_fresh = len(data), True
        self._feed(data)
        if self._is_in_head:
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(
                    431, f"the head is larger than {HEAD_BYTES_MAX} bytes", "head_too_large"
                )
            elif self._head_timer is None:
                self._arm()
        elif self._is_idle:
            # Bytes that begin no request have ended uvicorn's keep-alive timer.
            if self.timeout_keep_alive_task is None and self._head_timer is None:
                self._arm()
        elif self.cycle.more_body and self._body_timer is None and not self.cycle.response_started:
            within_s = self.limits.body_timeout_s
            self._body_timer = self.loop.call_later(within_s, self._on_slow_body)

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _feed(self, data: bytes) -> None:
        """As uvicorn's own, but an offer to upgrade (`h2c`, from Java's HttpClient) is declined and
        the request served: httptools ends such a request at its head, and takes its body for the
        next request."""
        self._unset_keepalive_if_required()
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
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return

    def _body_framing(self) -> bytes:
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                return name + b": " + value
        return b""

    def on_url(self, url: bytes) -> None:
        if not self._is_priming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_priming:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        if self._is_priming:
            return
        self._is_in_head = True
        # The packet a request begins in counts, unless an earlier request ended in it.
        self._head_bytes = self._packet_bytes if self._is_packet_fresh else 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """As uvicorn's own, with our cycle, and without upgrades: nothing here is a web socket."""
        if self._is_priming:
            return
        self._is_in_head = False
        if self.parser.should_upgrade():
            self._unread = self._body_framing()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._head_bytes > HEAD_BYTES_MAX and self._head_size() > HEAD_BYTES_MAX:
            self._refuse(431, f"the head is larger than {HEAD_BYTES_MAX} bytes", "head_too_large")
            return
        if len(self.headers) > HEADERS_MAX:
            self._refuse(431, f"there are more than {HEADERS_MAX} headers", "too_many_headers")
            return
        scope = self.scope
        http_version = self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = http_version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        running = self.cycle
        self.cycle = _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if running is None or running.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if cycle is not None and self._body_timer is None:
                # Answered already; what is left of the body has its time, and then the end.
                self._body_timer = self.loop.call_later(
                    self.limits.body_timeout_s, self.transport.close
                )
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_message_complete(self) -> None:
        if self._unread:
            return  # httptools says so at the head of an offer to upgrade; the body is still to come
        self._is_packet_fresh = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        # A large body may have paused reading; from now, reading is how a caller's end is noticed.
        self.flow.resume_reading()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._running = task

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().connection_lost(exc)
        if self._running is not None and not self._running.done():
            self._running.cancel()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"this is not an HTTP request ({msg})", "malformed_http")

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._on_slow_head)

    def _on_slow_head(self) -> None:
        self._head_timer = None
        within = f"{self.limits.head_timeout_s:g} s"
        self._refuse(408, f"the request's head did not arrive within {within}", "request_timeout")

    def _on_slow_body(self) -> None:
        self._body_timer = None
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            within = f"{self.limits.body_timeout_s:g} s"
            self._refuse(408, f"the body did not arrive within {within}", "request_timeout")

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection is over; one whose last answer nobody reads is cut off."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer without a request, and close; in the midst of an answer, close alone."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()
            return
        fault = Fault(
            kind=FaultKind.INVALID_REQUEST,
            source=Source.CLIENT,
            message=message,
            status=status,
            code=code,
        )
        request_id = self.limits.new_request_id()
        _, body = render_error(fault, Dialect.OPENAI, request_id)
        self.transport.write(
            b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), request_id.encode(), body)
        )
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which returns when it was told to stop.

    uvicorn raises the signal again once it has stopped serving; the process would end there, before
    the ledger has been written and closed.
    """

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


def make_server(app: ASGIApp, *, host: str, port: int, limits: ServerLimits) -> uvicorn.Server:
    """A server of `app`, ready to `serve()`."""
    protocol = type("Protocol", (GuardedProtocol,), {"limits": limits})
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
        timeout_graceful_shutdown=GRACEFUL_S,
        backlog=BACKLOG,
    )
    return _Server(config)


def settle_memory() -> None:
    """Call once started: what lives by now lives for ever, so the collector need not look again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises OSError; uvicorn would end the process instead."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
