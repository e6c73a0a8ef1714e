"""A callable model at a provider, and whether it can do what a request needs."""

from datetime import date

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Capability, ModelCard
from windvane.core.catalog.prices import PERMILLE, Price

OUTPUT_TOKENS_ASSUMED = 1
"""What must fit beside the input when the caller does not say how long the answer may be."""


TOO_LONG = "the request is too long"


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One model, as one provider serves it.

    `model` is the name the provider is told; `card` is what the catalog knows of it, None for a
    model it does not know; `own_price` (from configuration) wins over the card's.
    """

    id: str
    provider: str
    model: str
    card: ModelCard | None = None
    own_price: Price | None = None
    multiplier_permille: int = PERMILLE

    @property
    def resolved_model(self) -> str:
        """The id that prices and reports go by: aliases move, ids do not."""
        return self.card.id if self.card else self.model

    @property
    def quality(self) -> int:
        return self.card.quality if self.card else 0

    def price_on(self, day: date) -> Price | None:
        """The price in force on `day`; None when it is unknown, which is not zero."""
        if self.own_price is not None:
            return self.own_price
        return self.card.price_on(day) if self.card else None

    def why_not(self, analysis: Analysis, day: date) -> str | None:
        """Why this deployment cannot serve such a request, or None when it can.

        A model the catalog does not know is given the benefit of the doubt.
        """
        card = self.card
        if card is None:
            return None
        if card.retires_on is not None and card.is_retired(day):
            return _retired(card)
        able = card.capabilities
        if Capability.CHAT not in able:
            return "it does not chat"
        if analysis.tools and Capability.TOOLS not in able:
            return "it does not call tools"
        if analysis.images and Capability.VISION not in able:
            return "it does not read images"
        if analysis.audio and Capability.AUDIO not in able:
            return "it does not read audio"
        if analysis.json_schema and Capability.JSON_SCHEMA not in able:
            return "it does not follow a JSON schema"
        window = card.context_window_tokens
        needed = analysis.input_tokens + (analysis.output_tokens_max or OUTPUT_TOKENS_ASSUMED)
        if window is not None and needed > window:
            return f"{TOO_LONG}: about {needed} tokens, its window has {window}"
        return None


def _retired(card: ModelCard) -> str:
    when = f" on {card.retires_on}" if card.retires_on else ""
    instead = f"; its replacement is {card.replacement}" if card.replacement else ""
    return f"it was retired{when}{instead}"
