"""The control plane's application: its parts, put together.

Who may ask what is said by each route, and held by `access`: `/health`, the probes and the
documentation answer to anyone; what tells of traffic answers to anyone on a gateway that listens on
loopback and is called by loopback's name, and otherwise to a holder of a key; what belongs to a key
answers to that key; what administers answers to an admin's key alone.
"""

from collections.abc import Callable
from copy import deepcopy
from http import HTTPStatus
from importlib import resources

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from windvane._version import __version__
from windvane.engine.engine import Engine
from windvane.engine.snapshot import Upstream
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import (
    Access,
    Permission,
    check_is_guarded,
    guard,
    needs,
)
from windvane.gateway.control_plane.cache import add_cache
from windvane.gateway.control_plane.errors import add_errors, check_said
from windvane.gateway.control_plane.keys import add_keys
from windvane.gateway.control_plane.ledger import add_ledger
from windvane.gateway.control_plane.metrics import add_metrics
from windvane.gateway.control_plane.openapi import merge_data_plane
from windvane.gateway.control_plane.reload import add_reload
from windvane.gateway.control_plane.standings import add_budgets
from windvane.gateway.control_plane.usage import add_usage
from windvane.gateway.data_plane.models import public_names
from windvane.gateway.reloading import Reload
from windvane.system import SystemClock
from windvane.telemetry.audit import AuditTrail
from windvane.telemetry.metrics import Metrics

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "docs.js": "text/javascript",
}
_PUBLIC = needs(Permission.PUBLIC)
_VIEWER = needs(Permission.VIEWER)


def control_plane(
    engine: Engine,
    metrics: Metrics,
    *,
    is_local: Callable[[], bool],
    trail: AuditTrail,
    reload: Reload | None = None,
) -> FastAPI:
    """The application. `is_local()`: traffic may be looked at from this machine without a key."""
    app = FastAPI(
        title="Windvane",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        strict_content_type=False,
        responses={401: {"model": schemas.ErrorAnswer}},
        dependencies=[Depends(check_said)],
    )
    guard(app, Access(engine, is_local, trail))
    add_errors(app, engine)
    _add_health(app, engine)
    clock = SystemClock()
    add_metrics(app, engine, clock, metrics)
    _add_providers(app, engine)
    add_keys(app, engine, clock)
    add_budgets(app, engine, clock)
    add_usage(app, engine, clock)
    add_cache(app, engine, clock, metrics)
    add_ledger(app, engine)
    add_reload(app, reload)
    _add_documentation(app)
    check_is_guarded(app.routes)
    return app


def _add_health(app: FastAPI, engine: Engine) -> None:
    @app.get("/livez", tags=["health"], summary="The process runs", openapi_extra=_PUBLIC)
    @app.get("/healthz", include_in_schema=False, openapi_extra=_PUBLIC)
    async def livez() -> schemas.Alive:
        return schemas.Alive()

    @app.get(
        "/readyz", tags=["health"], summary="The gateway takes requests", openapi_extra=_PUBLIC
    )
    async def readyz() -> schemas.Alive:
        return schemas.Alive()

    @app.get("/health", tags=["health"], summary="Version and counts", openapi_extra=_PUBLIC)
    async def health() -> schemas.Health:
        snapshot = engine.snapshot
        return schemas.Health(
            status="ok",
            version=__version__,
            models=len(public_names(snapshot)) - len(snapshot.routes.routes),
            routes=len(snapshot.routes.routes),
        )


def _add_providers(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/providers",
        tags=["traffic"],
        summary="Providers and their health",
        openapi_extra=_VIEWER,
        responses=schemas.errors(403),
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
                        breaker=engine.breaker_of(deployment),
                        requests=health.requests,
                        failures=health.failures,
                        last_error=health.last_error,
                        last_error_at_us=health.last_error_at_us,
                    )
                )
        statuses.append(
            schemas.ProviderStatus(
                name=name,
                kind=upstream.provider.kind,
                configured=True,
                healthy=all(each.breaker != "open" for each in asked),
                api_base=_address_of(upstream),
                deployments=asked,
            )
        )
    return statuses


def _address_of(upstream: Upstream) -> str:
    """A provider's address, as it is configured: there is nothing secret in one."""
    return upstream.chat_url.removesuffix(upstream.provider.chat_path)


def _add_documentation(app: FastAPI) -> None:
    @app.get("/openapi.json", include_in_schema=False, openapi_extra=_PUBLIC)
    async def openapi() -> JSONResponse:
        return JSONResponse(merge_data_plane(deepcopy(app.openapi())))  # FastAPI keeps its own

    @app.get("/docs", include_in_schema=False, openapi_extra=_PUBLIC)
    @app.get("/", include_in_schema=False, openapi_extra=_PUBLIC)
    async def docs() -> HTMLResponse:
        page = resources.files("windvane.gateway.control_plane").joinpath("assets/docs.html")
        headers = {"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(page.read_text(), headers=headers)

    @app.get("/docs/{name}", include_in_schema=False, openapi_extra=_PUBLIC)
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
