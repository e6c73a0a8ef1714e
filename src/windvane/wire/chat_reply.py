"""Reading a provider's chat answers: the OpenAI family's completion and its stream.

Reading is lenient where a provider's habit differs (Mistral leaves `type` out of tool calls, gives
thinking as a list of parts, ends some models' streams with a choice-less chunk) and strict where a
mistake would cost: a usage that is not made of whole, non-negative numbers counts as no usage.
"""

import msgspec

from windvane.core.chat import (
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    FinishReason,
    FunctionCall,
    JsonObject,
    ReplyMessage,
    ToolCall,
    ToolCallDelta,
)
from windvane.core.faults import Fault, FaultKind, Retry, Source, error_of
from windvane.core.usage import Usage
from windvane.wire.chunk_reader import ChunkReader
from windvane.wire.errors import read_error
from windvane.wire.sse import DONE, Event

TOKENS_MAX = 1_000_000_000
"""A count above this is a broken upstream's, not a bill."""


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    num_cached_tokens: int | None = None
    completion_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | JsonObject | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[JsonObject] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _ReplyUncounted(msgspec.Struct):
    """A completion or a chunk of one: they differ in `message` and `delta` alone."""

    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    created: int | None = None
    object: str | None = None
    service_tier: str | None = None


class _Reply(_ReplyUncounted):
    usage: _Usage | None = None


_decode_reply = msgspec.json.Decoder(_Reply).decode
_decode_uncounted = msgspec.json.Decoder(_ReplyUncounted).decode
_decode_usage = msgspec.json.Decoder(_Usage | None).decode

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "error": FinishReason.ERROR,
}
_STOP = FinishReason.STOP


def read_usage(raw: bytes | msgspec.Raw, service_tier: str | None = None) -> Usage | None:
    """A provider's usage object, or None when there is none that can be believed."""
    try:
        said = _decode_usage(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if said is None else _believed(said, service_tier)


def _believed(said: _Usage, service_tier: str | None) -> Usage | None:
    details = said.prompt_tokens_details
    cached = (said.num_cached_tokens if details is None else details.cached_tokens) or 0
    written = 0 if details is None else details.cache_write_tokens or 0
    asked, output = said.prompt_tokens, said.completion_tokens
    if output is None:
        # Half a count is no count, unless the total says the other half.
        if said.total_tokens is None:
            return None
        output = said.total_tokens - asked
    thought = said.completion_tokens_details
    reasoning = 0 if thought is None else thought.reasoning_tokens or 0
    if not (
        0 < asked <= TOKENS_MAX
        and 0 <= output <= TOKENS_MAX
        and 0 <= reasoning <= TOKENS_MAX
        and cached >= 0
        and written >= 0
        and cached + written <= asked
    ):
        return None
    return Usage(
        input_tokens=asked,
        output_tokens=output,
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=written,
        reasoning_output_tokens=reasoning,
        service_tier=said.service_tier or service_tier,
    )


def _read_reply(data: bytes) -> tuple[_ReplyUncounted, _Usage | None, bool]:
    """A reply, its usage, and whether it has one, be it unreadable. Raises what msgspec raises."""
    try:
        reply = _decode_reply(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # If it is the usage alone that cannot be read, there is an answer without one.
        return _decode_uncounted(data), None, True
    return reply, reply.usage, reply.usage is not None


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_completion(body: bytes, now_s: int) -> Completion:
    """Read a whole answer.

    Raises APIConnectionError when it is not one: the provider may have billed it all the same.
    """
    try:
        reply, counted, _ = _read_reply(body)
    except _UNREADABLE as error:
        raise error_of(_unreadable(body, str(error))) from error
    if not reply.choices:
        raise error_of(_unreadable(body, "it has no choices"))
    usage = None if counted is None else _believed(counted, reply.service_tier)
    return Completion(
        id=reply.id or "",
        model=reply.model or "",
        created=reply.created or now_s,
        choices=[_choice(choice) for choice in reply.choices],
        usage=usage,
        raw=body if _may_relay(reply, usage) else None,
    )


def _may_relay(reply: _ReplyUncounted, usage: Usage | None) -> bool:
    """Whether these bytes are an answer that every client of the family accepts as it is."""
    if not (reply.id and reply.model and reply.created and reply.object and usage):
        return False
    for choice in reply.choices:
        message = choice.message
        if message is None or choice.finish_reason not in _FINISH_REASONS:
            return False
        if choice.finish_reason in ("model_length", "function_call"):
            return False
        if isinstance(message.content, list) or (
            message.content is None and not message.tool_calls
        ):
            return False
        for call in message.tool_calls or ():
            if call.type is None or call.id is None or call.function is None:
                return False
            if not isinstance(call.function.arguments, str):
                return False
    return True


def _choice(choice: _Choice) -> Choice:
    message = choice.message or _Message()
    content, reasoning = message.content, message.reasoning_content
    if isinstance(content, list):
        content, thinking = split_thinking(content)
        reasoning = thinking or reasoning
    calls = message.tool_calls
    return Choice(
        index=choice.index,
        message=ReplyMessage(
            content=content,
            reasoning=reasoning,
            refusal=message.refusal,
            tool_calls=[_call(call, order) for order, call in enumerate(calls)] if calls else [],
        ),
        finish_reason=_finish(choice.finish_reason),
    )


def _call(call: _ToolCall, order: int) -> ToolCall:
    function = call.function or _Function()
    return ToolCall(
        id=call.id,
        index=call.index if call.index is not None else order,
        function=FunctionCall(
            name=function.name or "", arguments=_arguments_text(function.arguments)
        ),
    )


def _arguments_text(arguments: str | JsonObject | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def _finish(reason: str | None) -> FinishReason | None:
    return None if reason is None else _FINISH_REASONS.get(reason, _STOP)


def split_thinking(content: str | list[JsonObject] | None) -> tuple[str | None, str | None]:
    """The text and the thinking of a message's content, each joined, None when absent."""
    if not isinstance(content, list):
        return content, None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if part.get("type") == "thinking":
            thoughts.append(_thinking_text(part.get("thinking")))
        elif isinstance(text := part.get("text"), str):
            texts.append(text)
    return "".join(texts) if texts else None, "".join(thoughts) or None


def _thinking_text(thinking: object) -> str:
    if isinstance(thinking, str):
        return thinking
    parts = thinking if isinstance(thinking, list) else ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


class ChatStreamReader(ChunkReader):
    """OpenAI's and Mistral's event stream: chunks, then a marker."""

    def _chunk(self, event: Event) -> Chunk | None:
        if event.data == DONE:
            self.is_done = True
            return None
        try:
            reply, counted, has_usage = _read_reply(event.data)
        except _UNREADABLE as error:
            raise error_of(stream_fault(event.data, str(error))) from error
        choices = [_chunk_choice(choice) for choice in reply.choices]
        usage = None if counted is None else _believed(counted, reply.service_tier)
        return Chunk(
            id=reply.id or "",
            model=reply.model or "",
            created=reply.created or self._now_s,
            choices=choices,
            usage=usage,
            raw=event.raw,
            is_plain=not has_usage and _is_plain(reply, event),
        )


def _is_plain(reply: _ReplyUncounted, event: Event) -> bool:
    """A single piece of text that both dialects write the same way, name for name."""
    if len(reply.choices) != 1 or not reply.id or not reply.model or event.name is not None:
        return False
    choice = reply.choices[0]
    delta = choice.delta
    return (
        delta is not None
        and choice.finish_reason is None
        and type(delta.content) is str
        and not delta.reasoning_content
        and not delta.tool_calls
        and b'"finish_reason"' in event.data
    )


def _chunk_choice(choice: _Choice) -> ChunkChoice:
    delta = choice.delta or choice.message or _Message()
    content = delta.content
    reasoning = delta.reasoning_content
    if isinstance(content, list):
        content, thinking = split_thinking(content)
        reasoning = thinking or reasoning
    return ChunkChoice(
        index=choice.index,
        content=content,
        reasoning=reasoning,
        refusal=delta.refusal,
        role=delta.role,
        tool_calls=[_delta(call, order) for order, call in enumerate(delta.tool_calls)]
        if delta.tool_calls
        else None,
        finish_reason=_finish(choice.finish_reason),
    )


def _delta(call: _ToolCall, order: int) -> ToolCallDelta:
    function = call.function or _Function()
    return ToolCallDelta(
        index=call.index if call.index is not None else order,
        id=call.id,
        name=function.name,
        arguments=_arguments_text(function.arguments),
    )


def _unreadable(body: bytes, why: str) -> Fault:
    said = read_error(body).message if b'"choices"' not in body else why
    return Fault(
        kind=FaultKind.UPSTREAM_ERROR,
        source=Source.UPSTREAM,
        message=f"the provider's answer is not a completion: {said}",
        status=502,
        retry=Retry.OTHER,
        upstream_status=200,
        billed=True,
    )


def stream_fault(data: bytes, why: str) -> Fault:
    """The fault of an event that is not a chunk: the provider's error, or nonsense."""
    is_error = b'"error"' in data or b'"object":"error"' in data
    message = read_error(data).message if is_error else f"an event is not a chunk: {why}"
    return Fault(
        kind=FaultKind.STREAM_BROKEN,
        source=Source.UPSTREAM,
        message=message,
        status=502,
        retry=Retry.OTHER,
        upstream_status=200,
        billed=True,
    )
