"""Writing for the OpenAI dialect: requests to such a server, answers to such a client.

Answers of the family are written here for Mistral's clients as well: `wire.chat_answer` knows where the
two differ.
"""

import msgspec

from windvane.core.chat import (
    ChatRequest,
    Completion,
    DocumentPart,
    FilePart,
    JsonObject,
    Message,
)
from windvane.core.usage import Usage
from windvane.wire.cannot_say import cannot_say
from windvane.wire.chat_answer import as_said, choice_object, envelope, is_foreign
from windvane.wire.content_parts import split_thinking
from windvane.wire.dialect import Dialect
from windvane.wire.openai_types import DOCUMENTED, check_types

_encode = msgspec.json.Encoder().encode
_OPENAI = Dialect.OPENAI

_RENAMED = {"random_seed": "seed"}
_MISTRALS = frozenset(("safe_prompt", "prompt_mode", "guardrails"))
"""Fields that no server of the dialect has."""
_RESPELLED = _MISTRALS.union(_RENAMED)
_OTHERS_IN_MESSAGES = frozenset(("prefix", "thinking_blocks"))
_OTHERS_PARTS = frozenset(("thinking", "reference"))
"""Parts of Mistral's; what is thought is told as `reasoning_content`."""
_FILE = ("file_id", "file_data", "filename")
"""What Mistral says of a file in the part itself, OpenAI in an object within."""

_ADDRESSES = ("https://", "http://")

UNKNOWN_TO_OPENAI = frozenset(
    (
        # of Mistral's SDK, and of vLLM
        *("min_tokens", "prompt_logprobs", "repetition_penalty", "top_k", "top_prompt_logprobs"),
        # of Anthropic
        *("cache_control", "thinking"),
    )
)
"""Fields that some servers of the dialect take, and OpenAI itself would refuse: it is not told them."""
_UNKNOWN_TO_OPENAI_WITHIN = frozenset(("cache_control", "reasoning_content"))
"""The same of messages, their parts, and tools."""
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias")
_TAKE_SAMPLING = ("gpt-4", "gpt-3", "ft:gpt-4", "ft:gpt-3", "chatgpt-4")
"""Beginnings of the names of models that take those, and max_tokens."""
_TAKE_NO_STOP = frozenset(("gpt-5", "gpt-5-mini", "gpt-5-nano", "o3", "o4-mini"))
"""Models that refuse `stop` and probabilities, by OpenAI's documents and its answers. Later ones take
them, when they do not reason at least; which do is not documented, and is left to OpenAI to say."""
_DATED = tuple(f"{name}-20" for name in _TAKE_NO_STOP)
"""Beginnings of the names of their snapshots."""
_OF_TOOLS = frozenset(("tools", "tool_choice", "parallel_tool_calls"))
"""OpenAI refuses an empty list of tools, and what is said of tools where there are none."""
_LOST = ("stop", "logprobs", "top_logprobs")
_ONE_NAME = ("gpt-", "o1", "o3", "o4", "ft:gpt-", "chatgpt-")
"""Beginnings of the names of models that refuse a limit by both its names."""
_OPEN = "gpt-oss"
"""The beginning of the names of OpenAI's models that are served by any server."""


def encode_chat(request: ChatRequest, model: str) -> bytes:
    """The body for an OpenAI-compatible server: the caller's own, edited.

    Unknown fields go along: such servers take extensions. Usage is always asked for in streams,
    because an answer that is not counted cannot be accounted for. A limit goes by both its names, since a
    server that does not know the newer one would take it for an extension and set none; but for models
    of OpenAI's, wherever they are served: they take one name at a time, and know both.
    """
    written = _edited(request, model)
    limit = written.get("max_completion_tokens")
    if limit is not None and not _takes_one_name(model):
        written["max_tokens"] = limit
    return _encode(written)


def _takes_one_name(model: str) -> bool:
    """Whether a model is one of OpenAI's; some servers say whose it is first, as `openai/gpt-5`."""
    name = model.rpartition("/")[2]
    return name.startswith(_ONE_NAME) and not name.startswith(_OPEN)


def encode_chat_for_openai(request: ChatRequest, model: str) -> bytes:
    """The body for OpenAI itself, whose newer models refuse what older ones took.

    From GPT-5 on (and the o-series) sampling parameters and `max_tokens` are refused. Metadata are taken
    for what is stored alone. The service tier is always named: without one the project's serves, and what
    that costs is not known here.
    """
    if not DOCUMENTED.isdisjoint(request.body):
        check_types(request.body)
    if not request.is_plain_talk:
        _check_files(request.messages)
    written = _edited(request, model)
    if written.get("service_tier") is None:
        written["service_tier"] = "default"
    if "metadata" in written:
        _keep_record(written)
    if not model.startswith(_TAKE_SAMPLING):
        _adapt_to_reasoning(written, model)
    if not UNKNOWN_TO_OPENAI.isdisjoint(written):
        for name in UNKNOWN_TO_OPENAI:
            written.pop(name, None)
    if written.get("tools"):
        written["tools"] = _known_within(written["tools"])
    elif not _OF_TOOLS.isdisjoint(written):
        for name in _OF_TOOLS:
            written.pop(name, None)
    if not request.is_plain_talk:
        written["messages"] = _known_within(written["messages"])
    return _encode(written)


def _keep_record(written: JsonObject) -> None:
    """OpenAI takes metadata with `store` alone, and only texts in them."""
    said = written.pop("metadata")
    if written.get("store") is True and isinstance(said, dict):
        written["metadata"] = {name: text for name, text in said.items() if isinstance(text, str)}


def _adapt_to_reasoning(written: JsonObject, model: str) -> None:
    for name in _SAMPLING:
        if name in written:
            del written[name]
    limit = written.pop("max_tokens", None)
    if limit is not None:
        written["max_completion_tokens"] = limit
    if model in _TAKE_NO_STOP or model.startswith(_DATED):
        for name in _LOST:
            if written.pop(name, None):
                # Without it the answer would be another than was asked for.
                raise cannot_say(name, f"{model} does not take it")


def _check_files(messages: list[Message]) -> None:
    """OpenAI takes a file's data or its id; it fetches none."""
    for place, message in enumerate(messages):
        for number, part in enumerate(message.content if type(message.content) is list else ()):
            address = None
            if isinstance(part, DocumentPart):
                address = part.document_url
            elif isinstance(part, FilePart):
                address = (part.file or part).file_data
            if address and address.startswith(_ADDRESSES):
                raise cannot_say(
                    f"messages[{place}].content[{number}]",
                    "OpenAI is sent a document by its data, not by its address",
                )


def _known_within(members: object) -> object:
    return [_known(member) for member in members] if isinstance(members, list) else members


def _known(member: JsonObject) -> JsonObject:
    """A message, a part of one, or a tool, as OpenAI knows it."""
    if not _UNKNOWN_TO_OPENAI_WITHIN.isdisjoint(member):
        member = {
            name: value for name, value in member.items() if name not in _UNKNOWN_TO_OPENAI_WITHIN
        }
    content = member.get("content")
    if type(content) is list:
        return {**member, "content": [_known(part) for part in content]}
    return member


def _edited(request: ChatRequest, model: str) -> JsonObject:
    body = request.body
    if _RESPELLED.isdisjoint(body):
        written = body.copy()
    elif body.get("guardrails"):
        # Dropping them would answer what the caller wanted blocked.
        raise cannot_say("guardrails", "only Mistral's models have them; ask for one of those")
    else:
        written = {
            _RENAMED.get(name, name): value for name, value in body.items() if name not in _MISTRALS
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
    if is_plain and _OTHERS_IN_MESSAGES.isdisjoint(message):
        return message
    written = {name: value for name, value in message.items() if name not in _OTHERS_IN_MESSAGES}
    if isinstance(content, list):
        parts = [_part(part) for part in content if part.get("type") not in _OTHERS_PARTS]
        written["content"] = parts or ""
        _, thinking = split_thinking(content)
        if thinking is not None and message.get("reasoning_content") is None:
            written["reasoning_content"] = thinking
    if isinstance(calls, list) and calls:
        written["tool_calls"] = [_tool_call(call) for call in calls]
    return written


def _tool_call(call: JsonObject) -> JsonObject:
    """A call from history: OpenAI wants its type and text for arguments, and no index."""
    kept = {name: value for name, value in call.items() if name != "index"}
    if call.get("type") == "custom":
        return kept
    function = call["function"]
    assert isinstance(function, dict)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        function = {**function, "arguments": msgspec.json.encode(arguments or {}).decode()}
    return {**kept, "type": call.get("type") or "function", "function": function}


def _part(part: JsonObject) -> JsonObject:
    if part.get("type") == "image_url" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    if part.get("type") == "document_url":
        file = {"file_data": part["document_url"], "filename": part.get("document_name")}
        return {"type": "file", "file": {name: value for name, value in file.items() if value}}
    if part.get("type") == "file" and not isinstance(part.get("file"), dict):
        return {"type": "file", "file": {name: part[name] for name in _FILE if part.get(name)}}
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
    are an answer by themselves; otherwise they are edited, in the few places that this client could
    not read; and an answer of another dialect is written anew.
    """
    raw = completion.raw
    if (
        raw is None
        or not completion.is_everybodys
        or (dialect is not _OPENAI and is_foreign(completion))
    ):
        return _encode(_written(completion, usage, dialect, metadata))
    if metadata is None:
        return raw
    return b"".join((raw.rstrip()[:-1], b',"router_metadata":', metadata, b"}"))


def _written(
    completion: Completion, usage: Usage, dialect: Dialect, metadata: bytes | None
) -> JsonObject:
    raw = completion.raw
    told, choices = (None, None) if raw is None else as_said(raw)
    written: JsonObject = {
        **envelope(told, completion.id, "chat.completion", completion.created, completion.model),
        "choices": [
            choice_object(choice, dialect, {} if choices is None else choices[place], completion.id)
            for place, choice in enumerate(completion.choices)
        ],
    }
    if told is None or completion.usage is None:
        written["usage"] = usage_object(usage)
    if metadata is not None:
        written["router_metadata"] = msgspec.Raw(metadata)
    return written
