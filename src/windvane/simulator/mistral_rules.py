"""What Mistral accepts as a request body, field by field, and how it says no.

The published schema forbids unknown fields at every level, so a gateway that lets a foreign field
through gets a 422 here as it would there. The order of messages is judged elsewhere
(message_order.py): it is answered with another status.
"""

import re
from collections.abc import Callable, Mapping

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
    text_or_mapping,
    texts,
)
from windvane.simulator.json_types import Json, JsonObject

TOOLS_MAX = 128
MESSAGES_MAX = 100_000
"""Not a published limit: it only keeps a hostile list from being walked for ever."""
CHOICES_MAX = 128
"""Likewise; it is OpenAI's."""

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_CONNECTORS = ("image_generation", "document_library", "connector")
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
    "n": integer(1, CHOICES_MAX),
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
    "tool_reference": {
        "tool": text,
        "title": text,
        "url": text,
        "favicon": text,
        "description": text,
    },
}
_PARTS_SAID = frozenset(_PART_FIELDS) - {"tool_reference"}
_PARTS_OF_SYSTEM = frozenset({"text", "thinking"})
_PARTS_OF_THINKING = frozenset({"text", "reference", "tool_reference"})
_PARTS_REQUIRE: dict[str, tuple[str, ...]] = {
    "file": ("file_id",),
    "reference": ("reference_ids",),
    "tool_reference": ("tool", "title"),
}
"""What a part cannot be without; for the others it is the field of their kind's name."""
_IMAGE_FIELDS: dict[str, Check] = {"url": text, "detail": one_of("low", "auto", "high")}
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

_PREDICTION_FIELDS: dict[str, Check] = {"type": one_of("content"), "content": text}
_GUARDRAIL_FIELDS: dict[str, Check] = {
    "block_on_error": boolean,
    "moderation_llm_v1": mapping,
    "moderation_llm_v2": mapping,
}
_MODERATION_FIELDS: dict[str, Check] = {
    "model_name": text,
    "custom_category_thresholds": mapping,
    "ignore_other_categories": boolean,
    "action": one_of("none", "block"),
}
_CATEGORIES = ("sexual", "selfharm", "health", "financial", "law", "pii")
_CATEGORIES_ONCE = ("hate_and_discrimination", "violence_and_threats")
_MODERATED: dict[str, tuple[str, ...]] = {
    "moderation_llm_v1": (*_CATEGORIES, *_CATEGORIES_ONCE, "dangerous_and_criminal_content"),
    "moderation_llm_v2": (
        *(*_CATEGORIES, *_CATEGORIES_ONCE),
        *("dangerous", "criminal", "jailbreaking"),
    ),
}
"""What each moderation model sorts texts into."""

Place = tuple[str | int, ...]
Inside = Callable[[Json, Place, list[JsonObject]], None]
"""Finds what is wrong within a value. That the value itself is no object, or list, is told before."""


def chat_problems(body: JsonObject) -> list[JsonObject]:
    """Return what is wrong with a chat body, as entries of a 422 `detail` list."""
    found = _fields(body, CHAT_FIELDS, ("body",), required=("model", "messages"))
    for name, inside in _INSIDE.items():
        if body.get(name) is not None:
            inside(body[name], ("body", name), found)
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


def _each(inside: Inside) -> Inside:
    def each(values: Json, place: Place, found: list[JsonObject]) -> None:
        if isinstance(values, list):
            for index, value in enumerate(values):
                inside(value, (*place, index), found)

    return each


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
        kinds = _PARTS_OF_SYSTEM if role == "system" else _PARTS_SAID
        for index, part in enumerate(content):
            _part(part, kinds, (*place, index), found)
    elif content is not None:
        words = "Input should be a valid string or list of chunks"
        found.append(problem("string_type", place, words, content))
    elif role != "assistant" and "content" not in message:
        found.append(problem("missing", place, "Field required", message))
    elif role == "system":
        found.append(problem("string_type", place, "Input should be a valid string", None))


def _part(part: Json, kinds: frozenset[str], place: Place, found: list[JsonObject]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        words = "Input tag does not match any of the expected tags"
        found.append(problem("union_tag_invalid", place, words, part))
        return
    place = (*place, kind)
    checks = {"type": text, **_PART_FIELDS[kind]}
    found += _fields(part, checks, place, required=_PARTS_REQUIRE.get(kind, (kind,)))
    inside = part.get(kind)
    if kind == "image_url" and not isinstance(inside, str):
        found += _fields(inside, _IMAGE_FIELDS, (*place, kind), required=("url",))
    elif kind == "thinking" and isinstance(inside, list):
        for index, thought in enumerate(inside):
            _part(thought, _PARTS_OF_THINKING, (*place, kind, index), found)
    elif kind == "reference" and isinstance(part.get("reference_ids"), list):
        for index, one in enumerate(part["reference_ids"]):
            if isinstance(one, bool) or not isinstance(one, int | str):
                words = "Input should be a valid integer or string"
                found.append(problem("int_type", (*place, "reference_ids", index), words, one))


def _calls(calls: Json, place: Place, found: list[JsonObject]) -> None:
    if not isinstance(calls, list):
        found.append(problem("list_type", place, "Input should be a valid list", calls))
        return
    for index, call in enumerate(calls):
        here = (*place, index)
        found += _fields(call, _CALL_FIELDS, here, required=("function",))
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            fields = {"name": text, "arguments": text_or_mapping}
            required = ("name", "arguments")
            found += _fields(function, fields, (*here, "function"), required=required)


def _tool(tool: Json, place: Place, found: list[JsonObject]) -> None:
    if isinstance(tool, dict) and tool.get("type") in _CONNECTORS:
        return  # they have shapes of their own, and the simulator has none of them
    checks = {"type": one_of("function", *_CONNECTORS), "function": mapping}
    found += _fields(tool, checks, place, required=("function",))
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return
    place = (*place, "function")
    found += _fields(function, _FUNCTION_FIELDS, place, required=("name", "parameters"))
    name = function.get("name")
    if isinstance(name, str) and not _TOOL_NAME.fullmatch(name):
        words = "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
        found.append(problem("string_pattern_mismatch", (*place, "name"), words, name))


def _response_format(form: Json, place: Place, found: list[JsonObject]) -> None:
    if not isinstance(form, dict):
        return
    found += _fields(form, _FORMAT_FIELDS, place)
    schema = form.get("json_schema")
    if isinstance(schema, dict):
        here = (*place, "json_schema")
        found += _fields(schema, _SCHEMA_FIELDS, here, required=("name", "schema"))
    elif form.get("type") == "json_schema":
        found.append(problem("missing", (*place, "json_schema"), "Field required", form))


def _tool_choice(choice: Json, place: Place, found: list[JsonObject]) -> None:
    if isinstance(choice, dict):
        fields = {"type": one_of("function"), "function": mapping}
        found += _fields(choice, fields, place, required=("function",))
        if isinstance(choice.get("function"), dict):
            here = (*place, "function")
            found += _fields(choice["function"], {"name": text}, here, required=("name",))
    elif not isinstance(choice, str) or choice not in {"auto", "none", "any", "required"}:
        words = "Input should be 'auto', 'none', 'any' or 'required'"
        found.append(problem("literal_error", place, words, choice))


def _prediction(prediction: Json, place: Place, found: list[JsonObject]) -> None:
    if isinstance(prediction, dict):
        found += _fields(prediction, _PREDICTION_FIELDS, place)


def _guardrail(guardrail: Json, place: Place, found: list[JsonObject]) -> None:
    found += _fields(guardrail, _GUARDRAIL_FIELDS, place)
    if not isinstance(guardrail, dict):
        return
    for name, categories in _MODERATED.items():
        moderation = guardrail.get(name)
        if not isinstance(moderation, dict):
            continue
        found += _fields(moderation, _MODERATION_FIELDS, (*place, name))
        thresholds = moderation.get("custom_category_thresholds")
        if isinstance(thresholds, dict):
            here = (*place, name, "custom_category_thresholds")
            found += _fields(thresholds, dict.fromkeys(categories, number()), here)


_INSIDE: dict[str, Inside] = {
    "messages": _each(_message),
    "response_format": _response_format,
    "tools": _each(_tool),
    "tool_choice": _tool_choice,
    "prediction": _prediction,
    "guardrails": _each(_guardrail),
}
