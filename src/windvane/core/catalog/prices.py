"""Prices and what an attempt costs by them.

Sources of the rules: Mistral bills cached input at a tenth, batches at half, the priority tier at
1.75 times and its regional hosts at 1.1 times; OpenAI charges the *whole* request at the long-context
price once its input exceeds the threshold. Each price row in the data file names its own source.
"""

from datetime import date

import msgspec

from windvane.core.money import NanoUsd, NanoUsdPerMillion, round_up
from windvane.core.usage import Usage

PERMILLE = 1000


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices for a whole request whose input is above `above_input_tokens`."""

    above_input_tokens: int
    input: NanoUsdPerMillion
    output: NanoUsdPerMillion
    cache_read: NanoUsdPerMillion | None = None
    cache_write: NanoUsdPerMillion | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nano-dollars per million tokens of each kind, from `since` on.

    `cache_read` and `cache_write` default to the input price: billing a cached token at the full
    price is never below the truth.
    """

    since: date
    input: NanoUsdPerMillion
    output: NanoUsdPerMillion
    cache_read: NanoUsdPerMillion | None = None
    cache_write: NanoUsdPerMillion | None = None
    tiers: tuple[Tier, ...] = ()
    source: str = ""


def cost(price: Price, usage: Usage, multiplier_permille: int = PERMILLE) -> NanoUsd:
    """What `usage` costs, rounded up once. The multiplier is for tiers, regions and batches."""
    rates = _rates(price, usage.input_tokens)
    read = usage.cache_read_input_tokens
    written = usage.cache_creation_input_tokens
    fresh = max(usage.input_tokens - read - written, 0)
    amount = (
        fresh * rates.input
        + read * _or_input(rates.cache_read, rates)
        + written * _or_input(rates.cache_write, rates)
        + usage.output_tokens * rates.output
    )
    if multiplier_permille == PERMILLE:
        return round_up(amount)
    return round_up(amount * multiplier_permille, 1_000_000 * PERMILLE)


def worst_case(
    price: Price, input_tokens_max: int, output_tokens_max: int, multiplier_permille: int = PERMILLE
) -> NanoUsd:
    """An upper bound for any request of at most these sizes, at the dearest rate it could meet."""
    if not price.tiers:
        dearest = max(price.input, price.cache_read or 0, price.cache_write or 0)
        amount = input_tokens_max * dearest + output_tokens_max * price.output
        return round_up(amount * multiplier_permille, 1_000_000 * PERMILLE)
    candidates: tuple[Price | Tier, ...] = (price, *price.tiers)
    dearest_input = max(
        max(rate.input, rate.cache_read or 0, rate.cache_write or 0) for rate in candidates
    )
    dearest_output = max(rate.output for rate in candidates)
    amount = input_tokens_max * dearest_input + output_tokens_max * dearest_output
    return round_up(amount * multiplier_permille, 1_000_000 * PERMILLE)


def _rates(price: Price, input_tokens: int) -> Price | Tier:
    current: Price | Tier = price
    passed = -1
    for tier in price.tiers:
        if input_tokens > tier.above_input_tokens > passed:
            current, passed = tier, tier.above_input_tokens
    return current


def _or_input(rate: NanoUsdPerMillion | None, rates: Price | Tier) -> int:
    return rates.input if rate is None else rate
