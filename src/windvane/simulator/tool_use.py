"""Decides whether to call a tool, which, and with what arguments.

A call is made when it is demanded (`any`, `required`, a name), or under `auto` when the last user
message mentions a word of a tool's name, description or parameters. After a tool's result `auto`
answers in text, so that agent loops end.
"""

import re
from itertools import islice

import msgspec

from windvane.simulator.dice import Dice
from windvane.simulator.exchange import ChatRequest, last_user_text
from windvane.simulator.json_types import JsonObject
from windvane.simulator.prompt_hints import Hints
from windvane.simulator.schema_value import SchemaWriter, Written

CALLS_MAX = 4
"""Parallel calls in one answer."""
NAME_SCORE = 100
"""What a full name is worth against single words: it always wins."""

_WORD = re.compile(r"[a-z]{4,}")
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_PAIR = re.compile(r"\b([A-Z][a-z]+(?: [A-Z][a-z]+)*) and ([A-Z][a-z]+(?: [A-Z][a-z]+)*)")
_DULL = frozenset(
    "about argument arguments call called current from function functions given have input into"
    " named object output param parameter parameters result return returns string text that the"
    " their them then this tool tools type used user using value values what when which will with"
    " your does like make some need take".split()
)


class Wanted(msgspec.Struct, frozen=True):
    """One call to be made: the tool's function and the text its arguments come from."""

    function: JsonObject
    text: str


def wanted_calls(request: ChatRequest) -> list[Wanted]:
    """Return the calls this request gets, none for an answer in text."""
    functions = [tool["function"] for tool in request.tools if "function" in tool]
    choice = request.tool_choice
    if not functions or choice == "none":
        return []
    text = last_user_text(request.messages)
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name")
        return [Wanted(f, text) for f in functions if f.get("name") == name][:1]
    ranked = sorted(functions, key=lambda function: -_score(function, text))
    if choice in {"any", "required"}:
        return _spread(ranked, text, request.parallel_tools)
    if request.messages[-1].get("role") == "tool" or _score(ranked[0], text) == 0:
        return []
    return _spread(ranked, text, request.parallel_tools)


def arguments_for(wanted: Wanted, dice: Dice, chars_max: int) -> Written:
    """Return arguments valid against the function's schema, from the prompt where it says so."""
    schema = wanted.function.get("parameters") or {}
    if schema.get("type", "object") != "object":
        return Written("{}", True)
    text = _without_name(wanted.text, str(wanted.function.get("name", "")))
    written = SchemaWriter({"type": "object", **schema}, Hints(text), dice, chars_max).written()
    return written if written.json.startswith("{") else Written("{}", True)


def _without_name(text: str, name: str) -> str:
    """Drop the tool's own name, so that `get_time_2` offers no number and `Joke` no title."""
    return re.sub(rf"\b{re.escape(name)}\b", "", text) if name else text


def _spread(ranked: list[JsonObject], text: str, parallel: bool) -> list[Wanted]:
    """Return one call for the best tool, or several where the text clearly asks for several."""
    if not parallel:
        return [Wanted(ranked[0], text)]
    named = [f for f in ranked if _score(f, text) >= NAME_SCORE]
    if len(named) > 1:
        return [Wanted(function, text) for function in islice(named, CALLS_MAX)]
    pair = _PAIR.search(text)
    if pair and _takes_one_text(ranked[0]):
        around = text[: pair.start()], text[pair.end() :]
        return [Wanted(ranked[0], f"{around[0]}{one}{around[1]}") for one in pair.groups()]
    return [Wanted(ranked[0], text)]


def _takes_one_text(function: JsonObject) -> bool:
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    required = schema.get("required") or list(properties)
    return len(required) == 1 and (properties.get(required[0]) or {}).get("type") == "string"


def _score(function: JsonObject, text: str) -> int:
    """Return how much a text speaks of a tool: its full name counts most, then shared words."""
    name = str(function.get("name", ""))
    lowered = text.lower()
    if name and re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", lowered):
        return NAME_SCORE
    said = set(_WORD.findall(lowered))
    properties = (function.get("parameters") or {}).get("properties") or {}
    own = {part.lower() for word in (name, *properties) for part in _NAME_PART.findall(word)}
    described = set(_WORD.findall(str(function.get("description", "")).lower()))
    strong = {word for word in own if len(word) > 3} - _DULL
    return 3 * len(said & strong) + len(said & (described - _DULL))
