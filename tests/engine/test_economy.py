"""Economy: near the end of a budget the cheapest model that can goes first, and none refuses while
another would fit."""

from decimal import Decimal
from typing import Any

import pytest

from windvane.config.schema import BudgetConfig, Config, RouterConfig
from windvane.core.routing.table import Route, Rule
from windvane.testing.playbook import (
    Failed,
    Playbook,
    Reached,
    Said,
    Sent,
    Settled,
    answer,
    ask,
)
from windvane.testing.stage import two_providers

ECONOMY = "budget nearly used up: the cheapest that can"
LARGE_FIRST = {"auto": Route(otherwise="large", fallbacks=("small",))}


def config(nano: int, percent: int = 80, routes: dict[str, Route] = LARGE_FIRST) -> Config:
    return two_providers(
        budgets={"global": BudgetConfig(total=Decimal(nano) / 10**9)},
        routes=routes,
        router=RouterConfig(economy_at_percent=percent),
    )


def asked(script: Playbook, model: str, deployment: str, **fields: Any) -> Playbook:
    script = script >> ask(model, max_tokens=20, **fields) << Sent(deployment)
    return script >> answer("hello") << Settled("exact", "ok") << Said("hello")


BUDGET = 1_000_000
LARGE_SPENT = 9 * 500 + 1_500


def test_far_from_its_end_a_budget_changes_nothing() -> None:
    play = asked(Playbook(config(BUDGET)), "auto", "two/large").run()
    decision = play.exchanges[0].decision
    assert decision is not None and decision.reason != ECONOMY


def spend(script: Playbook, nano: int) -> Playbook:
    """Spend about `nano` by asking the large model."""
    for _ in range(nano // LARGE_SPENT):
        script = asked(script, "large", "two/large")
    return script


def test_from_the_share_on_a_route_asks_the_cheapest_first_and_says_so() -> None:
    script = Playbook(config(BUDGET, percent=40))
    script = asked(spend(script, 390_000), "auto", "two/large")
    script = asked(spend(script, 12_000), "auto", "one/small")
    play = script.run()
    decision = play.exchanges[-1].decision
    assert decision is not None and decision.reason == ECONOMY
    assert [entry.reason for entry in play.stage.ledger.entries][-1] == ECONOMY


def test_a_model_asked_for_by_name_is_left_alone() -> None:
    script = asked(spend(Playbook(config(BUDGET, percent=10)), 200_000), "large", "two/large")
    decision = script.run().exchanges[-1].decision
    assert decision is not None and decision.reason != ECONOMY


def test_economy_can_be_turned_off() -> None:
    script = asked(spend(Playbook(config(700_000, percent=101)), 400_000), "auto", "two/large")
    # There is a share that is told of on the way.
    lines = script._lines
    place = next(n for n in range(len(lines)) if spent_at(lines, n) * 2 >= 700_000)
    lines.insert(place, Reached("global", 500))
    script.run()


def spent_at(lines: list[Any], place: int) -> int:
    """What is spent once the line at `place` has come."""
    return LARGE_SPENT * sum(isinstance(line, Settled) for line in lines[: place + 1])


def test_the_first_choice_still_goes_first_when_it_is_the_cheapest() -> None:
    small_first = {"auto": Route(otherwise="small", fallbacks=("large",))}
    script = asked(Playbook(config(BUDGET, 0, small_first)), "auto", "one/small")
    decision = script.run().exchanges[0].decision
    assert decision is not None and decision.reason != ECONOMY


def test_rules_still_decide_who_may_answer_at_all() -> None:
    """A rule that leads to one model alone leads there, however dear."""
    routes = {"auto": Route(rules=(Rule(when={"stream": False}, use="large"),), otherwise="small")}
    script = asked(Playbook(config(BUDGET, 0, routes)), "auto", "two/large")
    script.run()


@pytest.mark.parametrize("left", [30_000])
def test_a_cheaper_model_is_asked_when_the_preferred_ones_hold_does_not_fit(left: int) -> None:
    """The large model's least answer costs too much; the small one's does not."""
    script = Playbook(config(left, percent=101)) >> ask("auto", max_tokens=20)
    script = script << Sent("one/small")
    script = script >> answer("hello") << Settled("exact", "ok") << Said("hello")
    play = script.run()
    assert len(play.exchanges[0].attempts) == 1


def test_when_none_fits_the_last_refusal_is_told() -> None:
    script = Playbook(config(5_000, percent=101)) >> ask("auto", max_tokens=20)
    play = (script << Failed("budget_exceeded", 429)).run()
    assert not play.stage.transport.calls
