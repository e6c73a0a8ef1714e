"""The data plane's front: path to endpoint, and every failure told in the caller's dialect.

1. Whatever goes wrong, the caller gets JSON: one broad `except` is here, at the surface's edge.
2. The observers are told of each request once: by its exchange's end, or here when it became none.
"""

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable

from windvane.core.faults import Fault, FaultKind, WindvaneError, refuse
from windvane.engine.engine import Engine
from windvane.engine.relay import CLIENT_CLOSED
from windvane.gateway.data_plane.asgi import JSON, HeaderList
from windvane.gateway.data_plane.caller import Caller
from windvane.gateway.data_plane.chat import chat_completions
from windvane.gateway.data_plane.door import Door
from windvane.gateway.data_plane.incoming import ClientGoneError, discard_rest, read_body, too_large
from windvane.gateway.data_plane.models import get_model, list_models
from windvane.gateway.data_plane.outgoing import INTERNAL, error_headers, lines_of
from windvane.gateway.data_plane.route import explain_route
from windvane.ports.clock import Clock
from windvane.wire.errors import render_error

Endpoint = Callable[[Door, bytes], Awaitable[None]]

ENDPOINTS: dict[str, tuple[str, Endpoint]] = {
    "/v1/chat/completions": ("POST", chat_completions),
    "/v1/route": ("POST", explain_route),
    "/v1/models": ("GET", list_models),
}
"""Path -> method and endpoint. `/v1/models/{id}` is beside it: an id may hold slashes."""

_MODEL = "/v1/models/"
_MODEL_FORM = "/v1/models/{id}"
_RESPONSES = "/v1/responses"
_INSTEAD = "; chat is at /v1/chat/completions (LangChain: use_responses_api=False)"
"""What to do for those whose SDK turned to the Responses API by itself."""
UNKNOWN = "unknown"
"""How a request is told of whose path is no endpoint's, or has not come."""

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

    async def serve(self, caller: Caller) -> None:
        """Serve one request. Cancelled when the caller leaves, and when the process ends."""
        incoming = caller.incoming
        door = Door(self._engine, self._clock, caller, incoming)
        try:
            known = ENDPOINTS.get(caller.path)
            if known is None or known[0] != caller.method:
                known = _endpoint_of(caller)
            method, endpoint = known
            if not incoming.is_checked:
                incoming.check(method)
            body = b""
            if method == "POST":
                # A stranger is refused before its body is held in memory, and told nothing else.
                door.principal = self._engine.identify(incoming.credentials())
                body = caller.whole_body() or await self._read_body(door)
                if len(body) > self._body_bytes_max:
                    raise too_large(self._body_bytes_max)
            serving = endpoint(door, body)
            del body  # it is the endpoint's alone: an answer may take minutes, and need not hold it
            await serving
            if door.exchange is None:
                self._engine.tell_of(door.request_id, endpoint_name(caller.path), 200, None)
        except WindvaneError as error:
            await self._send_error(door, error.fault)
        except ClientGoneError:
            self._tell_of_leaving(door)
        except CancelledError:
            if (told := self._engine.fault_of_cancellation()) is None:
                self._tell_of_leaving(door)
                raise
            await self._send_error(door, told.fault)
        except Exception:  # noqa: BLE001 - the surface's edge
            _log.exception("request %s failed inside the gateway", door.request_id)
            await self._send_error(door, INTERNAL)

    async def _read_body(self, door: Door) -> bytes:
        """The body, waited for. Who calls is asked again behind it: its key may have ended, or have been
        changed, while the body came."""
        incoming = door.incoming
        body = await read_body(
            door.caller.receive, incoming, self._body_bytes_max, self._body_timeout_s
        )
        door.principal = self._engine.identify(incoming.credentials())
        return body

    def _tell_of_leaving(self, door: Door) -> None:
        """The caller left; of what has been answered before, it is known already."""
        caller = door.caller
        if door.exchange is None and not caller.response_started:
            endpoint = endpoint_name(caller.path)
            self._engine.tell_of(door.request_id, endpoint, CLIENT_CLOSED, None)

    async def _send_error(self, door: Door, fault: Fault) -> None:
        caller = door.caller
        if caller.response_started:
            # The head is out: the only honest end left is to break off.
            return
        request_id = door.request_id
        status, body = render_error(fault, door.dialect or door.incoming.dialect, request_id)
        if door.exchange is None:
            self._engine.tell_of(request_id, endpoint_name(caller.path), status, fault)
            if status == 413:
                await discard_rest(caller.receive, door.incoming)
        headers: HeaderList = [JSON, *error_headers(fault, door.exchange, request_id)]
        if status == 405:
            headers.append((b"allow", _endpoint_at(caller.path)[0].encode()))
        if status in (408, 413) or fault.kind is FaultKind.SHUTTING_DOWN:
            headers.append((b"connection", b"close"))
            caller.keep_alive = False
        await caller.answer(status, lines_of(headers), body)


def endpoint_name(path: str) -> str:
    """The endpoint's path, as the docs write it: one of few, whatever a caller has sent."""
    known = path if path in ENDPOINTS else path.rstrip("/")
    if known in ENDPOINTS:
        return known
    return _MODEL_FORM if path.startswith(_MODEL) else UNKNOWN


def _endpoint_of(caller: Caller) -> tuple[str, Endpoint]:
    """The method and endpoint of a path. Raises NotFoundError, and 405 for another method."""
    found = _endpoint_at(caller.path)
    method = found[0]
    if caller.method != method:
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f"{caller.method} is not allowed here; use {method}",
            status=405,
            code="method_not_allowed",
        )
    return found


def _endpoint_at(path: str) -> tuple[str, Endpoint]:
    """The method and endpoint of a path. Raises NotFoundError."""
    found = ENDPOINTS.get(path) or ENDPOINTS.get(path.rstrip("/"))
    if found is None and path.startswith(_MODEL) and len(path) > len(_MODEL):
        found = ("GET", get_model)
    if found is None:
        raise _not_found(path)
    return found


def _not_found(path: str) -> WindvaneError:
    known = ", ".join(ENDPOINTS)
    instead = _INSTEAD if path.startswith(_RESPONSES) else ""
    return refuse(
        FaultKind.NOT_FOUND,
        f"there is nothing at {path[:100]!r}; endpoints are {known}{instead}",
        status=404,
        code="unknown_path",
    )
