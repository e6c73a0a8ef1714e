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
from windvane.wire.allowed_tools import only_allowed, word_of
from windvane.wire.cannot_say import cannot_say
from windvane.wire.nameless_schema import nameless
from windvane.wire.rows import Rows, Table, Translate

TEMPERATURE_MAX = 1.5
TOP_P_MIN = 1e-6
"""Mistral wants top_p above zero; OpenAI allows zero."""

_encode = msgspec.json.Encoder().encode

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
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
    if isinstance(value, dict):
        function = value.get("function")
        if isinstance(function, dict):
            return {"type": "function", "function": {"name": function["name"]}}
        value = word_of(value)
    return "any" if value == "required" else value


def _function_call(value: object) -> object:
    """OpenAI's old name for tool_choice."""
    if isinstance(value, dict):
        return {"type": "function", "function": {"name": value["name"]}}
    return value


def _without_nulls(value: object) -> object:
    """A null says what is left out says, and Mistral's schema has it in few places only."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


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
        raise cannot_say(
            f"{place}.type", f"Mistral's chat takes function tools, not {tool.get('type')!r}"
        )
    written: JsonObject = {
        name: function[name]
        for name in ("name", "description", "strict")
        if function.get(name) is not None
    }
    written["parameters"] = nameless(
        function.get("parameters") or {"type": "object", "properties": {}}
    )
    return {"type": "function", "function": written}


_FORMATS = ("text", "json_object", "json_schema")


def _response_format(value: object) -> object:
    if not isinstance(value, dict) or value.get("type") is None:
        return None
    kind, schema = value["type"], value.get("json_schema")
    if kind not in _FORMATS:
        raise cannot_say("response_format.type", f"expected one of {', '.join(_FORMATS)}")
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(schema, dict) or not schema.get("name"):
        raise cannot_say("response_format.json_schema", "a schema needs a name")
    kept = ("name", "description", "schema", "strict")
    told: JsonObject = {name: schema[name] for name in kept if schema.get(name) is not None}
    # OpenAI's callers may leave the schema out; Mistral's must not.
    told["schema"] = nameless(told.get("schema", {"type": "object"}))
    return {"type": kind, "json_schema": told}


def _prediction(value: object) -> object:
    """One without content predicts nothing, as none does, and is not told."""
    content = value.get("content") if isinstance(value, dict) else None
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return {"type": "content", "content": content} if content else None


FIELDS: Table = {
    # what the caller says: (what Mistral is told, how); later rows win over earlier ones
    "frequency_penalty": ("frequency_penalty", _as_is),
    "guardrails": ("guardrails", _without_nulls),
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
            raise cannot_say(name, why)
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
    if "tool_choice" in written:
        _settle_tools(written, body)
    if written.get("n", 1) != 1:
        # Mistral takes a prediction for one choice alone, and it only speeds the answer up.
        written.pop("prediction", None)
    if request.stream:
        written["stream"] = True
    return _encode(written)


def _settle_tools(written: JsonObject, body: JsonObject) -> None:
    """There is no choice without tools; and of tools only those are told that it allows."""
    tools = written.get("tools")
    if isinstance(tools, list):
        written["tools"] = only_allowed(tools, body.get("tool_choice"), _name_of)
    else:
        del written["tool_choice"]


def _name_of(tool: JsonObject) -> object:
    function = tool["function"]
    assert isinstance(function, dict)
    return function["name"]


_PLAIN_ROLES = frozenset(("system", "user", "assistant"))


def encode_messages(request: ChatRequest) -> list[JsonObject]:
    """The messages, each as Mistral's schema has it, in an order it accepts."""
    said = request.body["messages"]
    if request.is_plain_talk:
        return said  # type: ignore[return-value]
    assert isinstance(said, list)
    ids = _ToolCallIds()
    written: list[JsonObject] = []
    places: list[int] = []
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
            if translated is None:
                continue
            written.append(translated)
        places.append(place)
    _check_order(written, places)
    return written


def _message(message: JsonObject, place: str, ids: "_ToolCallIds") -> JsonObject | None:
    role = message["role"]
    if role in ("system", "developer"):
        return {"role": "system", "content": _content(message, place, _SYSTEM_PARTS)}
    if role == "user":
        return {"role": "user", "content": _content(message, place)}
    if role == "assistant":
        return _assistant(message, place, ids)
    told: JsonObject = {"role": "tool", "content": _content(message, place)}
    call_id = message.get("tool_call_id") or (message.get("name") if role == "function" else None)
    if call_id:
        told["tool_call_id"] = ids.of(str(call_id))
    name = message.get("name")
    if isinstance(name, str) and _FUNCTION_NAME.fullmatch(name):
        told["name"] = name  # Another's rules let any text be a name; the call says it in any case.
    return told


def _assistant(message: JsonObject, place: str, ids: "_ToolCallIds") -> JsonObject | None:
    content = _content(message, place)
    thinking = message.get("reasoning_content")
    if isinstance(thinking, str) and thinking:
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        content = [{"type": "thinking", "thinking": [{"type": "text", "text": thinking}]}, *parts]
    calls = message.get("tool_calls")
    legacy = message.get("function_call")
    told: JsonObject = {"role": "assistant", "content": content or ""}
    if isinstance(calls, list) and calls:
        told["tool_calls"] = [
            _tool_call(call, f"{place}.tool_calls[{n}]", ids) for n, call in enumerate(calls)
        ]
    elif isinstance(legacy, dict):
        told["tool_calls"] = [_written_call(legacy, f"{place}.function_call", legacy["name"], ids)]
    elif not content:
        return None
    if message.get("prefix"):
        told["prefix"] = True
    return told


def _tool_call(call: JsonObject, place: str, ids: "_ToolCallIds") -> JsonObject:
    function = call.get("function")
    if not isinstance(function, dict) or call.get("type") == "custom":
        raise cannot_say(
            f"{place}.type", "Mistral's chat takes calls of functions, not of custom tools"
        )
    return _written_call(function, f"{place}.function", call.get("id"), ids)


def _written_call(
    function: JsonObject, place: str, call_id: object, ids: "_ToolCallIds"
) -> JsonObject:
    name = str(function["name"])
    if not _FUNCTION_NAME.fullmatch(name):
        raise cannot_say(f"{place}.name", f"no function can have the name {name[:64]!r}")
    return {
        "id": ids.of(str(call_id or "")),
        "type": "function",
        "function": {"name": name, "arguments": function.get("arguments") or "{}"},
    }


_SYSTEM_PARTS = frozenset(("text", "thinking", "refusal"))
"""Mistral takes no others of the system; a refusal is not told of anyone."""


def _content(message: JsonObject, place: str, kinds: frozenset[str] | None = None) -> object:
    """A message's content, whose parts may be of these `kinds`; of all, unless some are named."""
    content = message.get("content")
    if not isinstance(content, list):
        return "" if content is None else content
    written = []
    for number, part in enumerate(content):
        if kinds is not None and part["type"] not in kinds:
            raise cannot_say(
                f"{place}.content[{number}].type",
                f"Mistral takes only text of the system, no {part['type']}",
            )
        told = _part(part, f"{place}.content[{number}]")
        if told is not None:
            written.append(told)
    return written


_PART_FIELDS = {
    "document_url": ("type", "document_url", "document_name"),
    "reference": ("type", "reference_ids"),
    "tool_reference": ("type", "tool", "title", "url", "favicon", "description"),
    "thinking": ("type", "thinking", "signature", "closed"),
}
"""Other parts that Mistral says as the caller does, and what its schema names of them."""


def _part(part: JsonObject, place: str) -> JsonObject | None:
    kind = str(part["type"])
    if kind == "text":
        return {"type": kind, "text": part["text"]}
    if kind == "image_url":
        return {"type": kind, "image_url": _image_url(part["image_url"])}
    if kind == "input_audio":
        audio = part["input_audio"]
        return {"type": kind, "input_audio": audio["data"] if isinstance(audio, dict) else audio}
    if kind == "file":
        return _file(part, place)
    if kind not in _PART_FIELDS:
        return None
    told = {name: part[name] for name in _PART_FIELDS[kind] if part.get(name) is not None}
    if kind == "thinking":
        told["thinking"] = _thinking(part["thinking"], place)
    return told


def _thinking(thinking: object, place: str) -> list[JsonObject | None]:
    """OpenAI's family has it as text too, Mistral in parts alone."""
    if not isinstance(thinking, list):
        return [{"type": "text", "text": thinking}]
    return [_part(part, f"{place}.thinking[{number}]") for number, part in enumerate(thinking)]


_DETAILS = {"low": "low", "auto": "auto", "high": "high", "original": "high"}


def _image_url(image: object) -> object:
    """The address, and how closely to look when it is a word for that that Mistral has."""
    if not isinstance(image, dict):
        return image
    told = {"url": image["url"]}
    if detail := _DETAILS.get(str(image.get("detail"))):
        told["detail"] = detail
    return told


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
    raise cannot_say(place, "a file part needs file_id or file_data")


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


def _check_order(messages: list[JsonObject], places: list[int]) -> None:
    """Refuse here what Mistral would refuse with 3230, by its place among what the caller said."""
    if not messages:
        raise cannot_say("messages", "no message has any content")
    previous = "system"
    open_calls: set[object] = set()
    for number, message in enumerate(messages):
        role, place = message["role"], places[number]
        assert isinstance(role, str)
        if number and role not in _MAY_FOLLOW[previous]:
            raise cannot_say(f"messages[{place}].role", f"Mistral takes no {role} after {previous}")
        if role == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in open_calls:
                raise cannot_say(
                    f"messages[{place}].tool_call_id", "no tool call before this has that id"
                )
            open_calls.discard(call_id)
        elif open_calls:
            raise cannot_say(
                f"messages[{place}]", f"{len(open_calls)} tool call(s) before this have no answer"
            )
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            open_calls = {call["id"] for call in calls}
            if len(open_calls) != len(calls):
                raise cannot_say(f"messages[{place}].tool_calls", "two calls have the same id")
        previous = role
    if open_calls:
        raise cannot_say("messages", f"{len(open_calls)} tool call(s) have no answer")
    _check_last(messages, places)


def _check_last(messages: list[JsonObject], places: list[int]) -> None:
    """Only what comes last is answered, or, when it is the assistant's own, continued."""
    *earlier, last = messages
    for number, message in enumerate(earlier):
        if message.get("prefix"):
            raise cannot_say(
                f"messages[{places[number]}].prefix", "only the last message can be continued"
            )
    if last["role"] == "system":
        raise cannot_say("messages", "the last message must be from user or tool, not system")
    if last["role"] == "assistant" and not last.get("prefix"):
        raise cannot_say(
            f"messages[{places[-1]}].prefix",
            "the last message is the assistant's; set prefix to true to have it continued",
        )
