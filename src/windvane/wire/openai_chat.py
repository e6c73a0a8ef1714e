"""Writing for the OpenAI dialect: requests to such a server, answers to such a client.

Answers of the family are written here for Mistral's clients as well: the two differ in how thinking
is shown, and only there.
"""

import msgspec

from windvane.core.chat import (
    ChatRequest,
    Chunk,
    ChunkChoice,
    Completion,
    FinishReason,
    JsonObject,
    ReplyMessage,
    ToolCall,
)
from windvane.core.faults import FaultKind, refuse
from windvane.core.usage import Usage
from windvane.wire.dialect import Dialect
from windvane.wire.mistral_chat import tool_call_id

_encode = msgspec.json.Encoder().encode
_OPENAI = Dialect.OPENAI

_RENAMED = {"random_seed": "seed"}
_NOT_OPENAI = frozenset(("safe_prompt", "prompt_mode", "guardrails"))
_RESPELLED = _NOT_OPENAI.union(_RENAMED)
_NOT_OPENAI_IN_MESSAGES = frozenset(("prefix", "thinking_blocks"))
_ANTHROPICS = ("cache_control", "thinking")
"""Fields that only Anthropic has, and OpenAI would refuse."""
_SAMPLING = ("temperature", "top_p")
_TAKE_SAMPLING = ("gpt-4", "gpt-3", "ft:gpt-4", "chatgpt-4")
"""Beginnings of the names of models that take temperature, top_p and max_tokens."""


def encode_chat(request: ChatRequest, model: str) -> bytes:
    """The body for an OpenAI-compatible server: the caller's own, edited.

    Unknown fields go along: such servers take extensions. Usage is always asked for in streams,
    because an answer that is not counted cannot be accounted for.
    """
    return _encode(_edited(request, model))


def encode_chat_for_openai(request: ChatRequest, model: str) -> bytes:
    """The body for OpenAI itself, whose newer models refuse what older ones took.

    From GPT-5 on (and the o-series) sampling parameters and `max_tokens` are refused. The service tier
    is always named: without one the project's serves, and what that costs is not known here.
    """
    written = _edited(request, model)
    if written.get("service_tier") is None:
        written["service_tier"] = "default"
    if not model.startswith(_TAKE_SAMPLING):
        for name in _SAMPLING:
            if name in written:
                del written[name]
        limit = written.pop("max_tokens", None)
        if limit is not None:
            written["max_completion_tokens"] = limit
    for name in _ANTHROPICS:
        if name in written:
            del written[name]
    if "tools" in written:
        written["tools"] = _unmarked_all(written["tools"])
    if not request.is_plain_talk:
        for message in request.messages:
            if type(message.content) is list:
                written["messages"] = _unmarked_all(written["messages"])
                break
    return _encode(written)


def _unmarked_all(members: object) -> object:
    return [_unmarked(member) for member in members] if isinstance(members, list) else members


def _unmarked(member: JsonObject) -> JsonObject:
    """A message or a tool without Anthropic's marks for its prompt cache."""
    if "cache_control" in member:
        member = {name: value for name, value in member.items() if name != "cache_control"}
    content = member.get("content")
    if type(content) is list:
        return {**member, "content": [_unmarked(part) for part in content]}
    return member


def _edited(request: ChatRequest, model: str) -> JsonObject:
    body = request.body
    if _RESPELLED.isdisjoint(body):
        written = body.copy()
    elif body.get("guardrails"):
        # Dropping them would answer what the caller wanted blocked.
        raise refuse(
            FaultKind.INVALID_REQUEST,
            "guardrails: only Mistral's models have them; ask for one of those",
            param="guardrails",
        )
    else:
        written = {
            _RENAMED.get(name, name): value
            for name, value in body.items()
            if name not in _NOT_OPENAI
        }
    if written.get("max_completion_tokens") is not None:
        # Two limits could be read differently by two servers; what is priced must be what is sent.
        written.pop("max_tokens", None)
    written["model"] = model
    if request.messages_json is not None:
        written["messages"] = request.messages_json
    elif not request.is_plain_talk:
        written["messages"] = [_message(message) for message in _messages(request)]
    if written.get("tool_choice") == "any":
        written["tool_choice"] = "required"
    if written.get("service_tier") == "standard_only":
        written["service_tier"] = "default"
    if request.stream:
        options = written.get("stream_options")
        known = options if isinstance(options, dict) else {}
        written["stream_options"] = {**known, "include_usage": True}
    else:
        written.pop("stream_options", None)
    return written


def _messages(request: ChatRequest) -> list[JsonObject]:
    said = request.body["messages"]
    assert isinstance(said, list)
    return said


def _message(message: JsonObject) -> JsonObject:
    content = message.get("content")
    if type(content) is str and len(message) == 2:
        return message  # its role is the other
    calls = message.get("tool_calls")
    is_plain = not isinstance(content, list) and not calls
    if is_plain and _NOT_OPENAI_IN_MESSAGES.isdisjoint(message):
        return message
    written = {
        name: value for name, value in message.items() if name not in _NOT_OPENAI_IN_MESSAGES
    }
    if isinstance(content, list):
        parts = [_part(part) for part in content if part.get("type") != "thinking"]
        written["content"] = parts or ""
    if isinstance(calls, list) and calls:
        written["tool_calls"] = [_tool_call(call) for call in calls]
    return written


def _tool_call(call: JsonObject) -> JsonObject:
    """A call from history: OpenAI wants its type and text for arguments, and no index."""
    function = call["function"]
    assert isinstance(function, dict)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        function = {**function, "arguments": msgspec.json.encode(arguments or {}).decode()}
    kept = {name: value for name, value in call.items() if name != "index"}
    return {**kept, "type": call.get("type") or "function", "function": function}


def _part(part: JsonObject) -> JsonObject:
    if part.get("type") == "image_url" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    if part.get("type") == "document_url":
        file = {"file_data": part["document_url"], "filename": part.get("document_name")}
        return {"type": "file", "file": {name: value for name, value in file.items() if value}}
    if part.get("type") == "file" and part.get("file_id"):
        return {"type": "file", "file": {"file_id": part["file_id"]}}
    return part


def usage_object(usage: Usage) -> JsonObject:
    """Usage as both dialects read it."""
    details: JsonObject = {"cached_tokens": usage.cache_read_input_tokens}
    if usage.cache_creation_input_tokens:
        details["cache_write_tokens"] = usage.cache_creation_input_tokens
    written: JsonObject = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": details,
    }
    if usage.reasoning_output_tokens:
        written["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_output_tokens}
    return written


def encode_completion(
    completion: Completion, usage: Usage, dialect: Dialect, metadata: bytes | None
) -> bytes:
    """A whole answer for a client of `dialect`, with `router_metadata`, which is JSON, unless it is None.

    The provider's own bytes are kept, and the metadata put before their last brace, whenever they
    are an answer by themselves; otherwise the answer is written anew.
    """
    raw = completion.raw
    if raw is not None and (dialect is _OPENAI or not _is_foreign(completion)):
        if metadata is None:
            return raw
        return b"".join((raw.rstrip()[:-1], b',"router_metadata":', metadata, b"}"))
    written: JsonObject = {
        "id": completion.id or "chatcmpl-windvane",
        "object": "chat.completion",
        "created": completion.created,
        "model": completion.model,
        "choices": [
            {
                "index": choice.index,
                "message": message_object(choice.message, dialect),
                "finish_reason": choice.finish_reason or FinishReason.STOP,
            }
            for choice in completion.choices
        ],
        "usage": usage_object(usage),
    }
    if metadata is not None:
        written["router_metadata"] = msgspec.Raw(metadata)
    return _encode(written)


def _is_foreign(completion: Completion) -> bool:
    """Whether Mistral would say some of it otherwise: thinking, and ids of tool calls."""
    for choice in completion.choices:
        if choice.message.reasoning:
            return True
        for call in choice.message.tool_calls:
            if call.id is not None and tool_call_id(call.id) != call.id:
                return True
    return False


def message_object(message: ReplyMessage, dialect: Dialect) -> JsonObject:
    """An assistant's message as a client of `dialect` reads it."""
    written: JsonObject = {"role": "assistant", "content": message.content}
    if message.content is None and dialect is Dialect.MISTRAL:
        written["content"] = ""
    if message.reasoning:
        if dialect is Dialect.MISTRAL:
            written["content"] = _thinking_parts(message.reasoning, message.content)
        else:
            written["reasoning_content"] = message.reasoning
    if message.thinking_blocks:
        written["thinking_blocks"] = message.thinking_blocks
    if message.refusal:
        written["refusal"] = message.refusal
    if message.tool_calls:
        written["tool_calls"] = [tool_call_object(call, dialect) for call in message.tool_calls]
    return written


def _thinking_parts(reasoning: str | None, content: str | None) -> list[JsonObject]:
    parts: list[JsonObject] = []
    if reasoning:
        thinking: list[JsonObject] = [{"type": "text", "text": reasoning}]
        parts.append({"type": "thinking", "thinking": thinking})
    if content:
        parts.append({"type": "text", "text": content})
    return parts


def tool_call_object(call: ToolCall, dialect: Dialect) -> JsonObject:
    """A tool call, whole: the only form that no client of either SDK trips over. Mistral's clients check
    that its id is nine letters or digits."""
    call_id = call.id
    if call_id is not None and dialect is Dialect.MISTRAL:
        call_id = tool_call_id(call_id)
    return {
        "id": call_id,
        "type": "function",
        "index": call.index or 0,
        "function": {"name": call.function.name, "arguments": call.function.arguments},
    }


def chunk_object(chunk: Chunk, choices: list[JsonObject]) -> JsonObject:
    """The envelope of a chunk around written choices."""
    return {
        "id": chunk.id or "chatcmpl-windvane",
        "object": "chat.completion.chunk",
        "created": chunk.created,
        "model": chunk.model,
        "choices": choices,
    }


def chunk_choice_object(piece: ChunkChoice, dialect: Dialect, calls: list[ToolCall]) -> JsonObject:
    """One choice of a chunk; `finish_reason` is always there, as Mistral's SDK demands."""
    delta: JsonObject = {}
    if piece.role is not None:
        delta["role"] = piece.role
    if piece.reasoning and dialect is Dialect.MISTRAL:
        delta["content"] = _thinking_parts(piece.reasoning, piece.content)
    else:
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.content is not None:
            delta["content"] = piece.content
    if piece.thinking_blocks:
        delta["thinking_blocks"] = piece.thinking_blocks
    if piece.refusal:
        delta["refusal"] = piece.refusal
    if calls:
        delta["tool_calls"] = [tool_call_object(call, dialect) for call in calls]
    if not delta:
        delta["content"] = ""
    return {"index": piece.index, "delta": delta, "finish_reason": piece.finish_reason}
