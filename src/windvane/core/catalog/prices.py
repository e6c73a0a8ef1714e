"""Prices and what an attempt costs by them.

Sources of the rules: Mistral bills cached input at a tenth, batches at half, the priority tier at
1.75 times and its regional hosts at 1.1 times; OpenAI charges the *whole* request at the long-context
price once its input exceeds the threshold; Anthropic charges more for input that is written to its
prompt cache, and more yet when it is to be kept for an hour. Each price row in the data file names its
own source.
"""

from datetime import date

import msgspec

from windvane.core.money import (
    AMOUNT_MAX,
    UNITS_PER_PRICE,
    NanoUsd,
    NanoUsdPerMillion,
    round_up,
)
from windvane.core.usage import Usage

PERMILLE = 1000
_UP = UNITS_PER_PRICE - 1


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices for a whole request whose input is above `above_input_tokens`."""

    above_input_tokens: int
    input: NanoUsdPerMillion
    output: NanoUsdPerMillion
    cache_read: NanoUsdPerMillion | None = None
    cache_write: NanoUsdPerMillion | None = None
    cache_write_1h: NanoUsdPerMillion | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nano-dollars per million tokens of each kind, from `since` on.

    `cache_read` and `cache_write` default to the input price: billing a cached token at the full
    price is never below the truth. `cache_write_1h` defaults to `cache_write`.
    """

    since: date
    input: NanoUsdPerMillion
    output: NanoUsdPerMillion
    cache_read: NanoUsdPerMillion | None = None
    cache_write: NanoUsdPerMillion | None = None
    cache_write_1h: NanoUsdPerMillion | None = None
    tiers: tuple[Tier, ...] = ()
    source: str = ""


def cost(price: Price, usage: Usage, multiplier_permille: int = PERMILLE) -> NanoUsd:
    """What `usage` costs, rounded up once. The multiplier is for tiers, regions and batches."""
    rates = _rates(price, usage.input_tokens) if price.tiers else price
    read = usage.cache_read_input_tokens
    written = usage.cache_creation_input_tokens
    amount = usage.input_tokens * rates.input + usage.output_tokens * rates.output
    if read or written:
        amount -= min(read + written, usage.input_tokens) * rates.input
        amount += read * _or_input(rates.cache_read, rates)
        amount += _writes(rates, written, usage.cache_creation_1h_input_tokens)
    if multiplier_permille == PERMILLE:
        # As `round_up` has it: nearly each request is priced here, and a call takes as long as the rest.
        rounded = (amount + _UP) // UNITS_PER_PRICE
        return min(AMOUNT_MAX, rounded)  # type: ignore[return-value]
    return round_up(amount * multiplier_permille, UNITS_PER_PRICE * PERMILLE)


class WorstCase(msgspec.Struct, frozen=True, gc=False):
    """An upper bound for a request, by how long its answer may be: so much whatever is answered, and so
    much for each token, both in `divisor`ths of a nano-dollar."""

    fixed: int
    per_token: int
    divisor: int

    def of(self, output_tokens_max: int) -> NanoUsd:
        """What the request costs at most whose answer has at most so many tokens a choice."""
        return round_up(self.fixed + self.per_token * output_tokens_max, self.divisor)

    def longest(self, amount: int, low: int, high: int) -> int:
        """The longest answer between `low` and `high` that `amount` covers; `low` if it covers none."""
        if self.per_token == 0:
            return high
        covered = (amount * self.divisor - self.fixed) // self.per_token
        return min(max(covered, low), high)


class Dearest(msgspec.Struct, frozen=True):
    """The dearest rates that any request could meet: what a token costs, in `divisor`ths of a
    nano-dollar."""

    input: int
    output: int
    divisor: int

    def worst_case(
        self, input_tokens_max: int, choices: int = 1, foretold_tokens_max: int = 0
    ) -> WorstCase:
        """An upper bound for any request of at most this size.

        `foretold_tokens_max` are billed as output besides each choice's answer.
        """
        fixed, per_token = input_tokens_max * self.input, self.output
        if choices != 1:
            per_token *= choices
        if foretold_tokens_max:
            fixed += foretold_tokens_max * per_token
        return WorstCase(fixed, per_token, self.divisor)


def dearest(
    price: Price,
    multiplier_permille: int = PERMILLE,
    *,
    keeps_for_an_hour: bool = True,
    input_tokens_max: int | None = None,
) -> Dearest:
    """The dearest rates of `price`, its tiers included: all that a request of `input_tokens_max` may be
    in. Without `keeps_for_an_hour` they are for requests that have nothing written to the prompt cache
    for so long."""
    rates: tuple[Price | Tier, ...] = (price, *price.tiers)
    if input_tokens_max is not None:
        within = (tier for tier in price.tiers if tier.above_input_tokens < input_tokens_max)
        rates = price, *within
    input_ = max(_dearest_input(rate, keeps_for_an_hour) for rate in rates)
    output = max(rate.output for rate in rates)
    if multiplier_permille == PERMILLE:
        return Dearest(input_, output, UNITS_PER_PRICE)
    return Dearest(
        input_ * multiplier_permille, output * multiplier_permille, UNITS_PER_PRICE * PERMILLE
    )


def _dearest_input(rates: Price | Tier, keeps_for_an_hour: bool) -> NanoUsdPerMillion:
    dearest, read, written = rates.input, rates.cache_read, rates.cache_write
    if read is not None and read > dearest:
        dearest = read
    if written is not None and written > dearest:
        dearest = written
    if keeps_for_an_hour and rates.cache_write_1h is not None:
        return max(dearest, rates.cache_write_1h)
    return dearest


def _writes(rates: Price | Tier, written: int, for_an_hour: int) -> int:
    """What writing so much to the prompt cache costs."""
    short = _or_input(rates.cache_write, rates)
    long = short if rates.cache_write_1h is None else rates.cache_write_1h
    return (written - for_an_hour) * short + for_an_hour * long


def _rates(price: Price, input_tokens: int) -> Price | Tier:
    current: Price | Tier = price
    passed = -1
    for tier in price.tiers:
        if input_tokens > tier.above_input_tokens > passed:
            current, passed = tier, tier.above_input_tokens
    return current


def _or_input(rate: NanoUsdPerMillion | None, rates: Price | Tier) -> int:
    return rates.input if rate is None else rate
