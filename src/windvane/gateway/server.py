"""The HTTP server: uvicorn, with a protocol that minds what ASGI cannot see.

1. A caller who closes the connection has its request cancelled at once, wherever it is.
2. A head must come within a time and a size; uvicorn's own timer is reset by every byte.
3. What is not HTTP is answered in JSON, as everything here is.
"""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from windvane.core.faults import Fault, FaultKind, Source
from windvane.gateway.data_plane.asgi import ASGIApp
from windvane.wire.dialect import Dialect
from windvane.wire.errors import render_error

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100
KEEP_ALIVE_S = 75
"""Longer than a load balancer's 60 s, so that the balancer closes first and no request is lost."""
GRACEFUL_S = 30
BACKLOG = 2_048


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    head_timeout_s: float
    connections_max: int


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, guarded. `limits` is set on a subclass, per server."""

    limits = ServerLimits(head_timeout_s=10.0, connections_max=20_000)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = False
        self._running: asyncio.Task[None] | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections_max:
            self._refuse(503, "this gateway has too many connections", "too_many_connections")
            return
        self._arm()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head:
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(
                    431, f"the head is larger than {HEAD_BYTES_MAX} bytes", "head_too_large"
                )
            elif self._head_timer is None:
                self._arm()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self.headers) > HEADERS_MAX:
            self._refuse(431, f"there are more than {HEADERS_MAX} headers", "too_many_headers")
            return
        self.scope["windvane.connection"] = self  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._running = task

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
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

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer without a request, and close."""
        if self.transport.is_closing():
            return
        fault = Fault(
            kind=FaultKind.INVALID_REQUEST,
            source=Source.CLIENT,
            message=message,
            status=status,
            code=code,
        )
        _, body = render_error(fault, Dialect.OPENAI, "none")
        self.transport.write(
            b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, len(body), body)
        )
        self.transport.close()


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
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_S,
        backlog=BACKLOG,
    )
    return uvicorn.Server(config)


def settle_memory() -> None:
    """Call once started: what lives by now lives for ever, so the collector need not look again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


OnReady = Callable[[str], None]


async def serve_until_stopped(server: uvicorn.Server, on_ready: OnReady) -> None:
    """Serve; `on_ready` is called with the address once requests are taken."""
    serving = asyncio.ensure_future(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        settle_memory()
        on_ready(address_of(server))
    await serving


def address_of(server: uvicorn.Server) -> str:
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
