"""What is asked of the ledger, as SQL. Columns are ours, values are bound."""

from windvane.core.principal import GLOBAL, Scope
from windvane.core.usage_report import UsageQuery
from windvane.stores.rollup import (
    COLUMNS,
    PLACE,
    SUMS,
    choice_of,
    column_of_kind,
    first_day,
    place_of_scope,
)
from windvane.stores.sqlite.rows import FIELDS

Question = tuple[str, dict[str, str | int | None]]
"""A statement and its values."""

ROWS_OF_REQUEST_MAX = 100
_SUMS = ", ".join(f"coalesce(sum({name}), 0)" for name in SUMS)


def of_request(request_id: str, key_id: str | None) -> Question:
    """The latest attempts of a request, newest first."""
    query = (
        f"SELECT {', '.join(FIELDS)} FROM ledger "
        "WHERE (attempt_id BETWEEN :id || '-' AND :id || '.' AND request_id = :id"
        " OR client_request_id = :id)"
        " AND (:key IS NULL OR key_id = :key)"
        " ORDER BY started_at_us DESC, number DESC LIMIT :most"
    )
    return query, {"id": request_id, "key": key_id, "most": ROWS_OF_REQUEST_MAX}


def of_usage(query: UsageQuery) -> Question:
    """The parts of places behind `query.by`, then the sums. Raises ValueError."""
    choice = choice_of(query)
    conditions = [f"{column} = :{column}" for column, _ in choice.equal]
    values: dict[str, str | int | None] = dict(choice.equal)
    if choice.since is not None:
        conditions.append("day >= :since")
        values["since"] = choice.since
    if choice.until is not None:
        conditions.append("day <= :until")
        values["until"] = choice.until
    if choice.tag is not None:
        conditions.append(_tagged("tag"))
        values["tag"] = choice.tag
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ", ".join(COLUMNS[name] for name in query.by)
    # In the order of the table's own key, so that nothing need be sorted.
    in_order = ", ".join(sorted({COLUMNS[name] for name in query.by}, key=PLACE.index))
    grouped = f" GROUP BY {in_order}" if columns else ""
    chosen = f"{columns}, " if columns else ""
    return f"SELECT {chosen}{_SUMS} FROM usage_daily{where}{grouped}", values


def _tagged(name: str) -> str:
    """Whether the tag of this name is among the tags; none at all, for an empty one."""
    return f"instr(',' || tags || ',', ',' || :{name} || ',') > 0"


_WITHIN = "FROM usage_daily WHERE day >= :since AND day < :until"
_NO_DAY = 2**62
"""After every day: a bound that there always is lets SQLite read the days between, and no others."""


def _span(since_us: int, until_us: int | None) -> dict[str, int | str | None]:
    return {
        "since": first_day(since_us),
        "until": _NO_DAY if until_us is None else first_day(until_us),
    }


def of_spent(scope: Scope, since_us: int, until_us: int | None) -> Question:
    """What a scope has spent. Raises ValueError for a text that is no scope."""
    kind, name = place_of_scope(scope)
    query = f"SELECT coalesce(sum(cost_nano_usd), 0) {_WITHIN}"
    if kind == "tag":
        query += f" AND {_tagged('name')}"
    elif kind is not None:
        # What is compared with '' here is what the partial index is on.
        query += f" AND {COLUMNS[kind]} = :name AND {COLUMNS[kind]} <> ''"
    return query, {**_span(since_us, until_us), "name": name}


def of_spent_by(kind: str, since_us: int, until_us: int | None) -> Question:
    """Parts of places and what was spent there. Raises ValueError for a kind that is none."""
    assert kind != GLOBAL, "that is one scope"
    column = column_of_kind(kind)
    query = f"SELECT {column}, sum(cost_nano_usd) {_WITHIN} GROUP BY 1"
    return query, _span(since_us, until_us)


def of_days_since(since_us: int) -> Question:
    """The days from `since_us` on, or the latest before."""
    query = (
        "SELECT DISTINCT day FROM usage_daily"
        " WHERE day >= min(:since, (SELECT max(day) FROM usage_daily)) ORDER BY day"
    )
    return query, {"since": first_day(since_us)}
