"""What an attempt costs: cached tokens, tiers, multipliers, and the bound."""

from datetime import date

import pytest

from windvane.core.catalog.prices import Price, Tier, cost, dearest
from windvane.core.usage import Usage

DAY = date(2026, 1, 1)
USD = 1_000_000_000


def price(
    input_: int, output: int, read: int | None = None, write: int | None = None, *tiers: Tier
) -> Price:
    return Price(
        since=DAY, input=input_, output=output, cache_read=read, cache_write=write, tiers=tiers
    )  # type: ignore[arg-type]


def tier(above: int, input_: int, output: int, read: int | None = None) -> Tier:
    return Tier(above_input_tokens=above, input=input_, output=output, cache_read=read)  # type: ignore[arg-type]


SMALL = price(150_000_000, 600_000_000, 15_000_000)
MEDIUM = price(1_500_000_000, 7_500_000_000, 150_000_000)
PLAIN = price(2 * USD, 10 * USD)
TIERED = price(2 * USD, 10 * USD, USD // 10, None, tier(272_000, 4 * USD, 15 * USD, USD // 5))
WRITES = price(4 * USD, 20 * USD, 400_000_000, 5 * USD)


def used(input_: int, output: int = 0, read: int = 0, write: int = 0) -> Usage:
    return Usage(
        input_tokens=input_,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=write,
    )


CASES = [
    ("nothing used", SMALL, used(0), 1000, 0),
    ("one token of input is rounded up", price(1, 0), used(1), 1000, 1),
    ("a million in, a million out", SMALL, used(1_000_000, 1_000_000), 1000, 750_000_000),
    ("a usual small request", SMALL, used(1_000, 200), 1000, 270_000),
    ("cached input costs a tenth", SMALL, used(1_000, 0, read=960), 1000, 40 * 150 + 960 * 15),
    ("all input cached", MEDIUM, used(640, 0, read=640), 1000, 96_000),
    ("no cached price: the full one", PLAIN, used(1_000, 0, read=1_000), 1000, 2_000_000),
    (
        "cache writes have their own price",
        WRITES,
        used(1_000, 0, read=300, write=500),
        1000,
        200 * 4_000 + 300 * 400 + 500 * 5_000,
    ),
    ("at the threshold the lower tier", TIERED, used(272_000), 1000, 544_000_000),
    (
        "above it the whole request is dear",
        TIERED,
        used(272_001, 1),
        1000,
        272_001 * 4_000 + 15_000,
    ),
    ("cached input in the upper tier", TIERED, used(300_000, 0, read=300_000), 1000, 60_000_000),
    ("batch at half", SMALL, used(1_000, 200), 500, 135_000),
    ("priority at 1.75", SMALL, used(1_000, 200), 1750, 472_500),
    ("regional at 1.1, rounded up once", price(3, 0), used(333_333), 1100, 2),
]


@pytest.mark.parametrize(
    ("rates", "usage", "permille", "nano"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_cost_of_usage(rates: Price, usage: Usage, permille: int, nano: int) -> None:
    assert cost(rates, usage, permille) == nano


def test_reasoning_tokens_are_part_of_output_and_paid_once() -> None:
    thinking = Usage(output_tokens=100, reasoning_output_tokens=90)
    assert cost(SMALL, thinking) == cost(SMALL, used(0, 100))


def test_tiers_apply_by_their_thresholds_whatever_their_order() -> None:
    low, high = tier(100, 2 * USD, USD), tier(200, 3 * USD, USD)
    for tiers in ((low, high), (high, low)):
        rates = price(USD, USD, None, None, *tiers)
        assert [cost(rates, used(n)) for n in (100, 101, 201)] == [100_000, 202_000, 603_000]


@pytest.mark.parametrize(
    ("rates", "input_", "output", "permille", "nano"),
    [
        (SMALL, 1_000, 100, 1000, 210_000),
        (SMALL, 1_000, 100, 1100, 231_000),
        (TIERED, 10, 10, 1000, 10 * 4_000 + 10 * 15_000),
        (WRITES, 10, 0, 1000, 50_000),
        (SMALL, 0, 0, 1750, 0),
    ],
)
def test_the_worst_case_takes_the_dearest_rate(
    rates: Price, input_: int, output: int, permille: int, nano: int
) -> None:
    assert dearest(rates, permille).worst_case(input_).of(output) == nano


def test_the_worst_case_counts_every_choice_and_what_was_foretold() -> None:
    worst = dearest(SMALL).worst_case(1_000, choices=3, foretold_tokens_max=50)
    assert worst.of(100) == cost(SMALL, used(1_000, 3 * 150))


def test_the_longest_answer_is_what_an_amount_covers_and_not_a_token_more() -> None:
    for permille in (1000, 1100):
        worst = dearest(SMALL, permille).worst_case(1_000)
        for amount in (worst.of(77), worst.of(77) + 1, worst.of(78) - 1):
            assert worst.longest(amount, 16, 4_096) == 77
        assert worst.longest(worst.of(77), 100, 4_096) == 100
        assert worst.longest(worst.of(77), 16, 60) == 60
    assert dearest(price(USD, 0)).worst_case(5).longest(0, 16, 4_096) == 4_096
