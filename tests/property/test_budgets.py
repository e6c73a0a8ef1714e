"""The hold is an upper bound (M3): no usage that the request allows costs more than was held for it.

Prices, sizes, tiers and limits are drawn at will; the request is written for its provider as the
engine writes it, and what a provider may bill is worked out from those bytes alone, in fractions.
"""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from windvane.config.resolve import shipped_catalog
from windvane.core.analysis import analyze
from windvane.core.budgets import US_PER_DAY, BudgetTable, BudgetTerms
from windvane.core.catalog.models import Capability, ModelCard, Status
from windvane.core.catalog.prices import Price, Tier
from windvane.core.deployment import Deployment
from windvane.core.exchange import Credentials, Exchange
from windvane.core.faults import FaultKind, WindvaneError
from windvane.core.money import NANO_PER_USD, NanoUsd, NanoUsdPerMillion
from windvane.core.principal import GLOBAL, Principal
from windvane.engine.bounding import OUTPUT_TOKENS_DEFAULT, Bound, Bounder, Tariff
from windvane.providers import PROVIDERS
from windvane.stores.memory import MemoryBudgets
from windvane.wire.chat_request import chat_request_of, limited

DAY = date(2026, 11, 20)
NOW_US = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * 1_000_000
RATE = st.integers(0, 100 * NANO_PER_USD)
MAYBE_RATE = st.none() | RATE
TIER = st.builds(
    Tier,
    above_input_tokens=st.integers(0, 3_000),
    input=RATE,
    output=RATE,
    cache_read=MAYBE_RATE,
    cache_write=MAYBE_RATE,
    cache_write_1h=MAYBE_RATE,
)
PRICE = st.builds(
    Price,
    since=st.just(date(2026, 1, 1)),
    input=RATE,
    output=RATE,
    cache_read=MAYBE_RATE,
    cache_write=MAYBE_RATE,
    cache_write_1h=MAYBE_RATE,
    tiers=st.lists(TIER, max_size=2, unique_by=lambda tier: tier.above_input_tokens).map(tuple),
)
SIZE = st.none() | st.sampled_from([32, 500, 8_192, 131_072]) | st.integers(17, 400_000)
MODELS = {
    "mistral": ("mistral-small-latest",),
    "openai": ("gpt-4o", "gpt-5-mini", "o3", "gpt-6.1-sol"),
    "anthropic": ("claude-sonnet-5-5", "claude-haiku-4-5"),
    "compatible": ("llama",),
}
NEW_NAME = ("gpt-5-mini", "o3", "gpt-6.1-sol")
"""Models that refuse `max_tokens`."""
SERVED = {
    # asked for, and what an answer may say it was served in: thousandths of the list price
    ("mistral", "auto"): (1000, 1750),
    ("mistral", "priority"): (1000, 1750),
    ("openai", "flex"): (500, 1000),
}

IMAGE = {"type": "image_url", "image_url": {"url": "https://pictures.test/1"}}
TOOL = {"type": "function", "function": {"name": "wind", "parameters": {"type": "object"}}}
MARKS = ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"})
LIMIT = st.none() | st.sampled_from([0, 1, 15, 16, 17, 4_096, 100_000_000]) | st.integers(1, 9_000)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    text = draw(st.sampled_from(["", "hi", "é雨" * 7, "{}[]" * 500, "é" * 30_000]))
    parts = [{"type": "text", "text": text}, *[IMAGE] * draw(st.integers(0, 2))]
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": parts}] * draw(st.integers(1, 3)),
    }
    optional = {
        "max_tokens": LIMIT,
        "max_completion_tokens": LIMIT,
        "n": st.integers(1, 5),
        "tools": st.integers(1, 3).map(lambda count: [TOOL] * count),
        "functions": st.just([{"name": "gust"}]),
        "stream": st.booleans(),
        "cache_control": st.sampled_from(MARKS),
        "prediction": st.just({"type": "content", "content": "as before"}),
        "service_tier": st.sampled_from(
            ["auto", "default", "flex", "priority", "standard_only", "scale", "cheap"]
        ),
    }
    for name, values in optional.items():
        if draw(st.integers(0, 3)) == 0:
            body[name] = draw(values)
    return body


@st.composite
def deployments(draw: st.DrawFn) -> tuple[str, Deployment, Price]:
    kind = draw(st.sampled_from(sorted(MODELS)))
    model = draw(st.sampled_from(MODELS[kind]))
    price = draw(PRICE)
    card = ModelCard(
        id=model,
        provider=kind,
        name=model,
        status=Status.GA,
        source="here",
        capabilities=frozenset(Capability),
        context_window_tokens=draw(SIZE),
        output_tokens_max=draw(SIZE),
        prices=(price,),
    )
    deployment = Deployment(
        id=f"{kind}/{model}",
        provider=kind,
        model=model,
        card=card if draw(st.booleans()) else None,
        own_price=price,
        multiplier_permille=draw(st.sampled_from([1000, 1100, 1, 333, 2500])),
        billing=PROVIDERS[kind].billing,
    )
    return kind, deployment, price


def exchange_of(body: dict[str, Any], cap: int | None = None, may_clamp: bool = True) -> Exchange:
    request = chat_request_of(body)
    return Exchange(
        id="req_1",
        dialect="openai",
        request=request,
        credentials=Credentials(),
        received_s=0.0,
        received_at_us=0,
        body_bytes=len(msgspec.json.encode(body)),
        principal=Principal(key_id="k", output_tokens_max=cap, may_clamp=may_clamp),
        scopes=(GLOBAL,),
        analysis=analyze(request),
    )


class _Noon:
    """A clock that is set by hand, and stands still."""

    def __init__(self) -> None:
        self.now_us = NOW_US

    def monotonic_s(self) -> float:
        return 0.0

    def wall_us(self) -> int:
        return self.now_us


def bound_of(exchange: Exchange, deployment: Deployment, left: int) -> Bound:
    table = BudgetTable({GLOBAL: BudgetTerms(total=NanoUsd(left))})
    return Bounder(MemoryBudgets(table), _Noon(), lambda *_: None).bound(exchange, deployment)


def sent_by(exchange: Exchange, kind: str, deployment: Deployment, bound: Bound) -> dict[str, Any]:
    """What the provider is told."""
    request = exchange.request
    if bound.output_tokens_max is not None:
        request = limited(request, bound.output_tokens_max)
    told = msgspec.json.decode(PROVIDERS[kind].encode_chat(request, deployment.model))
    assert isinstance(told, dict)
    return told


def limit_of(told: dict[str, Any], kind: str, deployment: Deployment) -> int:
    """The one limit that goes out, under the name that its provider reads."""
    names = {"max_tokens", "max_completion_tokens"}
    said = {name: told[name] for name in names if told.get(name) is not None}
    (limit,) = set(said.values())
    if kind == "compatible":
        # A server may know one of the names alone.
        assert "max_tokens" in said
        return int(limit)
    assert len(said) == 1, f"{deployment.model} is told {said}"
    (name,) = said
    if kind == "mistral":
        assert name == "max_tokens"
    if deployment.model in NEW_NAME:
        assert name == "max_completion_tokens"
    assert isinstance(limit, int) and limit > 0
    return limit


def dearest(
    exchange: Exchange, kind: str, deployment: Deployment, price: Price, limit: int, rng: Random
) -> Fraction:
    """The bill for some usage that the request allows: often the most there could be."""
    body, request = exchange.request.body, exchange.request
    most_input = exchange.body_bytes + 16 * (len(request.messages) + len(request.tools) + 1)
    for message in request.messages:
        images = [part for part in message.content or () if type(part).__name__ == "ImagePart"]
        most_input += len(images) * deployment.billing.image_tokens_max
    if kind == "anthropic" and (request.tools or "functions" in body):
        most_input += deployment.billing.prompt_tokens_max
    most_output = limit * request.n
    if body.get("prediction"):
        most_output += len("as before")
    thresholds = [tier.above_input_tokens for tier in price.tiers]
    tokens = rng.choice((most_input, most_input, rng.randint(0, most_input), *thresholds))
    tokens = min(tokens + rng.randrange(2), most_input)
    read = rng.choice((0, tokens, rng.randint(0, tokens)))
    written = rng.choice((0, tokens - read))
    is_long = kind == "anthropic" and body.get("cache_control") == MARKS[1]
    for_an_hour = rng.choice((written, rng.randint(0, written))) if is_long else 0
    passed = [tier for tier in price.tiers if tokens > tier.above_input_tokens]
    rates: Any = max(passed, key=lambda tier: tier.above_input_tokens, default=price)
    permille = rng.choice(SERVED.get((kind, str(body.get("service_tier"))), (1000,)))
    total = (
        (tokens - read - written) * rates.input
        + read * (rates.input if rates.cache_read is None else rates.cache_read)
        + (written - for_an_hour) * write_rate(rates)
        + for_an_hour
        * (write_rate(rates) if rates.cache_write_1h is None else rates.cache_write_1h)
        + rng.choice((most_output, rng.randint(0, most_output))) * rates.output
    )
    return Fraction(total * deployment.multiplier_permille * permille, 10**12)


def write_rate(rates: Any) -> int:
    return int(rates.input if rates.cache_write is None else rates.cache_write)


@settings(deadline=None, max_examples=250)
@given(
    bodies(),
    deployments(),
    st.none() | st.integers(1, 5_000),
    st.booleans(),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
)
def test_no_usage_costs_more_than_was_held(
    body: dict[str, Any],
    served: tuple[str, Deployment, Price],
    cap: int | None,
    may_clamp: bool,
    magnitude: int,
    rng: Random,
) -> None:
    kind, deployment, price = served
    if kind == "anthropic":
        body.pop("n", None)  # it gives one answer, and says so
        for message in body["messages"]:
            message["content"][0]["text"] = message["content"][0]["text"] or "hi"
    exchange = exchange_of(body, cap, may_clamp)
    left = rng.randint(0, 10**magnitude)
    if rng.random() < 0.7:
        # Near what the whole answer would take.
        with suppress(WindvaneError):
            whole = bound_of(exchange_of(body, cap), deployment, 10**18)
            left = (
                (whole.hold_nano_usd or 0) * rng.choice((1_001, 1_000, 999, 950, 800, 500)) // 1_000
            )
    try:
        bound = bound_of(exchange, deployment, left)
    except WindvaneError as error:
        fault = error.fault
        event(str(fault.code))
        if fault.code == "unpriceable":
            assert fault.status == 403 and "price" in fault.message
            known = ("auto", "priority") if kind == "mistral" else ("flex",) * (kind == "openai")
            assert body["service_tier"] not in (*known, "default", "standard_only")
            return
        assert fault.kind is FaultKind.BUDGET_EXCEEDED and fault.limit is not None
        assert fault.limit.needed is not None and fault.limit.needed > left
        return
    assert bound.hold_nano_usd is not None and bound.hold_nano_usd <= left
    limit = limit_of(sent_by(exchange, kind, deployment, bound), kind, deployment)
    asked = exchange.request.output_tokens_max or None
    assert limit <= min(asked or limit, cap or limit)
    for _ in range(6):
        assert dearest(exchange, kind, deployment, price, limit, rng) <= bound.hold_nano_usd
    event("clamped" if bound.is_clamped else "whole")
    if bound.is_clamped and (asked is not None or limit < OUTPUT_TOKENS_DEFAULT):
        # What is left allowed no more than this, not one token.
        assert may_clamp or not asked
        longer = exchange_of({**body, "max_tokens": limit + 1, "max_completion_tokens": None})
        longer.body_bytes = exchange.body_bytes  # a number may be written shorter than `null`
        with pytest.raises(WindvaneError) as refused:
            longer.principal = Principal(key_id="k", may_clamp=False)
            bound_of(longer, deployment, left)
        assert refused.value.fault.code == "budget_exceeded"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"service_tier": "scale"}, "service tier 'scale'"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"models": ["dearer"]}, "models"),
        ({"fallbacks": ["dearer"]}, "fallbacks"),
        ({"best_of": 20}, "best_of"),
        ({"n_predict": 30_000}, "n_predict"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"tools": [{"type": "web_search"}]}, "the tool 'web_search'"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "document_url", "document_url": "u"}]}
                ]
            },
            "documents",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_audio", "input_audio": "AAAA"}]}
                ]
            },
            "audio input",
        ),
    ],
)
def test_what_has_no_price_is_refused_by_name(more: dict[str, Any], named: str) -> None:
    price = Price(since=DAY, input=NanoUsd(1), output=NanoUsd(1))  # type: ignore[arg-type]
    deployment = Deployment(
        id="p/m",
        provider="p",
        model="m",
        own_price=price,
        billing=PROVIDERS["compatible"].billing,
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
    with pytest.raises(WindvaneError, match=named) as refused:
        bound_of(exchange_of(body), deployment, 10**12)
    assert (refused.value.fault.status, refused.value.fault.code) == (403, "unpriceable")


@pytest.mark.parametrize("kind", ["mistral", "anthropic"])
def test_what_a_provider_is_not_told_costs_nothing_there(kind: str) -> None:
    price = Price(since=DAY, input=NanoUsd(1), output=NanoUsd(1))  # type: ignore[arg-type]
    billing = PROVIDERS[kind].billing
    deployment = Deployment(id="a/b", provider=kind, model="b", own_price=price, billing=billing)
    more = {"plugins": [{"id": "web"}], "models": ["dearer"], "best_of": 20}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
    exchange = exchange_of(body)
    told = sent_by(exchange, kind, deployment, bound_of(exchange, deployment, 10**12))
    assert not told.keys() & more.keys()


def test_what_is_kept_for_an_hour_is_held_for_where_only_a_tier_has_a_price_of_its_own() -> None:
    tier = {"above_input_tokens": 10, "input": 1_000_000, "output": 0, "cache_write_1h": 2_000_000}
    price = msgspec.convert({"since": DAY, "input": 1_000_000, "output": 0, "tiers": [tier]}, Price)
    billing = PROVIDERS["anthropic"].billing
    deployment = Deployment(
        id="anthropic/a", provider="anthropic", model="a", own_price=price, billing=billing
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    usual = bound_of(exchange_of(body), deployment, 10**12)
    kept = exchange_of({**body, "cache_control": MARKS[1]})
    kept.body_bytes = exchange_of(body).body_bytes
    bound = bound_of(kept, deployment, 10**12)
    assert usual.hold_nano_usd and bound.hold_nano_usd == 2 * usual.hold_nano_usd


def test_an_unknown_price_is_refused_under_a_budget_and_held_as_unknown_without() -> None:
    exchange = exchange_of({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    deployment = Deployment(id="x/odd", provider="x", model="odd")
    with pytest.raises(WindvaneError, match="the price of odd"):
        bound_of(exchange, deployment, 10**12)
    free = Bounder(MemoryBudgets(BudgetTable({})), _Noon(), lambda *_: None)
    assert free.bound(exchange, deployment).hold_nano_usd is None


class _Unhurried(Bounder):
    """Knows no request that is plain: each is bounded the long way."""

    def tariff(self, deployment: Deployment, at_us: int) -> Tariff:
        tariff = super().tariff(deployment, at_us)
        tariff.plain = None
        return tariff


@given(
    bodies(), deployments(), st.none() | st.integers(1, 9_000), st.none() | st.integers(0, 10**12)
)
def test_a_plain_request_is_bounded_as_any_is(
    body: dict[str, Any],
    deployed: tuple[str, Deployment, Price],
    cap: int | None,
    left: int | None,
) -> None:
    """Most requests have nothing in them that is looked at apart, and are bounded in one go."""
    _, deployment, _ = deployed
    terms = {} if left is None else {GLOBAL: BudgetTerms(total=NanoUsd(left))}
    bounds: list[Bound | str] = []
    for kind in (Bounder, _Unhurried):
        bounder = kind(MemoryBudgets(BudgetTable(terms)), _Noon(), lambda *_: None)
        try:
            bounds.append(bounder.bound(exchange_of(body, cap), deployment))
        except WindvaneError as error:
            bounds.append(str(error))
    assert bounds[0] == bounds[1]


CATALOG = [card for card in shipped_catalog().cards if card.price_on(DAY)]


def test_a_bound_goes_by_the_price_of_its_day() -> None:
    before, after = (
        Price(since=DAY + timedelta(days), input=NanoUsd(0), output=NanoUsd(rate))  # type: ignore[arg-type]
        for days, rate in ((0, 1_000_000), (1, 2_000_000))
    )
    card = msgspec.structs.replace(CATALOG[0], prices=(before, after))
    deployment = Deployment(id="x/m", provider="x", model="m", card=card)
    messages = [{"role": "user", "content": "hi"}]
    exchange = exchange_of({"model": "m", "messages": messages, "max_tokens": 1})
    clock = _Noon()
    bounder = Bounder(MemoryBudgets(BudgetTable({})), clock, lambda *_: None)
    midnight_us = NOW_US + US_PER_DAY // 2
    bounds = []
    for passed_us in (-1, 0, -1):  # the clock may be set back
        clock.now_us = midnight_us + passed_us
        bounds.append(bounder.bound(exchange, deployment))
    assert [(bound.price, bound.hold_nano_usd) for bound in bounds] == [
        (before, 1),
        (after, 2),
        (before, 1),
    ]


@pytest.mark.parametrize("card", CATALOG, ids=lambda card: card.id)
def test_each_model_of_the_catalog_is_bounded(card: ModelCard) -> None:
    rng = Random(card.id)
    kind = card.provider if card.provider in PROVIDERS else "compatible"
    deployment = Deployment(
        id=card.id, provider=kind, model=card.id, card=card, billing=PROVIDERS[kind].billing
    )
    price = card.price_on(DAY)
    assert price is not None
    for _ in range(10):
        text = "w " * rng.choice((1, 200, 2_000, 40_000))
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}]}
        if rng.random() < 0.5:
            body["max_tokens"] = rng.choice((1, 300, 50_000))
        exchange = exchange_of(body)
        bound = bound_of(exchange, deployment, 10**15)
        limit = limit_of(sent_by(exchange, kind, deployment, bound), kind, deployment)
        if card.output_tokens_max is not None and "max_tokens" not in body:
            assert limit <= card.output_tokens_max
        assert bound.hold_nano_usd is not None
        assert dearest(exchange, kind, deployment, price, limit, rng) <= bound.hold_nano_usd


def test_of_several_answers_each_is_in_the_bound_and_a_model_set_anew_has_its_own_price() -> None:
    messages = [{"role": "user", "content": "hi"}]
    budgets = MemoryBudgets(BudgetTable({}))
    bounder, plain = Bounder(budgets, _Noon(), lambda *_: None), []
    for rate in (NANO_PER_USD, 2 * NANO_PER_USD):
        price = Price(since=DAY, input=NanoUsdPerMillion(0), output=NanoUsdPerMillion(rate))
        deployment = Deployment(id="x/m", provider="x", model="m", own_price=price)
        for choices in (1, 3):
            body = {"model": "m", "messages": messages, "max_tokens": 1_000, "n": choices}
            plain.append(bounder.bound(exchange_of(body), deployment).hold_nano_usd)
    assert plain == [1_000_000, 3_000_000, 2_000_000, 6_000_000]
