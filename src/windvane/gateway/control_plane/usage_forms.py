"""Usage as it is asked for and shown: one question, its rows as JSON or as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.ledger import Totals
from windvane.core.money import usd_text
from windvane.core.usage_report import DIMENSIONS, UsageQuery, UsageRow, seconds

DAY = r"^\d{4}-\d\d-\d\d$"
TEXT_CHARS_MAX = 256
ROWS_AT_ONCE = 200
"""Rows that are written in one step of the event loop: some milliseconds."""
_RISKY = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet would take a text that begins so for a formula."""
_SUMS = tuple(field.name for field in msgspec.structs.fields(Totals))
_MONEY = tuple(name for name in _SUMS if name.endswith("_nano_usd"))


class UsageQuestion(BaseModel):
    """Filters are exact; an empty text stands for attempts that have none. Days are UTC days."""

    model_config = ConfigDict(extra="forbid")

    since: str | None = Field(default=None, pattern=DAY, description="the first day, 2026-12-31")
    until: str | None = Field(default=None, pattern=DAY, description="the last day")
    by: str = Field(
        default="",
        max_length=TEXT_CHARS_MAX,
        description=f"what to group by, separated by commas: {', '.join(DIMENSIONS)}",
    )
    key: str | None = Field(default=None, max_length=TEXT_CHARS_MAX, description="id or name")
    team: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    user: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    tag: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    model: str | None = Field(default=None, max_length=TEXT_CHARS_MAX, description="resolved id")
    provider: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    route: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    format: Literal["json", "csv"] = "json"


class UsageTotals(BaseModel):
    """Sums over the ledger. Money is exact: whole nano-dollars, and the same as decimal text."""

    requests: int
    attempts: int
    failed_attempts: int = Field(description="attempts that gave no answer")
    unpriced_attempts: int = Field(description="attempts whose price is unknown: in no amount")
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    reasoning_output_tokens: int
    cost_nano_usd: int
    cost_usd: str
    estimated_nano_usd: int = Field(description="part of the cost: counted here, not confirmed")
    estimated_usd: str
    assumed_nano_usd: int = Field(description="part of the cost: a worst case, nothing is known")
    assumed_usd: str
    saved_nano_usd: int = Field(description="what hits and joins would have cost")
    saved_usd: str
    cache_hits: int = Field(
        description="requests answered from the cache; with joins, misses and bypasses all requests"
    )
    cache_joins: int = Field(description="requests that joined an equal one under way")
    cache_misses: int = Field(description="requests that the cache had no answer for")
    cache_bypasses: int = Field(description="requests that the cache had no part in")
    saved_tokens: int = Field(description="tokens that hits and joins would have used")
    saved_seconds: float = Field(description="time that their callers did not wait")


class UsageGroup(UsageTotals):
    """One group; it has the dimensions that were asked for, `""` for none."""

    day: str | None = None
    key: str | None = None
    key_name: str | None = Field(default=None, description="beside `key`, where it is known")
    team: str | None = None
    user: str | None = None
    tag: str | None = None
    model: str | None = None
    provider: str | None = None
    route: str | None = None


class UsageAnswer(BaseModel):
    since: str | None
    until: str | None
    by: list[str]
    rows: list[UsageGroup]
    totals: UsageTotals = Field(description="of all that matches; tags may count one attempt twice")


def query_of(question: UsageQuestion, key_id: str | None) -> UsageQuery:
    """The question as the ledger takes it, its key found. Raises BadRequestError."""
    by = tuple(name.strip() for name in question.by.split(",") if name.strip())
    filters = {
        name: value
        for name in DIMENSIONS
        if (value := key_id if name == "key" else getattr(question, name, None)) is not None
    }
    query = UsageQuery(
        since=_day(question.since, "since"),
        until=_day(question.until, "until"),
        by=by,
        filters=filters,
    )
    try:
        query.check()
    except ValueError as error:
        param = "until" if "day is after" in str(error) else "by"
        raise _wrong(param, str(error)) from error
    return query


def _day(text: str | None, param: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong(param, f"there is no day {text!r}; one reads 2026-12-31") from None


def _wrong(param: str, message: str) -> WindvaneError:
    return refuse(FaultKind.INVALID_REQUEST, f"{param}: {message}", param=param)


def sums(totals: Totals) -> dict[str, Any]:
    """Sums as they are shown: each amount also in dollars, and time in seconds."""
    told: dict[str, Any] = {}
    for name in _SUMS:
        value = getattr(totals, name)
        if name == "saved_us":
            told["saved_seconds"] = seconds(value)
            continue
        told[name] = value
        if name in _MONEY:
            told[name.replace("_nano_usd", "_usd")] = usd_text(value)
        elif name == "cache_misses":
            told["cache_bypasses"] = totals.cache_bypasses
    return told


def add_up(rows: Sequence[UsageRow]) -> Totals:
    """The sum of rows that do not overlap."""
    return Totals(**{name: sum(getattr(row.totals, name) for row in rows) for name in _SUMS})


def groups(
    query: UsageQuery, rows: Sequence[UsageRow], key_names: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Rows as objects: dimensions first, a key's name beside its id, then the sums."""
    for row in rows:
        group: dict[str, Any] = {}
        for name, value in zip(query.by, row.group, strict=True):
            group[name] = value
            if name == "key":
                group["key_name"] = key_names.get(value)
        yield group | sums(row.totals)


def some_at_once(rows: Sequence[UsageRow]) -> Iterator[Sequence[UsageRow]]:
    """The rows, so many at a time as hold nobody up."""
    return (rows[place : place + ROWS_AT_ONCE] for place in range(0, len(rows), ROWS_AT_ONCE))


def json_parts(
    query: UsageQuery, rows: Sequence[UsageRow], key_names: Mapping[str, str], whole: Totals
) -> Iterator[bytes]:
    """A `UsageAnswer`, in parts of some rows."""
    said = {"since": query.since, "until": query.until, "by": query.by}
    yield msgspec.json.encode(said)[:-1] + b',"rows":['
    comma = b""
    for some in some_at_once(rows):
        yield comma + msgspec.json.encode(list(groups(query, some, key_names)))[1:-1]
        comma = b","
    yield b'],"totals":' + msgspec.json.encode(sums(whole)) + b"}"


def csv_parts(
    query: UsageQuery, rows: Sequence[UsageRow], key_names: Mapping[str, str]
) -> Iterator[bytes]:
    """The same as a table with a header line; texts that look like formulas are made harmless."""
    columns: list[str] = []
    for name in query.by:
        columns += [name, "key_name"] if name == "key" else [name]
    columns += sums(Totals())
    yield _table([columns])
    for some in some_at_once(rows):
        shown = groups(query, some, key_names)
        yield _table([_cell(group[name]) for name in columns] for group in shown)


def _table(lines: Iterable[Iterable[object]]) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows(lines)  # RFC 4180
    return written.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_RISKY):
        return f"'{value}"
    return "" if value is None else value
