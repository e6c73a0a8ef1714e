"""The bill meter's own price table: US dollars per million tokens, as published 2026-11-20.

It is kept apart from any other price table on purpose: the meter is the second opinion on money,
and a second opinion copied from the first is none. Decimals are written as text and become exact
fractions; no float ever holds a price.
"""

from fractions import Fraction
from math import lcm

from msgspec import Struct

EARLIEST = "0000-00-00"
NANO_USD_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000

WRITE_FACTOR = Fraction(5, 4)
WRITE_1H_FACTOR = Fraction(2)
"""What claude models charge for input that is written to the prompt cache, for minutes or an hour."""

_ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    # model, valid from, input, cached input, output
    ("mistral-large-4-0", EARLIEST, "0.68", "0.07", "2.09"),
    ("mistral-large-4-0", "2026-10-20", "1.36", "0.14", "4.18"),
    ("mistral-large-4-0", "2026-10-29", "0.70", "0.07", "2.10"),
    ("mistral-large-2512", EARLIEST, "0.50", "0.05", "1.50"),
    ("mistral-medium-3-5", EARLIEST, "1.50", "0.15", "7.50"),
    ("mistral-small-2603", EARLIEST, "0.15", "0.015", "0.60"),
    ("ministral-14b-2512", EARLIEST, "0.20", "0.02", "0.20"),
    ("ministral-8b-2512", EARLIEST, "0.15", "0.015", "0.15"),
    ("ministral-3b-2512", EARLIEST, "0.10", "0.01", "0.10"),
    ("codestral-2508", EARLIEST, "0.30", "0.03", "0.90"),
    ("voxtral-small-2507", EARLIEST, "0.10", "0.01", "0.40"),
    ("zai-glm-5-3", EARLIEST, "1.40", "0.14", "4.40"),
    ("mistral-embed-2312", EARLIEST, "0.10", "0.10", "0"),
    ("codestral-embed-2505", EARLIEST, "0.15", "0.15", "0"),
    ("gpt-6-astra", EARLIEST, "10", "1", "50"),
    ("gpt-6.1-sol", EARLIEST, "2", "0.1", "10"),
    ("gpt-6.1-terra", EARLIEST, "1", "0.05", "5"),
    ("gpt-6-sol", EARLIEST, "2", "0.2", "10"),
    ("gpt-6-luna", EARLIEST, "0.1", "0.01", "0.5"),
    ("gpt-5.6-sol", EARLIEST, "4", "0.4", "20"),
    ("gpt-5.6-terra", EARLIEST, "2", "0.2", "12"),
    ("gpt-5.6-luna", EARLIEST, "0.2", "0.02", "1.2"),
    ("gpt-5.5", EARLIEST, "5", "0.5", "30"),
    ("gpt-5.4", EARLIEST, "2.5", "0.25", "15"),
    ("gpt-5.4-mini", EARLIEST, "0.75", "0.075", "4.5"),
    ("gpt-5.4-nano", EARLIEST, "0.2", "0.02", "1.25"),
    ("gpt-5.2", EARLIEST, "1.75", "0.175", "14"),
    ("gpt-5.1", EARLIEST, "1.25", "0.125", "10"),
    ("gpt-5", EARLIEST, "1.25", "0.125", "10"),
    ("gpt-5-mini", EARLIEST, "0.25", "0.025", "2"),
    ("gpt-5-nano", EARLIEST, "0.05", "0.005", "0.4"),
    ("o3", EARLIEST, "2", "0.5", "8"),
    ("gpt-4.1", EARLIEST, "2", "0.5", "8"),
    ("gpt-4.1-mini", EARLIEST, "0.4", "0.1", "1.6"),
    ("gpt-4o", EARLIEST, "2.5", "1.25", "10"),
    ("gpt-4o-mini", EARLIEST, "0.15", "0.075", "0.6"),
    ("claude-fable-5-2", EARLIEST, "8", "0.2", "40"),
    ("claude-mythos-5-2", EARLIEST, "8", "0.2", "40"),
    ("claude-opus-5-5", EARLIEST, "4", "0.2", "20"),
    ("claude-sonnet-5-5", EARLIEST, "2", "0.1", "10"),
    ("claude-haiku-5-5", EARLIEST, "0.1", "0.01", "0.5"),
    ("claude-fable-5-1", EARLIEST, "10", "0.25", "50"),
    ("claude-sonnet-5", EARLIEST, "2", "0.2", "10"),
    ("claude-opus-5", EARLIEST, "5", "0.5", "25"),
    ("claude-opus-4-8", EARLIEST, "5", "0.5", "25"),
    ("claude-opus-4-7", EARLIEST, "5", "0.5", "25"),
    ("claude-opus-4-6", EARLIEST, "5", "0.5", "25"),
    ("claude-sonnet-4-6", EARLIEST, "3", "0.3", "15"),
    ("claude-haiku-4-5", EARLIEST, "1", "0.1", "5"),
    ("claude-sonnet-4-5", EARLIEST, "3", "0.3", "15"),
    ("text-embedding-3-small", EARLIEST, "0.02", "0.02", "0"),
    ("text-embedding-3-large", EARLIEST, "0.13", "0.13", "0"),
)


class _Long(Struct, frozen=True, gc=False):
    """Above so many input tokens the whole request is charged so many times the price."""

    above_tokens: int
    input_factor: Fraction
    output_factor: Fraction


_GPT = _Long(272_000, Fraction(2), Fraction(3, 2))
_LONG_CONTEXT = {
    **dict.fromkeys(
        (
            "gpt-6-astra gpt-6.1-sol gpt-6.1-terra gpt-6-sol gpt-6-luna gpt-5.6-sol gpt-5.6-terra"
            " gpt-5.6-luna gpt-5.5 gpt-5.4"
        ).split(),
        _GPT,
    ),
    "claude-sonnet-4-5": _Long(200_000, Fraction(2), Fraction(3, 2)),
    "claude-haiku-5-5": _Long(100_000, Fraction(5), Fraction(5)),
}


class Price(Struct, frozen=True, gc=False):
    """One model's price as whole parts of a nano-dollar, over one common denominator.

    Dividing once, at the end, keeps a request's price exact while costing no fraction arithmetic
    per request.
    """

    input_parts: int
    cached_parts: int
    output_parts: int
    written_parts: int
    written_1h_parts: int
    denominator: int

    def nano_usd(
        self,
        *,
        input_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        written_tokens: int = 0,
        written_1h_tokens: int = 0,
    ) -> int:
        """Return what that costs, rounded up once to whole nano-dollars."""
        fresh = input_tokens - cached_tokens - written_tokens - written_1h_tokens
        parts = (
            fresh * self.input_parts
            + cached_tokens * self.cached_parts
            + written_tokens * self.written_parts
            + written_1h_tokens * self.written_1h_parts
            + output_tokens * self.output_parts
        )
        return -(-parts // self.denominator)


def price_on(model: str, day: str, input_tokens: int) -> Price:
    """Return the price of a model id on an ISO day, for a request of that size.

    Raises KeyError for a model without a price: an unknown price is never zero.
    """
    long = _LONG_CONTEXT.get(model)
    table = _LONG_PRICES if long is not None and input_tokens > long.above_tokens else _PRICES
    valid = _PRICES[model][0][1]
    for since, price in table[model]:
        if since > day:
            break
        valid = price
    return valid


def _price(dollars: tuple[str, str, str], long: _Long | None) -> Price:
    nano_per_token = Fraction(NANO_USD_PER_USD, TOKENS_PER_PRICE)
    fresh, cached, output = (Fraction(amount) * nano_per_token for amount in dollars)
    rates = [fresh, cached, output, fresh * WRITE_FACTOR, fresh * WRITE_1H_FACTOR]
    if long is not None:
        more, more_out = long.input_factor, long.output_factor
        factors = (more, more, more_out, more, more)
        rates = [rate * factor for rate, factor in zip(rates, factors, strict=True)]
    denominator = lcm(*(rate.denominator for rate in rates))
    parts = [int(rate * denominator) for rate in rates]
    return Price(parts[0], parts[1], parts[2], parts[3], parts[4], denominator)


def _table(*, is_long: bool) -> dict[str, list[tuple[str, Price]]]:
    table: dict[str, list[tuple[str, Price]]] = {}
    for model, since, *dollars in sorted(_ROWS):
        long = _LONG_CONTEXT.get(model) if is_long else None
        price = _price((dollars[0], dollars[1], dollars[2]), long)
        table.setdefault(model, []).append((since, price))
    return table


_PRICES = _table(is_long=False)
_LONG_PRICES = _table(is_long=True)
