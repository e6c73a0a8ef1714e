"""`/metrics`: what was counted, and how things stand now, as Prometheus text or as JSON.

Budgets are told of by name, so not to every holder of a key: to an admin, to a key made for looking
(`endpoints: [metrics]`), and to whoever needs no key because the gateway is open to this machine.
Users named by callers are never among them: only scopes that an operator has named, keys, and teams.
"""

import asyncio
import math
from collections.abc import Iterator

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from windvane.core.budgets import Standing, standing_of
from windvane.core.principal import Principal, Scope, scope
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import METRICS, Permission, asker_of, needs
from windvane.gateway.control_plane.keys import KeyBook
from windvane.gateway.control_plane.standings import KEY, TEAM, callers, keys_by_name
from windvane.ports.clock import Clock
from windvane.telemetry.gauges import Gauges
from windvane.telemetry.metrics import CONTENT_TYPE, Metrics

BUDGETS_MAX = 1_000
"""So many budgets have series of their own, the most used ones; the rest are only counted."""
SCOPES_AT_ONCE = 500
"""Looked at between two turns of the loop."""


def add_metrics(app: FastAPI, engine: Engine, clock: Clock, metrics: Metrics) -> None:
    """The route."""
    book = KeyBook(engine, clock)

    @app.get(
        "/metrics",
        tags=["traffic"],
        summary="Prometheus text, or JSON totals",
        openapi_extra=needs(Permission.VIEWER),
        response_class=PlainTextResponse,
        responses={
            **schemas.errors(403),
            200: {"content": {"application/json": {"schema": {"type": "object"}}}},
        },
    )
    async def show_metrics(request: Request) -> Response:
        gauges = await gauges_of(engine, book, with_budgets=_may_see_budgets(asker_of(request)))
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(metrics.totals(gauges))
        return PlainTextResponse(metrics.text(gauges), media_type=CONTENT_TYPE)


def _may_see_budgets(asker: Principal | None) -> bool:
    return asker is None or asker.is_admin or METRICS in asker.endpoints


async def gauges_of(engine: Engine, book: KeyBook, *, with_budgets: bool) -> Gauges:
    """How everything stands now."""
    budgets = await _budgets(engine, book) if with_budgets else []
    serving = {
        each.id: each for group in engine.snapshot.deployments.values() for each in group
    }.values()
    asked = [each for each in serving if engine.health.of(each).requests]
    return Gauges(
        budgets=budgets[:BUDGETS_MAX],
        budgets_omitted=max(len(budgets) - BUDGETS_MAX, 0),
        upstreams=engine.room.upstreams(),
        breakers={each.id: engine.breaker_of(each) for each in asked},
        cache=await engine.cache.stats() if engine.cache is not None else (),
        flights=engine.flights_count,
    )


async def _budgets(engine: Engine, book: KeyBook) -> list[Standing]:
    """Those of named scopes, of keys and of their teams, by how much of them is used."""
    if engine.budgets.table.is_empty:
        return []
    names = book.names()
    scopes = list(dict.fromkeys(_scopes(engine, book)))
    found: list[Standing] = []
    for start in range(0, len(scopes), SCOPES_AT_ONCE):
        now_us = book.now_us()
        for name in scopes[start : start + SCOPES_AT_ONCE]:
            for account in engine.budgets.accounts((name,), now_us):
                if account.limit is not None:
                    shown = _by_name(name, names)
                    found.append(msgspec.structs.replace(standing_of(account), scope=shown))
        await asyncio.sleep(0)
    found.sort(key=_share_used, reverse=True)
    return found


def _share_used(standing: Standing) -> float:
    used = standing.spent_nano_usd + standing.held_nano_usd
    return used / standing.limit_nano_usd if standing.limit_nano_usd else math.inf


def _scopes(engine: Engine, book: KeyBook) -> Iterator[Scope]:
    double = keys_by_name(book)
    yield from (
        name
        for name in engine.budgets.table.terms
        if not name.endswith(":*") and name not in double
    )
    for principal in callers(book):
        if principal.team is not None:
            yield scope(TEAM, principal.team)
        yield scope(KEY, principal.key_id)


def _by_name(name: Scope, names: dict[str, str]) -> Scope:
    kind, _, rest = name.partition(":")
    return scope(KEY, names.get(rest, rest)) if kind == KEY else name
