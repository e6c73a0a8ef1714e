"""Usage: every door tells the same numbers, exactly, and no more than its caller may know."""

import asyncio
import concurrent.futures
import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.entries import PLAIN_ENTRY
from tests.surface.served import WAIT_S, Reply, Served, chat, serving
from tests.surface.test_access import bearer

from windvane.cli.main import windvane
from windvane.config.schema import AuthConfig
from windvane.core.budgets import US_PER_DAY
from windvane.core.ledger import Totals
from windvane.core.usage_report import DIMENSIONS, UsageQuery, UsageRow
from windvane.gateway.control_plane import usage as usage_routes
from windvane.gateway.control_plane.usage_forms import ROWS_AT_ONCE, add_up, csv_parts, sums
from windvane.stores.sqlite import SqliteLedger
from windvane.stores.sqlite.writer import QUESTIONS_MAX

ADMIN = "sk-admin-of-usage"
USAGE = "/admin/usage"
FIRST_DAY = 20_400
SUMS = tuple(sums(Totals()))
INTEGERS = tuple(name for name in SUMS if not name.endswith("_usd") or name.endswith("_nano_usd"))
MODELS = ("mistral-small-latest", "mistral-large-latest", "auto", "gpt-5-nano")
USERS = ("+1", "@b", "-c", "plain", "")


class Books:
    """A gateway that has been used by several, and what it says of that."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.keys: dict[str, dict[str, Any]] = {}

    def ask(self, query: str = "", path: str = USAGE) -> Reply:
        return self.served.ask(path=f"{path}?{query}", **bearer(ADMIN))

    def stats(self, name: str) -> Any:
        return self.served.ask(path="/user/stats", **bearer(self.keys[name]["key"])).json

    def use(self) -> None:
        """Some of everything: keys, teams, tags, users, models, streams, failures."""
        for number, (name, team) in enumerate((("=one", "x"), ("two", "x"), ("three", None))):
            terms = {"name": name.strip("="), "team": team, "tags": [f"tag-{number}", "shared"]}
            made = self.served.ask(terms, path="/admin/keys", **bearer(ADMIN))
            self.keys[terms["name"]] = made.json
        for number, (name, model, user) in enumerate(
            (name, model, user) for name in self.keys for model in MODELS for user in USERS
        ):
            text = "Wind. !error 500" if number % 11 == 5 else f"Wind {number}."
            self.served.ask(
                chat(text, model=model, stream=number % 2 == 0, max_tokens=20 + number),
                x_windvane_user=user,
                x_windvane_tags="run" if number % 3 == 0 else "",
                **bearer(self.keys[name]["key"]),
            )


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    folder = tmp_path_factory.mktemp("data")
    with serving(auth=AuthConfig(admin_key=ADMIN), data_dir=str(folder)) as served:
        books = Books(served)
        books.use()
        yield books


def whole(books: Books) -> dict[str, Any]:
    totals: dict[str, Any] = books.ask().json["totals"]
    return totals


def added(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in INTEGERS}


def integers(totals: dict[str, Any]) -> dict[str, int]:
    return {name: totals[name] for name in INTEGERS}


GROUPINGS = [*DIMENSIONS, "day,key", "key,model,provider", "team,user,route", "key,tag", ""]


def test_there_is_something_to_tell(books):
    told = whole(books)
    assert told["requests"] == len(MODELS) * len(USERS) * 3
    assert told["failed_attempts"] > 0 and told["cost_nano_usd"] > 0


@pytest.mark.parametrize("by", GROUPINGS)
def test_parts_add_up_to_the_whole(books, by):
    """But for tags, of which one attempt may have several."""
    answer = books.ask(f"by={by}").json
    assert answer["totals"] == whole(books)
    assert answer["by"] == [name for name in by.split(",") if name]
    if "tag" not in by:
        assert added(answer["rows"]) == integers(answer["totals"])
    else:
        assert added(answer["rows"])["attempts"] > answer["totals"]["attempts"]


@pytest.mark.parametrize("by", GROUPINGS)
def test_csv_has_the_rows_of_json(books, by):
    rows = books.ask(f"by={by}").json["rows"]
    reply = books.ask(f"by={by}&format=csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(reply.body.decode())))
    assert [{name: str(value or "") for name, value in row.items()} for row in texts(rows)] == [
        {name: value.removeprefix("'") for name, value in row.items()} for row in read
    ]


def texts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: str(value) for name, value in row.items()} for row in rows]


def test_csv_cells_are_no_formulas(books):
    text = books.ask("by=user,team&format=csv").body.decode()
    read = list(csv.reader(io.StringIO(text)))
    cells = {cell for row in read for cell in row}
    assert {"'+1", "'@b", "'-c", "plain", ""} <= cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "a,b", 'a"b', "a\nb"])
def test_any_text_is_one_harmless_cell(name):
    row = UsageRow(group=(name,), totals=Totals())
    text = b"".join(csv_parts(UsageQuery(by=("team",)), [row], {})).decode()
    (_, cells) = list(csv.reader(io.StringIO(text, newline="")))
    assert cells[0].removeprefix("'") == name
    assert not cells[0].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_month_of_many_keys_by_day_is_answered(tmp_path):
    """More than can be written in one step of the event loop; and more than any limit is refused."""
    keys, days = 400, 31
    data = tmp_path / "data"

    async def used() -> None:
        ledger = SqliteLedger(data)
        for number in range(keys * days):
            day, key = divmod(number, keys)
            began_us = (FIRST_DAY + day) * US_PER_DAY
            said = {"attempt_id": f"a{number}", "request_id": f"r{number}"}
            said |= {"key_id": f"key_{key:03}", "started_at_us": began_us, "cost_nano_usd": number}
            ledger.journal.settle(msgspec.structs.replace(PLAIN_ENTRY, **said))
        await ledger.aclose()

    asyncio.run(used())
    (tmp_path / "windvane.yaml").write_text('{"providers": {"mistral": {"api_key": "sk-x"}}}')
    environment = {"WINDVANE_DATA_DIR": str(data)}
    asking = ["usage", "--by", "day,key", "--config", str(tmp_path / "windvane.yaml")]
    run = CliRunner(env=environment)
    told = run.invoke(windvane, [*asking, "--json"])
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout)
    assert len(answer["rows"]) == keys * days > ROWS_AT_ONCE
    assert added(answer["rows"]) == integers(answer["totals"])
    assert answer["totals"]["requests"] == keys * days
    table = run.invoke(windvane, [*asking, "--csv"])
    read = list(csv.DictReader(io.StringIO(table.stdout)))
    assert [(row["day"], row["key"]) for row in read] == [
        (row["day"], row["key"]) for row in answer["rows"]
    ]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_more_rows_than_may_be_are_refused(books, monkeypatch, form):
    monkeypatch.setattr(usage_routes, "ROWS_MAX", 2)
    reply = books.ask(f"by=key&format={form}")
    assert (reply.status, reply.json["error"]["code"]) == (400, "too_many_rows")


@pytest.mark.parametrize("by", ["key", "model", "day,key", "none"])
def test_the_command_line_tells_the_same(books, by):
    asked = books.ask("by=" if by == "none" else f"by={by}")
    environment = {"WINDVANE_URL": books.served.url, "WINDVANE_ADMIN_KEY": ADMIN}
    run = CliRunner(env=environment)
    told = run.invoke(windvane, ["usage", "--by", by, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == asked.json
    table = run.invoke(windvane, ["usage", "--by", by, "--csv"])
    expected = books.ask(f"by={'' if by == 'none' else by}&format=csv").body.decode()
    assert table.stdout == expected.replace("\r\n", "\n")
    people = run.invoke(windvane, ["usage", "--by", by])
    assert asked.json["totals"]["cost_usd"] in people.stdout


def test_each_key_is_told_its_own_numbers(books):
    rows = books.ask("by=key").json["rows"]
    by_name = {row["key_name"]: row for row in rows}
    for name, made in books.keys.items():
        stats = books.stats(name)
        assert (stats["key"], stats["key_name"]) == (made["id"], name)
        assert {each: stats[each] for each in SUMS} == {each: by_name[name][each] for each in SUMS}
        assert added(list(stats["by_model"].values())) == integers(stats)
        assert integers(stats["today"]) == integers(stats["this_month"]) == integers(stats)
        models = books.ask(f"by=model&key={name}").json["rows"]
        assert {row["model"]: row["cost_nano_usd"] for row in models} == {
            model: each["cost_nano_usd"] for model, each in stats["by_model"].items()
        }
    assert added([books.stats(name) for name in books.keys]) == integers(whole(books))


def test_filters_choose_what_groups_tell(books):
    for name in DIMENSIONS:
        groups = books.ask(f"by={name}").json["rows"]
        for group in groups:
            value = group[name]
            if name == "day":
                query = f"since={value}&until={value}"
            else:
                query = f"{name}={value.replace('+', '%2B')}"
            assert integers(books.ask(query).json["totals"]) == integers(group), (name, value)
    made = books.keys["two"]
    by_id, by_name = books.ask(f"key={made['id']}").json, books.ask("key=two").json
    assert by_id == by_name and by_id["totals"]["requests"] > 0
    assert books.ask("key=nobody").json["totals"]["requests"] == 0
    assert books.ask("team=x&key=three").json["totals"]["requests"] == 0


def test_days_are_included_at_both_ends(books):
    today = datetime.now(UTC).date().isoformat()
    everything = whole(books)["requests"]
    for query, requests in (
        (f"since={today}", everything),
        (f"until={today}", everything),
        (f"since={today}&until={today}", everything),
        ("until=2020-01-01", 0),
        ("since=2999-01-01", 0),
    ):
        assert books.ask(query).json["totals"]["requests"] == requests, query


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=colour", "by"),
        ("by=key,key", "by"),
        ("by=requested_model", "by"),
        ("since=yesterday", "since"),
        ("since=1700000000", "since"),
        ("since=2026-02-30", "since"),
        ("since=2026-11-21T00:00:00Z", "since"),
        ("until=", "until"),
        ("since=2026-11-02&until=2026-11-01", "until"),
        ("format=xml", "format"),
        ("keys=one", "keys"),
        ("key_id=one", "key_id"),
        (f"team={'t' * 300}", "team"),
        ("team=a&key=one&team=b", "team"),
        ("team=a&team=a", "team"),
    ],
)
def test_a_wrong_question_is_named(books, query, param):
    reply = books.ask(query)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "text", ["'%20OR%201=1--", "%25", "_", '"', "%00", "x;DROP%20TABLE%20ledger"]
)
def test_a_filter_is_a_value_and_nothing_else(books, text):
    for name in DIMENSIONS[1:]:
        reply = books.ask(f"{name}={text}")
        assert reply.status == 200
        assert reply.json["totals"]["requests"] == 0
    assert whole(books)["requests"] > 0


def test_a_record_tells_user_tags_and_hold(books):
    key = books.keys["one"]["key"]
    reply = books.served.ask(
        chat(), x_windvane_user="someone", x_windvane_tags="a, b", **bearer(key)
    )
    record = books.ask(path=f"/admin/requests/{reply.headers['x-request-id']}").json
    assert (record["user"], record["team"]) == ("someone", "x")
    assert record["tags"] == ["tag-0", "shared", "a", "b"]
    (attempt,) = record["attempts"]
    assert record["hold_nano_usd"] == attempt["hold_nano_usd"] >= record["cost_nano_usd"] > 0
    assert record["saved_nano_usd"] == 0


def test_a_crowd_of_questions_does_not_keep_requests_from_the_ledger(books):
    """The ledger's thread hangs; questions beyond its queue are refused, and chats go on."""
    served, release = books.served, threading.Event()
    ledger: Any = served.engine.ledger
    waiting = asyncio.run_coroutine_threadsafe(
        ledger._ask(lambda connection: release.wait(WAIT_S)), served.loop
    )
    key = books.keys["one"]["key"]
    crowd = QUESTIONS_MAX + 16
    try:
        with concurrent.futures.ThreadPoolExecutor(crowd) as pool:
            asked = [
                pool.submit(served.ask, path="/user/stats", **bearer(key)) for _ in range(crowd)
            ]
            done, _ = concurrent.futures.wait(asked, WAIT_S, concurrent.futures.FIRST_COMPLETED)
            refused = [each.result() for each in done]
            assert refused and all(each.status == 503 for each in refused)
            assert {each.json["error"]["code"] for each in refused} == {"ledger_busy"}
            assert refused[0].headers["retry-after"]
            assert served.ask(chat(), **bearer(key)).status == 200
            release.set()
            statuses = {each.result().status for each in asked}
    finally:
        release.set()
        waiting.result(WAIT_S)
    assert statuses <= {200, 503} and 200 in statuses


def test_sums_of_no_rows_are_zero():
    assert add_up([]) == Totals()


def test_offline_the_folder_tells_what_the_gateway_told(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(auth=AuthConfig(admin_key=ADMIN), data_dir=str(tmp_path / "data")) as served:
        made = served.ask({"name": "k"}, path="/admin/keys", **bearer(ADMIN)).json
        for _ in range(3):
            assert served.ask(chat(), **bearer(made["key"])).status == 200
        told = served.ask(path=f"{USAGE}?by=key,model", **bearer(ADMIN)).json
    run = CliRunner(env={"WINDVANE_DATA_DIR": str(tmp_path / "data"), "MISTRAL_API_KEY": "sk-x"})
    offline = run.invoke(windvane, ["usage", "--by", "key,model", "--json"])
    assert offline.exit_code == 0, offline.output
    assert json.loads(offline.stdout) == told
    assert told["totals"]["requests"] == 3
