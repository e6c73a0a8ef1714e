"""Whether a deployment can serve a request, and at what price."""

from datetime import date

import pytest

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Capability, ModelCard, Status
from windvane.core.catalog.prices import Price
from windvane.core.deployment import Billing, Deployment

DAY = date(2026, 11, 20)
PRICE = Price(since=date(2026, 1, 1), input=1, output=2)  # type: ignore[arg-type]
OWN = Price(since=date.min, input=7, output=8)  # type: ignore[arg-type]


def card(
    *able: Capability,
    window: int | None = 100,
    status: Status = Status.GA,
    retires_on: date | None = None,
    replacement: str | None = None,
) -> ModelCard:
    return ModelCard(
        id="m-1",
        provider="p",
        name="M",
        status=status,
        source="s",
        capabilities=frozenset(able),
        context_window_tokens=window,
        quality=3,
        retires_on=retires_on,
        replacement=replacement,
        prices=(PRICE,),
    )


def of(known: ModelCard | None, own_price: Price | None = None) -> Deployment:
    return Deployment(id="p/m", provider="p", model="m", card=known, own_price=own_price)


CHAT = card(Capability.CHAT)
ALL = card(*Capability)
NO_WINDOW = card(*Capability, window=None)

CASES = [
    (None, Analysis(tools=1, images=1), None),
    (card(Capability.EMBEDDINGS), Analysis(), "it does not chat: it is for embeddings"),
    (CHAT, Analysis(), None),
    (CHAT, Analysis(tools=1), "it does not call tools"),
    (CHAT, Analysis(images=1), "it does not read images"),
    (CHAT, Analysis(audio=1), "it does not read audio"),
    (CHAT, Analysis(json_schema=True), "it does not follow a JSON schema"),
    (ALL, Analysis(tools=1, images=1, audio=1, json_schema=True), None),
    (CHAT, Analysis(input_tokens=99), None),
    (
        CHAT,
        Analysis(input_tokens=100),
        "the request is too long: about 100 tokens of input; its window has 100",
    ),
    (CHAT, Analysis(input_tokens=60, output_tokens_max=40), None),
    (
        CHAT,
        Analysis(input_tokens=60, output_tokens_max=41),
        (
            "the request is too long: about 60 tokens of input and 41 asked for by max_tokens;"
            " its window has 100"
        ),
    ),
    (NO_WINDOW, Analysis(input_tokens=10**9), None),
    (
        card(*Capability, status=Status.RETIRED, retires_on=DAY),
        Analysis(),
        "it was retired on 2026-11-20",
    ),
    (
        card(*Capability, retires_on=DAY, replacement="m-2"),
        Analysis(),
        "it was retired on 2026-11-20; its replacement is m-2",
    ),
    (card(*Capability, retires_on=date(2026, 11, 21)), Analysis(), None),
]


@pytest.mark.parametrize(("known", "analysis", "why"), CASES)
def test_why_a_deployment_cannot_serve(
    known: ModelCard | None, analysis: Analysis, why: str | None
) -> None:
    assert of(known).why_not(analysis, DAY) == why


def test_a_price_of_ones_own_wins_and_an_unknown_one_is_none() -> None:
    assert of(CHAT, OWN).price_on(DAY) is OWN
    assert of(CHAT).price_on(DAY) is CHAT.prices[0]
    assert of(CHAT).price_on(date(2025, 12, 31)) is None
    assert of(None).price_on(DAY) is None


def test_prices_and_reports_go_by_the_id_and_not_by_the_name_asked_for() -> None:
    assert of(CHAT).resolved_model == "m-1"
    assert of(None).resolved_model == "m"
    assert (of(CHAT).quality, of(None).quality) == (3, 0)


def test_a_cheaper_tier_that_was_only_asked_for_may_not_have_been_given() -> None:
    billing = Billing(tiers_permille={"flex": 500, "priority": 1750})
    there = Deployment(id="p/m", provider="p", model="m", billing=billing, multiplier_permille=1100)
    assert there.factor_asked(None) == there.factor_asked("flex") == 1100
    assert there.factor_served("flex") == 550
    assert there.factor_asked("priority") == there.factor_served("priority") == 1925
    assert there.factor_asked("gold") is there.factor_served("gold") is None


@pytest.mark.parametrize(
    ("kind", "is_priced"), [("function", True), ("custom", True), ("web_search", False)]
)
def test_tools_that_the_caller_runs_cost_tokens_alone(kind: str, is_priced: bool) -> None:
    body: dict[str, object] = {"tools": [{"type": kind, kind: {"name": "wind"}}]}
    assert (of(ALL).unpriced_part(Analysis(tools=1), body) is None) is is_priced
