"""The root ASGI callable: `/v1/*` to the data plane, all else to the control plane."""

from windvane.config.resolve import is_loopback
from windvane.config.schema import Config
from windvane.engine.engine import Engine
from windvane.gateway.control_plane.app import control_plane
from windvane.gateway.data_plane.app import DataPlane
from windvane.gateway.data_plane.asgi import JSON, ASGIApp, Receive, Scope, Send, send_whole
from windvane.system import SystemClock
from windvane.telemetry.metrics import Metrics

_LOOPBACK_HOSTS = (b"127.0.0.1", b"localhost", b"[::1]")
_WRONG_HOST = (
    b'{"error":{"message":"this gateway has no key, so it answers to loopback names alone; set'
    b' ALLOWED_API_KEYS","type":"permission_error","param":"host","code":"host_not_allowed"}}'
)


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
        self._control_plane: ASGIApp = control_plane(
            engine, metrics, is_local=is_loopback(config.host)
        )
        self._checks_host = not config.insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._checks_host and self._engine.snapshot.is_open and not _is_loopback_host(scope):
            await send_whole(send, 403, [JSON], _WRONG_HOST)
            return
        path = scope["path"]
        assert isinstance(path, str)
        plane = self._data_plane if path.startswith("/v1/") else self._control_plane
        await plane(scope, receive, send)


def _is_loopback_host(scope: Scope) -> bool:
    for name, value in scope["headers"]:  # type: ignore[attr-defined]
        if name == b"host":
            host, _, port = value.rpartition(b":")
            name_only = host if host and port.isdigit() else value
            return name_only.lower() in _LOOPBACK_HOSTS
    return False
