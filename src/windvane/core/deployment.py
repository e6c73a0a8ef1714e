"""A callable model at a provider, and whether it can do what a request needs."""

from datetime import date

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Capability, ModelCard
from windvane.core.catalog.prices import PERMILLE, Price
from windvane.core.chat import JsonObject

OUTPUT_TOKENS_ASSUMED = 1
"""What must fit beside the input when the caller does not say how long the answer may be."""


UNKNOWN_TIER_PERMILLE = 4_000
"""Held for a service tier whose price nobody told us: well above the dearest that is published."""


class Billing(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider bills, beyond its list prices.

    `tiers_permille`: service tier, as asked for or as the answer says -> thousandths of the list
    price. `image_tokens_max`: the most input tokens that one image may be. `hides_reasoning`: thinking
    is billed, and never shown. `hosts_permille`: hosts with prices of their own.
    """

    tiers_permille: dict[str, int] = {}
    image_tokens_max: int = 50_000
    hides_reasoning: bool = False
    hosts_permille: dict[str, int] = {}

    def of_tier(self, tier: object) -> int | None:
        """Thousandths of the list price in `tier`; None when it is not known."""
        if tier in (None, "default", "standard", "standard_only"):
            return PERMILLE
        return self.tiers_permille.get(str(tier))


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
    billing: Billing = Billing()

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

    def unpriced_part(self, analysis: Analysis, body: JsonObject) -> str | None:
        """What in a request costs something that the price does not cover; None when all is covered."""
        if analysis.audio:
            return "audio input"
        if analysis.documents:
            return "documents, which are billed by the page"
        if self.billing.of_tier(body.get("service_tier")) is None:
            return f"the service tier {str(body['service_tier'])[:40]!r}"
        for name in ("web_search_options", "audio"):
            if body.get(name) is not None:
                return name
        tools = body.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            kind = tool.get("type") if isinstance(tool, dict) else None
            if kind not in (None, "function"):
                return f"the tool {str(kind)[:40]!r}"
        return None

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
            said = f"about {analysis.input_tokens} tokens of input"
            if analysis.output_tokens_max:
                said += f" and {analysis.output_tokens_max} asked for by max_tokens"
            return f"{TOO_LONG}: {said}; its window has {window}"
        return None


def _retired(card: ModelCard) -> str:
    when = f" on {card.retires_on}" if card.retires_on else ""
    instead = f"; its replacement is {card.replacement}" if card.replacement else ""
    return f"it was retired{when}{instead}"
