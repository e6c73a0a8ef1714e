"""OpenAI's choice among some of the tools, for providers that have no word for it.

They are told of the allowed ones alone, for nobody calls what he is not told of; and the rest of the choice
is one of the words that they know: `auto`, `required`, `none`.
"""

from collections.abc import Callable

from windvane.core.chat import JsonObject
from windvane.wire.cannot_say import cannot_say

_PLACE = "tool_choice.allowed_tools.tools"


def word_of(choice: JsonObject) -> str:
    """Whether one of the allowed tools must be called, or may, or there is none."""
    allowed = choice.get("allowed_tools")
    if not isinstance(allowed, dict):
        return "auto"
    return str(allowed["mode"]) if allowed["tools"] else "none"


def only_allowed(
    tools: list[JsonObject], choice: object, name_of: Callable[[JsonObject], object]
) -> list[JsonObject]:
    """Those of the tools that the choice lets be called: all, but where it is one among some.

    Raises BadRequestError that names the field when it is none of the kinds known here. An `auto` in an
    object is none of OpenAI's, but says what is done without a choice.
    """
    if not isinstance(choice, dict) or choice.get("function") is not None:
        return tools
    if choice.get("type") == "auto":
        return tools
    allowed = choice.get("allowed_tools")
    if choice.get("type") != "allowed_tools" or not isinstance(allowed, dict):
        kind = str(choice.get("type"))[:64]
        raise cannot_say("tool_choice.type", f"a tool of type {kind!r} cannot be chosen here")
    if not allowed["tools"]:
        if allowed["mode"] == "required":
            raise cannot_say(_PLACE, "a tool must be called, and none is allowed")
        return tools  # they are only known, as with `none`
    known = {name_of(tool) for tool in tools}
    names = [(each.get("function") or {}).get("name") for each in allowed["tools"]]
    for number, name in enumerate(names):
        if name not in known:
            raise cannot_say(f"{_PLACE}[{number}]", f"no function has the name {str(name)[:64]!r}")
    return [tool for tool in tools if name_of(tool) in names]
