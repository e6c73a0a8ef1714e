"""`windvane keys`, `usage`, `budgets` and `prices`, beside a running gateway and without one."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest
from click.testing import CliRunner, Result
from tests.redis_server import free_port
from tests.surface.served import chat

from windvane.assembly import ADMIN_FILE, OWED_FILE
from windvane.cli.admin_client import is_taken
from windvane.cli.configuration import ADDRESS_FILE
from windvane.cli.key_terms import moment, seconds, terms_said
from windvane.cli.main import windvane
from windvane.cli.price_findings import Kind, findings
from windvane.config.resolve import resolve
from windvane.config.schema import Config, ModelConfig, PriceConfig, ProviderConfig
from windvane.core.keys import is_whole
from windvane.core.routing.table import Route
from windvane.system import user_name
from windvane.telemetry.audit import AUDIT_FILE

WAIT_S = 30.0
ENVIRONMENT = {
    "MISTRAL_API_KEY": None,
    "OPENAI_API_KEY": None,
    "ANTHROPIC_API_KEY": None,
    "ALLOWED_API_KEYS": None,
    "WINDVANE_URL": None,
    "WINDVANE_ADMIN_KEY": None,
}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@contextmanager
def command(*words: str, folder: Path, says: str) -> Iterator[str]:
    """A command that runs until it is stopped; the address it tells."""
    log = folder / f"{words[0]}.log"
    kept = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "windvane", *words],
            cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=kept,
        )  # fmt: skip
    try:
        end = time.monotonic() + WAIT_S
        while not (found := re.search(rf"{says} on (http://\S+)", log.read_text())):
            assert time.monotonic() < end and process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)


class Shell:
    """Commands as one types them in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / ".windvane"

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> Result:
        runner = CliRunner(env={**ENVIRONMENT, **(environment or {})})
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            return runner.invoke(windvane, list(words))
        finally:
            os.chdir(before)

    def told(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def secret(self, *words: str) -> str:
        done = self.run(*words, "--quiet")
        assert done.exit_code == 0, done.output
        assert done.stdout.count("\n") == 1
        return done.stdout.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A folder with a configuration whose provider is the simulator."""
    folder = tmp_path_factory.mktemp("place")
    with command("simulator", "--port", "0", folder=folder, says="simulator") as url:
        provider = {"api_base": f"{url}/v1", "api_key": "simulated"}
        (folder / "windvane.yaml").write_text(
            json.dumps({"providers": {"mistral": provider}, "port": 9})
        )
        yield Shell(folder)


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    (tmp_path / "windvane.yaml").write_text('{"providers": {"mistral": {"api_key": "sk-x"}}}')
    return Shell(tmp_path)


def ask(url: str, key: str, **more: Any) -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    path = f"{url}/v1/chat/completions"
    return httpx2.post(path, json=chat(**more), headers=headers).status_code


def test_beside_a_running_gateway_and_after_it(place):
    """One story: the commands find the gateway by its folder, and then do without it."""
    with command("serve", "--port", "0", folder=place.folder, says="windvane") as url:
        log = (place.folder / "serve.log").read_text()
        assert "no key needed from loopback" in log and "windvane keys create" in log
        assert (place.data / ADDRESS_FILE).read_text() == url
        assert is_taken(place.data)
        assert ask(url, "") == 200
        first = place.secret("keys", "create", "ci", "--daily-budget", "5.00", "--rpm", "60")
        assert is_whole(first)
        assert (ask(url, ""), ask(url, first)) == (401, 200)
        second = place.secret("keys", "rotate", "ci", "--overlap", "0s")
        assert (ask(url, first), ask(url, second)) == (401, 200)
        place.told("keys", "update", "ci", "--model", "mistral-small-*", "--rpm", "none")
        assert ask(url, second, model="mistral-large-latest") == 403
        usage = place.told("usage", "--by", "key,model", "--key", "ci")
        assert usage["totals"]["requests"] == 2
        (budget,) = place.told("budgets", "--scope", "key:ci")["data"]
        assert budget["spent_nano_usd"] == usage["totals"]["cost_nano_usd"] > 0
        shown = place.told("keys", "show", "ci")
        assert "5 daily" in place.run("keys", "show", "ci").stdout
        assert "ci" in place.run("budgets").stdout
        place_log = (place.folder / "serve.log").read_text()
        place.secret("keys", "create", "gone")
        assert place.told("keys", "revoke", "gone")["status"] == "revoked"
    assert not is_taken(place.data)
    assert place.told("keys", "show", "ci") == shown
    assert place.told("usage", "--by", "key,model", "--key", "ci") == usage
    assert place.told("budgets", "--scope", "key:ci")["data"] == [budget]
    offline = place.secret("keys", "create", "made-offline")
    place.told("keys", "revoke", "ci")
    with command("serve", "--port", "0", folder=place.folder, says="windvane") as url:
        assert "; 1 key\n" in (place.folder / "serve.log").read_text()
        assert (ask(url, offline), ask(url, second)) == (200, 401)
        names = {key["name"] for key in place.told("keys", "list")["data"]}
        assert names == {"made-offline"}
        everyone = place.told("keys", "list", "--all")["data"]
        assert {key["name"]: key["status"] for key in everyone} == {
            "ci": "revoked", "gone": "revoked", "made-offline": "live"
        }  # fmt: skip
        wrong = {"WINDVANE_ADMIN_KEY": "sk-not-the-admin"}
        refused = place.run("keys", "list", environment=wrong)
        assert refused.exit_code == 1 and "WINDVANE_ADMIN_KEY" in refused.output
        assert "request id" not in refused.output
        by_url = place.run("keys", "list", "--url", url, "--json")
        assert {key["name"] for key in json.loads(by_url.stdout)["data"]} == names
        held = (place.data / ADMIN_FILE).read_text()
    logs = "".join(path.read_text() for path in place.folder.glob("*.log"))
    assert "local-admin: create_key key_" in place_log
    trail = (place.data / AUDIT_FILE).read_text()
    logs += trail
    done = [json.loads(line) for line in trail.splitlines()]
    assert [(each["what"], each["through"]) for each in done] == [
        ("create_key", "gateway"), ("rotate_key", "gateway"), ("change_key", "gateway"),
        ("create_key", "gateway"), ("revoke_key", "gateway"),
        ("create_key", "command line"), ("revoke_key", "command line"),
    ]  # fmt: skip
    assert {each["who"] for each in done} == {"local-admin"}
    assert done[-1]["subject"] == shown["id"] and done[-1]["user"] == user_name()
    assert "user" not in done[0]
    for secret in (first, second, offline, held):
        assert secret not in logs


def test_a_gateway_whose_callers_bring_their_keys_says_so(tmp_path):
    settings = {"providers": {"mistral": {}}, "auth": {"passthrough": "mistral"}}
    (tmp_path / "windvane.yaml").write_text(json.dumps(settings))
    with command("serve", "--port", "0", folder=tmp_path, says="windvane"):
        log = (tmp_path / "serve.log").read_text()
    assert "callers bring a key of mistral's" in log and "no key needed" not in log


@pytest.mark.parametrize("said", ["soon", "5x", "30 d", "2026-13-01"])
def test_an_expiry_that_is_none_is_told_with_what_one_looks_like(empty, said):
    done = empty.run("keys", "create", "x", "--expires", said)
    assert done.exit_code == 2
    assert f"'{said}' is not 30d, 12h, 2026-12-31" in done.output.replace("\n", " ")


def test_none_takes_a_priority_away(empty):
    assert empty.told("keys", "create", "late", "--priority", "low")["priority"] == "low"
    assert empty.told("keys", "update", "late", "--priority", "none")["priority"] == "normal"


def test_a_name_that_is_another_keys_id_is_refused(empty):
    """Keys are found by either, so it would stand for the other: on the ledger, in budgets, in reports."""
    one = empty.told("keys", "create", "one")
    for words in (("create", one["id"]), ("update", "two", "--name", one["id"])):
        empty.run("keys", "create", "two")
        done = empty.run("keys", *words)
        assert done.exit_code == 1 and f"another key has the id '{one['id']}'" in done.output
    named = (("the id", one["id"]), ("the name", "one"))
    for which, name in named:
        keys = [{"key": "sk-configured", "name": name}]
        settings = {"providers": {"mistral": {"api_key": "sk-x"}}, "auth": {"keys": keys}}
        (empty.folder / "windvane.yaml").write_text(json.dumps(settings))
        done = empty.run("keys", "list")
        assert done.exit_code == 1 and "Traceback" not in done.output
        assert f'auth.keys[0]: "{name}" is {which} of a key that was made' in done.output


def test_usage_of_callers_without_a_key_of_their_own_is_shown(empty):
    empty.run("keys", "create", "idle")
    for name in ("idle", "anonymous"):
        done = empty.run("usage", "--key", name)
        assert done.exit_code == 0, done.output


def test_a_gateway_whose_keys_have_all_ended_says_that_it_is_closed(empty):
    """It is not open, on loopback as little as beyond."""
    secret = empty.secret("keys", "create", "only")
    empty.told("keys", "revoke", "only", "--yes")
    serve = ("serve", "--port", "0", "--host", "0.0.0.0")
    with command(*serve, folder=empty.folder, says="windvane") as url:
        local = url.replace("0.0.0.0", "127.0.0.1")
        assert (ask(local, ""), ask(local, secret)) == (401, 401)
        log = (empty.folder / "serve.log").read_text()
    assert "no key that works, so every call is refused" in log and "windvane keys create" in log
    assert "no key needed" not in log and "to close it" not in log


def test_a_key_is_made_where_nothing_runs(empty):
    made = empty.told("keys", "create", "first", "--team", "research", "--tag", "a", "--tag", "b")
    assert is_whole(made["key"])
    assert (made["team"], made["tags"]) == ("research", ["a", "b"])
    assert empty.told("keys", "show", made["id"]) == {k: v for k, v in made.items() if k != "key"}
    people = empty.run("keys", "create", "second")
    assert people.exit_code == 0 and "shown this once" in people.stdout
    table = empty.run("keys", "list").stdout
    assert made["id"] in table and "research" in table
    assert [path.stat().st_mode & 0o077 for path in (empty.data, empty.data / ADMIN_FILE)] == [0, 0]


def test_asking_makes_no_folder(empty):
    for words in (("keys", "list"), ("usage",), ("budgets",), ("keys", "show", "x")):
        done = empty.run(*words)
        assert done.exit_code == 1
        assert "there is no data folder" in done.output
    assert not empty.data.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys", "show", "nobody"), "there is no key 'nobody'"),
        (("keys", "show", "no/body"), "there is no key 'no/body'"),
        (("keys", "create", "known"), "another key is named 'known'"),
        (("keys", "create", "a,b"), "no comma"),
        (("keys", "create", "x", "--model", "mistral-smal-latest"), "mistral-small-latest"),
        (("keys", "create", "x", "--daily-budget", "ten"), "budget.daily"),
        (("keys", "create", "x", "--daily-budget", "0.0000000001"), "9 decimal places"),
        (("keys", "create", "x", "--expires", "2020-01-01"), "is past"),
        (("keys", "create", "x,y"), "spaces between them"),
        (("keys", "create", "x", "--daily-budget", "9999999999999"), "9223372036 at most"),
        (("usage", "--key", "nobody"), "there is no key 'nobody'"),
        (("usage", "--key", "nobody", "--csv"), "there is no key 'nobody'"),
        (("usage", "--key", "nobody", "--json", "--by", "none"), "there is no key 'nobody'"),
        (("usage", "--by", "colour"), "no such dimension: 'colour'"),
        (("usage", "--since", "yesterday"), "since"),
        (("budgets", "--scope", "colour:red"), "scope"),
    ],
)
def test_what_is_refused_is_told_in_a_line(empty, words, said):
    assert empty.run("keys", "create", "known").exit_code == 0
    done = empty.run(*words)
    assert done.exit_code == 1
    assert said in done.output
    assert "request id" not in done.output and "Traceback" not in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create"),
        ("keys", "update", "known"),
        ("keys", "create", "x", "--rpm", "many"),
        ("keys", "create", "x", "--priority", "urgent"),
        ("keys", "rotate", "known", "--overlap", "soon"),
        ("usage", "--json", "--csv"),
        ("keys", "list", "--url", "ftp://gateway"),
        ("cache", "clear", "--tag", ""),
    ],
)
def test_wrong_usage_has_a_status_of_its_own(empty, words):
    assert empty.run(*words).exit_code == 2


def test_taking_answers_back_fails_when_others_cannot_be_told(empty):
    """And what they could not be told is told by whoever opens the folder next."""
    cache = f"cache: {{scope: shared, redis: 'redis://127.0.0.1:{free_port()}/0'}}"
    path = empty.folder / "windvane.yaml"
    path.write_text(f"providers: {{mistral: {{api_key: sk-x}}}}\n{cache}\n")
    cleared = empty.run("cache", "clear", "--json")
    assert cleared.exit_code == 1
    assert json.loads(cleared.stdout)["reach"] == "later"
    assert "could not be told yet" in cleared.stderr
    assert json.loads((empty.data / OWED_FILE).read_text()) == ["all"]


def test_taking_back_what_nobody_knows_fails(empty):
    path = empty.folder / "windvane.yaml"
    path.write_text("providers: {mistral: {api_key: sk-x}}\ncache: {scope: key}\n")
    cleared = empty.run("cache", "clear", "--model", "nobody-knows")
    assert (cleared.exit_code, cleared.stdout) == (1, "0 answers were taken back\n")
    assert "no model here has the id or name 'nobody-knows'" in cleared.stderr
    empty.told("keys", "create", "ci")
    assert empty.told("cache", "clear", "--key", "ci")["tag"].startswith("scope:key:key_")


def test_a_name_with_a_slash_is_found(empty):
    made = empty.told("keys", "create", "team/ci")
    assert empty.told("keys", "show", "team/ci")["id"] == made["id"]
    assert empty.told("keys", "revoke", "team/ci")["status"] == "revoked"


def test_all_pages_are_listed(empty, monkeypatch):
    monkeypatch.setattr("windvane.cli.keys.PAGE", 2)
    for number in range(5):
        assert empty.run("keys", "create", f"k{number}").exit_code == 0
    assert [key["name"] for key in empty.told("keys", "list")["data"]] == [
        "k0", "k1", "k2", "k3", "k4"
    ]  # fmt: skip


WRONG_SUMS = "UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1000000000"


def bend(data: Path) -> int:
    """Make the sums of a ledger that nobody has open wrong; how many there are."""
    with sqlite3.connect(data / "ledger.db") as connection:
        count = connection.execute(WRONG_SUMS).rowcount
    connection.close()
    return count


def test_sums_are_verified_and_made_anew(place):
    """Beside a running gateway and without one; the exit status tells, and so does JSON."""
    with command("serve", "--port", "0", folder=place.folder, says="windvane") as url:
        key = place.secret("keys", "create", "ledger-user", "--team", "t")
        assert ask(url, key) == 200
        done = place.run("ledger", "verify")
        assert (done.exit_code, done.stdout) == (0, "the sums are those of the entries\n")
        assert place.told("ledger", "verify")["agrees"]
        assert "none was wrong" in place.run("ledger", "rebuild").stdout
    before = place.told("usage", "--by", "day,key")
    bent = bend(place.data)
    assert bent > 0 and place.told("usage", "--by", "day,key") != before
    (place.data / "set_aside.jsonl").write_text("[]\n[]\n")
    with command("serve", "--port", "0", folder=place.folder, says="windvane"):
        done = place.run("ledger", "verify", "--json")
        told = json.loads(done.stdout)
        assert (done.exit_code, told["agrees"], told["differences_total"]) == (1, False, bent)
        (one,) = [each for each in told["differences"] if each["team"] == "t"]
        assert one["kept"]["cost_nano_usd"] - one["found"]["cost_nano_usd"] == 10**9
        assert told["refused_entries"] == 2 and "2 entries" in done.stderr
    done = place.run("ledger", "verify")
    assert done.exit_code == 1
    assert f"{bent} sums are not those of their entries" in done.stdout
    assert one["found"]["cost_usd"] in done.stdout and "ledger rebuild" in done.stdout
    assert place.told("ledger", "rebuild") == {"mended": bent}
    assert place.run("ledger", "verify").exit_code == 0
    assert place.told("usage", "--by", "day,key") == before
    (place.data / "set_aside.jsonl").unlink()


def test_a_ledger_that_is_not_there_is_not_made(empty):
    assert empty.run("ledger", "verify").exit_code == 1
    assert not empty.data.exists()


def test_a_ledger_that_is_damaged_is_told_of_in_a_line(empty):
    assert empty.run("keys", "create", "k").exit_code == 0
    (empty.data / "ledger.db").write_bytes(b"no database at all" * 1000)
    for words in (("ledger", "verify"), ("ledger", "rebuild"), ("keys", "list")):
        done = empty.run(*words)
        assert done.exit_code == 1
        assert "ledger.db" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("windvane se", {"serve"}),
        ("windvane keys ro", {"rotate"}),
        ("windvane ledger ", {"verify", "rebuild"}),
        ("windvane keys create x --priority ", {"high", "normal", "low", "none"}),
    ],
)
def test_the_shell_completes(words, found):
    """As the lines in cli.md have it: by the name that the command is installed under."""
    code = "import sys; sys.argv = ['windvane']; from windvane.cli.main import main; main()"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, "_WINDVANE_COMPLETE": "bash_complete"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {line.partition(",")[2] for line in done.stdout.split()} == found


def test_nothing_answers(empty):
    done = empty.run("keys", "list", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "nothing answers as a gateway at http://127.0.0.1:9" in done.output
    assert not empty.data.exists()


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (404, b"Not Found"), (200, b"\xff"), (500, b"[]")]
)
def test_another_server_is_told_from_a_gateway(empty, monkeypatch, answer):
    monkeypatch.setattr(
        "windvane.cli.admin_client.RunningGateway.ask", lambda *words, **more: answer
    )
    done = empty.run("keys", "list", "--url", "http://127.0.0.1:8000")
    assert done.exit_code == 1
    assert "not a windvane gateway" in done.output and "Traceback" not in done.output


def test_the_folders_key_does_not_leave_this_machine(empty, monkeypatch):
    """Another machine is shown a configured key or none; and one in the clear is warned of."""
    empty.told("keys", "create", "k")
    shown = []

    def seen(self: Any, method: str, path: str, body: Any = None, query: Any = None) -> Any:
        shown.append(self._key)
        return 200, b'{"data": []}'

    monkeypatch.setattr("windvane.cli.admin_client.RunningGateway.ask", seen)
    done = empty.run("keys", "list", "--url", "http://gateway.example")
    assert done.exit_code == 0 and "not encrypted" in done.stderr
    empty.run("keys", "list", "--url", "https://gateway.example")
    empty.run("keys", "list", "--url", "http://127.0.0.1:8000")
    kept = (empty.data / ADMIN_FILE).read_text()
    assert shown == [None, None, kept]


def test_a_pasted_key_is_not_told_back(empty):
    made = empty.secret("keys", "create", "k")
    done = empty.run("keys", "show", made)
    assert done.exit_code == 1
    assert made not in done.output


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("30d", "2026-12-21T12:00:00Z"),
        ("12h", "2026-11-22T00:00:00Z"),
        ("90m", "2026-11-21T13:30:00Z"),
        ("2w", "2026-12-05T12:00:00Z"),
        ("2026-12-31", "2026-12-31T00:00:00Z"),
        ("2026-12-31T10:00:00+02:00", "2026-12-31T10:00:00+02:00"),
    ],
)
def test_when_a_key_ends_is_said_in_any_of_three_ways(text, ends):
    assert moment(text, NOW) == ends


def test_durations_are_whole_and_bounded():
    assert seconds("1d") == 86_400
    for wrong in ("", "1", "d", "1.5h", "-1d", "1y", "1d ", "9999999d"):
        with pytest.raises(click.BadParameter):
            seconds(wrong)


def test_terms_are_said_as_the_api_takes_them():
    said = terms_said(
        {
            "daily_budget": "5.00", "total_budget": "none", "rpm": "60", "tpm": "none",
            "model": ("a", "b"), "tag": ("none",), "owner": "none", "team": None, "auto": "auto",
            "max_tokens": "9", "expires": "none", "clamp": False, "route": (),
        },
        NOW,
    )  # fmt: skip
    assert said == {
        "budget": {"daily": "5.00", "total": None},
        "rates": {"requests_per_minute": 60, "tokens_per_minute": None},
        "models": ["a", "b"],
        "tags": [],
        "owner": None,
        "route": "auto",
        "output_tokens_max": 9,
        "expires_at": None,
        "clamp": False,
    }


# Prices


def found(day: datetime, **settings: Any) -> dict[tuple[Kind, str], Any]:
    provider = ProviderConfig(api_key="sk-x", models=settings.pop("models", {}))
    config = Config(providers={"mistral": provider}, **settings)
    snapshot = resolve(config, pepper=b"", day=day.date())
    return {(each.kind, each.model): each for each in findings(snapshot, day.date())}


def test_a_price_that_nobody_knows_is_found():
    price = PriceConfig(input=1, output=1)  # type: ignore[arg-type]
    told = found(NOW, models={"mine": ModelConfig(), "priced": ModelConfig(price=price)})
    assert (Kind.UNKNOWN_PRICE, "mine") in told
    assert not [key for key in told if key[1] == "priced"]


def test_a_retired_model_in_a_route_is_found_with_its_replacement():
    route = Route(otherwise="mistral-small-2409", fallbacks=("mistral-small-latest",))
    told = found(NOW, routes={"old": route})
    finding = told[Kind.RETIRED, "mistral-small-2409"]
    assert (finding.replacement, finding.where) == ("mistral-small-2603", ("routes.old",))
    served = found(NOW, models={"kept": ModelConfig(model="mistral-small-2409")})
    assert served[Kind.RETIRED, "mistral-small-2409"].where == ("providers.mistral",)


def test_a_deprecated_model_is_found_before_it_ends():
    told = found(datetime(2026, 7, 1, tzinfo=UTC))
    assert "2026-08-31" in told[Kind.DEPRECATED, "mistral-medium-2508"].detail


def test_an_alias_that_moved_is_found_with_both_prices():
    moved = found(NOW)[Kind.ALIAS_MOVED, "mistral-medium-latest"].detail
    assert "mistral-medium-2508" in moved and "mistral-medium-3-5" in moved
    assert "2026-06-16" in moved and "$0.4 in" in moved and "$1.5 in" in moved
    before = found(datetime(2026, 6, 1, tzinfo=UTC))
    assert (Kind.ALIAS_MOVED, "mistral-medium-latest") not in before


def test_a_price_that_nobody_has_looked_at_is_found():
    assert not [key for key in found(NOW) if key[0] is Kind.STALE_PRICE]
    old = found(datetime(2027, 6, 1, tzinfo=UTC))
    assert (Kind.STALE_PRICE, "mistral-small-2603") in old


def test_the_price_check_fails_when_it_is_strict(empty):
    done = empty.run("prices", "check", "--json")
    assert done.exit_code == 0
    kinds = {each["kind"] for each in json.loads(done.stdout)["findings"]}
    assert empty.run("prices", "check").exit_code == 0
    strict = empty.run("prices", "check", "--strict")
    assert strict.exit_code == (1 if kinds & {"unknown_price", "retired"} else 0)
    route = {"routes": {"old": {"otherwise": "mistral-small-2409"}}}
    (empty.folder / "windvane.yaml").write_text(json.dumps(route))
    assert empty.run("prices", "check", "--strict").exit_code == 1
