"""Errors of the control plane, told as the data plane tells them: the same body, the same headers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of, refuse
from windvane.engine.engine import Engine
from windvane.gateway.control_plane.access import CHANGING, Permission, body_of
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.outgoing import INTERNAL, error_headers
from windvane.wire.errors import error_object

PROBLEMS_MAX = 20
EXTRA = "extra_forbidden"
"""A problem, as pydantic names it: a field that there is not."""
_PLACES = ("body", "query", "path")
_TYPES_IN_PATH = ("decimal", "str", "number", "tagged-union")
"""Steps of pydantic's places that name a kind of value, not a field."""


def add_errors(app: FastAPI, engine: Engine) -> None:
    """Have every failure answered in the one form."""

    def answer(request: Request, fault: Fault) -> JSONResponse:
        incoming = Incoming(request.scope["headers"])
        request_id = incoming.request_id or engine.new_request_id()
        inner = error_object(fault, request_id)
        body = {"object": "error", **inner, "error": inner, "request_id": request_id}
        headers = {
            name.decode(): value.decode() for name, value in error_headers(fault, None, request_id)
        }
        headers["cache-control"] = "no-store"
        return JSONResponse(body, status_code=fault.status, headers=headers)

    @app.exception_handler(WindvaneError)
    async def on_fault(request: Request, error: WindvaneError) -> JSONResponse:
        return answer(request, error.fault)

    @app.exception_handler(RequestValidationError)
    async def on_wrong_field(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, wrong_fields(error.errors(), _fields_of(request)))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        fault = Fault(
            kind=FaultKind.NOT_FOUND if error.status_code == 404 else FaultKind.INVALID_REQUEST,
            source=Source.CLIENT,
            message=f"{phrase}: {request.url.path[:100]!r}{_hint(request.url.path)}",
            status=error.status_code,
            code=phrase.lower().replace(" ", "_"),
        )
        answered = answer(request, fault)
        answered.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answered.headers["allow"] = _allowed(app, request)
        return answered

    @app.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> JSONResponse:
        return answer(request, INTERNAL)


async def check_said(request: Request) -> None:
    """Refuse what nobody would read: a question's or a body's field that the route does not have, one that
    is said twice, and the body of a question. Of `tag=a&tag=b` FastAPI would take the last alone, and of
    `/rotate?overlap_s=0` nothing; the caller would think it had been heard."""
    route = request.scope["route"]
    if route.permission is Permission.PUBLIC:
        return
    dependant, names = route.dependant, [name for name, _ in request.query_params.multi_items()]
    problems: list[dict[str, object]] = []
    known = list(_names_of(dependant.query_params))
    for name in dict.fromkeys(names):
        if name not in known:
            problems.append({"type": EXTRA, "loc": ("query", name)})
        elif names.count(name) > 1:
            said = f"it is said {names.count(name)} times, and may be said once"
            problems.append({"type": "twice", "loc": ("query", name), "msg": said})
    if request.method not in CHANGING or request.method == "DELETE":
        if await body_of(request, Incoming(request.scope["headers"])):
            said = f"{request.method} {route.path} reads no body: say in the query what is asked"
            raise refuse(FaultKind.INVALID_REQUEST, said, param="body")
    elif not dependant.body_params:
        body = await request.json()
        problems += [{"type": EXTRA, "loc": ("body", name)} for name in body]
    if problems:
        raise error_of(wrong_fields(problems, _fields_of(request)))


def _allowed(app: FastAPI, request: Request) -> str:
    """The methods of all routes with this path; the router names those of the first alone."""
    there = [each for each in app.routes if each.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({name for each in there for name in getattr(each, "methods", ())}))


def _hint(path: str) -> str:
    """The commonest mistake: OpenAI's clients want an address that ends in /v1."""
    if path.startswith(("/chat/completions", "/models", "/route")):
        return f"; did you mean /v1{path[:100]}? An OpenAI client's base_url ends in /v1"
    return ""


def _fields_of(request: Request) -> Sequence[str]:
    """What the route's body or query may have, for near names."""
    dependant = request.scope["route"].dependant
    return list(_names_of((*dependant.body_params, *dependant.query_params)))


def _names_of(parameters: Iterable[Any]) -> Iterator[str]:
    """The fields of a route's parameters: of its forms, or a parameter itself."""
    for parameter in parameters:
        kind = parameter.field_info.annotation
        if hasattr(kind, "model_fields"):
            yield from _names_in(kind)
        else:
            yield parameter.alias


def _names_in(kind: object) -> Iterator[str]:
    for name, field in getattr(kind, "model_fields", {}).items():
        yield name
        for below in (field.annotation, *get_args(field.annotation)):
            yield from _names_in(below)


def wrong_fields(problems: Sequence[Mapping[str, object]], known: Sequence[str]) -> Fault:
    """The fault of a request whose fields are wrong: all of them told, the first one named."""
    told: dict[str, str] = {}
    for problem in problems[:PROBLEMS_MAX]:
        place = _place(problem.get("loc"))
        # A value that may be of several kinds is refused once for each of them.
        told.setdefault(place, _said(problem, place, known))
    first = next(iter(told), "")
    message = "; ".join(f"{place}: {said}" if place else said for place, said in told.items())
    return Fault(
        kind=FaultKind.INVALID_REQUEST,
        source=Source.CLIENT,
        message=message or "the request is wrong",
        status=400,
        param=first or None,
    )


def _place(steps: object) -> str:
    """`("body", "models", 2)` as `models[2]`."""
    place = ""
    for number, step in enumerate(steps if isinstance(steps, tuple) else ()):
        if isinstance(step, int):
            place += f"[{step}]"
        elif not (number == 0 and step in _PLACES) and step not in _TYPES_IN_PATH:
            place += f".{step}" if place else str(step)
    return place[:100]


def _said(problem: Mapping[str, object], place: str, known: Sequence[str]) -> str:
    kind = problem.get("type")
    if kind == EXTRA:
        near = get_close_matches(place.rpartition(".")[2], known, n=1)
        return (
            f'there is no such field; did you mean "{near[0]}"?'
            if near
            else ("there is no such field")
        )
    if kind == "missing":
        return "it is needed"
    said = str(problem.get("msg", "it is wrong"))
    return said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
