"""Makes the answer to a chat request: what is said, in tokens, before any dialect sees it.

The same seed and the same question give the same answer. What only shortens an answer
(`max_tokens`, `stop`) or only concerns its delivery is not part of the question, so a shortened
answer is the beginning of the full one.
"""

from collections.abc import Callable

import msgspec

from windvane.simulator import prose, tokens
from windvane.simulator.dice import Dice
from windvane.simulator.exchange import ChatRequest, Choice, ToolCall, last_user_text, text_of
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.prompt_hints import Hints
from windvane.simulator.schema_value import CHARS_MAX, SchemaWriter, Written
from windvane.simulator.tool_use import Wanted, arguments_for, wanted_calls

MakeCallId = Callable[[Dice], str]
"""How a dialect names its tool calls."""

TOOL_RESULT_MAX = 2000
"""Characters of a tool's result that are repeated in the answer."""

_JSON_FORMS = ("json_object", "json_schema")

_encode = msgspec.json.encode


def question_key(seed: int, request: ChatRequest) -> bytes:
    """Return the bytes that decide the answer: the seed and the canonical question."""
    question = (
        seed,
        request.card.id,
        request.messages,
        request.tools,
        request.tool_choice,
        request.response_format,
        request.seed,
        request.temperature,
        request.thinks,
    )
    return _encode(question, order="deterministic")


def compose(request: ChatRequest, key: bytes, make_call_id: MakeCallId) -> list[Choice]:
    """Return the alternatives asked for, each cut to the request's limits."""
    choices = []
    for index in range(request.n):
        dice = Dice(key if index == 0 else key + b"#%d" % index)
        choices.append(shorten(_choice(request, dice, make_call_id), request))
    return choices


def shorten(choice: Choice, request: ChatRequest) -> Choice:
    """Apply stop sequences, then the token limit."""
    if request.stop and choice.text:
        choice.text = _until_stop(choice.text, request.stop)
    limit = request.max_tokens
    if limit is None or choice.tokens <= limit:
        return choice
    choice.finish = "length"
    choice.thinking = choice.thinking[:limit]
    left = limit - len(choice.thinking)
    choice.text = choice.text[:left]
    left -= len(choice.text)
    _cut_calls(choice, left)
    return choice


def text_choice(text: str, finish: str = "stop") -> Choice:
    """Return a choice that only says something."""
    return Choice(text=tokens.split(text), finish=finish)


def call_choice(calls: list[ToolCall]) -> Choice:
    """Return a choice that calls tools."""
    size = sum(tokens.count(call.name) + tokens.count(call.arguments) for call in calls)
    return Choice(calls=calls, call_tokens=size, finish="tool_calls")


def _choice(request: ChatRequest, dice: Dice, make_call_id: MakeCallId) -> Choice:
    if request.completes_code:
        return text_choice(prose.code_after(last_user_text(request.messages), dice))
    wanted = wanted_calls(request) if request.tools else []
    if wanted:
        choice = _calls(request, wanted, dice, make_call_id)
    elif request.response_format and request.response_format.get("type") in _JSON_FORMS:
        said = _json(request, request.response_format, dice)
        choice = text_choice(said.json, "stop" if said.is_whole else "length")
    else:
        choice = text_choice(_text(request, dice))
    if request.thinks:
        question = last_user_text(request.messages)
        choice.thinking = tokens.split(prose.thoughts_about(question, dice))
    return choice


def _calls(
    request: ChatRequest, wanted: list[Wanted], dice: Dice, make_call_id: MakeCallId
) -> Choice:
    """Return the calls, up to one whose arguments are broken off."""
    calls = []
    for one in wanted:
        arguments = arguments_for(one, dice, CHARS_MAX // request.n)
        name = str(one.function.get("name", ""))
        calls.append(ToolCall(make_call_id(dice), name, arguments.json))
        if not arguments.is_whole:
            choice = call_choice(calls)
            choice.finish = "length"
            return choice
    return call_choice(calls)


def _text(request: ChatRequest, dice: Dice) -> str:
    messages = request.messages
    last = messages[-1]
    if last.get("role") == "tool":
        result = text_of(last.get("content"))[:TOOL_RESULT_MAX]
        return prose.report_of(result, _name_of_call(messages, last))
    said = prose.answer_to(last_user_text(messages), dice)
    if last.get("role") == "assistant":
        return text_of(last.get("content")) + said
    return said


def _name_of_call(messages: list[JsonObject], result: JsonObject) -> str:
    for message in messages:
        for call in message.get("tool_calls") or ():
            if call.get("id") == result.get("tool_call_id"):
                return str(call.get("function", {}).get("name", ""))
    return str(result.get("name") or "")


def _json(request: ChatRequest, form: JsonObject, dice: Dice) -> Written:
    schema = (form.get("json_schema") or {}).get("schema")
    hints = Hints(last_user_text(request.messages))
    if isinstance(schema, dict):
        return SchemaWriter(schema, hints, dice, CHARS_MAX // request.n).written()
    return Written(_encode(_free_object(hints, dice)).decode(), True)


def _free_object(hints: Hints, dice: Dice) -> Json:
    """Return an object whose keys are the ones the prompt puts in quotation marks."""
    keys: dict[str, str] = {}
    while (key := hints.take_quoted()) is not None:
        keys[key] = prose.phrase(dice, 5)
    if keys:
        return keys
    return {"answer": prose.answer_to(hints.text, dice), "topics": prose.topics_of(hints.text)}


def _until_stop(pieces: list[str], stops: tuple[str, ...]) -> list[str]:
    text = "".join(pieces)
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return tokens.split(text[: min(places)]) if places else pieces


def _cut_calls(choice: Choice, left: int) -> None:
    """Keep the calls that fit and break off the arguments of the next, as a real limit does."""
    kept: list[ToolCall] = []
    used = 0
    for call in choice.calls:
        size = tokens.count(call.name) + tokens.count(call.arguments)
        room = left - used
        if size > room:
            pieces = tokens.split(call.arguments)[: max(0, room - tokens.count(call.name))]
            if pieces:
                kept.append(ToolCall(call.id, call.name, "".join(pieces)))
                used += tokens.count(call.name) + len(pieces)
            break
        kept.append(call)
        used += size
    choice.calls, choice.call_tokens = kept, used
