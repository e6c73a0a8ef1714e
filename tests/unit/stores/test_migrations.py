"""An older ledger is brought up to date with all that is on it, whoever else has put something there."""

import sqlite3
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from windvane.stores.rollup import totals_of
from windvane.stores.sqlite.file import migrate
from windvane.stores.sqlite.verification import add_up_rows, differences, snapshot

SCRIPTS = sorted(
    (
        file
        for file in resources.files("windvane.stores.sqlite").iterdir()
        if file.name.endswith(".sql")
    ),
    key=lambda file: file.name,
)
NEWEST = len(SCRIPTS)
ROWS = 300
COLUMNS = (
    "attempt_id, request_id, number, started_at_us, key_id, team, tags, route, requested_model, provider,"
    " model, resolved_model, reason, dialect, is_stream, certainty, cost_nano_usd, hold_nano_usd, outcome,"
    " status, input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens,"
    " reasoning_output_tokens, latency_us, first_chunk_us, client_request_id, upstream_request_id"
)


def row(number: int, certainty: str = "exact") -> tuple[object, ...]:
    rare = None if number % 3 else f"c{number}"
    model = ("m", "mistral", "small", "small-2506", "why", "openai", number % 2)
    return (
        *(f"req_{number}-1", f"req_{number}", 1, 10**15 + number, "key", None, "a,b", "auto"),
        *model,
        *(certainty, number * 10**13, None if number % 7 == 0 else number * 10**13 + 1, "ok", 200),
        *(number, 2, 3, 4, 5, 6, None, rare, "u"),
    )


def put(ledger: sqlite3.Connection, *rows: tuple[object, ...]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    ledger.executemany(f"INSERT INTO ledger ({COLUMNS}) VALUES ({marks})", rows)


@pytest.fixture
def older(tmp_path: Path) -> Callable[[int], sqlite3.Connection]:
    """A ledger of an older schema, with rows."""

    def made(version: int) -> sqlite3.Connection:
        ledger = sqlite3.connect(tmp_path / f"{version}.db", isolation_level=None)
        for script in SCRIPTS[:version]:
            ledger.executescript(script.read_text())
        ledger.execute(f"PRAGMA user_version = {version}")
        # A transaction of each row's own is what takes long.
        ledger.execute("BEGIN")
        put(ledger, *map(row, range(ROWS)))
        ledger.execute("COMMIT")
        return ledger

    return made


def words(ledger: sqlite3.Connection) -> list[tuple[object, ...]]:
    return sorted(ledger.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"), key=repr)


def rows_of(ledger: sqlite3.Connection) -> list[tuple[object, ...]]:
    return ledger.execute(f"SELECT {COLUMNS} FROM ledger ORDER BY attempt_id").fetchall()


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_rows_stay_and_the_schema_is_that_of_a_new_ledger(older, version):
    ledger = older(version)
    before = rows_of(ledger)
    migrate(ledger)
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    migrate(fresh)
    assert words(ledger) == words(fresh)
    assert rows_of(ledger) == before == sorted(map(row, range(ROWS)), key=lambda each: each[0])
    assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert ledger.execute("PRAGMA user_version").fetchone() == (NEWEST,)
    assert ledger.execute("PRAGMA writable_schema").fetchone() == (0,)


@pytest.mark.parametrize("version", range(NEWEST))
def test_what_a_ledger_refuses_it_refuses_after_it_too(older, version):
    ledger = older(version) if version else sqlite3.connect(":memory:", isolation_level=None)
    migrate(ledger)
    put(ledger, row(ROWS), row(ROWS + 1, "estimated"), row(ROWS + 2, "assumed"))
    with pytest.raises(sqlite3.IntegrityError, match="certainty"):
        put(ledger, row(ROWS + 3, "guessed"))
    for change in ("UPDATE ledger SET number = 2", "DELETE FROM ledger"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            ledger.execute(change)


def test_an_operator_s_own_view_and_index_are_left_alone_by_the_last_one(older):
    ledger = older(NEWEST - 1)
    ledger.execute("CREATE VIEW calls AS SELECT count(*) AS n FROM ledger")
    ledger.execute("CREATE INDEX mine ON ledger (route)")
    ledger.execute("DROP INDEX ledger_by_time")
    migrate(ledger)
    assert ledger.execute("SELECT n FROM calls").fetchone() == (ROWS,)
    names = [name for (name,) in ledger.execute("SELECT name FROM sqlite_schema")]
    assert "mine" in names and "ledger_by_time" not in names


def test_another_connection_sees_the_new_words(older, tmp_path):
    ledger = older(2)
    other = sqlite3.connect(tmp_path / "2.db", isolation_level=None)
    assert len(rows_of(other)) == ROWS
    migrate(ledger)
    put(other, row(ROWS))
    with pytest.raises(sqlite3.IntegrityError, match="certainty = 'exact' OR"):
        put(other, row(ROWS + 1, "guessed"))


AS_THEY_WERE_SUMMED = """
    INSERT INTO usage_daily SELECT
      started_at_us / 86400000000, key_id, coalesce(team, ''), coalesce(user, ''), tags, provider,
      resolved_model, coalesce(route, ''), sum(number = 1), sum(outcome NOT IN ('hit', 'joined')),
      sum(outcome NOT IN ('ok', 'hit', 'joined')), count(*) - count(cost_nano_usd), sum(input_tokens),
      sum(output_tokens), sum(cache_read_input_tokens), sum(cache_creation_input_tokens),
      sum(reasoning_output_tokens), coalesce(sum(cost_nano_usd), 0),
      coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'estimated'), 0),
      coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'assumed'), 0),
      coalesce(sum(saved_nano_usd), 0), sum(outcome IN ('hit', 'joined'))
    FROM ledger GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
"""By the version that knew hits and joins as one number, and no misses."""


def test_sums_of_before_agree_with_their_rows_still_and_count_every_request(older):
    ledger = older(3)
    at = COLUMNS.replace("\n", " ").split(", ").index("outcome")
    ends = ["hit", "joined", "hit", "timeout"]
    rows = [
        (*row(number)[:at], end, *row(number)[at + 1 :]) for number, end in enumerate(ends, ROWS)
    ]
    put(ledger, *rows)
    ledger.execute(AS_THEY_WERE_SUMMED)
    migrate(ledger)
    kept, found = snapshot(ledger), {}
    add_up_rows(ledger, kept=kept, first=0, sums=found)
    assert differences(kept, found, 0) == []
    (sums,) = map(totals_of, kept.sums.values())
    assert (sums.requests, sums.attempts) == (ROWS + 4, ROWS + 1)
    assert (sums.cache_hits, sums.cache_joins, sums.cache_misses) == (3, 0, 0)
    assert sums.cache_bypasses == ROWS + 1


def test_a_schema_from_the_future_is_refused(older):
    ledger = older(1)
    ledger.execute(f"PRAGMA user_version = {NEWEST + 1}")
    with pytest.raises(RuntimeError, match="upgrade it"):
        migrate(ledger)
