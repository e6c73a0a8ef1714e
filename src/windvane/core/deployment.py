"""A callable model at a provider, and whether it can do what a request needs."""

from collections.abc import Mapping, Sequence
from datetime import date

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.catalog.models import Capability, Catalog, ModelCard
from windvane.core.catalog.prices import PERMILLE, Price
from windvane.core.chat import JsonObject
from windvane.core.free_fields import FREE_FIELDS, asks_for_something

OUTPUT_TOKENS_ASSUMED = 1
"""What must fit beside the input when the caller does not say how long the answer may be."""


UNKNOWN_TIER_PERMILLE = 4_000
"""Held for a service tier whose price nobody told us: well above the dearest that is published."""

BATCH = "batch"
"""The tier that an answer names which came of a batch. Nobody can ask for it in a live request."""
_LISTED = (None, "default", "standard", "standard_only")
"""Tiers at the list price."""


class Billing(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider bills, beyond its list prices. Thousandths are of the list price."""

    tiers_permille: dict[str, int | None] = {}
    """Thousandths by service tier, as asked for or as the answer says. None for one without a price."""
    untold_tier_permille: int | None = None
    """Thousandths of a tier that is asked for and not among these, where the provider is not told it."""
    free_fields: frozenset[str] = FREE_FIELDS
    """Fields that cost nothing."""
    priced_apart: frozenset[str] | None = None
    """Fields that cost, of those that the provider is told and takes; None for one that takes whatever a
    caller says: then any may that is not free."""
    batch_permille: int | None = None
    """Thousandths of an answer that says it came of a batch."""
    hosts_permille: dict[str, int] = {}
    """Thousandths by host, of those with prices of their own."""
    cache_write_permille: int | None = None
    cache_write_1h_permille: int | None = None
    """Thousandths of the input price, for a model whose configured price does not say."""
    image_tokens_max: int = 50_000
    """The most input tokens that one image may be."""
    prompt_tokens_max: int = 0
    """What the provider itself adds to a request with tools, or with a form to answer in."""
    output_tokens_default: int | None = None
    """The limit that goes out with a request that has none, where the provider must be told one."""
    hides_reasoning: bool = False
    """Whether thinking is billed that is never shown whole."""
    runs_to_end: bool = False
    """Whether an answer is billed whole though its connection was closed midway."""

    def of_tier(self, tier: object) -> int | None:
        """Thousandths of the list price in `tier` as asked for; None when it is not known."""
        if tier in _LISTED:
            return PERMILLE
        return self.tiers_permille.get(str(tier), self.untold_tier_permille)

    def may_cost(self, field: str) -> bool:
        """Whether what is asked for by a field may have a price of its own."""
        if field in self.free_fields:
            return False
        return self.priced_apart is None or field in self.priced_apart

    def as_served(self, tier: str | None) -> int | None:
        """Thousandths of the list price in `tier` as the answer says it; None when it is not known."""
        if tier == BATCH:
            return self.batch_permille
        return PERMILLE if tier in _LISTED else self.tiers_permille.get(str(tier))


def keeps_for_an_hour(body: JsonObject) -> bool:
    """Whether a request asks that some of it be written to the provider's prompt cache for an hour."""
    marked: list[object] = [body]
    for name in ("tools", "messages"):
        members = body.get(name)
        for member in members if isinstance(members, list) else ():
            marked.append(member)
            content = member.get("content") if isinstance(member, dict) else None
            marked += content if isinstance(content, list) else ()
    for each in marked:
        control = each.get("cache_control") if isinstance(each, dict) else None
        if isinstance(control, dict) and control.get("ttl") == "1h":
            return True
    return False


TOO_LONG = "the request is too long"
_CALLERS_TOOLS = (None, "function", "custom")
"""Tools that the caller runs: their calls are tokens, and nothing besides."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One model, as one provider serves it.

    `model` is the name the provider is told; `card` is what the catalog knows of it, None for a
    model it does not know; `own_price` (from configuration) wins over the card's. `origin` says who
    serves it and where (`core.cache.key.origin_of`): the answers of two origins are never each other's.
    """

    id: str
    provider: str
    model: str
    card: ModelCard | None = None
    own_price: Price | None = None
    multiplier_permille: int = PERMILLE
    billing: Billing = Billing()
    origin: str = ""

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

    def factor_served(self, tier: str) -> int | None:
        """Thousandths of the list price for an answer that says it came in `tier`; None when nobody told
        us the price of that."""
        return self._times(self.billing.as_served(tier))

    def factor_asked(self, tier: object) -> int | None:
        """The same at most, for a request that asked for `tier`: it may have been served as usual."""
        permille = self.billing.of_tier(tier)
        return self._times(None if permille is None else max(permille, PERMILLE))

    def _times(self, permille: int | None) -> int | None:
        return None if permille is None else -(-self.multiplier_permille * permille // PERMILLE)

    def unpriced_part(self, analysis: Analysis, body: JsonObject) -> str | None:
        """What in a request costs something that the price does not cover; None when all is covered."""
        if analysis.audio:
            return "audio input"
        if analysis.documents:
            return "documents, which are billed by the page"
        billing = self.billing
        if billing.of_tier(body.get("service_tier")) is None:
            return f"the service tier {str(body['service_tier'])[:40]!r}"
        for name, value in body.items():
            if billing.may_cost(name) and asks_for_something(name, value):
                return f"the field {name[:40]!r} (not among the provider's free_fields)"
        tools = body.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            kind = tool.get("type") if isinstance(tool, dict) else None
            if kind not in _CALLERS_TOOLS:
                return f"the tool {str(kind)[:40]!r}"
        return None

    def why_not(self, analysis: Analysis, day: date) -> str | None:
        """Why this deployment cannot serve such a request, or None when it can.

        A model the catalog does not know is given the benefit of the doubt.
        """
        card = self.card
        if card is None:
            return None
        if (obstacle := card.obstacle(day)) is not None:
            return f"it {obstacle}"
        able = card.capabilities
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


def counted_as(
    name: str, deployments: Mapping[str, Sequence[Deployment]], catalog: Catalog, day: date
) -> set[str]:
    """The ids that attempts at the model `name` are counted by, whichever of its names that is.

    More than one when the name stands for several models, none when nothing has it. `deployments` are
    found by public name. What a public name stands for here goes before what the catalog says of it.
    """
    serving = [each for group in deployments.values() for each in group]
    found = {each.resolved_model for each in deployments.get(name, ())}
    found |= {name} & {each.resolved_model for each in serving}
    if not found:
        found = {each.resolved_model for each in serving if each.model == name}
    if not found and (card := catalog.resolve(name, day)) is not None:
        found = {card.id}
    return found
