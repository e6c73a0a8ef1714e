"""What the server serves: `/v1/*` is the data plane's, probes are answered at once, and all else is the
control plane's, as ASGI has it."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

from windvane.assembly import IN_MEMORY
from windvane.config.resolve import is_loopback
from windvane.config.schema import Config
from windvane.core.faults import Fault, FaultKind, Source
from windvane.engine.engine import Engine
from windvane.gateway.data_plane.app import UNKNOWN, DataPlane, endpoint_name
from windvane.gateway.data_plane.asgi import (
    JSON,
    ASGIApp,
    HeaderList,
    Receive,
    Scope,
    Send,
    send_whole,
)
from windvane.gateway.data_plane.asgi_caller import AsgiCaller
from windvane.gateway.data_plane.caller import DATA_PLANE, Caller
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.outgoing import id_headers, lines_of
from windvane.gateway.reloading import Reload
from windvane.system import SystemClock
from windvane.telemetry.audit import AUDIT_FILE, AuditTrail
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


def audit_path(config: Config) -> Path | None:
    """Where operators' changes are kept; None where nothing is kept."""
    return None if config.data_dir == IN_MEMORY else Path(config.data_dir) / AUDIT_FILE


READY = "/readyz"
PROBES = frozenset(("/livez", "/healthz", READY))
ALIVE = b'{"status":"ok"}'
DRAINING = b'{"status":"draining"}'


class Gateway:
    """Splits the planes.

    Without a key, whoever can reach the port can spend. So a gateway without one answers only to
    loopback's own names: a web page that rebinds its own name to 127.0.0.1 gets nothing.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        metrics: Metrics,
        trail: AuditTrail | None = None,
        reload: Reload | None = None,
    ) -> None:
        """`trail` is where operators' changes are written down: a file in the data folder, unless said.
        `reload` reads the configuration again, where it can be."""
        self._engine = engine
        self._trail = trail or AuditTrail(audit_path(config), SystemClock())
        self._reload = reload
        self._data_plane = DataPlane(
            engine,
            SystemClock(),
            body_bytes_max=config.limits.body_bytes_max,
            body_timeout_s=config.limits.body_timeout_s,
        )
        self._metrics = metrics
        self._is_loopback = is_loopback(config.host)
        self._has_open_metrics = config.auth.open_metrics
        self._control_plane: ASGIApp | None = None
        self._checks_host = not config.insecure
        self._is_stopping: Callable[[], bool] = lambda: False

    def stops_when(self, is_stopping: Callable[[], bool]) -> None:
        """From now, `/readyz` answers 503 whenever `is_stopping()`."""
        self._is_stopping = is_stopping

    def call_off(self) -> None:
        """From now, a request that is cancelled is told that the process ends."""
        self._engine.call_off()

    def serve(self, caller: Caller) -> Coroutine[Any, Any, None]:
        """Serve a request for `/v1/*`."""
        if self._engine.keyring.is_empty and self._is_wrong_host(caller.incoming):
            status, headers, body = self._wrong_host(caller.incoming, caller.path)
            return caller.answer(status, lines_of(headers), body)
        return self._data_plane.serve(caller)

    def refused(self, path: str | None, request_id: str, fault: Fault) -> None:
        """Tell of a request that the server has answered: what may have been one for `/v1/*`."""
        if path is None or path.startswith(DATA_PLANE):
            endpoint = UNKNOWN if path is None else endpoint_name(path)
            self._engine.tell_of(request_id, endpoint, fault.status, fault)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as ASGI has it: from our own server, those for anything else."""
        incoming = Incoming(cast(HeaderList, scope["headers"]))
        path = cast(str, scope["path"])
        if self._is_wrong_host(incoming):
            await send_whole(send, *self._wrong_host(incoming, path))
            return
        if path.startswith(DATA_PLANE):
            await self._data_plane.serve(AsgiCaller(scope, receive, send))
        elif path in PROBES and scope["method"] in ("GET", "HEAD"):
            is_ready = path != READY or not self._is_stopping()
            await send_whole(
                send, 200 if is_ready else 503, [JSON], ALIVE if is_ready else DRAINING
            )
        else:
            if self._control_plane is None:
                self._control_plane = await asyncio.to_thread(self._load_control_plane)
            await self._control_plane(scope, receive, send)

    @property
    def _is_open(self) -> bool:
        """Whether anyone who reaches the port is served, without any key."""
        engine = self._engine
        return engine.keyring.is_empty and engine.snapshot.passthrough is None

    def _is_local(self) -> bool:
        """Whether traffic may be looked at from this machine without a key.

        A proxy on this machine calls from loopback too, and may not pass on the name its own callers
        used: once there are keys, being local is enough only where the configuration says so.
        """
        is_unguarded = self._has_open_metrics or self._is_open
        return self._is_loopback and is_unguarded

    def _load_control_plane(self) -> ASGIApp:
        """FastAPI and pydantic take longer to load than all the rest, and 20 MB: a gateway that is
        only asked to relay never loads them. (The one import that is not at the top of its file.)"""
        from windvane.gateway.control_plane.app import control_plane  # noqa: PLC0415

        return control_plane(
            self._engine,
            self._metrics,
            is_local=self._is_local,
            trail=self._trail,
            reload=self._reload,
        )

    def _is_wrong_host(self, incoming: Incoming) -> bool:
        """Whether who calls us by this name is refused for it. Once there are keys, nobody is; a
        provider's, which callers bring, is none of ours."""
        is_keyless = self._engine.keyring.is_empty
        return self._checks_host and is_keyless and not incoming.names_loopback

    def _wrong_host(self, incoming: Incoming, path: str) -> tuple[int, HeaderList, bytes]:
        """The answer to who calls us by another name."""
        request_id = incoming.request_id or self._engine.new_request_id()
        self.refused(path, request_id, _WRONG_HOST)
        status, body = render_error(_WRONG_HOST, incoming.dialect, request_id)
        return status, [*id_headers(request_id), JSON], body
