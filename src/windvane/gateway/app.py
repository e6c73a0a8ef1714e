"""The root ASGI callable: `/v1/*` to the data plane, probes at once, all else to the control plane."""

import asyncio
from collections.abc import Callable

from windvane.config.resolve import is_loopback
from windvane.config.schema import Config
from windvane.core.faults import Fault, FaultKind, Source
from windvane.engine.engine import Engine
from windvane.gateway.data_plane.app import DataPlane
from windvane.gateway.data_plane.asgi import JSON, ASGIApp, Receive, Scope, Send, send_whole
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.outgoing import id_headers
from windvane.system import SystemClock
from windvane.telemetry.metrics import Metrics
from windvane.wire.errors import render_error

_WRONG_HOST = Fault(
    kind=FaultKind.FORBIDDEN,
    source=Source.CLIENT,
    message="this gateway has no key, so it answers to loopback names alone; set ALLOWED_API_KEYS",
    status=403,
    code="host_not_allowed",
    param="host",
)


READY = "/readyz"
PROBES = frozenset(("/livez", "/healthz", READY))
ALIVE = b'{"status":"ok"}'
DRAINING = b'{"status":"draining"}'


class Gateway:
    """Splits the planes.

    Without a key, whoever can reach the port can spend. So a gateway without one answers only to
    loopback's own names: a web page that rebinds its own name to 127.0.0.1 gets nothing.
    """

    def __init__(self, engine: Engine, config: Config, metrics: Metrics) -> None:
        self._engine = engine
        self._data_plane = DataPlane(
            engine,
            SystemClock(),
            body_bytes_max=config.limits.body_bytes_max,
            body_timeout_s=config.limits.body_timeout_s,
        )
        self._metrics = metrics
        # A proxy on this machine calls from loopback too, and may not pass on the name its own callers
        # used: once there are keys, being local is enough only where the configuration says so.
        is_unguarded = config.auth.is_open or config.auth.open_metrics
        self._is_local = is_loopback(config.host) and is_unguarded
        self._control_plane: ASGIApp | None = None
        self._checks_host = not config.insecure
        self._is_stopping: Callable[[], bool] = lambda: False

    def stops_when(self, is_stopping: Callable[[], bool]) -> None:
        """From now, `/readyz` answers 503 whenever `is_stopping()`."""
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._checks_host and self._engine.snapshot.is_open:
            incoming = Incoming(scope)
            if not incoming.names_loopback:
                await self._refuse_host(incoming, send)
                return
        path = scope["path"]
        assert isinstance(path, str)
        if path.startswith("/v1/"):
            await self._data_plane(scope, receive, send)
        elif path in PROBES and scope["method"] == "GET":
            is_ready = path != READY or not self._is_stopping()
            await send_whole(
                send, 200 if is_ready else 503, [JSON], ALIVE if is_ready else DRAINING
            )
        else:
            if self._control_plane is None:
                self._control_plane = await asyncio.to_thread(self._load_control_plane)
            await self._control_plane(scope, receive, send)

    def _load_control_plane(self) -> ASGIApp:
        """FastAPI and pydantic take longer to load than all the rest, and 20 MB: a gateway that is
        only asked to relay never loads them. (The one import that is not at the top of its file.)"""
        from windvane.gateway.control_plane.app import control_plane  # noqa: PLC0415

        return control_plane(self._engine, self._metrics, is_local=self._is_local)

    async def _refuse_host(self, incoming: Incoming, send: Send) -> None:
        request_id = incoming.request_id or self._engine.new_request_id()
        status, body = render_error(_WRONG_HOST, incoming.dialect, request_id)
        await send_whole(send, status, [*id_headers(request_id), JSON], body)
