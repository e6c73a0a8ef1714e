"""What an attempt used, by kind of token, and how surely that is known."""

from enum import StrEnum

import msgspec


class Certainty(StrEnum):
    """How an amount is known. Only `EXACT` may give a held remainder back."""

    EXACT = "exact"
    """The provider said so, or nothing was sent that could be billed."""
    ESTIMATED = "estimated"
    """Counted here from what was asked and delivered: the caller left, or usage never came."""
    ASSUMED = "assumed"
    """Nothing is known: the whole worst case counts as spent."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one attempt. Field names follow OpenTelemetry's GenAI conventions.

    `input_tokens` includes the cached ones (OpenAI and Mistral report it so; a codec for a provider
    that does not must add them). `cache_creation_1h_input_tokens` are those of
    `cache_creation_input_tokens` that were written to be kept for an hour, which is dearer.
    `is_so_far`: counted at the stream's beginning, before the answer was whole. `is_at_most`: what the
    provider said does not add up, and no more than this can be meant. `contested_input_tokens` are those
    of `input_tokens` that may have been counted twice then.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    service_tier: str | None = None
    cache_creation_1h_input_tokens: int = 0
    is_so_far: bool = False
    is_at_most: bool = False
    contested_input_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


NOTHING_USED = Usage()
