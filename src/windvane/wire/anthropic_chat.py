"""Writing a chat request as one of Anthropic's messages.

`FIELDS` is the whole translation: what is not in the table is not sent. The rules are from Anthropic's
API reference and the types of its SDK. What differs most: the system's words stand apart, turns of
one role are one turn, answers of tools come back in the user's turn, and `max_tokens` must be said.
"""

import base64
import binascii
import re

import msgspec

from windvane.core.chat import ChatRequest, JsonObject, Message
from windvane.wire.allowed_tools import only_allowed, word_of
from windvane.wire.anthropic_own import Count, Mark, Thinking, checked
from windvane.wire.cannot_say import cannot_say
from windvane.wire.chat_request import THINKING_TOKENS_MIN, limited
from windvane.wire.mistral_chat import nine_characters
from windvane.wire.rows import Rows, Table
from windvane.wire.strict_schema import strict

MAX_TOKENS_DEFAULT = 20_000
"""Asked for when the caller sets no limit. Anthropic's SDK waits for no more than about 21,333 without a
stream, and every model of the catalog can say that much."""
TEMPERATURE_MAX = 1.0
USER_ID_CHARS_MAX = 256

_TAKE_SAMPLING = (
    *("claude-2", "claude-3", "claude-instant", "claude-haiku-4", "claude-sonnet-4"),
    *(
        "claude-opus-4-0",
        "claude-opus-4-1",
        "claude-opus-4-2",
        "claude-opus-4-5",
        "claude-opus-4-6",
    ),
)
"""Beginnings of the names of models that take temperature and top_p; all later ones refuse them, and so
may any model that is not known here."""
_THINK_AS_THEY_LIKE = "-4-6"
"""Of these, the ones that are told an effort, as later models are; the others are told a budget."""

_SHARE_OF_THINKING = {"minimal": 10, "low": 20, "medium": 50, "high": 80, "xhigh": 80, "max": 80}
"""Percent of `max_tokens` that may go into thinking, for models that are told a budget."""
_EFFORTS = {"minimal": "low", **{name: name for name in ("low", "medium", "high", "xhigh", "max")}}
_SERVICE_TIERS = {"auto": "auto", "priority": "auto", "fast": "auto"}
STANDARD_ONLY = "standard_only"

_encode = msgspec.json.Encoder().encode

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DATA_ADDRESS = re.compile(r"data:(?P<kind>[\w.+/-]+);base64,(?P<data>.*)", re.DOTALL)


def _temperature(value: object) -> object:
    if type(value) is not float and not isinstance(value, (int, float)):
        return None
    if value > TEMPERATURE_MAX:
        return TEMPERATURE_MAX
    return value


def _stops(value: object) -> object:
    said = [value] if isinstance(value, str) else value
    if not isinstance(said, list) or not said:
        return None
    for stop in said:
        if not str(stop).strip():
            raise cannot_say("stop", "Anthropic takes no stop sequence that is blank")
    return said


def _user_id(value: object) -> object:
    return value[:USER_ID_CHARS_MAX] if isinstance(value, str) and value else None


def _service_tier(value: object) -> object:
    return _SERVICE_TIERS.get(str(value))


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
            f"{place}.type", f"of tools Anthropic is told functions, not {tool.get('type')!r}"
        )
    written: JsonObject = {"name": function["name"]}
    if function.get("description"):
        written["description"] = function["description"]
    schema = {"type": "object", **(function.get("parameters") or {"properties": {}})}
    if function.get("strict"):
        written["strict"] = True
        written["input_schema"] = strict(schema)
    else:
        written["input_schema"] = schema
    return _marked(written, tool, place)


def _tool_choice(value: object) -> object:
    if isinstance(value, dict):
        function = value.get("function")
        if isinstance(function, dict):
            return {"type": "tool", "name": function["name"]}
        value = word_of(value)
    return {"type": "any" if value == "required" else value}


def _function_call(value: object) -> object:
    """OpenAI's old name for tool_choice."""
    return _tool_choice({"function": value} if isinstance(value, dict) else value)


def _format(value: object) -> object:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind in (None, "text"):
        return None
    form = value.get("json_schema")
    schema = form.get("schema") if isinstance(form, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise cannot_say(
            "response_format", "Anthropic writes JSON to a schema: give json_schema with its schema"
        )
    return {"type": "json_schema", "schema": strict(schema)}


FIELDS: Table = {
    # what the caller says: (what Anthropic is told, how); later rows win over earlier ones
    "cache_control": ("cache_control", lambda value: checked(value, Mark, "cache_control")),
    "functions": ("tools", _functions),
    "tools": ("tools", _tools),
    "function_call": ("tool_choice", _function_call),
    "tool_choice": ("tool_choice", _tool_choice),
    "response_format": ("output_config.format", _format),
    "reasoning_effort": ("output_config.effort", lambda value: _EFFORTS.get(str(value))),
    "service_tier": ("service_tier", _service_tier),
    "stop": ("stop_sequences", _stops),
    "temperature": ("temperature", _temperature),
    "thinking": ("thinking", lambda value: checked(value, Thinking, "thinking")),
    "top_k": ("top_k", lambda value: value),
    "top_p": ("top_p", lambda value: value),
    "user": ("metadata.user_id", _user_id),
    "safety_identifier": ("metadata.user_id", _user_id),
}
"""Everything Anthropic is told besides model, max_tokens, system, messages and stream, and besides
parallel_tool_calls, which is a part of tool_choice there. A name with a dot is a member of an object.
Dropped with intent, since they are hints or Anthropic has no such thing: seed, random_seed,
presence_penalty, frequency_penalty, logit_bias, min_tokens, prediction, prompt_cache_key,
prompt_cache_options, prompt_cache_retention, prompt_mode, safe_prompt, metadata, store, verbosity,
stream_options."""

_rows = Rows(FIELDS)

_REFUSED = {
    "audio": "Anthropic's models do not answer in audio",
    "guardrails": "only Mistral's models have them; ask for one of those",
    "logprobs": "Anthropic's models do not tell probabilities",
    "modalities": "Anthropic's models answer in text only",
    "top_logprobs": "Anthropic's models do not tell probabilities",
    "web_search_options": "Anthropic is not asked to search by this",
}
"""Fields whose meaning would be lost: refused instead of dropped, unless they ask for nothing."""
_MAY_BE_REFUSED = frozenset(_REFUSED)
_NOTHING: tuple[object, ...] = (None, False, 0, [], ["text"])
"""An empty object is something: a search by the provider's own settings."""


def encode_chat(request: ChatRequest, model: str) -> bytes:
    """The body to send to Anthropic for `request`, to be answered by `model`.

    Raises BadRequestError that names the field when the request cannot be said to Anthropic.
    """
    if "thinking" in request.body and not request.output_tokens_max:
        request = limited(request, MAX_TOKENS_DEFAULT)
    body = request.body
    _check(request)
    system, turns = encode_messages(request)
    written: JsonObject = {
        "model": model,
        "max_tokens": request.output_tokens_max or MAX_TOKENS_DEFAULT,
        "messages": turns,
        # Said always: a workspace may have a dearer tier, which serves whoever does not say this.
        "service_tier": STANDARD_ONLY,
    }
    if system:
        written["system"] = system
    for name, told, translate in _rows[tuple(body)]:
        value = body[name]
        if value is not None:
            translated = translate(value)
            if translated is None:
                continue
            if "." in told:
                _put(written, told, translated)
            else:
                written[told] = translated
    _settle_tool_choice(written, body)
    _settle_thinking(written, body, model, turns)
    thinking = written.get("thinking")
    thinks = isinstance(thinking, dict) and thinking.get("type") != "disabled"
    if thinks or not model.startswith(_TAKE_SAMPLING):
        for name in ("temperature", "top_k", "top_p"):
            written.pop(name, None)
    else:
        if "temperature" in written:
            written.pop("top_p", None)  # one of the two is all they take
        if "top_k" in written:
            checked(written["top_k"], Count, "top_k")
    if request.stream:
        written["stream"] = True
    return _encode(written)


def _put(written: JsonObject, told: str, value: object) -> None:
    """Put the value where a name with a dot says."""
    outer, _, inner = told.partition(".")
    members = written.setdefault(outer, {})
    assert isinstance(members, dict)
    members[inner] = value


def _check(request: ChatRequest) -> None:
    if not _MAY_BE_REFUSED.isdisjoint(request.body):
        for name, why in _REFUSED.items():
            if request.body.get(name) not in _NOTHING:
                raise cannot_say(name, why)
    if request.n > 1:
        raise cannot_say("n", "Anthropic's models give one answer to a request")


def _settle_tool_choice(written: JsonObject, body: JsonObject) -> None:
    tools = written.get("tools")
    if not isinstance(tools, list):
        written.pop("tool_choice", None)
        return
    written["tools"] = only_allowed(tools, body.get("tool_choice"), lambda tool: tool["name"])
    if body.get("parallel_tool_calls") is False:
        written.setdefault("tool_choice", {"type": "auto"})
    choice = written.get("tool_choice")
    if not isinstance(choice, dict):
        return
    if choice["type"] == "tool" and choice["name"] not in [tool["name"] for tool in tools]:
        raise cannot_say("tool_choice", f"there is no tool {str(choice['name'])[:64]!r}")
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True


def _settle_thinking(
    written: JsonObject, body: JsonObject, model: str, turns: list[JsonObject]
) -> None:
    """What an effort means: leave to think for later models, a budget of tokens for earlier ones. Who
    must call a tool cannot think first, nor who has forgotten what it thought before its last calls."""
    thinking, config = written.get("thinking"), written.get("output_config")
    if isinstance(thinking, dict) and thinking.get("budget_tokens", 0) >= written["max_tokens"]:
        raise cannot_say("thinking.budget_tokens", "must be less than max_tokens")
    if config is None:
        return
    effort = config.pop("effort", None) if isinstance(config, dict) else None
    has_budget = model.startswith(_TAKE_SAMPLING) and _THINK_AS_THEY_LIKE not in model
    if isinstance(config, dict):
        if effort is not None and not has_budget:
            config["effort"] = effort
        if not config:
            del written["output_config"]
    choice = written.get("tool_choice")
    is_forced = isinstance(choice, dict) and choice["type"] in ("any", "tool")
    if effort is None or is_forced or thinking is not None:
        return
    if not has_budget:
        written["thinking"] = {"type": "adaptive"}
        return
    longest = written["max_tokens"]
    assert isinstance(longest, int)
    budget = longest * _SHARE_OF_THINKING[str(body["reasoning_effort"])] // 100
    if budget >= THINKING_TOKENS_MIN and not _has_forgotten(turns):
        written["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _has_forgotten(turns: list[JsonObject]) -> bool:
    """Whether the last turn answers calls that were made without, as far as we are told, a thought."""
    if len(turns) < 2:
        return False
    blocks, before = turns[-1]["content"], turns[-2]["content"]
    if not isinstance(blocks, list) or not isinstance(before, list) or not before:
        return False
    return blocks[0]["type"] == "tool_result" and "thinking" not in before[0]["type"]


def encode_messages(request: ChatRequest) -> tuple[object, list[JsonObject]]:
    """The system's words, None when there are none, and the turns."""
    said = request.body["messages"]
    assert isinstance(said, list)
    if request.is_plain_talk and not _has_blank(request.messages):
        has_system = said[0]["role"] == "system"
        return (said[0]["content"], said[1:]) if has_system else (None, said)
    system: list[JsonObject] = []
    talk = _Talk()
    for place, message in enumerate(said):
        role = message["role"]
        where = f"messages[{place}]"
        if role in ("system", "developer"):
            system += _content(message, where, _WORDS)
        elif role == "user":
            talk.say("user", _content(message, where))
        elif role == "assistant":
            talk.say("assistant", _assistant(message, where, talk))
        else:
            talk.say("user", [_tool_result(message, where, talk)])
    return system or None, talk.turns_to_send()


def _has_blank(messages: list[Message]) -> bool:
    """Whether one of these texts would be left out."""
    for message in messages:
        content = message.content
        if not isinstance(content, str) or not content or content.isspace():
            return True
    return False


class _Talk:
    """Turns as they are said, and the calls of tools that wait for their answer.

    The ids of calls must differ in all of a conversation, so an id that comes again is told as another;
    the same conversation is told in the same way every time.
    """

    def __init__(self) -> None:
        self._turns: list[JsonObject] = []
        self._told: dict[str, str] = {}
        self._taken: set[str] = set()
        self._open: set[str] = set()

    def say(self, role: str, blocks: list[JsonObject]) -> None:
        """Add to the turn of `role`, or begin one."""
        if not blocks:
            return
        if role == "assistant":
            self._check_answered()
            self._open = {str(each["id"]) for each in blocks if each["type"] == "tool_use"}
        last = self._turns[-1] if self._turns else None
        if last is None or last["role"] != role:
            self._turns.append({"role": role, "content": blocks})
        else:
            content = last["content"]
            assert isinstance(content, list)
            content += blocks

    def id_of_call(self, said: str) -> str:
        """What a call is told as."""
        told = said if _CALL_ID.fullmatch(said) else nine_characters(said)
        while told in self._taken:
            told = nine_characters(f"{said}/{told}")
        self._taken.add(told)
        self._told[said] = told
        return told

    def id_of_result(self, said: str, place: str) -> str:
        """What the call is told as that this answers."""
        told = self._told.get(said)
        if told is None or told not in self._open:
            raise cannot_say(f"{place}.tool_call_id", "no tool call before this has that id")
        self._open.discard(told)
        return told

    def turns_to_send(self) -> list[JsonObject]:
        """The turns, answers of tools first in each. Raises what Anthropic would refuse."""
        self._check_answered()
        if not self._turns:
            raise cannot_say("messages", "no message of the user has any content")
        if self._turns[-1]["role"] == "assistant":
            raise cannot_say("messages", "the last message is the assistant's; it is not continued")
        for turn in self._turns:
            if turn["role"] == "user" and isinstance(turn["content"], list):
                turn["content"].sort(key=lambda block: block["type"] != "tool_result")
        return self._turns

    def _check_answered(self) -> None:
        if self._open:
            raise cannot_say("messages", f"{len(self._open)} tool call(s) have no answer")


def _assistant(message: JsonObject, place: str, talk: _Talk) -> list[JsonObject]:
    """Signed thinking, words, calls."""
    blocks = _signed_thinking(message.get("thinking_blocks"))
    blocks += _content(message, place, _WORDS)
    calls = message.get("tool_calls")
    legacy = message.get("function_call")
    if not calls and isinstance(legacy, dict):
        calls = [{"id": legacy.get("name"), "function": legacy}]
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        function, where = call.get("function"), f"{place}.tool_calls[{number}]"
        if not isinstance(function, dict) or call.get("type") == "custom":
            raise cannot_say(
                f"{where}.type", "Anthropic takes calls of functions, not of custom tools"
            )
        blocks.append(
            {
                "type": "tool_use",
                "id": talk.id_of_call(str(call.get("id") or "")),
                "name": function["name"],
                "input": _arguments(function.get("arguments"), f"{where}.function.arguments"),
            }
        )
    return blocks


def _signed_thinking(said: object) -> list[JsonObject]:
    """Thinking goes back as it came, signature and all; what nobody signed is not taken back."""
    blocks: list[JsonObject] = []
    for block in said if isinstance(said, list) else ():
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "thinking" and block.get("signature"):
            blocks.append({name: block.get(name, "") for name in ("type", "thinking", "signature")})
        elif kind == "redacted_thinking" and block.get("data"):
            blocks.append({"type": kind, "data": block["data"]})
    return blocks


def _arguments(said: object, place: str) -> object:
    if isinstance(said, dict):
        return said
    try:
        parsed = msgspec.json.decode(str(said or "{}"))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise cannot_say(place, "Anthropic wants arguments that are a JSON object")
    return parsed


def _tool_result(message: JsonObject, place: str, talk: _Talk) -> JsonObject:
    call_id = message.get("tool_call_id") or message.get("name") or ""
    told: JsonObject = {
        "type": "tool_result",
        "tool_use_id": talk.id_of_result(str(call_id), place),
    }
    if content := _content(message, place):
        told["content"] = content
    return told


_WORDS = frozenset(("text", "refusal", "thinking", "reference"))
"""Parts that the system and the assistant may have: words, and what is left out."""


def _content(
    message: JsonObject, place: str, kinds: frozenset[str] | None = None
) -> list[JsonObject]:
    """A message's content as blocks, of parts of these `kinds`; of all, unless some are named. Blank text
    is left out: Anthropic refuses it."""
    content = message.get("content")
    parts: object = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = []
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        where = f"{place}.content[{number}]"
        if kinds is not None and part["type"] not in kinds:
            raise cannot_say(
                f"{where}.type",
                f"Anthropic takes only text of the {message['role']}, no {part['type']}",
            )
        block = _part(part, where)
        if block is not None:
            blocks.append(_marked(block, part, where))
    return blocks


def _part(part: JsonObject, place: str) -> JsonObject | None:
    kind = part["type"]
    if kind in ("text", "refusal"):
        text = str(part[str(kind)])
        return {"type": "text", "text": text} if text.strip() else None
    if kind == "image_url":
        image = part["image_url"]
        return {"type": "image", "source": _source(_address(image, "url"), place)}
    if kind == "document_url":
        return _document(str(part["document_url"]), part.get("document_name"), place)
    if kind == "file":
        inner = part.get("file")
        file = inner if isinstance(inner, dict) else part
        if not file.get("file_data"):
            raise cannot_say(place, "Anthropic is sent files by their data, not by another's id")
        return _document(str(file["file_data"]), file.get("filename"), place)
    if kind == "input_audio":
        raise cannot_say(place, "Anthropic's models do not hear")
    return None  # thinking that nobody signed, references of an earlier answer


def _address(said: object, name: str) -> str:
    return str(said.get(name) if isinstance(said, dict) else said)


def _document(address: str, title: object, place: str) -> JsonObject:
    source = _source(address, place)
    if str(source.get("media_type", "")).startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _text_of(source, place)}
    told: JsonObject = {"type": "document", "source": source}
    if title:
        told["title"] = title
    return told


def _text_of(source: JsonObject, place: str) -> str:
    try:
        return base64.b64decode(str(source["data"]), validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise cannot_say(place, f"a text in base64 cannot be read: {error}") from error


def _source(address: str, place: str) -> JsonObject:
    if address.startswith(("https://", "http://")):
        return {"type": "url", "url": address}
    found = _DATA_ADDRESS.fullmatch(address)
    if found is None:
        raise cannot_say(place, "expected an https address or data in base64")
    return {"type": "base64", "media_type": found["kind"], "data": found["data"]}


def _marked(block: JsonObject, said: JsonObject, place: str) -> JsonObject:
    """The block with the mark up to which the prompt is to be cached, if the caller set one."""
    if (mark := said.get("cache_control")) is not None:
        block["cache_control"] = checked(mark, Mark, f"{place}.cache_control")
    return block
