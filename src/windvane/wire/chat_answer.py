"""An answer as a client of OpenAI's or Mistral's reads it: its envelope, a choice, a piece of one.

What the provider said goes along, member for member, fields that nobody here has heard of included; it
is edited where the client's dialect says a thing otherwise, and only there:
1. Thinking is a part of the content to Mistral's clients, and `reasoning_content` to OpenAI's, who get
   content as one string: parts that are no text (references) have no counterpart there.
2. Ids of tool calls are nine letters or digits to Mistral's clients; calls have a type, and text for
   arguments. OpenAI's old `function_call` is a tool call to Mistral's clients. A custom tool's call has
   no counterpart, and stays as it is. A call without an id is given one: what the tool says is told by it.
3. `model_length` is Mistral's word, `function_call` OpenAI's.

An answer in another dialect is written from what was understood of it.
"""

from collections.abc import Mapping, Sequence

import msgspec

from windvane.core.chat import (
    OLD_CALL,
    Choice,
    ChunkChoice,
    Completion,
    FinishReason,
    JsonObject,
    ReplyMessage,
    ToolCall,
)
from windvane.wire.dialect import Dialect
from windvane.wire.json_body import without_halves
from windvane.wire.mistral_chat import nine_characters, tool_call_id

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_choices = msgspec.json.Decoder(list[JsonObject] | None).decode

_OPENAI, _MISTRAL = Dialect.OPENAI, Dialect.MISTRAL
_REASONS: Mapping[Dialect, Mapping[FinishReason | None, FinishReason]] = {
    _OPENAI: {
        FinishReason.MODEL_LENGTH: FinishReason.LENGTH,
        FinishReason.OTHER: FinishReason.STOP,
    },
    _MISTRAL: {
        FinishReason.FUNCTION_CALL: FinishReason.TOOL_CALLS,
        FinishReason.OTHER: FinishReason.STOP,
    },
}
NOTHING_SAID: JsonObject = {}
_NO_CHOICES = msgspec.Raw(b"[]")


def as_said(
    said: bytes,
) -> tuple[dict[str, msgspec.Raw] | None, list[JsonObject] | None]:
    """The members of an answer, or of a chunk, and its choices; None for both when they cannot be told
    apart, though what we need of them could be read."""
    try:
        members = _members(said)
        choices = _choices(members.get("choices", _NO_CHOICES)) or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        readable = without_halves(said)
        return (None, None) if readable == said else as_said(readable)
    members.pop("router_metadata", None)  # another gateway's, and not about this request
    return members, choices


def envelope(
    said: Mapping[str, msgspec.Raw] | None, answer_id: str, kind: str, created: int, model: str
) -> JsonObject:
    """All of an answer, or of a chunk, but its choices, which are yet to be written."""
    return {**(said or {}), "id": answer_id, "object": kind, "created": created, "model": model}


def is_foreign(completion: Completion) -> bool:
    """Whether Mistral would say some of it otherwise: thinking, and calls."""
    for choice in completion.choices:
        if choice.message.reasoning:
            return True
        for call in choice.message.tool_calls:
            if call.type == OLD_CALL:
                return True
            if call.id is not None and tool_call_id(call.id) != call.id:
                return True
    return False


def choice_object(choice: Choice, dialect: Dialect, said: JsonObject, answer_id: str) -> JsonObject:
    """One choice of the whole answer `answer_id`; `said` is what its provider said of it."""
    message = choice.message
    calls = with_ids(message.tool_calls, answer_id, choice.index)
    told = _object(said.get("message"))
    written: JsonObject = {"role": "assistant", "content": None, **_words(message, dialect, told)}
    if written["content"] is None and dialect is _MISTRAL:
        written["content"] = ""
    written.update(calls_object(calls, dialect, told))
    if dialect is _OPENAI and not told:
        _unnumber(written)
    reason = choice.finish_reason
    if reason is None:
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
    return {
        **said,
        "index": choice.index,
        "message": written,
        "finish_reason": _REASONS[dialect].get(reason, reason),
    }


def piece_object(
    piece: ChunkChoice, dialect: Dialect, said: JsonObject, calls: Sequence[ToolCall] = ()
) -> JsonObject:
    """One choice of a chunk, without its pieces of calls, and with these whole ones. `finish_reason` is
    always there, as Mistral's SDK demands."""
    delta = _words(piece, dialect, _object(said.get("delta")))
    if piece.role is not None:
        delta = {"role": piece.role, **delta}
    delta.update(calls_object(calls, dialect, NOTHING_SAID))
    if not delta:
        delta["content"] = ""
    reason = piece.finish_reason
    rest = {name: value for name, value in said.items() if name != "message"}
    return {
        **rest,
        "index": piece.index,
        "delta": delta,
        "finish_reason": None if reason is None else _REASONS[dialect].get(reason, reason),
    }


def says_something(written: JsonObject) -> bool:
    """Whether a piece that does not end its choice is worth a chunk."""
    delta = _object(written["delta"])
    return bool(written.get("logprobs")) or any(value not in (None, "") for value in delta.values())


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else NOTHING_SAID


def _words(spoken: ReplyMessage | ChunkChoice, dialect: Dialect, said: JsonObject) -> JsonObject:
    """What is said but for calls; `said` is how the provider says it."""
    written = {
        name: value for name, value in said.items() if name not in ("tool_calls", "function_call")
    }
    if dialect is _MISTRAL:
        written.pop("reasoning_content", None)
        if not isinstance(said.get("content"), list):
            if spoken.parts is not None:
                written["content"] = spoken.parts
            elif spoken.reasoning:
                written["content"] = _thinking_parts(spoken.reasoning, spoken.content)
            elif spoken.content is not None:
                written["content"] = spoken.content
    else:
        if spoken.reasoning:
            written["reasoning_content"] = spoken.reasoning
        if spoken.content is not None:
            written["content"] = spoken.content
        elif isinstance(said.get("content"), list):
            del written["content"]
    if spoken.thinking_blocks:
        written["thinking_blocks"] = spoken.thinking_blocks
    if spoken.refusal:
        written["refusal"] = spoken.refusal
    if spoken.audio is not None:
        written["audio"] = spoken.audio
    return written


def _thinking_parts(reasoning: str, content: str | None) -> list[JsonObject]:
    thinking: list[JsonObject] = [{"type": "text", "text": reasoning}]
    parts: list[JsonObject] = [{"type": "thinking", "thinking": thinking}]
    if content:
        parts.append({"type": "text", "text": content})
    return parts


def with_ids(calls: Sequence[ToolCall], answer_id: str, index: int) -> Sequence[ToolCall]:
    """The calls of choice `index`, each with an id, but for the old one that needs none. The same call of
    the same answer always gets the same."""
    return [
        call
        if call.id or call.type == OLD_CALL
        else msgspec.structs.replace(call, id=nine_characters(f"{answer_id}/{index}/{place}"))
        for place, call in enumerate(calls)
    ]


def calls_object(calls: Sequence[ToolCall], dialect: Dialect, said: JsonObject) -> JsonObject:
    """The members of a message that are calls, each whole: the only form that no client of either SDK
    trips over."""
    written: JsonObject = {
        name: said[name] for name in ("tool_calls", "function_call") if name in said
    }
    if not calls:
        return written
    if calls[0].type == OLD_CALL and dialect is _OPENAI:
        written["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
        return written
    told = said.get("tool_calls")
    each_said = told if isinstance(told, list) and told else [NOTHING_SAID] * len(calls)
    written["tool_calls"] = [
        _call(_object(one), call, dialect) for one, call in zip(each_said, calls, strict=True)
    ]
    if dialect is _MISTRAL:
        written.pop("function_call", None)
    return written


def _call(said: JsonObject, call: ToolCall, dialect: Dialect) -> JsonObject:
    written = {**said, **tool_call_object(call, dialect)}
    if said and "index" not in said and dialect is _OPENAI:
        del written["index"]  # in whole answers OpenAI has none
    return written


def _unnumber(written: JsonObject) -> None:
    """Take the indexes of calls from a message that was written anew: in whole answers OpenAI has none."""
    calls = written.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        del call["index"]


def tool_call_object(call: ToolCall, dialect: Dialect) -> JsonObject:
    """A tool call, as the members that each client needs."""
    call_id = call.name if call.type == OLD_CALL else call.id
    if call_id is not None and dialect is _MISTRAL:
        call_id = tool_call_id(call_id)
    head: JsonObject = {"id": call_id, "type": "function", "index": call.index or 0}
    if call.custom is not None:
        return {**head, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {**head, "function": {"name": call.name, "arguments": call.arguments}}
