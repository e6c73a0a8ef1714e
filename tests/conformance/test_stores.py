"""One body for every store of facts and keys: what memory says, SQLite says, and a naive sum says."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.budgets import BudgetTerms
from windvane.core.keys import KeySecret, KeyTerms, VirtualKey
from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.limits import RateTerms
from windvane.core.money import NanoUsd
from windvane.core.principal import GLOBAL, SCOPE_KINDS, Scope
from windvane.core.usage import Certainty
from windvane.core.usage_report import DIMENSIONS, UsageQuery
from windvane.ports.stores import Journal, KeyStore, LedgerStore
from windvane.stores.memory import MemoryKeys, MemoryLedger
from windvane.stores.sqlite import SqliteLedger

FIRST = date(2026, 2, 27)
DAYS = 4
US_PER_DAY = 86_400_000_000
FIRST_US = int(datetime(2026, 2, 27, tzinfo=UTC).timestamp()) * 1_000_000

OpenLedger = Callable[[], "AsyncIterator[tuple[Journal, LedgerStore]]"]


@asynccontextmanager
async def memory_ledger() -> AsyncIterator[tuple[Journal, LedgerStore]]:
    ledger = MemoryLedger()
    yield ledger, ledger


@asynccontextmanager
async def sqlite_ledger() -> AsyncIterator[tuple[Journal, LedgerStore]]:
    with TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder))
        try:
            yield ledger.journal, ledger
        finally:
            await ledger.aclose()


@asynccontextmanager
async def memory_keys() -> AsyncIterator[KeyStore]:
    yield MemoryKeys()


@asynccontextmanager
async def sqlite_keys() -> AsyncIterator[KeyStore]:
    with TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder))
        try:
            yield ledger
        finally:
            await ledger.aclose()


LEDGERS = pytest.mark.parametrize("opened", [memory_ledger, sqlite_ledger])
KEYS = pytest.mark.parametrize("opened", [memory_keys, sqlite_keys])

FEW = st.sampled_from
TOKENS = st.integers(0, 10**6)
AMOUNT = st.none() | st.integers(0, 10**15)
PLACES = st.fixed_dictionaries(
    {
        "number": st.integers(1, 3),
        "started_at_us": st.integers(FIRST_US, FIRST_US + DAYS * US_PER_DAY - 1)
        | FEW([FIRST_US + n * US_PER_DAY + by for n in range(1, DAYS) for by in (-1, 0)]),
        "key_id": FEW(["anonymous", "key_1", "key_2"]),
        "team": FEW([None, "blue", "red"]),
        "user": FEW([None, "ada", "é%_'\""]),
        "tags": FEW([(), ("a",), ("b", "a"), ("ab",), ("a", "a"), ("%",)]),
        "route": FEW([None, "auto"]),
        "provider": FEW(["one", "two", ""]),
        "resolved_model": FEW(["small", "large", "ab"]),
        "certainty": FEW(list(Certainty)),
        "outcome": FEW(["ok", "timeout", "unknown", "hit", "joined"]),
        "cache": FEW([None, "hit", "joined", "miss"]),
        "saved_tokens": st.none() | TOKENS,
        "saved_us": st.none() | TOKENS,
        "cost_nano_usd": AMOUNT,
        "saved_nano_usd": AMOUNT,
        "input_tokens": TOKENS,
        "output_tokens": TOKENS,
        "cache_read_input_tokens": TOKENS,
        "cache_creation_input_tokens": TOKENS,
        "reasoning_output_tokens": TOKENS,
        "is_stream": st.booleans(),
        "status": FEW([None, 200, 503]),
        "latency_us": FEW([None, 0, 12]),
        "client_request_id": FEW([None, "mine"]),
    }
)


def entry(place: dict[str, object], number: int) -> LedgerEntry:
    values = {
        "requested_model": "auto",
        "model": "small",
        "reason": "default",
        "dialect": "openai",
        "hold_nano_usd": None,
    }
    return LedgerEntry(
        attempt_id=f"req_{number:04}-{place['number']}",
        request_id=f"req_{number:04}",
        **{**values, **place},
    )


ENTRIES = st.lists(PLACES, max_size=40).map(
    lambda places: [entry(place, number) for number, place in enumerate(places)]
)
ANY_DAY = st.none() | st.integers(-1, DAYS).map(lambda days: FIRST + timedelta(days))
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "day": st.integers(0, DAYS).map(lambda days: (FIRST + timedelta(days)).isoformat()),
        "key": FEW(["anonymous", "key_1", "nobody"]),
        "team": FEW(["", "blue"]),
        "user": FEW(["", "é%_'\""]),
        "tag": FEW(["", "a", "b", "%"]),
        "model": FEW(["small", "ab"]),
        "provider": FEW(["one"]),
        "route": FEW(["", "auto"]),
    },
)


@st.composite
def queries(draw: st.DrawFn) -> UsageQuery:
    since, until = draw(ANY_DAY), draw(ANY_DAY)
    if since is not None and until is not None and since > until:
        since, until = until, since
    by = draw(st.lists(FEW(DIMENSIONS), unique=True, max_size=4))
    filters = draw(FILTERS)
    kept = draw(st.sets(FEW(sorted(filters)), max_size=2)) if filters else set()
    return UsageQuery(
        since=since, until=until, by=tuple(by), filters={name: filters[name] for name in kept}
    )


def day_of(entry: LedgerEntry) -> date:
    return datetime.fromtimestamp(entry.started_at_us // 1_000_000, UTC).date()


def parts(entry: LedgerEntry, dimension: str) -> list[str]:
    """What an entry is under, by one dimension."""
    match dimension:
        case "day":
            return [day_of(entry).isoformat()]
        case "key":
            return [entry.key_id]
        case "tag":
            return sorted(set(entry.tags)) or [""]
        case "model":
            return [entry.resolved_model]
        case _:
            return [getattr(entry, dimension) or ""]


def naive_totals(entries: list[LedgerEntry]) -> Totals:
    priced = [entry for entry in entries if entry.cost_nano_usd is not None]

    def cost(*certainties: Certainty) -> int:
        return sum(entry.cost_nano_usd for entry in priced if entry.certainty in certainties)

    def tokens(name: str) -> int:
        return sum(getattr(entry, name) or 0 for entry in entries)

    def counted(status: str) -> int:
        return len([entry for entry in entries if (entry.number, entry.cache) == (1, status)])

    free = ("hit", "joined")
    attempts = [entry for entry in entries if entry.provider and entry.outcome not in free]
    untold = [entry for entry in entries if entry.cache is None and entry.outcome in free]

    return Totals(
        requests=len([entry for entry in entries if entry.number == 1]),
        attempts=len(attempts),
        failed_attempts=len([entry for entry in attempts if entry.outcome != "ok"]),
        unpriced_attempts=len(entries) - len(priced),
        input_tokens=tokens("input_tokens"),
        output_tokens=tokens("output_tokens"),
        cache_read_input_tokens=tokens("cache_read_input_tokens"),
        cache_creation_input_tokens=tokens("cache_creation_input_tokens"),
        reasoning_output_tokens=tokens("reasoning_output_tokens"),
        cost_nano_usd=cost(*Certainty),
        estimated_nano_usd=cost(Certainty.ESTIMATED),
        assumed_nano_usd=cost(Certainty.ASSUMED),
        saved_nano_usd=tokens("saved_nano_usd"),
        cache_hits=counted("hit") + len(untold),
        cache_joins=counted("joined"),
        cache_misses=counted("miss"),
        saved_tokens=tokens("saved_tokens"),
        saved_us=tokens("saved_us"),
    )


def naive_usage(entries: list[LedgerEntry], query: UsageQuery) -> list[tuple[tuple, Totals]]:
    groups: dict[tuple[str, ...], list[LedgerEntry]] = {} if query.by else {(): []}
    for entry in entries:
        if query.since is not None and day_of(entry) < query.since:
            continue
        if query.until is not None and day_of(entry) > query.until:
            continue
        if any(value not in parts(entry, name) for name, value in query.filters.items()):
            continue
        for group in itertools.product(*(parts(entry, name) for name in query.by)):
            groups.setdefault(group, []).append(entry)
    return [(group, naive_totals(found)) for group, found in sorted(groups.items())]


def settle(journal: Journal, entries: Iterable[LedgerEntry]) -> None:
    for each in entries:
        journal.hold(each)
        journal.settle(each)


@LEDGERS
@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES, asked=st.lists(queries(), min_size=1, max_size=6))
def test_usage_is_the_sum_of_what_was_settled(opened, entries, asked) -> None:
    async def scenario() -> None:
        async with opened() as (journal, ledger):
            settle(journal, entries)
            for query in asked:
                rows = await ledger.usage(query)
                assert [(row.group, row.totals) for row in rows] == naive_usage(entries, query)

    asyncio.run(scenario())


@LEDGERS
@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES, day=st.integers(-1, DAYS), days=st.none() | st.integers(0, DAYS))
def test_what_was_spent_is_the_sum_of_the_costs_in_a_scope(opened, entries, day, days) -> None:
    since_us = FIRST_US + day * US_PER_DAY
    until_us = None if days is None else since_us + days * US_PER_DAY
    span = since_us, until_us
    expected = {kind: {} for kind in SCOPE_KINDS}
    everything = 0
    for each in entries:
        if since_us <= each.started_at_us and (until_us is None or each.started_at_us < until_us):
            everything += each.cost_nano_usd or 0
            for kind, spent in expected.items():
                for name in filter(None, parts(each, kind)):
                    scope = f"{kind}:{name}"
                    spent[scope] = spent.get(scope, 0) + (each.cost_nano_usd or 0)

    async def scenario() -> None:
        async with opened() as (journal, ledger):
            settle(journal, entries)
            assert await ledger.spent(GLOBAL, *span) == everything
            assert await ledger.spent_by("global", *span) == {GLOBAL: everything}
            for kind, spent in expected.items():
                assert dict(await ledger.spent_by(kind, *span)) == spent
                for scope, amount in spent.items():
                    assert await ledger.spent(Scope(scope), *span) == amount
                assert await ledger.spent(Scope(f"{kind}:nobody"), *span) == 0
            days_had = sorted({each.started_at_us // US_PER_DAY * US_PER_DAY for each in entries})
            first_us = min([since_us, *days_had[-1:]])
            assert list(await ledger.days_since(since_us)) == [
                day_us for day_us in days_had if day_us >= first_us
            ]

    asyncio.run(scenario())


@LEDGERS
@settings(max_examples=30, deadline=None)
@given(entries=ENTRIES)
def test_an_attempt_counts_once_however_often_it_is_settled(opened, entries) -> None:
    async def scenario() -> None:
        async with opened() as (journal, ledger):
            settle(journal, entries)
            await ledger.usage(UsageQuery())
            settle(journal, entries)
            settle(journal, entries)
            [row] = await ledger.usage(UsageQuery())
            assert row.totals == naive_totals(entries)

    asyncio.run(scenario())


@LEDGERS
@settings(max_examples=30, deadline=None)
@given(entries=ENTRIES)
def test_an_entry_comes_back_as_it_was(opened, entries) -> None:
    async def scenario() -> None:
        async with opened() as (journal, ledger):
            settle(journal, entries)
            for each in entries:
                assert list(await ledger.entries_of(each.request_id)) == [each]
                assert list(await ledger.entries_of(each.request_id, key_id="key_9")) == []
            mine = [each for each in entries if each.client_request_id == "mine"]
            found = await ledger.entries_of("mine")
            assert sorted(found, key=lambda each: each.attempt_id) == mine
            assert [each.started_at_us for each in found] == sorted(
                each.started_at_us for each in mine
            )

    asyncio.run(scenario())


PLAIN = entry(
    {
        "number": 1,
        "started_at_us": FIRST_US,
        "key_id": "key_1",
        "team": None,
        "tags": (),
        "route": None,
        "provider": "one",
        "resolved_model": "small",
        "certainty": Certainty.EXACT,
        "cost_nano_usd": NanoUsd(1),
        "is_stream": False,
    },
    0,
)


def plain(number: int) -> LedgerEntry:
    return msgspec.structs.replace(PLAIN, attempt_id=f"req_{number}-1", request_id=f"req_{number}")


async def ask(question: Awaitable[int]) -> int:
    return await question


@LEDGERS
async def test_a_question_is_answered_as_of_its_asking(opened) -> None:
    """What is settled while it waits is not in the answer, and what was before is."""
    async with opened() as (journal, ledger):
        settle(journal, [plain(1)])
        first = ledger.spent(GLOBAL, 0)
        task = asyncio.ensure_future(ask(first))
        await asyncio.sleep(0)
        settle(journal, [plain(2)])
        second = asyncio.ensure_future(ask(ledger.spent(GLOBAL, 0)))
        await asyncio.sleep(0)
        settle(journal, [plain(3)])
        assert (await task, await second) == (1, 2)
        assert await ledger.spent(GLOBAL, 0) == 3


@LEDGERS
@pytest.mark.parametrize(
    "query",
    [
        UsageQuery(by=("colour",)),
        UsageQuery(by=("day", "day")),
        UsageQuery(filters={"colour": "red"}),
        UsageQuery(filters={"day": "yesterday"}),
        UsageQuery(since=FIRST + timedelta(1), until=FIRST),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(opened, query) -> None:
    async with opened() as (_, ledger):
        with pytest.raises(ValueError):
            await ledger.usage(query)


@LEDGERS
@pytest.mark.parametrize("scope", ["colour:red", "key:", "key", "", "global:x"])
async def test_a_scope_that_is_none_is_refused(opened, scope) -> None:
    async with opened() as (_, ledger):
        with pytest.raises(ValueError):
            await ledger.spent(Scope(scope), 0)


@LEDGERS
async def test_a_kind_of_scope_that_is_none_is_refused(opened) -> None:
    async with opened() as (_, ledger):
        with pytest.raises(ValueError):
            await ledger.spent_by("colour", 0)


@LEDGERS
async def test_nothing_settled_is_nothing_spent(opened) -> None:
    async with opened() as (_, ledger):
        [row] = await ledger.usage(UsageQuery())
        assert (row.group, row.totals) == ((), Totals())
        assert list(await ledger.usage(UsageQuery(by=("day",)))) == []
        assert await ledger.spent(GLOBAL, 0) == 0
        assert await ledger.spent_by("key", 0) == {}
        assert list(await ledger.days_since(0)) == []


@LEDGERS
@settings(max_examples=30, deadline=None)
@given(entries=ENTRIES, days=st.lists(st.integers(-1, DAYS), min_size=1, max_size=3))
def test_what_is_forgotten_is_still_in_the_sums(opened, entries, days) -> None:
    entries = sorted(entries, key=lambda each: each.started_at_us)

    async def scenario() -> None:
        async with opened() as (journal, ledger):
            settle(journal, entries)
            for days_on in days:
                await ledger.forget_before(FIRST + timedelta(days_on))
            gone = FIRST + timedelta(max(days))
            for each in entries:
                left = [] if day_of(each) < gone else [each]
                assert list(await ledger.entries_of(each.request_id)) == left
            query = UsageQuery(by=("day", "tag"))
            for _ in range(2):
                rows = await ledger.usage(query)
                assert [(row.group, row.totals) for row in rows] == naive_usage(entries, query)
                assert list(await ledger.verify()) == []
                assert await ledger.refused() == 0
                await ledger.rebuild()

    asyncio.run(scenario())


NAMES = st.text('ab é😀"\\\n', min_size=1, max_size=12)
VIRTUAL_KEYS = st.builds(
    VirtualKey,
    id=FEW(["key_1", "key_2", "key_3"]),
    terms=st.builds(
        KeyTerms,
        name=NAMES,
        owner=st.none() | NAMES,
        tags=st.lists(NAMES, max_size=3).map(tuple),
        budget=st.builds(BudgetTerms, daily=AMOUNT, total=AMOUNT),
        rates=st.just(RateTerms()),
    ),
    secrets=st.lists(
        st.builds(
            KeySecret,
            digest=st.binary(max_size=32),
            hint=NAMES,
            created_at_us=st.integers(0, 2**60),
        ),
        max_size=2,
    ).map(tuple),
    created_at_us=st.integers(0, 2**60),
    revoked_at_us=st.none() | st.integers(0, 2**60),
)


@KEYS
@settings(max_examples=40, deadline=None)
@given(put=st.lists(VIRTUAL_KEYS, max_size=8))
def test_keys_are_as_they_were_last_put(opened, put) -> None:
    latest = {key.id: key for key in put}

    async def scenario() -> None:
        async with opened() as store:
            for key in put:
                await store.put_key(key)
            assert list(await store.keys()) == [latest[name] for name in sorted(latest)]

    asyncio.run(scenario())
