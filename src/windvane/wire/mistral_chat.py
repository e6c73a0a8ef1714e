"""Writing a chat request for Mistral, which refuses whatever its schema does not name.

`FIELDS` is the whole translation: what is not in the table is not sent. Limits, order rules and
the pattern of tool-call ids are from Mistral's OpenAPI document, its error messages (3230, 3280)
and the validator it publishes.
"""

import hashlib
import re
from collections.abc import Mapping

import msgspec

from windvane.core.chat import ChatRequest, JsonObject
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.wire.rows import Rows, Table, Translate

TEMPERATURE_MAX = 1.5
TOP_P_MIN = 1e-6
"""Mistral wants top_p above zero; OpenAI allows zero."""

_encode = msgspec.json.Encoder().encode

_TOOL_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _as_is(value: object) -> object:
    return value


def _temperature(value: object) -> object:
    if type(value) is not float and not isinstance(value, (int, float)):
        return None
    if value > TEMPERATURE_MAX:
        return TEMPERATURE_MAX
    return value


def _top_p(value: object) -> object:
    return max(value, TOP_P_MIN) if isinstance(value, (int, float)) else None


def _seed(value: object) -> object:
    """OpenAI's seeds may be negative or 64 bits wide; Mistral's are not."""
    return value & 0x7FFF_FFFF if isinstance(value, int) else None


def _service_tier(value: object) -> object:
    return {"auto": "auto", "priority": "auto", "fast": "auto", "standard_only": value}.get(
        str(value)
    )


def _reasoning_effort(value: object) -> object:
    known = ("none", "minimal", "low", "medium", "high", "xhigh")
    return value if value in known else {"max": "xhigh"}.get(str(value))


def _tool_choice(value: object) -> object:
    if value == "required":
        return "any"
    if isinstance(value, dict):
        function = value.get("function")
        if not isinstance(function, dict) or "name" not in function:
            return "auto"
        return {"type": "function", "function": {"name": function["name"]}}
    return value


def _function_call(value: object) -> object:
    """OpenAI's old name for tool_choice."""
    if isinstance(value, dict):
        return {"type": "function", "function": {"name": value.get("name")}}
    return value


def _tools(value: object) -> object:
    if not isinstance(value, list) or not value:
        return None
    return [_tool(tool, f"tools[{place}]") for place, tool in enumerate(value)]


def _functions(value: object) -> object:
    if not isinstance(value, list) or not value:
        return None
    return [_tool({"function": each}, f"functions[{n}]") for n, each in enumerate(value)]


def _tool(tool: JsonObject, place: str) -> JsonObject:
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _refuse(
            f"{place}.type", f"Mistral's chat takes function tools, not {tool.get('type')!r}"
        )
    written: JsonObject = {
        name: function[name]
        for name in ("name", "description", "strict")
        if function.get(name) is not None
    }
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    written["parameters"] = {
        name: schema for name, schema in parameters.items() if name not in ("$schema", "$id")
    }
    return {"type": "function", "function": written}


_FORMATS = ("text", "json_object", "json_schema")


def _response_format(value: object) -> object:
    if not isinstance(value, dict) or value.get("type") is None:
        return None
    kind, schema = value["type"], value.get("json_schema")
    if kind not in _FORMATS:
        raise _refuse("response_format.type", f"expected one of {', '.join(_FORMATS)}")
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(schema, dict) or not schema.get("name"):
        raise _refuse("response_format.json_schema", "a schema needs a name")
    kept = ("name", "description", "schema", "strict")
    told: JsonObject = {name: schema[name] for name in kept if schema.get(name) is not None}
    # OpenAI's callers may leave the schema out; Mistral's must not.
    told.setdefault("schema", {"type": "object"})
    return {"type": kind, "json_schema": told}


def _prediction(value: object) -> object:
    if not isinstance(value, dict):
        return None
    content = value.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {"type": "content", "content": content or ""}


FIELDS: Table = {
    # what the caller says: (what Mistral is told, how); later rows win over earlier ones
    "frequency_penalty": ("frequency_penalty", _as_is),
    "guardrails": ("guardrails", _as_is),
    "max_tokens": ("max_tokens", _as_is),
    "max_completion_tokens": ("max_tokens", _as_is),
    "metadata": ("metadata", _as_is),
    "n": ("n", _as_is),
    "parallel_tool_calls": ("parallel_tool_calls", _as_is),
    "prediction": ("prediction", _prediction),
    "presence_penalty": ("presence_penalty", _as_is),
    "prompt_cache_key": ("prompt_cache_key", _as_is),
    "prompt_mode": ("prompt_mode", _as_is),
    "seed": ("random_seed", _seed),
    "random_seed": ("random_seed", _as_is),
    "reasoning_effort": ("reasoning_effort", _reasoning_effort),
    "response_format": ("response_format", _response_format),
    "safe_prompt": ("safe_prompt", _as_is),
    "service_tier": ("service_tier", _service_tier),
    "stop": ("stop", _as_is),
    "temperature": ("temperature", _temperature),
    "functions": ("tools", _functions),
    "tools": ("tools", _tools),
    "function_call": ("tool_choice", _function_call),
    "tool_choice": ("tool_choice", _tool_choice),
    "top_p": ("top_p", _top_p),
}
"""Everything Mistral is told besides model, messages and stream. Dropped with intent, since they
change nothing in the answer or Mistral has no such thing: user, store, safety_identifier, logit_bias,
logprobs, verbosity, web_search_options, prompt_cache_retention, prompt_cache_options, moderation,
stream_options."""

_REFUSED = {
    "audio": "Mistral's chat cannot answer in audio",
    "modalities": "Mistral's chat answers in text only",
}
"""Fields whose meaning would be lost: refused instead of dropped."""


def _refusal(name: str, why: str) -> Translate:
    def refused(value: object) -> object:
        if value != ["text"]:
            raise _refuse(name, why)
        return None

    return refused


_rows = Rows({**FIELDS, **{name: (name, _refusal(name, why)) for name, why in _REFUSED.items()}})


def encode_chat(request: ChatRequest, model: str) -> bytes:
    """The body to send to Mistral for `request`, to be answered by `model`.

    Raises BadRequestError that names the field when the request cannot be said to Mistral.
    """
    messages = request.messages_json or encode_messages(request)
    written: JsonObject = {"model": model, "messages": messages}
    body = request.body
    for name, told, translate in _rows[tuple(body)]:
        value = body[name]
        if value is not None:
            if translate is not _as_is:
                value = translate(value)
            if value is not None:
                written[told] = value
    if "tool_choice" in written and "tools" not in written:
        del written["tool_choice"]
    if written.get("n", 1) != 1:
        # Mistral takes a prediction for one choice alone, and it only speeds the answer up.
        written.pop("prediction", None)
    if request.stream:
        written["stream"] = True
    return _encode(written)


_PLAIN_ROLES = frozenset(("system", "user", "assistant"))


def encode_messages(request: ChatRequest) -> list[JsonObject]:
    """The messages, each as Mistral's schema has it, in an order it accepts."""
    said = request.body["messages"]
    if request.is_plain_talk:
        return said  # type: ignore[return-value]
    assert isinstance(said, list)
    ids = _ToolCallIds()
    written = []
    for place, message in enumerate(said):
        if (
            len(message) == 2
            and message["role"] in _PLAIN_ROLES
            and type(content := message.get("content")) is str
            and (content or message["role"] != "assistant")
        ):
            written.append(message)
        else:
            translated = _message(message, f"messages[{place}]", ids)
            if translated is not None:
                written.append(translated)
    _check_order(written)
    return written


def _message(message: JsonObject, place: str, ids: "_ToolCallIds") -> JsonObject | None:
    role = message["role"]
    if role in ("system", "developer"):
        return {"role": "system", "content": _content(message, place)}
    if role == "user":
        return {"role": "user", "content": _content(message, place)}
    if role == "assistant":
        return _assistant(message, place, ids)
    told: JsonObject = {"role": "tool", "content": _content(message, place)}
    call_id = message.get("tool_call_id") or (message.get("name") if role == "function" else None)
    if call_id:
        told["tool_call_id"] = ids.of(str(call_id))
    if message.get("name"):
        told["name"] = message["name"]
    return told


def _assistant(message: JsonObject, place: str, ids: "_ToolCallIds") -> JsonObject | None:
    content = _content(message, place)
    thinking = message.get("reasoning_content")
    if isinstance(thinking, str) and thinking:
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        content = [{"type": "thinking", "thinking": [{"type": "text", "text": thinking}]}, *parts]
    calls = message.get("tool_calls")
    legacy = message.get("function_call")
    if not calls and isinstance(legacy, dict):
        calls = [{"id": legacy.get("name"), "function": legacy}]
    if not content and not calls:
        return None
    told: JsonObject = {"role": "assistant", "content": content or ""}
    if isinstance(calls, list) and calls:
        told["tool_calls"] = [
            _tool_call(call, f"{place}.tool_calls[{n}]", ids) for n, call in enumerate(calls)
        ]
    if message.get("prefix"):
        told["prefix"] = True
    return told


def _tool_call(call: JsonObject, place: str, ids: "_ToolCallIds") -> JsonObject:
    function = call.get("function")
    if not isinstance(function, dict) or call.get("type") == "custom":
        raise _refuse(
            f"{place}.type", "Mistral's chat takes calls of functions, not of custom tools"
        )
    return {
        "id": ids.of(str(call.get("id") or "")),
        "type": "function",
        "function": {"name": function["name"], "arguments": function.get("arguments") or "{}"},
    }


def _content(message: JsonObject, place: str) -> object:
    content = message.get("content")
    if not isinstance(content, list):
        return "" if content is None else content
    parts = [_part(part, f"{place}.content[{n}]") for n, part in enumerate(content)]
    return [part for part in parts if part is not None]


def _part(part: JsonObject, place: str) -> JsonObject | None:
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        return {"type": "image_url", "image_url": _image_url(part["image_url"])}
    if kind == "input_audio":
        audio = part["input_audio"]
        data = audio.get("data") if isinstance(audio, dict) else audio
        return {"type": "input_audio", "input_audio": data}
    if kind == "file":
        return _file(part, place)
    if kind == "document_url":
        kept = ("type", "document_url", "document_name")
        return {name: part[name] for name in kept if part.get(name) is not None}
    if kind == "reference":
        return {"type": kind, "reference_ids": part["reference_ids"]}
    if kind == "thinking":
        thinking = part["thinking"]
        whole = [{"type": "text", "text": thinking}] if isinstance(thinking, str) else thinking
        return {"type": kind, "thinking": whole}
    return None


def _image_url(image: object) -> object:
    if isinstance(image, dict):
        return {name: image[name] for name in ("url", "detail") if image.get(name) is not None}
    return image


def _file(part: JsonObject, place: str) -> JsonObject:
    inner = part.get("file")
    file = inner if isinstance(inner, dict) else part
    if file.get("file_id"):
        return {"type": "file", "file_id": file["file_id"]}
    if file.get("file_data"):
        document: JsonObject = {"type": "document_url", "document_url": file["file_data"]}
        if file.get("filename"):
            document["document_name"] = file["filename"]
        return document
    raise _refuse(place, "a file part needs file_id or file_data")


class _ToolCallIds:
    """Foreign tool-call ids as Mistral wants them: nine letters or digits.

    The same id always becomes the same nine characters, so a conversation stays consistent from
    request to request without any state.
    """

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, said: str) -> str:
        if said not in self._told:
            told = tool_call_id(said)
            while told in self._taken:
                told = nine_characters(f"{said}/{told}")
            self._told[said] = told
            self._taken.add(told)
        return self._told[said]


def tool_call_id(said: str) -> str:
    """The id, if Mistral would take it; else the nine characters that stand for it."""
    return said if _TOOL_CALL_ID.fullmatch(said) else nine_characters(said)


def nine_characters(text: str) -> str:
    """Nine base-62 characters of the text's SHA-256."""
    number = int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8])
    characters = []
    for _ in range(9):
        number, digit = divmod(number, 62)
        characters.append(_BASE62[digit])
    return "".join(characters)


_MAY_FOLLOW: Mapping[str, frozenset[str]] = {
    "system": frozenset(("system", "user", "assistant")),
    "user": frozenset(("user", "system", "assistant")),
    "assistant": frozenset(("assistant", "user", "tool")),
    "tool": frozenset(("tool", "assistant", "user")),
}


def _check_order(messages: list[JsonObject]) -> None:
    """Refuse here, by name, what Mistral would refuse with 3230."""
    if not messages:
        raise _refuse("messages", "no message has any content")
    previous = "system"
    open_calls: set[object] = set()
    for place, message in enumerate(messages):
        role = message["role"]
        assert isinstance(role, str)
        if place and role not in _MAY_FOLLOW[previous]:
            raise _refuse(f"messages[{place}].role", f"Mistral takes no {role} after {previous}")
        if role == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in open_calls:
                raise _refuse(
                    f"messages[{place}].tool_call_id", "no tool call before this has that id"
                )
            open_calls.discard(call_id)
        elif open_calls:
            raise _refuse(
                f"messages[{place}]", f"{len(open_calls)} tool call(s) before this have no answer"
            )
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            open_calls = {call["id"] for call in calls}
            if len(open_calls) != len(calls):
                raise _refuse(f"messages[{place}].tool_calls", "two calls have the same id")
        previous = role
    if open_calls:
        raise _refuse("messages", f"{len(open_calls)} tool call(s) have no answer")
    if previous == "system" and len(messages) and messages[-1]["role"] == "system":
        raise _refuse("messages", "the last message must be from user or tool, not system")
    if previous == "assistant" and not messages[-1].get("prefix"):
        raise _refuse(
            f"messages[{len(messages) - 1}].prefix",
            "the last message is the assistant's; set prefix to true to have it continued",
        )


def _refuse(param: str, problem: str) -> WindvaneError:
    return refuse(FaultKind.INVALID_REQUEST, f"{param}: {problem}", param=param)
