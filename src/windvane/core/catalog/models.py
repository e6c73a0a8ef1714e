"""Model cards: ids, aliases with dates, abilities.

An alias moves: `mistral-medium-latest` meant another model, at a quarter of the price, before
2026-06-16. So an alias has the day it began to mean this card, and look-up takes the day asked.
"""

from datetime import date
from difflib import get_close_matches
from enum import StrEnum

import msgspec

from windvane.core.catalog.prices import Price

NEAR_NAMES_MAX = 3


class Capability(StrEnum):
    CHAT = "chat"
    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"
    REASONING = "reasoning"
    FIM = "fim"
    EMBEDDINGS = "embeddings"
    AUDIO = "audio"
    MODERATION = "moderation"
    OCR = "ocr"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"


class Status(StrEnum):
    GA = "ga"
    PREVIEW = "preview"
    DEPRECATED = "deprecated"
    RETIRED = "retired"


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    since: date | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of one provider.

    `quality` is a rank from 1 (small) to 5 (best) used to tell which model is stronger; it is our
    judgment, in the data file, and may be overridden by configuration. `prices` are oldest first;
    none means the price is unknown, which is not zero.
    """

    id: str
    provider: str
    name: str
    status: Status
    source: str
    aliases: tuple[Alias, ...] = ()
    capabilities: frozenset[Capability] = frozenset()
    context_window_tokens: int | None = None
    output_tokens_max: int | None = None
    quality: int = 1
    released: date | None = None
    deprecated_on: date | None = None
    retires_on: date | None = None
    replacement: str | None = None
    prices: tuple[Price, ...] = ()

    def is_retired(self, day: date) -> bool:
        return self.retires_on is not None and self.retires_on <= day

    def served_by_others(self) -> "ModelCard":
        """The card of the same model at a server that is not its maker's: weights that somebody serves
        themselves outlive their maker's service. Of a model whose abilities nobody told us it is given
        the benefit of the doubt, as one that the catalog does not know."""
        is_ending = self.status in (Status.DEPRECATED, Status.RETIRED)
        return msgspec.structs.replace(
            self,
            status=Status.GA if is_ending else self.status,
            capabilities=self.capabilities or frozenset(Capability),
            deprecated_on=None,
            retires_on=None,
            replacement=None,
        )

    def obstacle(self, day: date) -> str | None:
        """Why nobody can ask this model in a chat, said of it (`was retired on ...`); None when one can."""
        if self.retires_on is not None and self.is_retired(day):
            instead = f"; its replacement is {self.replacement}" if self.replacement else ""
            return f"was retired on {self.retires_on}{instead}"
        if Capability.CHAT not in self.capabilities:
            kinds = ", ".join(sorted(self.capabilities))
            return f"does not chat: it is for {kinds}" if kinds else "does not chat"
        return None

    def price_on(self, day: date) -> Price | None:
        """The price in force on `day`, or None when none is known."""
        current = None
        for price in self.prices:
            if price.since <= day:
                current = price
        return current


class CatalogData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The catalog as a file holds it."""

    as_of: date
    attribution: str
    models: tuple[ModelCard, ...]


class Catalog:
    """All known models of one moment, found by id or alias. Immutable."""

    def __init__(self, cards: tuple[ModelCard, ...], as_of: date) -> None:
        self.as_of = as_of
        self.cards = cards
        self._by_id = {card.id: card for card in cards}
        self._by_alias: dict[str, list[tuple[date, ModelCard]]] = {}
        for card in cards:
            for alias in card.aliases:
                since = alias.since or card.released or date.min
                self._by_alias.setdefault(alias.name, []).append((since, card))
        for entries in self._by_alias.values():
            entries.sort(key=lambda entry: entry[0])

    @classmethod
    def from_json(cls, text: bytes) -> "Catalog":
        """Read the shipped data file. Raises msgspec.ValidationError naming the place."""
        data = msgspec.json.decode(text, type=CatalogData)
        return cls(data.models, data.as_of)

    def extended(self, cards: tuple[ModelCard, ...]) -> "Catalog":
        """This catalog with `cards` added; a card with a known id replaces it."""
        replaced = {card.id for card in cards}
        kept = tuple(card for card in self.cards if card.id not in replaced)
        return Catalog(kept + cards, self.as_of)

    def resolve(self, name: str, day: date) -> ModelCard | None:
        """The card that `name`, an id or an alias, means on `day`."""
        if card := self._by_id.get(name):
            return card
        meant = None
        for since, card in self._by_alias.get(name, ()):
            if since <= day:
                meant = card
        return meant

    def of_name(self, name: str, day: date) -> ModelCard | None:
        """The card of a name as callers may write it: MODEL, or PROVIDER/MODEL."""
        return self.resolve(name, day) or self.resolve(name.partition("/")[2], day)

    def names(self) -> list[str]:
        """Every id and alias, sorted."""
        return sorted(self._by_id.keys() | self._by_alias.keys())

    def near(self, name: str, among: list[str] | None = None) -> list[str]:
        """At most three known names that look like `name`, best first. Case and blanks make no
        difference, though names have them."""
        by_look: dict[str, list[str]] = {}
        for each in among if among is not None else self.names():
            by_look.setdefault(each.lower(), []).append(each)
        looks = get_close_matches(name.strip().lower(), by_look, n=NEAR_NAMES_MAX, cutoff=0.5)
        return [each for look in looks for each in by_look[look]][:NEAR_NAMES_MAX]
