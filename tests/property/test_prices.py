"""Prices beside exact fractions, and the worst case above everything it bounds."""

from datetime import date
from fractions import Fraction
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.catalog.prices import Price, Tier, cost, dearest
from windvane.core.money import NANO_PER_USD, usd_text
from windvane.core.usage import Usage

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
    tiers=st.lists(TIER, max_size=3, unique_by=lambda tier: tier.above_input_tokens).map(tuple),
)
PERMILLE = st.sampled_from([1000, 500, 1100, 1750, 1]) | st.integers(0, 10_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, written, fresh = (draw(st.integers(0, 2_000)) for _ in range(3))
    return Usage(
        input_tokens=read + written + fresh,
        output_tokens=draw(st.integers(0, 5_000)),
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=draw(st.integers(0, written)),
    )


def exact(price: Price, usage: Usage, permille: int) -> Fraction:
    """The cost in nano-dollars, never rounded."""
    passed = [tier for tier in price.tiers if usage.input_tokens > tier.above_input_tokens]
    rates: Price | Tier = max(passed, key=lambda tier: tier.above_input_tokens, default=price)  # type: ignore[type-var,assignment]
    read = rates.input if rates.cache_read is None else rates.cache_read
    write = rates.input if rates.cache_write is None else rates.cache_write
    write_1h = write if rates.cache_write_1h is None else rates.cache_write_1h
    for_an_hour = usage.cache_creation_1h_input_tokens
    fresh = usage.input_tokens - usage.cache_read_input_tokens - usage.cache_creation_input_tokens
    million = Fraction(1, 1_000_000)
    total = (
        fresh * rates.input * million
        + usage.cache_read_input_tokens * read * million
        + (usage.cache_creation_input_tokens - for_an_hour) * write * million
        + for_an_hour * write_1h * million
        + usage.output_tokens * rates.output * million
    )
    return total * Fraction(permille, 1000)


@settings(deadline=None, max_examples=120)
@given(PRICE, usages(), PERMILLE)
def test_a_cost_is_the_exact_one_rounded_up_once(price: Price, usage: Usage, permille: int) -> None:
    assert cost(price, usage, permille) == ceil(exact(price, usage, permille))


@settings(deadline=None, max_examples=120)
@given(PRICE, usages(), PERMILLE, st.integers(0, 100), st.integers(0, 100))
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    price: Price, usage: Usage, permille: int, more_input: int, more_output: int
) -> None:
    worst = dearest(price, permille).worst_case(usage.input_tokens + more_input)
    billed = cost(price, usage, permille)
    assert worst.of(usage.output_tokens + more_output) >= billed
    input_max = usage.input_tokens + more_input
    nearer = dearest(price, permille, input_tokens_max=input_max).worst_case(input_max)
    assert worst.of(usage.output_tokens) >= nearer.of(usage.output_tokens) >= billed


@settings(deadline=None, max_examples=80)
@given(st.integers(-(10**24), 10**24))
def test_dollars_are_written_exactly(amount: int) -> None:
    text = usd_text(amount)
    assert Fraction(text) * NANO_PER_USD == amount
    assert (
        "e" not in text and not text.endswith(".") and ("." not in text or not text.endswith("0"))
    )
