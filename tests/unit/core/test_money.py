"""Money is whole nano-dollars, rounded up once."""

from decimal import Decimal

import pytest

from windvane.core.money import NANO_PER_USD, nano_per_million, round_up, usd_text


@pytest.mark.parametrize(
    ("amount", "divisor", "rounded"),
    [
        (0, 10, 0),
        (1, 10, 1),
        (10, 10, 1),
        (11, 10, 2),
        (999_999, 1_000_000, 1),
        (10**24, 7, 2**63 - 1),  # what a database can hold is the most there is
    ],
)
def test_an_amount_is_rounded_up_and_only_when_it_must(
    amount: int, divisor: int, rounded: int
) -> None:
    assert round_up(amount, divisor) == rounded


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_234_500, "0.0012345"),
        (1_000_000_000, "1"),
        (10_000_000_000, "10"),
        (2_500_000_000, "2.5"),
        (-1_500_000_000, "-1.5"),
        (10**30 + 1, "1000000000000000000000.000000001"),
    ],
)
def test_an_amount_is_written_in_plain_exact_dollars(amount: int, text: str) -> None:
    assert usd_text(amount) == text


@pytest.mark.parametrize(
    ("price", "nano"),
    [
        ("0.015", 15_000_000),
        ("0.0125", 12_500_000),
        (10, 10_000_000_000),
        (Decimal("0.000000001"), 1),
        ("0", 0),
    ],
)
def test_a_published_price_becomes_whole_nano_dollars(
    price: Decimal | str | int, nano: int
) -> None:
    assert nano_per_million(price) == nano


@pytest.mark.parametrize("price", ["-1", "NaN", "Infinity", "-Infinity", "0.0000000001"])
def test_what_is_no_price_is_refused(price: str) -> None:
    with pytest.raises(ValueError, match=r"not a price|cannot convert"):
        nano_per_million(price)


def test_what_is_above_any_price_is_refused() -> None:
    assert nano_per_million(10_000) == 10_000 * NANO_PER_USD
    for price in ("10000.000000001", "150000000", "1e30"):
        with pytest.raises(ValueError, match=r"more than \$10,000 per million"):
            nano_per_million(price)
