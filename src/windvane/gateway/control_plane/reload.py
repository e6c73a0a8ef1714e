"""`/admin/reload`: the configuration is read again, and its budgets and rates hold at once."""

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from windvane.config import ConfigError
from windvane.core.faults import FaultKind, refuse
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import Permission, concerns, needs
from windvane.gateway.reloading import Reload

SUBJECT = "configuration"


class ReloadShown(BaseModel):
    budgets: list[str] = Field(description="scopes whose budget is another one now")
    rates: list[str] = Field(description="scopes whose rates are other ones now")
    needs_restart: list[str] = Field(
        description="sections that differ from what the gateway was started with"
    )


def add_reload(app: FastAPI, reload: Reload | None) -> None:
    """The route. Without `reload` there is nothing to read again."""

    @app.post(
        "/admin/reload",
        tags=["configuration"],
        summary="Read the configuration again: its budgets and rates hold at once",
        openapi_extra=needs(Permission.ADMIN),
        responses=schemas.errors(400, 403, 408, 409, 413, 415, 503),
    )
    async def reload_configuration(request: Request) -> ReloadShown:
        concerns(request, SUBJECT)
        if reload is None:
            raise refuse(
                FaultKind.INVALID_REQUEST,
                "this gateway was not started from a configuration that can be read again",
                status=409,
                code="nothing_to_reload",
            )
        try:
            done = await reload()
        except ConfigError as error:
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"nothing was changed: {error}",
                code="invalid_configuration",
            ) from error
        return ReloadShown(
            budgets=list(done.budgets),
            rates=list(done.rates),
            needs_restart=list(done.needs_restart),
        )
