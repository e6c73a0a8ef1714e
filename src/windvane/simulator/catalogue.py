"""The models the simulator offers: ids, aliases, context sizes and abilities.

Prices are not here: the bill meter keeps its own table (prices.py). Withdrawn models are not here
either, so asking for one gets the answer the real service gives for any unknown id.
"""

from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    """What a model makes."""

    CHAT = "chat"
    EMBEDDING = "embedding"


class Reasoning(StrEnum):
    """Whether a model thinks before it answers."""

    NEVER = "never"
    ON_REQUEST = "on_request"
    BY_DEFAULT = "by_default"


class ModelCard(Struct, frozen=True, kw_only=True, gc=False):
    """One model: what it is called and what it can do."""

    id: str
    aliases: tuple[str, ...] = ()
    kind: Kind = Kind.CHAT
    context_tokens: int = 262_144
    sees_images: bool = True
    fills_in_middle: bool = False
    reasoning: Reasoning = Reasoning.NEVER
    takes_sampling: bool = True
    takes_stop: bool = True
    thinks_adaptively: bool = False
    dimensions: int = 0
    dimensions_max: int = 0


def _embedding(id_: str, *aliases: str, dimensions: int, dimensions_max: int) -> ModelCard:
    return ModelCard(
        id=id_,
        aliases=aliases,
        kind=Kind.EMBEDDING,
        context_tokens=8192,
        sees_images=False,
        dimensions=dimensions,
        dimensions_max=dimensions_max,
    )


def _gpt(id_: str, context_tokens: int) -> ModelCard:
    """Return a card of OpenAI's; from gpt-5 and o3 on they reason, unseen, when asked."""
    thinks = not id_.startswith("gpt-4")
    reasoning = Reasoning.ON_REQUEST if thinks else Reasoning.NEVER
    takes_stop = id_ not in ("gpt-5", "gpt-5-mini", "gpt-5-nano", "o3")
    return ModelCard(
        id=id_, context_tokens=context_tokens, reasoning=reasoning, takes_stop=takes_stop
    )


def _claude(id_: str, *aliases: str, context_tokens: int = 1_000_000) -> ModelCard:
    """Return a card of the claude family; what it takes changed with 4.6 and with 4.7."""
    is_old = id_.endswith("4-5")
    return ModelCard(
        id=id_,
        aliases=aliases,
        context_tokens=context_tokens,
        reasoning=Reasoning.ON_REQUEST,
        takes_sampling=is_old or id_.endswith("4-6"),
        thinks_adaptively=not is_old,
    )


MISTRAL_MODELS = (
    ModelCard(
        id="mistral-large-4-0",
        aliases=("mistral-large-4",),
        context_tokens=1_048_576,
        reasoning=Reasoning.BY_DEFAULT,
    ),
    ModelCard(id="mistral-large-2512", aliases=("mistral-large-latest", "mistral-large-3")),
    ModelCard(
        id="mistral-medium-3-5",
        aliases=("mistral-medium-latest", "mistral-medium-3", "mistral-medium-2604"),
        reasoning=Reasoning.ON_REQUEST,
    ),
    ModelCard(
        id="mistral-small-2603",
        aliases=("mistral-small-latest",),
        reasoning=Reasoning.ON_REQUEST,
    ),
    ModelCard(id="ministral-14b-2512", aliases=("ministral-14b-latest",)),
    ModelCard(id="ministral-8b-2512", aliases=("ministral-8b-latest",)),
    ModelCard(id="ministral-3b-2512", aliases=("ministral-3b-latest",), context_tokens=131_072),
    ModelCard(
        id="codestral-2508",
        aliases=("codestral-latest", "mistral-code-latest", "mistral-code-fim-latest"),
        context_tokens=131_072,
        sees_images=False,
        fills_in_middle=True,
    ),
    ModelCard(id="voxtral-small-2507", aliases=("voxtral-small-latest",), context_tokens=32_768),
    ModelCard(id="zai-glm-5-3", context_tokens=1_048_576, sees_images=False),
    _embedding("mistral-embed-2312", "mistral-embed", dimensions=1024, dimensions_max=1024),
    _embedding("codestral-embed-2505", "codestral-embed", dimensions=1536, dimensions_max=3072),
)

OPENAI_MODELS = (
    _gpt("gpt-6-astra", 1_050_000),
    _gpt("gpt-6.1-sol", 1_050_000),
    _gpt("gpt-6.1-terra", 1_050_000),
    _gpt("gpt-6-sol", 1_050_000),
    _gpt("gpt-6-luna", 1_050_000),
    _gpt("gpt-5.6-sol", 1_050_000),
    _gpt("gpt-5.6-terra", 1_050_000),
    _gpt("gpt-5.6-luna", 1_050_000),
    _gpt("gpt-5.5", 1_000_000),
    _gpt("gpt-5.4", 1_050_000),
    _gpt("gpt-5.4-mini", 400_000),
    _gpt("gpt-5.4-nano", 400_000),
    _gpt("gpt-5.2", 400_000),
    _gpt("gpt-5.1", 400_000),
    _gpt("gpt-5", 400_000),
    _gpt("gpt-5-mini", 400_000),
    _gpt("gpt-5-nano", 400_000),
    _gpt("o3", 200_000),
    _gpt("gpt-4.1", 1_000_000),
    _gpt("gpt-4.1-mini", 1_000_000),
    _gpt("gpt-4o", 128_000),
    _gpt("gpt-4o-mini", 128_000),
    _embedding("text-embedding-3-small", dimensions=1536, dimensions_max=1536),
    _embedding("text-embedding-3-large", dimensions=3072, dimensions_max=3072),
)

ANTHROPIC_MODELS = (
    _claude("claude-fable-5-2"),
    _claude("claude-mythos-5-2"),
    _claude("claude-opus-5-5"),
    _claude("claude-sonnet-5-5"),
    _claude("claude-haiku-5-5"),
    _claude("claude-fable-5-1"),
    _claude("claude-sonnet-5"),
    _claude("claude-opus-5"),
    _claude("claude-opus-4-8"),
    _claude("claude-opus-4-7"),
    _claude("claude-opus-4-6"),
    _claude("claude-sonnet-4-6"),
    _claude("claude-haiku-4-5", "claude-haiku-4-5-20251001", context_tokens=200_000),
    _claude("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", context_tokens=200_000),
)


def by_name(cards: tuple[ModelCard, ...]) -> dict[str, ModelCard]:
    """Return the cards keyed by every name they answer to."""
    return {name: card for card in cards for name in (card.id, *card.aliases)}
