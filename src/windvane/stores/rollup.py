"""Sums by UTC day and by all that usage is asked by: where answers come from, whatever their span.

A *place* is what entries have in common: the day they began on, key, team, user, tags, provider, model
and route, with `""` for none and tags joined by commas. Every store keeps one row of sums for a place;
how it keeps them is its own affair, what they are and how an answer is made of them is said here.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import msgspec

from windvane.core.budgets import US_PER_DAY
from windvane.core.ledger import FREE, HIT, JOINED, MISS, OK, LedgerEntry, Totals
from windvane.core.principal import GLOBAL, SCOPE_KINDS, Scope, scope
from windvane.core.usage import Certainty
from windvane.core.usage_report import UsageQuery, UsageRow

PLACE = ("day", "key_id", "team", "user", "tags", "provider", "resolved_model", "route")
SUMS = tuple(field.name for field in msgspec.structs.fields(Totals))
COLUMNS = {
    "day": "day",
    "key": "key_id",
    "team": "team",
    "user": "user",
    "tag": "tags",
    "model": "resolved_model",
    "provider": "provider",
    "route": "route",
}
"""The part of a place behind each dimension of `core.usage_report`."""
COST = SUMS.index("cost_nano_usd")
_HITS = SUMS.index("cache_hits")
_COUNTED = {
    HIT: _HITS,
    JOINED: SUMS.index("cache_joins"),
    MISS: SUMS.index("cache_misses"),
}
"""Where requests are counted by what the cache did for them; bypasses are what is left of all."""
_EPOCH = date(1970, 1, 1).toordinal()
_ESTIMATED, _ASSUMED = Certainty.ESTIMATED, Certainty.ASSUMED

Place = tuple[int, str, str, str, str, str, str, str]
Sums = list[int]
"""In the order of `Totals`."""


def place_of(entry: LedgerEntry) -> Place:
    """Where the entry is counted."""
    return _place_on(entry.started_at_us // US_PER_DAY, entry)


def _place_on(day: int, entry: LedgerEntry) -> Place:
    return (
        day,
        entry.key_id,
        entry.team or "",
        entry.user or "",
        ",".join(entry.tags) if entry.tags else "",
        entry.provider,
        entry.resolved_model,
        entry.route or "",
    )


def add_up(entries: Iterable[LedgerEntry], sums: dict[Place, Sums]) -> None:
    """Add the entries to `sums`, each at its place."""
    day = from_us = until_us = 0
    for entry in entries:
        # Most are of one day, and comparing is far cheaper than dividing.
        if not from_us <= entry.started_at_us < until_us:
            day = entry.started_at_us // US_PER_DAY
            from_us = day * US_PER_DAY
            until_us = from_us + US_PER_DAY
        place = _place_on(day, entry)
        known = sums.get(place)
        if known is None:
            known = sums[place] = [0] * len(SUMS)
        _add(entry, known)


def _add(entry: LedgerEntry, sums: Sums) -> None:
    if entry.number == 1:
        sums[0] += 1
    if entry.is_attempt:
        sums[1] += 1
        if entry.outcome != OK:
            sums[2] += 1
    sums[4] += entry.input_tokens
    sums[5] += entry.output_tokens
    if entry.cache_read_input_tokens:
        sums[6] += entry.cache_read_input_tokens
    if entry.cache_creation_input_tokens:
        sums[7] += entry.cache_creation_input_tokens
    if entry.reasoning_output_tokens:
        sums[8] += entry.reasoning_output_tokens
    cost = entry.cost_nano_usd
    if cost is None:
        sums[3] += 1
    else:
        sums[9] += cost
        certainty = entry.certainty
        if certainty is _ESTIMATED:
            sums[10] += cost
        elif certainty is _ASSUMED:
            sums[11] += cost
    if entry.saved_nano_usd:
        sums[12] += entry.saved_nano_usd
    sums[16] += entry.saved_tokens or 0
    sums[17] += entry.saved_us or 0
    if (place := _place_of_cache(entry)) is not None:
        sums[place] += 1


def _place_of_cache(entry: LedgerEntry) -> int | None:
    """The sum of requests in which the cache had a part that this entry is counted in."""
    if entry.cache is None:
        return _HITS if entry.outcome in FREE else None
    return _COUNTED.get(entry.cache) if entry.number == 1 else None


def totals_of(sums: Sequence[int]) -> Totals:
    return Totals(**dict(zip(SUMS, sums, strict=True)))


def day_number(day: date) -> int:
    """UTC days since 1970."""
    return day.toordinal() - _EPOCH


def first_day(since_us: int) -> int:
    """The day that begins at `since_us`, in days since 1970."""
    return since_us // US_PER_DAY


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which places a query is about: days from `since` to `until`, and parts that must be equal.

    `tag` is among the tags; `""` stands for no tags at all.
    """

    since: int | None
    until: int | None
    equal: tuple[tuple[str, str], ...]
    tag: str | None


def choice_of(query: UsageQuery) -> Choice:
    """What the query chooses. Raises ValueError for a dimension or a day that is none."""
    query.check()
    first = [] if query.since is None else [day_number(query.since)]
    last = [] if query.until is None else [day_number(query.until)]
    filters = dict(query.filters)
    if (text := filters.pop("day", None)) is not None:
        try:
            day = day_number(date.fromisoformat(text))
        except ValueError as error:
            raise ValueError(f"not a day: {text!r}; one reads 2026-12-31") from error
        first.append(day)
        last.append(day)
    return Choice(
        since=max(first, default=None),
        until=min(last, default=None),
        tag=filters.pop("tag", None),
        equal=tuple((COLUMNS[name], value) for name, value in filters.items()),
    )


def usage_rows(
    by: Sequence[str], rows: Iterable[tuple[Sequence[int | str], Sequence[int]]]
) -> list[UsageRow]:
    """The answer, from what was found: the parts of places behind `by`, and their sums.

    Several may have the same parts. Tags are taken apart here, so one row can go to many groups.
    """
    groups: dict[tuple[str, ...], Sums] = {} if by else {(): [0] * len(SUMS)}
    days = {place for place, name in enumerate(by) if name == "day"}
    tags = by.index("tag") if "tag" in by else None
    for parts, sums in rows:
        texts = tuple(
            date.fromordinal(int(part) + _EPOCH).isoformat() if place in days else str(part)
            for place, part in enumerate(parts)
        )
        for group in [texts] if tags is None else _by_tag(texts, tags):
            known = groups.get(group)
            if known is None:
                groups[group] = list(sums)
            else:
                groups[group] = [one + other for one, other in zip(known, sums, strict=True)]
    return [UsageRow(group=group, totals=totals_of(sums)) for group, sums in sorted(groups.items())]


def _by_tag(texts: tuple[str, ...], place: int) -> list[tuple[str, ...]]:
    return [
        (*texts[:place], tag, *texts[place + 1 :]) for tag in dict.fromkeys(texts[place].split(","))
    ]


def place_of_scope(name: Scope) -> tuple[str | None, str]:
    """The dimension that a scope is, and the name there; None for the one scope of everything.

    Raises ValueError for a text that is no scope.
    """
    if name == GLOBAL:
        return None, ""
    kind, colon, rest = name.partition(":")
    if not colon or not rest or kind not in SCOPE_KINDS:
        raise ValueError(f"no such scope: {name!r}; one reads global, or {SCOPE_KINDS[0]}:NAME")
    return kind, rest


def spent_by_scope(kind: str, rows: Iterable[tuple[str, int]]) -> Mapping[Scope, int]:
    """What each scope of a kind has spent, of parts of places and their costs; parts may repeat."""
    spent: dict[Scope, int] = {}
    for part, cost in rows:
        for name in dict.fromkeys(part.split(",")) if kind == "tag" else (part,):
            if name:
                known = scope(kind, name)
                spent[known] = spent.get(known, 0) + cost
    return spent


def column_of_kind(kind: str) -> str:
    """The part of a place behind a kind of scope. Raises ValueError."""
    if kind not in SCOPE_KINDS:
        raise ValueError(f"no such kind of scope: {kind!r}; global, {', '.join(SCOPE_KINDS)}")
    return COLUMNS[kind]
