"""What Mistral accepts as a request body, field by field, and how it says no.

The published schema forbids unknown fields at every level, so a gateway that lets a foreign field
through gets a 422 here as it would there. The order of messages is judged elsewhere
(message_order.py): it is answered with another status.
"""

import re
from collections.abc import Mapping

from windvane.simulator.field_checks import (
    Check,
    anything,
    boolean,
    integer,
    mapping,
    number,
    one_of,
    sequence,
    text,
    texts,
)
from windvane.simulator.json_types import Json, JsonObject

TOOLS_MAX = 128
MESSAGES_MAX = 100_000
"""Not a published limit: it only keeps a hostile list from being walked for ever."""

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_SAMPLING: dict[str, Check] = {
    "temperature": number(0, 1.5),
    "top_p": number(0, 1, above_low=True),
    "max_tokens": integer(0),
    "min_tokens": integer(0),
    "stop": texts,
    "random_seed": integer(0),
    "stream": boolean,
    "metadata": mapping,
    "prompt_cache_key": text,
    "model": text,
}

CHAT_FIELDS: dict[str, Check] = {
    **_SAMPLING,
    "messages": sequence(MESSAGES_MAX),
    "response_format": mapping,
    "tools": sequence(TOOLS_MAX),
    "tool_choice": anything,
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "n": integer(1),
    "prediction": mapping,
    "parallel_tool_calls": boolean,
    "reasoning_effort": one_of(*_EFFORTS),
    "prompt_mode": one_of("reasoning"),
    "guardrails": sequence(TOOLS_MAX),
    "service_tier": one_of("auto", "standard_only"),
    "safe_prompt": boolean,
    # Not published, but sent by the vendor's own clients:
    "stream_options": mapping,
    "repetition_penalty": number(0, 10),
    "top_k": integer(0),
    "logprobs": boolean,
    "top_logprobs": integer(0),
    "prompt_logprobs": boolean,
    "top_prompt_logprobs": integer(0),
}
FIM_FIELDS: dict[str, Check] = {**_SAMPLING, "prompt": text, "suffix": text}
EMBEDDING_FIELDS: dict[str, Check] = {
    "model": text,
    "input": texts,
    "metadata": mapping,
    "output_dimension": integer(1),
    "output_dtype": one_of("float", "int8", "uint8", "binary", "ubinary"),
    "encoding_format": one_of("float", "base64"),
}

_MESSAGE_FIELDS: dict[str, dict[str, Check]] = {
    "system": {"role": text, "content": anything},
    "user": {"role": text, "content": anything},
    "assistant": {"role": text, "content": anything, "tool_calls": anything, "prefix": boolean},
    "tool": {"role": text, "content": anything, "tool_call_id": text, "name": text},
}
_PART_FIELDS: dict[str, dict[str, Check]] = {
    "text": {"text": text},
    "image_url": {"image_url": anything},
    "document_url": {"document_url": text, "document_name": text},
    "file": {"file_id": text},
    "input_audio": {"input_audio": text},
    "reference": {"reference_ids": sequence(MESSAGES_MAX)},
    "thinking": {"thinking": sequence(MESSAGES_MAX), "signature": text, "closed": boolean},
}
_FUNCTION_FIELDS: dict[str, Check] = {
    "name": text,
    "parameters": mapping,
    "description": text,
    "strict": boolean,
}
_CALL_FIELDS: dict[str, Check] = {
    "id": text,
    "type": text,
    "function": mapping,
    "index": integer(0),
}
_FORMAT_FIELDS: dict[str, Check] = {
    "type": one_of("text", "json_object", "json_schema"),
    "json_schema": mapping,
}
_SCHEMA_FIELDS: dict[str, Check] = {
    "name": text,
    "schema": mapping,
    "description": text,
    "strict": boolean,
}

Place = tuple[str | int, ...]


def chat_problems(body: JsonObject) -> list[JsonObject]:
    """Return what is wrong with a chat body, as entries of a 422 `detail` list."""
    found = _fields(body, CHAT_FIELDS, ("body",), required=("model", "messages"))
    messages = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            _message(message, ("body", "messages", index), found)
    tools = body.get("tools")
    if tools and isinstance(tools, list):
        for index, tool in enumerate(tools):
            _tool(tool, ("body", "tools", index), found)
    if body.get("response_format") is not None:
        _response_format(body["response_format"], found)
    if isinstance(body.get("tool_choice"), str | dict):
        _tool_choice(body["tool_choice"], found)
    return found


def fim_problems(body: JsonObject) -> list[JsonObject]:
    """Return what is wrong with a fill-in-the-middle body."""
    return _fields(body, FIM_FIELDS, ("body",), required=("model", "prompt"))


def embedding_problems(body: JsonObject) -> list[JsonObject]:
    """Return what is wrong with an embeddings body."""
    return _fields(body, EMBEDDING_FIELDS, ("body",), required=("model", "input"))


def problem(kind: str, place: Place, message: str, value: Json) -> JsonObject:
    """Return one entry of a `detail` list."""
    return {"type": kind, "loc": list(place), "msg": message, "input": value}


def _fields(
    value: Json, checks: Mapping[str, Check], place: Place, required: tuple[str, ...] = ()
) -> list[JsonObject]:
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object"
        return [problem("model_attributes_type", place, message, value)]
    found = []
    for name, given in value.items():
        check = checks.get(name)
        if check is None:
            message = "Extra inputs are not permitted"
            found.append(problem("extra_forbidden", (*place, name), message, given))
        elif (wrong := check(given)) is not None:
            found.append(problem(wrong[0], (*place, name), wrong[1], given))
    for name in required:
        if value.get(name) is None:
            found.append(problem("missing", (*place, name), "Field required", value))
    return found


def _message(message: Json, place: Place, found: list[JsonObject]) -> None:
    role = message.get("role") if isinstance(message, dict) else None
    checks = _MESSAGE_FIELDS.get(role) if isinstance(role, str) else None
    if checks is None:
        words = "Input tag does not match any of: 'system', 'user', 'assistant', 'tool'"
        found.append(problem("union_tag_invalid", place, words, message))
        return
    place = (*place, str(role))
    found += _fields(message, checks, place)
    _content(message, str(role), place, found)
    calls = message.get("tool_calls")
    if calls is not None:
        _calls(calls, (*place, "tool_calls"), found)


def _content(message: JsonObject, role: str, place: Place, found: list[JsonObject]) -> None:
    content = message.get("content")
    place = (*place, "content")
    if isinstance(content, str):
        return
    if isinstance(content, list):
        for index, part in enumerate(content):
            _part(part, (*place, index), found)
    elif content is not None:
        words = "Input should be a valid string or list of chunks"
        found.append(problem("string_type", place, words, content))
    elif role != "assistant" and "content" not in message:
        found.append(problem("missing", place, "Field required", message))
    elif role == "system":
        found.append(problem("string_type", place, "Input should be a valid string", None))


def _part(part: Json, place: Place, found: list[JsonObject]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    checks = _PART_FIELDS.get(kind) if isinstance(kind, str) else None
    if checks is None:
        words = "Input tag does not match any of the expected tags"
        found.append(problem("union_tag_invalid", place, words, part))
        return
    found += _fields(
        part,
        {"type": text, **checks},
        (*place, str(kind)),
        required=(str(kind),)
        if kind in {"text", "image_url", "document_url", "input_audio"}
        else (),
    )


def _calls(calls: Json, place: Place, found: list[JsonObject]) -> None:
    if not isinstance(calls, list):
        found.append(problem("list_type", place, "Input should be a valid list", calls))
        return
    for index, call in enumerate(calls):
        here = (*place, index)
        found += _fields(call, _CALL_FIELDS, here, required=("function",))
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            fields = {"name": text, "arguments": anything}
            required = ("name", "arguments")
            found += _fields(function, fields, (*here, "function"), required=required)


def _tool(tool: Json, place: Place, found: list[JsonObject]) -> None:
    if isinstance(tool, dict) and tool.get("type", "function") != "function":
        return  # connectors have shapes of their own, and the simulator has no connectors
    found += _fields(tool, {"type": text, "function": mapping}, place, required=("function",))
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return
    place = (*place, "function")
    found += _fields(function, _FUNCTION_FIELDS, place, required=("name", "parameters"))
    name = function.get("name")
    if isinstance(name, str) and not _TOOL_NAME.fullmatch(name):
        words = "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
        found.append(problem("string_pattern_mismatch", (*place, "name"), words, name))


def _response_format(form: Json, found: list[JsonObject]) -> None:
    place: Place = ("body", "response_format")
    if not isinstance(form, dict):
        return
    found += _fields(form, _FORMAT_FIELDS, place)
    schema = form.get("json_schema")
    if isinstance(schema, dict):
        here = (*place, "json_schema")
        found += _fields(schema, _SCHEMA_FIELDS, here, required=("name", "schema"))
    elif form.get("type") == "json_schema":
        found.append(problem("missing", (*place, "json_schema"), "Field required", form))


def _tool_choice(choice: str | JsonObject, found: list[JsonObject]) -> None:
    place: Place = ("body", "tool_choice")
    if isinstance(choice, dict):
        fields = {"type": one_of("function"), "function": mapping}
        found += _fields(choice, fields, place, required=("function",))
    elif choice not in {"auto", "none", "any", "required"}:
        words = "Input should be 'auto', 'none', 'any' or 'required'"
        found.append(problem("literal_error", place, words, choice))
