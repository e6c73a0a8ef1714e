"""`/admin/cache`: what is kept of answers, what it has saved, and taking it back."""

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field

from windvane.core.cache.invalidation import Reach
from windvane.core.money import usd_text
from windvane.core.usage_report import UsageQuery, seconds
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import Permission, concerns, needs
from windvane.gateway.control_plane.answers_meant import CacheQuestion, meant
from windvane.gateway.control_plane.keys import KeyBook
from windvane.ports.clock import Clock
from windvane.telemetry.metrics import Metrics

LATER = 202
"""Others who share the cache have yet to be told."""
LOOKUPS = ("hit", "joined", "miss", "bypass")


class TierStats(BaseModel):
    tier: str = Field(description="memory, sqlite or redis")
    is_up: bool
    entries: int
    entries_max: int | None
    bytes: int
    bytes_max: int | None
    hits: int
    misses: int
    stored: int
    evicted: int
    expired: int
    faults: int = Field(description="calls that failed or came too late, answered as a miss")


class CacheReport(BaseModel):
    """Look-ups are counted since the gateway began; what was saved, by the ledger, for all time."""

    enabled: bool
    scope: str | None = Field(description="whose answers are shared: key, team or shared")
    lookups: dict[str, int] = Field(description="requests by what became of them: hit, joined, ...")
    hit_rate: float | None = Field(description="hits and joined, of all that asked the cache")
    saved_usd: str
    saved_nano_usd: int
    saved_tokens: int
    saved_seconds: float
    in_flight: int = Field(description="calls to providers that others may join")
    invalidations: int
    tiers: list[TierStats]


class Taken(BaseModel):
    tag: str
    removed: int = Field(description="entries that were taken back, as far as known")
    reach: Reach = Field(
        description="who knows of it: `everywhere`, all who share the cache, within two seconds;"
        " `later`, others once they can be told, which is tried each second; `here`, the same, but"
        " it is forgotten if this gateway ends before"
    )
    note: str | None = Field(description="why there was none, where that is known")


def add_cache(app: FastAPI, engine: Engine, clock: Clock, metrics: Metrics) -> None:
    """The routes."""
    book = KeyBook(engine, clock)

    @app.get(
        "/admin/cache",
        tags=["cache"],
        summary="What the cache holds and has saved",
        openapi_extra=needs(Permission.ADMIN),
        responses=schemas.errors(403),
    )
    async def report() -> CacheReport:
        return await cache_report(engine, metrics)

    @app.delete(
        "/admin/cache",
        tags=["cache"],
        summary="Take answers back: all, or by tag, model, route, scope, key or entry",
        openapi_extra=needs(Permission.ADMIN),
        responses={
            **schemas.errors(400, 403, 404),
            LATER: {"model": Taken, "description": "Not yet all"},
        },
    )
    async def clear(
        request: Request, response: Response, question: Annotated[CacheQuestion, Query()]
    ) -> Taken:
        tags, unless_found, entry = meant(question, engine.snapshot, book, request)
        concerns(request, tags[0])
        removed, reach = await engine.invalidate(*tags, entry=entry)
        if reach is not Reach.EVERYWHERE:
            response.status_code = LATER
        note = unless_found if not removed else None
        return Taken(tag=tags[0], removed=removed, reach=reach, note=note)


async def cache_report(engine: Engine, metrics: Metrics) -> CacheReport:
    rules = engine.snapshot.cache
    tiers = await engine.cache.stats() if engine.cache is not None else ()
    (whole,) = await engine.ledger.usage(UsageQuery())
    counted = metrics.cache_lookups()
    lookups = {name: counted.get(name, 0) for name in LOOKUPS}
    asked = sum(lookups[name] for name in ("hit", "joined", "miss"))
    known = engine.invalidations
    return CacheReport(
        enabled=rules is not None,
        scope=rules.scope if rules is not None else None,
        lookups=lookups,
        hit_rate=(lookups["hit"] + lookups["joined"]) / asked if asked else None,
        saved_usd=usd_text(whole.totals.saved_nano_usd),
        saved_nano_usd=whole.totals.saved_nano_usd,
        saved_tokens=whole.totals.saved_tokens,
        saved_seconds=seconds(whole.totals.saved_us),
        in_flight=engine.flights_count,
        invalidations=known.known.version if known is not None else 0,
        tiers=[
            TierStats(
                tier=each.tier,
                is_up=each.is_up,
                entries=each.entries,
                entries_max=each.entries_max,
                bytes=each.bytes,
                bytes_max=each.bytes_max,
                hits=each.hits,
                misses=each.misses,
                stored=each.stored,
                evicted=each.evicted,
                expired=each.expired,
                faults=each.faults,
            )
            for each in tiers
        ],
    )
