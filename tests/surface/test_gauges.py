"""`/metrics` tells how things stand: budgets, queues, what providers allow, breakers, the cache; and of
budgets only to those who may know."""

import concurrent.futures
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.surface.served import MODEL, WAIT_S, Served, chat, serving
from tests.surface.test_access import bearer

from windvane.config.schema import (
    AuthConfig,
    BudgetConfig,
    CacheConfig,
    KeyConfig,
    ProviderConfig,
    UpstreamLimitsConfig,
)
from windvane.core.breaker import FAILURES_TO_OPEN
from windvane.core.faults import Fault, FaultKind, Source
from windvane.gateway.control_plane import metrics as metrics_route
from windvane.simulator import SimulatorConfig

ADMIN, KEY, LOOKS = "sk-admin-of-gauges", "sk-ordinary-key", "sk-looks-key"
DAILY = BudgetConfig(daily=Decimal(2))
BUDGETS = {
    "global": BudgetConfig(monthly=Decimal(100)),
    "team:research": DAILY,
    "key:*": DAILY,
    "user:*": DAILY,
    "user:known": BudgetConfig(total=Decimal(1)),
}
BROKEN = Fault(kind=FaultKind.UPSTREAM_ERROR, source=Source.UPSTREAM, message="m", status=502)
BY_NAME = ("windvane_budget_limit_usd", "windvane_budget_spent_usd", "windvane_budget_held_usd")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    keys = (
        KeyConfig(key=KEY, name="ordinary", team="research"),
        KeyConfig(key=LOOKS, name="looks", endpoints=("metrics",)),
    )
    auth = AuthConfig(keys=keys, admin_key=ADMIN)
    with serving(auth=auth, budgets=BUDGETS, cache=CacheConfig(scope="key")) as running:
        yield running


def scraped(served: Served, key: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    reply = served.ask(path="/metrics", **bearer(key))
    assert reply.status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def totals(served: Served, key: str) -> Any:
    return served.ask(path="/metrics", accept="application/json", **bearer(key)).json


def test_budgets_are_told_by_name_and_users_named_by_callers_are_not(served):
    made = served.ask({"name": "team/made", "team": "shop"}, path="/admin/keys", **bearer(ADMIN))
    assert made.status == 201
    for user in ("anyone", "known"):
        assert served.ask(chat(user=user), **bearer(KEY)).status == 200
    told = scraped(served, ADMIN)
    limits = {labels[1:]: value for labels, value in told.items() if labels[0] == BY_NAME[0]}
    assert limits == {
        ("monthly", "global"): 100,
        ("daily", "team:research"): 2,
        ("daily", "key:ordinary"): 2,
        ("daily", "key:looks"): 2,
        ("daily", "key:admin"): 2,
        ("daily", "key:team/made"): 2,
        ("daily", "user:known"): 2,
        ("total", "user:known"): 1,
    }
    spent = told[BY_NAME[1], "daily", "key:ordinary"]
    assert spent > 0
    assert told[BY_NAME[1], "monthly", "global"] == spent
    assert told[BY_NAME[2], "daily", "key:ordinary"] == 0
    assert told["windvane_budgets_omitted",] == 0
    shown = totals(served, ADMIN)
    assert {each["scope"] for each in shown["budgets"]} == {scope for _, scope in limits}
    (own,) = [each for each in shown["budgets"] if each["scope"] == "key:ordinary"]
    assert own["spent_nano_usd"] == round(spent * 1e9)
    assert b"anyone" not in served.ask(path="/metrics", **bearer(ADMIN)).body


@pytest.mark.parametrize("key", [KEY, LOOKS, ADMIN])
def test_budgets_are_told_to_those_who_may_know(served, key):
    """An ordinary key learns nothing of others; one that is made for looking can do nothing else."""
    names = {labels[0] for labels in scraped(served, key)}
    assert names.isdisjoint(BY_NAME) == (key == KEY)
    assert (totals(served, key)["budgets"] == []) == (key == KEY)
    assert "windvane_cache_bytes" in names
    if key == LOOKS:
        assert served.ask(chat(), **bearer(key)).json["error"]["code"] == "endpoint_not_allowed"


def test_a_made_key_can_be_made_for_looking(served):
    asked = {"name": "prometheus", "endpoints": ["metrics"]}
    made = served.ask(asked, path="/admin/keys", **bearer(ADMIN)).json
    assert BY_NAME[0] in {labels[0] for labels in scraped(served, made["key"])}


def test_more_budgets_than_are_told_are_counted(served, monkeypatch):
    monkeypatch.setattr(metrics_route, "BUDGETS_MAX", 2)
    monkeypatch.setattr(metrics_route, "SCOPES_AT_ONCE", 1)
    served.ask(chat(), **bearer(KEY))
    told = scraped(served, ADMIN)
    limits = [labels for labels in told if labels[0] == BY_NAME[0]]
    assert len(limits) == 2 and "key:ordinary" in {labels[2] for labels in limits}
    assert told["windvane_budgets_omitted",] == totals(served, ADMIN)["budgets_omitted"] > 0


def test_the_cache_is_told_of_by_tier(served):
    before = scraped(served, ADMIN)
    assert served.ask(chat("A new question."), **bearer(KEY)).status == 200
    after = scraped(served, ADMIN)
    for name in ("windvane_cache_entries", "windvane_cache_bytes"):
        assert after[name, "memory"] > before[name, "memory"]
    assert after["windvane_cache_bytes_max", "memory"] == CacheConfig().memory_bytes_max
    assert after["windvane_cache_up", "memory"] == 1
    (tier,) = totals(served, ADMIN)["cache"]
    assert (tier["tier"], tier["bytes"]) == ("memory", after["windvane_cache_bytes", "memory"])


def test_a_key_in_the_configuration_by_the_name_of_a_made_one_is_told_of_once(tmp_path):
    budgets = {"key:ci": BudgetConfig(daily=Decimal(3))}
    auth = AuthConfig(admin_key=ADMIN)
    with serving(auth=auth, budgets=budgets, data_dir=str(tmp_path)) as running:
        made = running.ask({"name": "ci"}, path="/admin/keys", **bearer(ADMIN)).json
        assert running.ask(chat(), **bearer(made["key"])).status == 200
        spent = scraped(running, ADMIN)[BY_NAME[1], "daily", "key:ci"]
        assert spent > 0
        (standing,) = running.ask(path="/admin/budgets", **bearer(ADMIN)).json["data"]
        assert standing["spent_nano_usd"] == round(spent * 1e9)


def test_on_a_gateway_without_keys_this_machine_sees_all():
    budgets = {"global": DAILY}
    with serving(budgets=budgets) as running:
        assert scraped(running, "")[BY_NAME[0], "daily", "global"] == 2


@pytest.mark.parametrize("path", ["/metrics", "/providers"])
def test_a_key_of_the_providers_shows_nothing_of_others(path):
    """With passthrough any text at all is taken for one."""
    auth = AuthConfig(passthrough="mistral", admin_key=ADMIN)
    with serving(auth=auth) as running:
        stranger = running.ask(path=path, **bearer("any-text-at-all"))
        assert (stranger.status, stranger.json["code"]) == (403, "gateway_key_needed")
        assert running.ask(path=path, **bearer(ADMIN)).status == 200
        assert running.ask(path="/user/stats", **bearer("any-text-at-all")).status == 200


def test_who_waits_and_what_is_left_are_told_of():
    """Six a minute: these go, the others wait, each in its class."""
    with serving(SimulatorConfig()) as probe:
        url = probe.sim.url
        provider = ProviderConfig(
            api_base=f"{url}/v1", api_key="s", limits=UpstreamLimitsConfig(requests_per_minute=6)
        )
        with serving(providers={"mistral": provider}) as running, waiting(running):
            told = scraped(running, "")
            assert told["windvane_waiting_requests", "normal", "mistral"] == 1
            assert told["windvane_waiting_requests", "low", "mistral"] == 1
            assert told["windvane_waiting_requests", "high", "mistral"] == 0
            assert 0 < told["windvane_waiting_longest_seconds", "mistral"] < 60
            assert told["windvane_upstream_limit", "60", "requests", "mistral"] == 6
            assert told["windvane_upstream_limit_left", "60", "requests", "mistral"] == 0
            assert told["windvane_upstream_pause_seconds", "mistral"] == 0
            (upstream,) = totals(running, "")["upstreams"]
            assert upstream["waiting"] == {"high": 0, "normal": 1, "low": 1}
            requests = {"unit": "requests", "period_s": 60, "limit": 6, "left": 0}
            assert requests in upstream["limits"]


class waiting:
    """Two requests wait while this is open; they are let go at its end."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.pool = concurrent.futures.ThreadPoolExecutor(2)

    def __enter__(self) -> None:
        assert {self.served.ask(chat()).status for _ in range(6)} == {200}
        self.asked = [
            self.pool.submit(self.served.ask, chat(), x_windvane_priority=priority)
            for priority in ("normal", "low")
        ]
        self.served.until(lambda: self._count() == 2, "two who wait")

    def _count(self) -> int:
        return sum(sum(each.waiting.values()) for each in self.served.engine.room.upstreams())

    def __exit__(self, *error: object) -> None:
        self.served.loop.call_soon_threadsafe(self._open)
        assert [each.result(WAIT_S).status for each in self.asked] == [200, 200]
        self.pool.shutdown()

    def _open(self) -> None:
        self.served.engine.room.configure({})


@pytest.mark.parametrize(
    ("since_s", "state", "is_open"),
    [(math.inf, "open", True), (-math.inf, "half_open", False)],
    ids=["it rests", "its rest is over"],
)
def test_a_breaker_is_told_of_as_it_is(since_s: float, state: str, is_open: bool):
    with serving() as running:
        running.ask(chat())
        (asked,) = running.engine.snapshot.deployments[MODEL]
        for _ in range(FAILURES_TO_OPEN):
            running.engine.health.failed(asked, BROKEN, since_s, 0)
        told = scraped(running, "")
        (opened,) = [labels for labels in told if labels[0] == "windvane_breaker_open"]
        assert told[opened] == is_open and opened[1].endswith(MODEL)
        assert totals(running, "")["breakers"] == {asked.id: state}
        providers = {each["name"]: each for each in running.ask(path="/providers").json}
        assert providers[asked.provider]["healthy"] is not is_open
        (shown,) = providers[asked.provider]["deployments"]
        assert shown["breaker"] == state
