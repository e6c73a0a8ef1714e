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


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one attempt. Field names follow OpenTelemetry's GenAI conventions.

    `input_tokens` includes the cached ones (OpenAI and Mistral report it so; a codec for a provider
    that does not must add them).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    service_tier: str | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


NOTHING_USED = Usage()
