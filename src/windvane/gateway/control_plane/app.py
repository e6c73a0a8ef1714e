"""The control plane's application.

Who may ask: `/health`, `/livez`, `/readyz` and the documentation answer to anyone; what tells of
traffic answers to anyone on a gateway that listens on loopback and is called by loopback's name, and
otherwise to a holder of a key; what belongs to a key answers to that key, or to the admin's.
"""

from collections.abc import Sequence
from http import HTTPStatus
from importlib import resources
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from windvane._version import __version__
from windvane.core.exchange import Credentials
from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, refuse
from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.money import usd_text
from windvane.core.principal import Principal
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.openapi import merge_data_plane
from windvane.gateway.data_plane.incoming import Incoming
from windvane.gateway.data_plane.models import public_names
from windvane.gateway.data_plane.outgoing import INTERNAL, error_headers
from windvane.telemetry.metrics import CONTENT_TYPE, Metrics
from windvane.wire.errors import error_object

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "docs.js": "text/javascript",
}
_KEY: dict[str, Any] = {"security": [{"bearer": []}]}
_KEY_OR_LOOPBACK: dict[str, Any] = {"security": [{}, {"bearer": []}]}


def control_plane(engine: Engine, metrics: Metrics, *, is_local: bool) -> FastAPI:
    """The application. `is_local`: traffic may be looked at from this machine without a key."""
    app = FastAPI(
        title="Windvane",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={401: {"model": schemas.ErrorAnswer}},
    )
    _add_errors(app, engine)
    _add_health(app, engine)
    _add_traffic(app, engine, metrics, _Access(engine, is_local))
    _add_usage(app, engine, _Access(engine, is_local))
    _add_documentation(app)
    return app


class _Access:
    """Who asks, and whether they may."""

    def __init__(self, engine: Engine, is_local: bool) -> None:
        self._engine = engine
        self._is_local = is_local

    async def caller(self, request: Request) -> Principal:
        """The key that asks. Raises AuthenticationError."""
        credentials: Credentials = Incoming(request.scope).credentials()
        return self._engine.identify(credentials)

    async def viewer(self, request: Request) -> None:
        """The holder of a key; or anyone on this machine, where that was said to be enough."""
        if not (self._is_local and Incoming(request.scope).names_loopback):
            await self.caller(request)


def _add_errors(app: FastAPI, engine: Engine) -> None:
    """Errors as the data plane tells them: the same body, the same headers."""

    def answer(request: Request, fault: Fault) -> JSONResponse:
        incoming = Incoming(request.scope)
        request_id = incoming.request_id or engine.new_request_id()
        inner = error_object(fault, request_id)
        body = {"object": "error", **inner, "error": inner, "request_id": request_id}
        headers = {
            name.decode(): value.decode() for name, value in error_headers(fault, None, request_id)
        }
        return JSONResponse(body, status_code=fault.status, headers=headers)

    @app.exception_handler(WindvaneError)
    async def on_fault(request: Request, error: WindvaneError) -> JSONResponse:
        return answer(request, error.fault)

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
        return answered

    @app.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> JSONResponse:
        return answer(request, INTERNAL)


def _hint(path: str) -> str:
    """The commonest mistake: OpenAI's clients want an address that ends in /v1."""
    if path.startswith(("/chat/completions", "/models", "/route")):
        return f"; did you mean /v1{path[:100]}? An OpenAI client's base_url ends in /v1"
    return ""


def _add_health(app: FastAPI, engine: Engine) -> None:
    @app.get("/livez", tags=["health"], summary="The process runs")
    @app.get("/healthz", include_in_schema=False)
    async def livez() -> schemas.Alive:
        return schemas.Alive()

    @app.get("/readyz", tags=["health"], summary="The gateway takes requests")
    async def readyz() -> schemas.Alive:
        return schemas.Alive()

    @app.get("/health", tags=["health"], summary="Version and counts")
    async def health() -> schemas.Health:
        snapshot = engine.snapshot
        return schemas.Health(
            status="ok",
            version=__version__,
            models=len(public_names(snapshot)) - len(snapshot.routes.routes),
            routes=len(snapshot.routes.routes),
        )


def _add_traffic(app: FastAPI, engine: Engine, metrics: Metrics, access: _Access) -> None:
    viewer = [Depends(access.viewer)]

    @app.get(
        "/metrics",
        tags=["traffic"],
        summary="Prometheus text, or JSON totals",
        dependencies=viewer,
        openapi_extra=_KEY_OR_LOOPBACK,
        response_class=PlainTextResponse,
        responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def show_metrics(request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(metrics.totals())
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE)

    @app.get(
        "/providers",
        tags=["traffic"],
        summary="Providers and their health",
        dependencies=viewer,
        openapi_extra=_KEY_OR_LOOPBACK,
    )
    async def providers() -> list[schemas.ProviderStatus]:
        return provider_statuses(engine)


def provider_statuses(engine: Engine) -> list[schemas.ProviderStatus]:
    """Each configured provider, and those of its deployments that have been asked."""
    snapshot = engine.snapshot
    serving = {
        deployment.id: deployment
        for deployments in snapshot.deployments.values()
        for deployment in deployments
    }
    statuses = []
    for name, upstream in snapshot.upstreams.items():
        asked = []
        for deployment in serving.values():
            health = engine.health.of(deployment)
            if deployment.provider == name and health.requests:
                asked.append(
                    schemas.DeploymentStatus(
                        id=deployment.id,
                        model=deployment.model,
                        breaker=health.breaker.state.value,
                        requests=health.requests,
                        failures=health.failures,
                        last_error=health.last_error,
                        last_error_at_us=health.last_error_at_us,
                    )
                )
        address = urlsplit(upstream.chat_url)
        statuses.append(
            schemas.ProviderStatus(
                name=name,
                kind=upstream.provider.kind,
                configured=True,
                healthy=all(each.breaker != "open" for each in asked),
                api_base=f"{address.scheme}://{address.hostname}:{address.port}"
                if address.port
                else f"{address.scheme}://{address.hostname}",
                deployments=asked,
            )
        )
    return statuses


def _add_usage(app: FastAPI, engine: Engine, access: _Access) -> None:
    caller = Depends(access.caller)

    @app.get(
        "/user/stats",
        tags=["usage"],
        summary="What the calling key has used",
        openapi_extra=_KEY,
    )
    async def user_stats(principal: Annotated[Principal, caller]) -> schemas.UserStats:
        totals = await engine.ledger.totals(key_id=principal.key_id)
        by_model = await engine.ledger.totals_by("resolved_model", key_id=principal.key_id)
        return schemas.UserStats(
            key=principal.key_id,
            by_model={name: schemas.UsageTotals(**_sums(each)) for name, each in by_model.items()},
            **_sums(totals),
        )

    @app.get(
        "/admin/requests/{request_id}",
        tags=["usage"],
        summary="A request on the ledger",
        openapi_extra=_KEY,
        responses={404: {"model": schemas.ErrorAnswer}},
    )
    async def request_record(
        request_id: str, principal: Annotated[Principal, caller]
    ) -> schemas.RequestRecord:
        owner = None if principal.is_admin else principal.key_id
        entries = await engine.ledger.entries_of(request_id, key_id=owner)
        if not entries:
            raise refuse(
                FaultKind.NOT_FOUND, f"no request {request_id[:64]!r} is on the ledger", status=404
            )
        # A caller's own id may stand for several requests: the last of them is meant.
        meant = entries[-1].request_id
        return _record([entry for entry in entries if entry.request_id == meant])


def _sums(totals: Totals) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "attempts": totals.attempts,
        "unpriced_attempts": totals.unpriced_attempts,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cache_read_input_tokens": totals.cache_read_input_tokens,
        "cost_nano_usd": totals.cost_nano_usd,
        "cost_usd": usd_text(totals.cost_nano_usd),
        "estimated_nano_usd": totals.estimated_nano_usd,
        "assumed_nano_usd": totals.assumed_nano_usd,
    }


def _record(entries: Sequence[LedgerEntry]) -> schemas.RequestRecord:
    first = entries[0]
    costs = [entry.cost_nano_usd for entry in entries]
    known = [cost for cost in costs if cost is not None]
    total = sum(known) if len(known) == len(costs) else None
    return schemas.RequestRecord(
        request_id=first.request_id,
        client_request_id=first.client_request_id,
        key=first.key_id,
        route=first.route,
        requested_model=first.requested_model,
        reason=first.reason,
        stream=bool(first.is_stream),
        cost_nano_usd=total,
        cost_usd=None if total is None else usd_text(total),
        attempts=[_attempt(entry) for entry in entries],
    )


def _attempt(entry: LedgerEntry) -> schemas.AttemptRecord:
    return schemas.AttemptRecord(
        attempt_id=entry.attempt_id,
        number=entry.number,
        provider=entry.provider,
        model=entry.model,
        resolved_model=entry.resolved_model,
        outcome=entry.outcome,
        status=entry.status,
        certainty=entry.certainty.value,
        cost_nano_usd=entry.cost_nano_usd,
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cache_read_input_tokens=entry.cache_read_input_tokens,
        started_at_us=entry.started_at_us,
        latency_us=entry.latency_us,
        first_chunk_us=entry.first_chunk_us,
        upstream_request_id=entry.upstream_request_id,
    )


def _add_documentation(app: FastAPI) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(merge_data_plane(app.openapi()))

    @app.get("/docs", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = resources.files("windvane.gateway.control_plane").joinpath("assets/docs.html")
        headers = {"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(page.read_text(), headers=headers)

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        folder = resources.files("windvane.gateway.control_plane").joinpath("assets")
        headers = {"x-content-type-options": "nosniff", "cache-control": "max-age=86400"}
        if name != "docs.js":
            headers["content-encoding"] = "gzip"
            content = folder.joinpath(f"{name}.gz").read_bytes()
        else:
            content = folder.joinpath(name).read_bytes()
        return Response(content, media_type=_ASSETS[name], headers=headers)
