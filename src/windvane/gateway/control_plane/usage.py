"""What was used: `/admin/usage` for operators, `/user/stats` for callers, and single requests.

All of it comes from `core.usage_report` questions to the ledger, so that no two numbers differ. How
many questions may wait is the ledger's to say (503 `ledger_busy`).
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import Field

from windvane.core.faults import FaultKind, refuse
from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.money import usd_text
from windvane.core.principal import Principal, scope
from windvane.core.usage_report import UsageQuery, UsageRow
from windvane.engine.engine import Engine
from windvane.gateway.control_plane import schemas
from windvane.gateway.control_plane.access import Caller, Permission, concerns, needs
from windvane.gateway.control_plane.key_forms import RatesShown, shown_rates
from windvane.gateway.control_plane.keys import KeyBook
from windvane.gateway.control_plane.standings import (
    KEY,
    TEAM,
    BudgetStanding,
    ShareUsed,
    share,
    shown,
    standings_of,
)
from windvane.gateway.control_plane.usage_forms import (
    UsageAnswer,
    UsageQuestion,
    UsageTotals,
    add_up,
    csv_parts,
    json_parts,
    query_of,
    some_at_once,
    sums,
)
from windvane.ports.clock import Clock

ROWS_MAX = 50_000
"""The most rows of one answer: a month of 1,600 keys by day. It is 36 MB of JSON, made in a second or two,
and a hundred megabytes while it is made; the command line reads no more than 64 MiB."""
US_PER_S = 1_000_000


class UserStats(UsageTotals):
    """What the calling key has used, and what it may. The sums at the top are of all time."""

    key: str
    key_name: str | None
    by_model: dict[str, UsageTotals]
    today: UsageTotals = Field(description="this UTC day")
    this_month: UsageTotals = Field(description="this UTC month")
    budgets: list[BudgetStanding] = Field(description="the key's own")
    team_budgets: list[ShareUsed] = Field(description="its team's, as the share used")
    rates: RatesShown


def add_usage(app: FastAPI, engine: Engine, clock: Clock) -> None:
    """The routes."""
    book = KeyBook(engine, clock)
    _add_report(app, engine, book)
    _add_own(app, engine, book)
    _add_requests(app, engine)


def _add_report(app: FastAPI, engine: Engine, book: KeyBook) -> None:
    @app.get(
        "/admin/usage",
        tags=["usage"],
        summary="What was used, by whom, when and for what; as JSON or CSV",
        openapi_extra=needs(Permission.ADMIN),
        response_model=UsageAnswer,
        responses={
            **schemas.errors(400, 403, 503),
            200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
        },
    )
    async def usage(question: Annotated[UsageQuestion, Query()]) -> Response:
        key_id = None if question.key is None else book.id_of(question.key)
        query = query_of(question, key_id)
        rows = await engine.ledger.usage(query)
        if len(rows) > ROWS_MAX:
            raise refuse(
                FaultKind.INVALID_REQUEST,
                f"the answer has {len(rows)} rows, more than {ROWS_MAX}: ask for fewer days, or"
                " group by less",
                code="too_many_rows",
                param="by",
            )
        names = book.names()
        if question.format == "csv":
            headers = {"content-disposition": 'attachment; filename="usage.csv"'}
            text = await _in_turns(csv_parts(query, rows, names))
            return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
        whole = await _whole(engine, query, rows)
        answer = await _in_turns(json_parts(query, rows, names, whole))
        return Response(answer, media_type="application/json")


async def _in_turns(parts: Iterator[bytes]) -> bytes:
    """All of them together; requests go on between one and the next."""
    made: list[bytes] = []
    for part in parts:
        made.append(part)
        await asyncio.sleep(0)
    return b"".join(made)


async def _whole(engine: Engine, query: UsageQuery, rows: Sequence[UsageRow]) -> Totals:
    """All that matches. Groups by tag overlap, so they are asked for anew without groups."""
    if "tag" not in query.by:
        parts: list[UsageRow] = []
        for some in some_at_once(rows):
            parts.append(UsageRow(group=(), totals=add_up(some)))
            await asyncio.sleep(0)
        return add_up(parts)
    (whole,) = await engine.ledger.usage(msgspec.structs.replace(query, by=()))
    return whole.totals


def _add_own(app: FastAPI, engine: Engine, book: KeyBook) -> None:
    @app.get(
        "/user/stats",
        tags=["usage"],
        summary="What the calling key has used, and what it may",
        openapi_extra=needs(Permission.CALLER),
        responses=schemas.errors(400, 503),
    )
    async def user_stats(principal: Caller) -> UserStats:
        now_us = book.now_us()
        today = datetime.fromtimestamp(now_us // US_PER_S, UTC).date()
        mine = {"key": principal.key_id}
        by_model = await engine.ledger.usage(UsageQuery(by=("model",), filters=mine))
        by_day = await engine.ledger.usage(
            UsageQuery(by=("day",), since=today.replace(day=1), filters=mine)
        )
        names = book.names()
        own = standings_of(engine, scope(KEY, principal.key_id), now_us)
        return UserStats(
            key=principal.key_id,
            key_name=names.get(principal.key_id),
            by_model={row.group[0]: UsageTotals(**sums(row.totals)) for row in by_model},
            today=_of_days(by_day, today),
            this_month=_of_days(by_day, None),
            budgets=[shown(each, names) for each in own],
            team_budgets=_shares(engine, principal, now_us),
            rates=shown_rates(engine.desk.rates_of(principal.key_id)),
            **sums(add_up(by_model)),
        )


def _of_days(rows: Sequence[UsageRow], day: date | None) -> UsageTotals:
    wanted = [row for row in rows if day is None or row.group[0] == day.isoformat()]
    return UsageTotals(**sums(add_up(wanted)))


def _shares(engine: Engine, principal: Principal, now_us: int) -> list[ShareUsed]:
    if principal.team is None:
        return []
    return [share(each) for each in standings_of(engine, scope(TEAM, principal.team), now_us)]


def _add_requests(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/admin/requests/{request_id}",
        tags=["usage"],
        summary="A request on the ledger: a key's own, or for an admin any",
        openapi_extra=needs(Permission.CALLER),
        responses=schemas.errors(400, 404, 503),
    )
    async def request_record(
        request: Request, request_id: str, principal: Caller
    ) -> schemas.RequestRecord:
        owner = None if principal.is_admin else principal.key_id
        entries = await engine.ledger.entries_of(request_id, key_id=owner)
        if not entries:
            raise refuse(
                FaultKind.NOT_FOUND, f"no request {request_id[:64]!r} is on the ledger", status=404
            )
        # A caller's own id may stand for several requests: the last of them is meant.
        meant = entries[-1].request_id
        concerns(request, meant)
        return _record([entry for entry in entries if entry.request_id == meant])


def _record(entries: Sequence[LedgerEntry]) -> schemas.RequestRecord:
    first = entries[0]
    total = _sum_or_none([entry.cost_nano_usd for entry in entries])
    return schemas.RequestRecord(
        request_id=first.request_id,
        client_request_id=first.client_request_id,
        key=first.key_id,
        team=first.team,
        user=first.user,
        tags=list(first.tags),
        route=first.route,
        requested_model=first.requested_model,
        reason=first.reason,
        stream=bool(first.is_stream),
        cost_nano_usd=total,
        cost_usd=None if total is None else usd_text(total),
        hold_nano_usd=_sum_or_none([entry.hold_nano_usd for entry in entries]),
        saved_nano_usd=sum(entry.saved_nano_usd or 0 for entry in entries),
        cache=first.cache_status,
        attempts=[_attempt(entry) for entry in entries],
    )


def _sum_or_none(amounts: Sequence[int | None]) -> int | None:
    """The sum; None when one of them is not known."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _attempt(entry: LedgerEntry) -> schemas.AttemptRecord:
    names = schemas.AttemptRecord.model_fields.keys() - {"certainty"}
    said: dict[str, Any] = {name: getattr(entry, name) for name in names}
    return schemas.AttemptRecord(certainty=entry.certainty.value, **said)
