"""A running gateway reads its configuration again: budgets and rates hold at once, or nothing changes."""

import concurrent.futures
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.surface.test_cli_keys import WAIT_S, Shell, ask, command

from windvane.cli.offline import ask_folder
from windvane.config import Config
from windvane.telemetry.audit import AUDIT_FILE

FIXED = "sk-fixed-key-1"


class Place(Shell):
    """A folder whose configuration is written anew, and the gateway that runs by it."""

    def __init__(self, folder: Path, sim_url: str) -> None:
        super().__init__(folder)
        self.base: dict[str, Any] = {
            "providers": {"mistral": {"api_base": f"{sim_url}/v1", "api_key": "simulated"}},
            "auth": {"keys": [{"key": FIXED, "name": "fixed", "team": "t"}]},
        }
        self.write()

    def write(self, **more: Any) -> None:
        (self.folder / "windvane.yaml").write_text(json.dumps({**self.base, **more}))

    def reload(self, **more: Any) -> Any:
        self.write(**more)
        return self.told("reload")

    def refused(self, text: str) -> str:
        """What is said of a configuration that cannot be used; nothing may change by it."""
        before = self.told("budgets")
        (self.folder / "windvane.yaml").write_text(text)
        done = self.run("reload", "--url", self.url)
        assert done.exit_code == 1 and "Traceback" not in done.output
        self.write()
        assert self.told("budgets") == before
        return done.output

    @property
    def url(self) -> str:
        return (self.data / "address").read_text()

    def spent(self, scope: str) -> int:
        (each,) = self.told("budgets", "--scope", scope)["data"]
        return each["spent_nano_usd"]

    def used(self, **filters: str) -> int:
        said = [word for name, value in filters.items() for word in (f"--{name}", value)]
        return self.told("usage", "--by", "none", *said)["totals"]["cost_nano_usd"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("reload")
    slow = ("simulator", "--port", "0", "--ttft-ms", "20")
    with command(*slow, folder=folder, says="simulator") as sim_url:
        place = Place(folder, sim_url)
        with command("serve", "--port", "0", folder=folder, says="windvane"):
            yield place
    assert "Traceback" not in (folder / "serve.log").read_text()


@pytest.fixture(autouse=True)
def as_it_was(place: Place) -> Iterator[None]:
    yield
    place.reload()


@pytest.mark.parametrize("scope", ["team:t", "global", "key:fixed", "model:mistral-small-latest"])
@pytest.mark.parametrize("period", ["daily", "monthly", "total"])
def test_a_budget_holds_at_once_and_counts_what_was_spent_before(place, scope, period):
    assert ask(place.url, FIXED) == 200
    told = place.reload(budgets={scope: {period: 0.000001}})
    assert len(told["budgets"]) == 1 and told["rates"] == told["needs_restart"] == []
    assert ask(place.url, FIXED) == 429
    filters = {"team:t": {"team": "t"}, "key:fixed": {"key": "fixed"}}.get(scope, {})
    if scope == "model:mistral-small-latest":
        filters = {"model": told["budgets"][0].removeprefix("model:")}
    assert place.spent(told["budgets"][0]) == place.used(**filters) > 0
    place.reload(budgets={scope: {period: 5}})
    assert ask(place.url, FIXED) == 200
    assert place.spent(scope) == place.spent(told["budgets"][0]) == place.used(**filters)
    assert place.reload()["budgets"] == told["budgets"]
    assert place.told("budgets")["data"] == []


def test_a_limit_of_a_model_is_of_what_serves_until_the_restart(place):
    """And not of what the name will stand for then: that would not hold before."""
    mistral = place.base["providers"]["mistral"]
    moved = {**mistral, "models": {"mistral-small-latest": {"model": "mistral-large-latest"}}}
    budgets = {"model:mistral-small-latest": {"total": 0}}
    told = place.reload(providers={"mistral": moved}, budgets=budgets)
    assert told["needs_restart"] == ["providers"]
    assert told["budgets"] == ["model:mistral-small-2603"]
    assert ask(place.url, FIXED) == 429


def test_rates_hold_at_once(place):
    told = place.reload(rates={"key:*": {"requests_per_minute": 1}})
    assert told == {"budgets": [], "rates": ["key:*"], "needs_restart": []}
    assert [ask(place.url, FIXED) for _ in range(2)] == [200, 429]
    place.reload()
    assert ask(place.url, FIXED) == 200


def test_what_a_key_says_of_itself_stays(place):
    """A made key's own terms, and what the configuration says of its name."""
    made = place.secret("keys", "create", "own", "--total-budget", "0")
    named = place.secret("keys", "create", "named")
    place.reload(budgets={"key:named": {"total": 0}, "key:own": {"daily": 9}})
    assert (ask(place.url, made), ask(place.url, named)) == (429, 429)
    place.reload()
    assert (ask(place.url, made), ask(place.url, named)) == (429, 200)
    place.reload(auth={"keys": [{**place.base["auth"]["keys"][0], "budget": {"total": 0}}]})
    assert ask(place.url, FIXED) == 429


def test_what_the_configuration_says_of_a_made_keys_id_holds(place):
    """And stays when the key's own terms change: by its id, by its name, for what it says nothing of."""
    made = json.loads(place.run("keys", "create", "known", "--json", "--url", place.url).stdout)
    by_id = f"key:{made['id']}"
    told = place.reload(budgets={by_id: {"total": 0}}, rates={by_id: {"concurrency": 7}})
    assert (told["budgets"], told["rates"]) == ([by_id], [by_id])
    assert ask(place.url, made["key"]) == 429
    place.told("keys", "update", "known", "--daily-budget", "9")
    assert ask(place.url, made["key"]) == 429
    stands = place.told("budgets", "--scope", by_id)["data"]
    assert {each["period"]: each["limit_nano_usd"] for each in stands} == {
        "daily": 9 * 10**9,
        "total": 0,
    }
    place.told("keys", "update", "known", "--total-budget", "5")
    assert ask(place.url, made["key"]) == 200
    place.told("keys", "update", "known", "--total-budget", "none")
    assert ask(place.url, made["key"]) == 429
    place.reload()
    assert ask(place.url, made["key"]) == 200


def test_with_a_problem_nothing_changes_and_all_are_told(place):
    told = place.refused('{"budgets": {"tem:x": {"daily": 1}, "key:*": {"daily": -1}}, "prot": 1}')
    assert "prot" in told  # the tree is checked first, as at the start
    base = {**place.base, "budgets": {"tem:x": {"daily": 1}, "global": {"daily": -1}}}
    told = place.refused(json.dumps(base))
    assert "budgets.tem:x" in told and "budgets.global.daily" in told and "2 problems" in told
    assert "not valid YAML" in place.refused("{")
    (place.folder / "windvane.yaml").unlink()
    assert "nothing was changed" in place.refused('{"routes": {"auto": {}}}')


def test_a_kind_that_had_no_limit_gets_one_by_a_restart_alone(place):
    kinds = {"user:*": {"daily": 1, "total": 9}, "global": {"daily": 1}}
    told = place.refused(json.dumps({**place.base, "budgets": kinds}))
    assert "budgets.user:*.daily" in told and "budgets.user:*.total" in told
    assert "by a restart alone" in told and "global" not in told


def test_what_needs_a_restart_is_told(place):
    place.write(
        router={"preset": "task"}, log={"level": "debug"}, rates={"global": {"concurrency": 9}}
    )
    done = place.run("reload")
    assert done.exit_code == 0
    assert "rates:   global" in done.stdout and "budgets: as they were" in done.stdout
    assert "not used before a restart: router, log" in done.stderr
    assert place.told("reload")["needs_restart"] == ["router", "log"]
    secret = {"keys": [{**place.base["auth"]["keys"][0], "key": "sk-another-1"}]}
    assert place.reload(auth=secret)["needs_restart"] == ["auth"]
    assert ask(place.url, FIXED) == 200


def lines_of_the_trail(place: Place) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place.data / AUDIT_FILE).read_text().splitlines()]


def test_a_signal_does_it_too(place):
    pid = int(re.search(r"(?m)^(\d+)$", process_of(place))[1])
    place.write(budgets={"team:t": {"daily": 0}})
    before = len(lines_of_the_trail(place))
    os.kill(pid, signal.SIGHUP)
    until(lambda: ask(place.url, FIXED) == 429)
    until(lambda: len(lines_of_the_trail(place)) > before)
    last = lines_of_the_trail(place)[-1]
    assert (last["who"], last["what"]) == ("SIGHUP", "reload_configuration")
    assert last["outcome"] == "done (team:t)"
    (place.folder / "windvane.yaml").write_text('{"prot": 1}')
    os.kill(pid, signal.SIGHUP)
    until(lambda: lines_of_the_trail(place)[-1]["outcome"].startswith("refused (prot"))
    assert ask(place.url, FIXED) == 429


def process_of(place: Place) -> str:
    """The process that has the ledger open, by the lock it holds."""
    lock = os.stat(place.data / "lock")
    wanted = f":{lock.st_ino} "
    held = [line for line in Path("/proc/locks").read_text().splitlines() if wanted in line]
    return "\n".join(line.split()[4] for line in held)


def until(happened: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_budgets_that_come_and_go_under_load_lose_nothing(place):
    """Every amount is in the budget, and in it once, whatever was under way when it was made."""
    url = place.url

    def load(_: int) -> set[int]:
        return {ask(url, FIXED) for _ in range(12)}

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, number) for number in range(4)]
        while not all(each.done() for each in loads):
            place.reload(budgets={"team:t": {"daily": 50, "total": 90}})
            place.reload(budgets={"team:t": {"monthly": 70}, "global": {"daily": 80}})
            place.reload()
        assert set.union(*(each.result() for each in loads)) == {200}
    place.reload(budgets={"team:t": {"daily": 50, "monthly": 70, "total": 90}})
    standings = place.told("budgets", "--scope", "team:t")["data"]
    assert len(standings) == 3
    assert {each["spent_nano_usd"] for each in standings} == {place.used(team="t")}
    assert {each["held_nano_usd"] for each in standings} == {0}


def test_where_nothing_runs_there_is_nothing_to_reload(tmp_path):
    (tmp_path / "windvane.yaml").write_text('{"providers": {"mistral": {"api_key": "sk-x"}}}')
    done = Shell(tmp_path).run("reload")
    assert done.exit_code == 1 and "no gateway runs" in done.output


def test_a_gateway_that_has_no_file_says_so(tmp_path):
    config = Config(data_dir=str(tmp_path))
    status, body = ask_folder(config, "POST", "/admin/reload", "", b"{}")
    assert (status, json.loads(body)["code"]) == (409, "nothing_to_reload")
