"""Who may ask what: every route of the control plane says it, and is guarded by what it says.

Laws:
1. A route that does not declare a permission cannot be added: the application does not start.
2. The guard belongs to the route that was matched, never to a spelling of its path.
3. The guard comes first: who may not ask learns nothing, not even whether a body was well-formed or
   an object is there.
4. What changes something for an operator is written down: who, what, to which object, with what outcome.
"""

from collections.abc import Callable, Coroutine
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from windvane.core.exchange import Credentials
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.principal import Principal
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.data_plane.asgi import Message
from windvane.gateway.data_plane.incoming import (
    ClientGoneError,
    Incoming,
    discard_rest,
    read_body,
)
from windvane.telemetry.audit import AuditTrail
from windvane.wire.json_body import read_object

BODY_BYTES_MAX = 64 * 1024
"""The longest an operator's request may be: a hundred names of each kind fit well."""
BODY_TIMEOUT_S = 10.0
METRICS = "metrics"
"""What a key may be allowed by name, as an endpoint: to see in the metrics what is not its own."""
ADMIN_ONLY = "admin_only"
_DECLARED = "x-permission"
_PRINCIPAL = "windvane.principal"
_SUBJECT = "windvane.subject"
CHANGING = frozenset(("POST", "PUT", "PATCH", "DELETE"))

# Amounts are exact: what JSON writes with a point must not go through a binary fraction.
_decode_exactly = msgspec.json.Decoder(float_hook=Decimal).decode

Serve = Callable[[Request], Coroutine[Any, Any, Response]]


class Permission(StrEnum):
    PUBLIC = "public"
    """Anyone."""
    VIEWER = "viewer"
    """The holder of a gateway key; on a gateway that is open on loopback, anyone there."""
    CALLER = "caller"
    """The holder of a key, for what is its own; on a gateway without keys, anyone."""
    ADMIN = "admin"
    """The holder of an admin's key, always."""


_SECURITY: dict[Permission, list[dict[str, list[str]]]] = {
    Permission.PUBLIC: [],
    Permission.VIEWER: [{}, {"bearer": []}],
    Permission.CALLER: [{"bearer": []}],
    Permission.ADMIN: [{"bearer": []}],
}


def needs(permission: Permission) -> dict[str, Any]:
    """What a route declares, as its `openapi_extra`."""
    declared: dict[str, Any] = {_DECLARED: permission.value}
    if _SECURITY[permission]:
        declared["security"] = _SECURITY[permission]
    return declared


def is_named(principal: Principal | None) -> str:
    """How the log calls who asked."""
    return "nobody" if principal is None else principal.key_id


def concerns(request: Request, subject: str) -> None:
    """Say which object a request is about, once that is known to be there, for the log."""
    request.scope[_SUBJECT] = subject


def _principal_of(request: Request) -> Principal:
    principal = request.scope[_PRINCIPAL]
    assert isinstance(principal, Principal), "only guarded routes ask who calls"
    return principal


def asker_of(request: Request) -> Principal | None:
    """Who asks, as the guard has found; None when it did not matter."""
    found = request.scope[_PRINCIPAL]
    assert found is None or isinstance(found, Principal)
    return found


Caller = Annotated[Principal, Depends(_principal_of)]
"""A route's parameter: who calls, as the guard has found."""


class Access:
    """Admits requests, or says why not."""

    def __init__(self, engine: Engine, is_local: Callable[[], bool], trail: AuditTrail) -> None:
        self._engine = engine
        self._is_local = is_local
        self.trail = trail

    def admit(
        self, incoming: Incoming, permission: Permission, change: str | None
    ) -> Principal | None:
        """Who calls; None when that does not matter. `change` is what is asked for, if it is one: that
        somebody whom we know may not is written down.

        Raises AuthenticationError, and PermissionDeniedError for a key that is no admin's.
        """
        if permission is Permission.PUBLIC:
            return None
        if permission is Permission.VIEWER and self._is_local() and incoming.names_loopback:
            return None
        credentials = incoming.credentials()
        if permission is Permission.ADMIN:
            return self._admin(credentials, change)
        principal = self._engine.identify(credentials)
        if permission is Permission.VIEWER and principal.provider is not None:
            # Any text at all passes for a provider's key until the provider has seen it.
            raise refuse(
                FaultKind.FORBIDDEN,
                "this needs a key of the gateway's; a provider's will not do",
                status=403,
                code="gateway_key_needed",
            )
        return principal

    def _admin(self, credentials: Credentials, change: str | None) -> Principal:
        """Only a key of ours will do: being alone on loopback is not enough to administer."""
        if credentials.bearer is None:
            raise _unauthenticated(
                "no key was sent; send `Authorization: Bearer <admin key>`", "missing_api_key"
            )
        keyring = self._engine.keyring
        digest = keyring.digest_of(credentials.bearer)
        principal = keyring.find(credentials.bearer, digest)
        if principal is None:
            raise keyring.refusal(digest)
        if not principal.is_admin:
            if change is not None:
                self.trail.record_attempt(
                    who=principal.key_id, what=change, outcome=f"refused ({ADMIN_ONLY})"
                )
            raise refuse(
                FaultKind.FORBIDDEN, "this needs an admin's key", status=403, code=ADMIN_ONLY
            )
        return principal


def _unauthenticated(message: str, code: str) -> WindvaneError:
    return refuse(FaultKind.UNAUTHENTICATED, message, status=401, code=code)


class GuardedRoute(APIRoute):
    """A route that declares a permission, and asks for it before anything else."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        declared = (options.get("openapi_extra") or {}).get(_DECLARED)
        if declared is None:
            raise RuntimeError(f"the route {path} declares no permission: say needs(...)")
        self.permission = Permission(declared)
        if self.permission is not Permission.PUBLIC:
            # Two credentials that differ, or a field that there is not, are refused by all of them.
            options["responses"] = schemas.errors(400) | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Serve:
        """What FastAPI serves the route by, with the guard before it."""
        serve = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            incoming = Incoming(request.scope["headers"])
            access: Access = request.app.state.access
            is_change = request.method in CHANGING
            change = self.name if is_change else None
            request.scope[_PRINCIPAL] = access.admit(incoming, self.permission, change)
            if not is_change:
                response = await serve(request)
            else:
                response = await self._change(request, incoming, serve)
            if self.permission is not Permission.PUBLIC:
                response.headers.setdefault("cache-control", "no-store")
            return response

        return guarded

    async def _change(self, request: Request, incoming: Incoming, serve: Serve) -> Response:
        """Serve what changes something, and write it down, however it ends."""
        who, outcome = is_named(request.scope[_PRINCIPAL]), "failed"
        try:
            if request.method != "DELETE":
                request = await _ReadRequest.of(request, incoming)
            response = await serve(request)
            outcome = "done"
        except WindvaneError as error:
            outcome = f"refused ({error.fault.code or error.fault.kind.value})"
            raise
        except RequestValidationError:
            outcome = f"refused ({FaultKind.INVALID_REQUEST.value})"
            raise
        finally:
            access: Access = request.app.state.access
            access.trail.record(
                who=who, what=self.name, subject=request.scope.get(_SUBJECT), outcome=outcome
            )
        return response


class _ReadRequest(Request):
    """A request whose body has been read, within bounds, as JSON that has one meaning."""

    _value: object = None

    @classmethod
    async def of(cls, request: Request, incoming: Incoming) -> "_ReadRequest":
        incoming.check_is_json()
        body = await body_of(request, incoming) or b"{}"
        read_object(body)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        read = cls(request.scope, replay)
        read._value = _decode_exactly(body)
        return read

    async def json(self) -> Any:
        return self._value


async def body_of(request: Request, incoming: Incoming) -> bytes:
    """The body of an operator's request, within bounds."""
    try:
        return await read_body(request.receive, incoming, BODY_BYTES_MAX, BODY_TIMEOUT_S)
    except WindvaneError as error:
        if error.fault.kind is FaultKind.TOO_LARGE:
            await discard_rest(request.receive, incoming)
        raise
    except ClientGoneError:
        raise refuse(
            FaultKind.INVALID_REQUEST, "the caller left", status=408, code="client_gone"
        ) from None


def guard(app: FastAPI, access: Access) -> None:
    """From now on every route of `app` is guarded, and has to say by what."""
    app.router.route_class = GuardedRoute
    app.state.access = access


def check_is_guarded(routes: list[BaseRoute]) -> None:
    """Raise RuntimeError when there is a way in that has no guard (a mount, a plain route)."""
    open_ways = [str(route) for route in routes if not isinstance(route, GuardedRoute)]
    if open_ways:
        raise RuntimeError(f"without a declared permission: {', '.join(open_ways)}")
