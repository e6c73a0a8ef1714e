"""Money as integers.

Laws:
1. An amount is a whole number of nano-dollars (`NanoUsd`, 1e-9 USD).
2. A price is a whole number of nano-dollars per million units, so $0.0125 per million is exact.
3. An amount is rounded once, upwards, at the end of one attempt.

Knows nothing of models, tokens' kinds or providers.
"""

from decimal import Decimal
from typing import NewType

NanoUsd = NewType("NanoUsd", int)
"""A whole number of 1e-9 US dollars."""

NanoUsdPerMillion = NewType("NanoUsdPerMillion", int)
"""A price: nano-dollars for a million units (tokens, unless the name says otherwise)."""

NANO_PER_USD = 1_000_000_000
UNITS_PER_PRICE = 1_000_000

ZERO = NanoUsd(0)
AMOUNT_MAX = (1 << 63) - 1
"""About nine billion dollars: what a database's integer holds."""


PRICE_MAX_USD = 10_000
"""For a million units. No model comes near it; above it, sums of amounts would not fit a database's
integer."""


def round_up(amount: int, divisor: int = UNITS_PER_PRICE) -> NanoUsd:
    """Divide `amount` by `divisor`, rounding up to a whole nano-dollar, of which there are at most
    `AMOUNT_MAX`."""
    rounded = (amount + (divisor - 1)) // divisor
    if rounded > AMOUNT_MAX:
        return NanoUsd(AMOUNT_MAX)
    return rounded  # type: ignore[return-value]  # to call a NewType costs more than to divide


def usd_text(amount: NanoUsd | int) -> str:
    """Write an amount as plain decimal dollars, exactly, without an exponent.

    >>> usd_text(NanoUsd(1_234_500))
    '0.0012345'
    """
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), NANO_PER_USD)
    if not fraction:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:09d}".rstrip("0")


def nano_per_million(usd_per_million: Decimal | str | int) -> NanoUsdPerMillion:
    """Turn a published price, in dollars per million units, into nano-dollars per million.

    Raises ValueError when it is negative, not a number, finer than a nano-dollar, or above any price.
    """
    exact = Decimal(usd_per_million) * NANO_PER_USD
    if not exact.is_finite() or exact < 0 or exact != exact.to_integral_value():
        raise ValueError(f"not a price in whole nano-dollars per million: {usd_per_million}")
    if exact > PRICE_MAX_USD * NANO_PER_USD:
        raise ValueError(f"more than ${PRICE_MAX_USD:,} per million: {usd_per_million}")
    return NanoUsdPerMillion(int(exact))
