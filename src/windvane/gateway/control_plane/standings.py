"""`/admin/budgets`: how every budget stands, and what a caller may know of its own.

A scope whose limit comes from its kind (`key:*`) gets its account when it is first used; for keys and
their teams it is opened here, so that what was never used is told of too.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from windvane.core.budgets import Standing, standing_of
from windvane.core.deployment import counted_as
from windvane.core.faults import FaultKind, refuse
from windvane.core.money import usd_text
from windvane.core.principal import GLOBAL, MODEL, SCOPE_KINDS, Principal, Scope, scope
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import Permission, needs
from windvane.gateway.control_plane.keys import KeyBook
from windvane.gateway.control_plane.times import utc_text_or_none
from windvane.ports.clock import Clock

KEY = "key"
TEAM = "team"
US_PER_S = 1_000_000


class BudgetStanding(BaseModel):
    """One scope's budget in the period around now."""

    scope: str
    key_name: str | None = Field(description="the name of the key, when the scope is one")
    period: str = Field(description="daily, monthly or total")
    limit_usd: str
    limit_nano_usd: int
    spent_usd: str
    spent_nano_usd: int
    held_usd: str = Field(description="for requests that are running")
    held_nano_usd: int
    left_usd: str
    left_nano_usd: int
    used_percent: float = Field(description="spent or held")
    starts_at: str | None = Field(description="null for a total")
    renews_at: str | None = Field(description="null when it never does")


class ShareUsed(BaseModel):
    """As much of a shared budget as concerns one who shares it."""

    period: str
    used_percent: float
    renews_at: str | None


class BudgetList(BaseModel):
    data: list[BudgetStanding]


class BudgetQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scope: str | None = Field(
        default=None,
        max_length=200,
        description="one scope (`team:research`, `key:` and an id or a name, `model:` and any name of"
        " it), or a kind (`key`)",
    )


def shown(standing: Standing, names: Mapping[str, str]) -> BudgetStanding:
    kind, _, name = standing.scope.partition(":")
    return BudgetStanding(
        scope=standing.scope,
        key_name=names.get(name) if kind == KEY else None,
        period=standing.period.value,
        limit_usd=usd_text(standing.limit_nano_usd),
        limit_nano_usd=standing.limit_nano_usd,
        spent_usd=usd_text(standing.spent_nano_usd),
        spent_nano_usd=standing.spent_nano_usd,
        held_usd=usd_text(standing.held_nano_usd),
        held_nano_usd=standing.held_nano_usd,
        left_usd=usd_text(standing.left_nano_usd),
        left_nano_usd=standing.left_nano_usd,
        used_percent=standing.used_permille / 10,
        starts_at=utc_text_or_none(standing.starts_at_us or None),
        renews_at=utc_text_or_none(standing.renews_at_us),
    )


def share(standing: Standing) -> ShareUsed:
    return ShareUsed(
        period=standing.period.value,
        used_percent=standing.used_permille / 10,
        renews_at=utc_text_or_none(standing.renews_at_us),
    )


def standings_of(engine: Engine, name: Scope, now_us: int) -> list[Standing]:
    """How the budgets of one scope stand."""
    accounts = engine.budgets.accounts((name,), now_us)
    return [standing_of(account) for account in accounts if account.limit is not None]


def callers(book: KeyBook) -> Sequence[Principal]:
    """Whose keys work now."""
    now_us = book.now_us()
    return [*book.fixed, *(key.principal() for key in book.made if key.is_live(now_us))]


def keys_by_name(book: KeyBook) -> set[Scope]:
    """The scopes that name a made key by its name: the configuration may, but it counts by its id."""
    ids = book.names()
    return {scope(KEY, key.terms.name) for key in book.made if key.terms.name not in ids}


def all_standings(engine: Engine, book: KeyBook) -> list[Standing]:
    """Every account with a limit, by scope and period."""
    now_us = book.now_us()
    if not engine.budgets.table.is_empty:
        for principal in callers(book):
            engine.budgets.accounts((scope(KEY, principal.key_id),), now_us)
            if principal.team is not None:
                engine.budgets.accounts((scope(TEAM, principal.team),), now_us)
    order = {period: place for place, period in enumerate(("daily", "monthly", "total"))}
    double = keys_by_name(book)
    standings = [each for each in engine.budgets.standings(now_us) if each.scope not in double]
    return sorted(standings, key=lambda each: (each.scope, order[each.period.value]))


def add_budgets(app: FastAPI, engine: Engine, clock: Clock) -> None:
    """The route."""
    book = KeyBook(engine, clock)

    @app.get(
        "/admin/budgets",
        tags=["budgets"],
        summary="How every budget stands",
        openapi_extra=needs(Permission.ADMIN),
        responses=schemas.errors(400, 403),
    )
    async def budgets(question: Annotated[BudgetQuestion, Query()]) -> BudgetList:
        wanted = None if question.scope is None else _wanted(question.scope, engine, book)
        names = book.names()
        data = [
            shown(each, names)
            for each in all_standings(engine, book)
            if wanted in (None, each.scope, each.scope.partition(":")[0])
        ]
        return BudgetList(data=data)


def _wanted(said: str, engine: Engine, book: KeyBook) -> str:
    """The scope or kind that is meant. Raises BadRequestError."""
    if said == GLOBAL or said in SCOPE_KINDS:
        return said
    kind, _, name = said.partition(":")
    if kind not in SCOPE_KINDS or not name:
        known = ", ".join(f"{each}:NAME" for each in SCOPE_KINDS)
        raise refuse(
            FaultKind.INVALID_REQUEST, f"scope: must be global, or one of {known}", param="scope"
        )
    if kind == KEY:
        return scope(kind, book.id_of(name))
    if kind == MODEL:
        serving = engine.snapshot
        day = datetime.fromtimestamp(book.now_us() // US_PER_S, UTC).date()
        ids = counted_as(name, serving.deployments, serving.catalog, day)
        return scope(kind, ids.pop()) if len(ids) == 1 else said
    return said
