"""The data plane's front: path to endpoint, and every failure told in the caller's dialect.

One broad `except` is here, at the surface's edge: whatever goes wrong, the caller gets JSON.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from windvane.core.faults import Fault, FaultKind, WindvaneError, refuse
from windvane.engine.engine import Engine
from windvane.gateway.data_plane.asgi import (
    JSON,
    HeaderList,
    Message,
    Receive,
    Scope,
    Send,
    send_whole,
)
from windvane.gateway.data_plane.chat import chat_completions
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.incoming import ClientGoneError, Incoming, discard_rest, read_body
from windvane.gateway.data_plane.models import get_model, list_models
from windvane.gateway.data_plane.outgoing import INTERNAL, error_headers
from windvane.gateway.data_plane.route import explain_route
from windvane.ports.clock import Clock
from windvane.wire.errors import render_error

Endpoint = Callable[[Door, Incoming, bytes, Send], Awaitable[None]]

ENDPOINTS: dict[str, tuple[str, Endpoint]] = {
    "/chat/completions": ("POST", chat_completions),
    "/route": ("POST", explain_route),
    "/models": ("GET", list_models),
}
"""Path below `/v1` -> method and endpoint. `/models/{id}` is beside it: an id may hold slashes."""

PREFIX = "/v1"
_MODEL = "/models/"

_log = logging.getLogger("windvane.gateway")


class DataPlane:
    """Serves `/v1/*`."""

    def __init__(
        self, engine: Engine, clock: Clock, *, body_bytes_max: int, body_timeout_s: float
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._body_bytes_max = body_bytes_max
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sending = _Sending(send)
        incoming = Incoming(scope)
        door = Door(self._engine, self._clock, incoming.dialect)
        try:
            await self._serve(scope, receive, sending, incoming, door)
        except WindvaneError as error:
            if error.fault.kind is FaultKind.TOO_LARGE and door.exchange is None:
                await discard_rest(receive)
            await self._send_error(sending, incoming, door, error.fault)
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - the surface's edge
            request_id = self._request_id(incoming, door)
            _log.exception("request %s failed inside the gateway", request_id)
            await self._send_error(sending, incoming, door, INTERNAL)

    async def _serve(
        self, scope: Scope, receive: Receive, send: "_Sending", incoming: Incoming, door: Door
    ) -> None:
        path = str(scope["path"]).removeprefix(PREFIX)
        endpoint = ENDPOINTS.get(path) or ENDPOINTS.get(path.rstrip("/"))
        if endpoint is None:
            if path.startswith(_MODEL) and len(path) > len(_MODEL):
                _check_method(scope, "GET")
                await get_model(door, incoming, path.removeprefix(_MODEL), send)
                return
            raise _not_found(str(scope["path"]))
        method, serve = endpoint
        _check_method(scope, method)
        incoming.check_is_no_loop()
        body = b""
        if method == "POST":
            incoming.check_is_json()
            # A stranger is refused before its body is held in memory, and told nothing else.
            door.principal = self._engine.identify(incoming.credentials())
            body = await read_body(receive, incoming, self._body_bytes_max, self._body_timeout_s)
        await serve(door, incoming, body, send)

    def _request_id(self, incoming: Incoming, door: Door) -> str:
        if door.exchange is not None:
            return door.exchange.public_id
        return incoming.request_id or self._engine.new_request_id()

    async def _send_error(
        self, send: "_Sending", incoming: Incoming, door: Door, fault: Fault
    ) -> None:
        if send.has_started:
            # The head is out: the only honest end left is to break off.
            raise WindvaneError(fault)
        request_id = self._request_id(incoming, door)
        status, body = render_error(fault, door.dialect, request_id)
        headers: HeaderList = [JSON, *error_headers(fault, door.exchange, request_id)]
        if status == 405:
            headers.append((b"allow", (fault.param or "POST").encode()))
        if status in (408, 413):
            headers.append((b"connection", b"close"))
        await send_whole(send, status, headers, body)


class _Sending:
    """`send`, remembering whether the head is out."""

    __slots__ = ("_send", "has_started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False

    def __call__(self, message: Message) -> Awaitable[None]:
        self.has_started = True
        return self._send(message)


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f"{scope['method']} is not allowed here; use {method}",
            status=405,
            code="method_not_allowed",
            param=method,
        )


def _not_found(path: str) -> WindvaneError:
    known = ", ".join(PREFIX + each for each in ENDPOINTS)
    return refuse(
        FaultKind.NOT_FOUND,
        f"there is nothing at {path[:100]!r}; endpoints are {known}",
        status=404,
        code="unknown_path",
    )
