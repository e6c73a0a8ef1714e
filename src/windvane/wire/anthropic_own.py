"""What callers say in Anthropic's own words: it is sent on as it was said, so it must be as Anthropic
has it.

A word that is not known here is refused, for Anthropic would refuse it too.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from windvane.wire.cannot_say import cannot_say
from windvane.wire.chat_request import THINKING_TOKENS_MIN, place_and_problem

Count = Annotated[int, Meta(ge=0)]


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of what is to be cached of the prompt."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


_Display = Literal["summarized", "omitted"] | None


class _Adaptive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="adaptive"):
    display: _Display = None


class _Enabled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=THINKING_TOKENS_MIN)]
    display: _Display = None


class _BetweenTools(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="between_tools"
): ...


class _Disabled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="disabled"): ...


Thinking = _Adaptive | _Enabled | _BetweenTools | _Disabled


def checked(value: object, kind: object, place: str) -> object:
    """A value that is Anthropic's own, and sent on as it is if it is of the kind."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        within, problem = place_and_problem(error)
        raise cannot_say(f"{place}.{within}" if within else place, problem) from error
    return value
