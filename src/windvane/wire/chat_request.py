"""Decoding a chat request of the OpenAI family: OpenAI's and Mistral's spellings on one path.

The two dialects differ in a few names, and callers mix them (an OpenAI client that sends
`safe_prompt`, a Mistral one that sends `seed`), so one schema reads both. What it does not name
stays in `ChatRequest.body` untouched.
"""

import math
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from windvane.core.chat import (
    TOOL_NAME_RULE,
    TOOLS_MAX,
    ChatRequest,
    Function,
    JsonObject,
    Message,
    ResponseFormat,
    Role,
    TextPart,
    Tool,
    ToolCall,
)
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.wire.dialect import Dialect
from windvane.wire.guardrails import Guardrail
from windvane.wire.json_body import read_object_with

MESSAGES_MAX = 20_000
STOPS_MAX = 16

NAME_CHARS_MAX = 64
"""A caller's own word is shown no longer than this."""

THINKING_TOKENS_MIN = 1_024
"""Anthropic lets no model think in fewer."""

TOKENS_MAX = 100_000_000
"""More than any model says; it keeps every amount far within 64 bits."""

_NonNegative = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]
_SEED_MAX = 2**63 - 1
"""OpenAI's largest; a longer one would be another after it was made to fit."""
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _FunctionName(msgspec.Struct, frozen=True):
    name: str


class _AllowedTool(msgspec.Struct, frozen=True):
    function: _FunctionName | None = None


class _AllowedTools(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_AllowedTool], Meta(max_length=TOOLS_MAX)]


class _ToolChoice(msgspec.Struct, frozen=True):
    type: str | None = None
    function: _FunctionName | None = None
    allowed_tools: _AllowedTools | None = None


class _Prediction(msgspec.Struct, frozen=True):
    """Mistral wants text, OpenAI takes it in parts too."""

    type: Literal["content"] | None = None
    content: str | list[TextPart] | None = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The wire's schema: every field we read, with the limits both providers document.

    Temperature up to 2 is OpenAI's range; Mistral's encoder lowers what is above its own.
    """

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: _NonNegative | None = None
    max_completion_tokens: _NonNegative | None = None
    min_tokens: _NonNegative | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=STOPS_MAX)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=_SEED_MAX)] | None = None
    random_seed: Annotated[int, Meta(ge=0, le=_SEED_MAX)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    tools: Annotated[list[Tool], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: str | _ToolChoice | None = None
    functions: Annotated[list[Function], Meta(max_length=TOOLS_MAX)] | None = None
    function_call: str | _FunctionName | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    prompt_cache_key: str | None = None
    metadata: JsonObject | None = None
    user: str | None = None
    prediction: _Prediction | None = None
    service_tier: str | None = None
    safe_prompt: bool | None = None
    prompt_mode: Literal["reasoning"] | None = None
    guardrails: list[Guardrail] | None = None


# Looked up once: before Python 3.12 an enum's metaclass makes that slow.
_SYSTEM, _USER, _ASSISTANT, _TOOL = Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL
_OPENAI = Dialect.OPENAI

_OUTPUT_LIMITS = frozenset(("max_tokens", "max_completion_tokens"))
_CHOICES = ("auto", "none", "any", "required")
_CALL_CHOICES = ("auto", "none")


def decode_chat_request(body: bytes) -> ChatRequest:
    """Read a request. Raises BadRequestError that names the field at fault."""
    return chat_request_of(*read_object_with(body, "messages"))


def chat_request_of(fields: JsonObject, messages_json: msgspec.Raw | None = None) -> ChatRequest:
    """The canonical request of parsed `fields`, whose messages may have been written as JSON.

    Raises BadRequestError that names the field at fault.
    """
    try:
        parsed = msgspec.convert(fields, ChatBody)
    except msgspec.ValidationError as error:
        raise invalid_field(error) from error
    messages = parsed.messages
    is_plain_talk = _is_plain_talk(messages, fields["messages"])  # type: ignore[arg-type]
    if not is_plain_talk:
        _check_messages(messages)
    if parsed.tools or parsed.tool_choice is not None or parsed.function_call is not None:
        _check_tools(parsed)
    output_tokens_max = parsed.max_completion_tokens
    if output_tokens_max is None:
        # Of two limits the newer name's is sent on, and the other left out.
        output_tokens_max = parsed.max_tokens
    options = parsed.stream_options
    # By position: names would cost more than all that is in them.
    return ChatRequest(
        parsed.model,
        messages,
        fields,
        parsed.tools or [],
        parsed.response_format,
        output_tokens_max,
        parsed.n or 1,
        parsed.stream is True,
        options is not None and options.include_usage is True,
        is_plain_talk,
        messages_json if is_plain_talk else None,
    )


def limited(request: ChatRequest, output_tokens_max: int) -> ChatRequest:
    """The same request, asking for no more than so many tokens, by the name its caller uses.

    Tokens to think in are among them. Where those that the caller set apart do not fit any more, half
    of the new limit is for thinking; nothing, where that is less than a model can think in.
    """
    body = {name: value for name, value in request.body.items() if name not in _OUTPUT_LIMITS}
    is_new = request.body.get("max_completion_tokens") is not None
    body["max_completion_tokens" if is_new else "max_tokens"] = output_tokens_max
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if type(budget) is int and output_tokens_max <= budget < (
        request.output_tokens_max or math.inf
    ):
        if (half := output_tokens_max // 2) >= THINKING_TOKENS_MIN:
            body["thinking"] = {**thinking, "budget_tokens": half}  # type: ignore[dict-item]
        else:
            del body["thinking"]
    return msgspec.structs.replace(request, body=body, output_tokens_max=output_tokens_max)


def _is_plain_talk(messages: list[Message], said: list[JsonObject]) -> bool:
    """What `ChatRequest.is_plain_talk` says; there is nothing to refuse in such messages."""
    for members in said:
        if len(members) != 2:
            return False
    for message in messages:
        content, role = message.content, message.role
        if type(content) is not str:
            return False
        if role is _USER:
            continue
        if role is _ASSISTANT:
            if not content:
                return False
        elif role is not _SYSTEM or message is not messages[0]:
            return False
    return role is _USER


def _check_messages(messages: list[Message]) -> None:
    for index, message in enumerate(messages):
        role = message.role
        if role is _ASSISTANT:
            if message.tool_calls:
                _check_calls(message.tool_calls, index)
            continue
        if role is _TOOL:
            if not message.tool_call_id:
                raise _refuse(
                    f"messages[{index}].tool_call_id", "a tool message needs the id of its call"
                )
        elif message.content is None:
            raise _refuse(f"messages[{index}].content", f"a {role.value} message needs content")
        elif message.tool_calls:
            raise _refuse(
                f"messages[{index}].tool_calls", f"a {role.value} message cannot call tools"
            )


def _check_calls(calls: list[ToolCall], index: int) -> None:
    for place, call in enumerate(calls):
        needed = "custom" if call.type == "custom" else "function"
        if getattr(call, needed) is None:
            path = f"messages[{index}].tool_calls[{place}].{needed}"
            raise _refuse(path, "this field is required")


def _check_tools(parsed: ChatBody) -> None:
    for index, tool in enumerate(parsed.tools or ()):
        if tool.type in (None, "function") and tool.function is None:
            raise _refuse(f"tools[{index}].function", "a function tool needs a function")
        parameters = tool.function.parameters if tool.function else None
        if parameters and parameters.get("type", "object") != "object":
            raise _refuse(
                f"tools[{index}].function.parameters",
                'a tool\'s parameters must be a schema of type "object"',
            )
    choice = parsed.tool_choice
    if isinstance(choice, _ToolChoice):
        if choice.type in (None, "function") and choice.function is None:
            raise _refuse("tool_choice.function", "the choice of a function needs its name")
        if choice.type == "allowed_tools" and choice.allowed_tools is None:
            raise _refuse("tool_choice.allowed_tools", "this field is required")
    else:
        _check_choice("tool_choice", choice, _CHOICES)
    _check_choice("function_call", parsed.function_call, _CALL_CHOICES)


def _check_choice(name: str, choice: object, choices: tuple[str, ...]) -> None:
    if isinstance(choice, str) and choice not in choices:
        known = ", ".join(choices)
        raise _refuse(name, f"expected one of {known} or an object, got {choice[:64]!r}")


def _refuse(param: str, problem: str) -> WindvaneError:
    return refuse(FaultKind.INVALID_REQUEST, f"{param}: {problem}", param=param)


_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)


def invalid_field(error: msgspec.ValidationError) -> WindvaneError:
    """Turn msgspec's message, which ends in a JSON path, into ours, which begins with it."""
    path, what = place_and_problem(error)
    return refuse(
        FaultKind.INVALID_REQUEST, f"{path}: {what}" if path else what, param=path or None
    )


def place_and_problem(error: msgspec.ValidationError) -> tuple[str, str]:
    """What msgspec's message says apart: where, and what is wrong there."""
    found = _PLACE.match(str(error))
    path = ((found and found["path"]) or "").removeprefix("$").removeprefix(".")
    what = found["what"] if found else str(error)
    # The name of a field that is too much is the caller's word, and may be anything.
    named = re.fullmatch(
        r"Object (missing required|contains unknown) field `(.*)`", what, re.DOTALL
    )
    if named:
        field = named[2][:NAME_CHARS_MAX]
        path = f"{path}.{field}" if path else field
        is_missing = named[1] == "missing required"
        what = "this field is required" if is_missing else "there is no such field"
    elif what.startswith("Expected `str` matching regex"):
        what = TOOL_NAME_RULE
    return path, what


_MISTRAL_FIELDS = frozenset(("random_seed", "safe_prompt", "prompt_mode", "guardrails"))


def dialect_of(fields: JsonObject, user_agent: str) -> Dialect:
    """Whose answers the caller expects. It matters only where the two cannot both be served:
    thinking is a list of parts to Mistral's clients and a string to OpenAI's."""
    if user_agent:
        agent = user_agent.lower()
        if "mistral" in agent:
            return Dialect.MISTRAL
        if "openai" in agent:
            return Dialect.OPENAI
    if not _MISTRAL_FIELDS.isdisjoint(fields):
        return Dialect.MISTRAL
    return _OPENAI
