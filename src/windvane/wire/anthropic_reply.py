"""Reading Anthropic's answers: a message, and the stream of events that grows into one.

Its count of input leaves out what was read from the prompt cache or written to it; ours has all. In a
stream the input is told at the beginning and the output in the end, so that what a stream used is
known in part when it breaks.
"""

from collections.abc import Mapping
from typing import TypeVar

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
from windvane.wire.chat_reply import TOKENS_MAX, says_nothing, stream_fault
from windvane.wire.chunk_reader import ChunkReader
from windvane.wire.errors import read_error
from windvane.wire.json_body import without_halves
from windvane.wire.sse import Event

FINISH_REASONS: Mapping[str, FinishReason] = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "pause_turn": FinishReason.OTHER,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}

_OTHER = FinishReason.OTHER
_ABSENT = msgspec.Raw(b"null")
_NO_INPUT = b"{}"


class _Written(msgspec.Struct, frozen=True, gc=False):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct, frozen=True, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _Written | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None


class _Block(msgspec.Struct, gc=False):
    """One block of a message's content; which members it has depends on its type."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(_NO_INPUT)
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block]
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = _ABSENT


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    """Any event of a stream: those nobody here has heard of are passed over, as Anthropic asks."""

    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = _ABSENT


_Said = TypeVar("_Said")

_message_decoder = msgspec.json.Decoder(_Message)
_event_decoder = msgspec.json.Decoder(_Event)
_as_said: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)
_as_text: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None, strict=False)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _decode_usage(raw: bytes | msgspec.Raw) -> _Usage | None:
    """A usage object; some who imitate Anthropic write its numbers as text. Raises what msgspec raises."""
    try:
        return _as_said.decode(raw)
    except msgspec.DecodeError:
        return _as_text.decode(raw)


def read_usage(
    raw: bytes | msgspec.Raw, said_before: bytes | msgspec.Raw = _ABSENT, *, is_so_far: bool = False
) -> Usage | None:
    """A usage object, with what an earlier one said that it does not, but for the output, which has grown
    since; None when there is none that can be believed."""
    try:
        said = _decode_usage(raw)
        before = None if said_before is _ABSENT else _decode_usage(said_before)
    except _UNREADABLE:
        return None
    if said is None:
        return None
    if before is not None:
        if said.output_tokens is None:
            # What had been written at the beginning is no count of the whole.
            return None
        said = _filled(said, before)
    fresh, output = said.input_tokens, said.output_tokens
    if fresh is None or output is None:
        return None
    read = said.cache_read_input_tokens or 0
    written = said.cache_creation_input_tokens or 0
    by_time = said.cache_creation
    for_an_hour = (by_time.ephemeral_1h_input_tokens if by_time else 0) or 0
    for_minutes = (by_time.ephemeral_5m_input_tokens if by_time else 0) or 0
    thought = said.output_tokens_details
    reasoning = (thought.thinking_tokens if thought else 0) or 0
    if min(fresh, output, read, written, for_an_hour, for_minutes, reasoning) < 0:
        return None
    # Parts that are more than the whole may have been counted beside it: no more can be meant.
    is_at_most, contested = False, 0
    if for_an_hour + for_minutes > written:
        is_at_most, contested = True, for_an_hour + for_minutes
        written += contested
    if reasoning > output:
        output, is_at_most = output + reasoning, True
    total = fresh + read + written
    if not 0 < total <= TOKENS_MAX or output > TOKENS_MAX:
        return None
    tier = said.service_tier
    return Usage(
        total, output, read, written, reasoning, tier, for_an_hour, is_so_far, is_at_most, contested
    )


def _filled(said: _Usage, before: _Usage) -> _Usage:
    """`said`, with the members of `before` where it has none of its own. Some who imitate Anthropic repeat
    no input, but say zero; for nothing no answer was made."""
    written = said.cache_creation or _Written()
    asked = (
        said.input_tokens,
        said.cache_read_input_tokens,
        said.cache_creation_input_tokens,
        written.ephemeral_5m_input_tokens,
        written.ephemeral_1h_input_tokens,
    )
    if not any(asked):
        said = _Usage(
            output_tokens=said.output_tokens,
            output_tokens_details=said.output_tokens_details,
            service_tier=said.service_tier,
        )
    return _Usage(
        *[
            getattr(before, name) if (value := getattr(said, name)) is None else value
            for name in _Usage.__struct_fields__
        ]
    )


def _read(decoder: msgspec.json.Decoder[_Said], data: bytes) -> _Said:
    """What is said, halves of characters and all. Raises what msgspec raises."""
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        return decoder.decode(without_halves(data))


def decode_message(body: bytes, now_s: int) -> Completion:
    """Read a whole answer.

    Raises APIConnectionError when it is not one: the provider may have billed it all the same.
    """
    try:
        said = _read(_message_decoder, body)
    except _UNREADABLE as error:
        raise error_of(_unreadable(body, str(error))) from error
    choice = Choice(_message(said.content), 0, _finish(said.stop_reason))
    usage = read_usage(said.usage)
    is_miscounted = usage is None and not says_nothing(said.usage)
    return Completion(
        said.id or "",
        said.model or "",
        now_s,
        [choice],
        usage,
        is_miscounted=is_miscounted,
    )


def _message(blocks: list[_Block]) -> ReplyMessage:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    signed: list[JsonObject] = []
    for block in blocks:
        if block.thinking:
            thoughts.append(block.thinking)
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "tool_use":
            calls.append(_call(block, len(calls)))
        elif (again := _signed(block)) is not None:
            signed.append(again)
    return ReplyMessage("".join(texts) or None, calls, "".join(thoughts) or None, None, signed)


def _call(block: _Block, order: int) -> ToolCall:
    function = FunctionCall(name=block.name or "", arguments=bytes(block.input).decode())
    return ToolCall(id=block.id, index=order, function=function)


def _signed(block: _Block) -> JsonObject | None:
    """A block that the provider wants to be told again as it is; None for all others."""
    if block.type == "thinking" and block.signature:
        return {
            "type": "thinking",
            "thinking": block.thinking or "",
            "signature": block.signature,
        }
    if block.type == "redacted_thinking":
        return {"type": "redacted_thinking", "data": block.data or ""}
    return None


def _finish(reason: str | None) -> FinishReason | None:
    return None if reason is None else FINISH_REASONS.get(reason, _OTHER)


def _unreadable(body: bytes, why: str) -> Fault:
    said = read_error(body).message if b'"content"' not in body else why
    return Fault(
        kind=FaultKind.UPSTREAM_ERROR,
        source=Source.UPSTREAM,
        message=f"the provider's answer is not a message: {said}",
        status=502,
        retry=Retry.OTHER,
        upstream_status=200,
        billed=True,
    )


class _OpenBlock:
    """A block of the message as it grows. `place` is the number of a call among the calls."""

    __slots__ = ("block", "has_input", "place", "thinking")

    def __init__(self, block: _Block, place: int) -> None:
        self.block = block
        self.place = place
        self.has_input = False
        self.thinking: list[str] = []


class MessageStreamReader(ChunkReader):
    """Anthropic's event stream: a message that begins, its blocks, and its end."""

    def __init__(self, now_s: int) -> None:
        super().__init__(now_s)
        self._id = ""
        self._model = ""
        self._usage: bytes | msgspec.Raw = _ABSENT
        self._open: dict[int, _OpenBlock] = {}
        self._calls = 0

    def _chunk(self, event: Event) -> Chunk | None:
        try:
            said = _read(_event_decoder, event.data)
        except _UNREADABLE as error:
            raise error_of(stream_fault(event.data, str(error))) from error
        kind = said.type
        if kind == "content_block_delta":
            return self._grow(said)
        if kind == "content_block_start":
            return self._begin(said)
        if kind == "content_block_stop":
            return self._close(said)
        if kind == "message_start" and said.message is not None:
            self._id = said.message.id or ""
            self._model = said.message.model or ""
            self._usage = said.message.usage
            usage = read_usage(self._usage, is_so_far=True)
            return self._count(ChunkChoice(role="assistant", content=""), usage, self._usage)
        if kind == "message_delta":
            finish = _finish(said.delta.stop_reason if said.delta else None)
            usage = read_usage(said.usage, self._usage)
            return self._count(ChunkChoice(finish_reason=finish), usage, said.usage)
        if kind == "error":
            raise error_of(stream_fault(event.data, "it is an error"))
        self.is_done = kind == "message_stop"
        return None

    def _begin(self, said: _Event) -> Chunk | None:
        block = said.content_block
        if block is None:
            return None
        opened = self._open[said.index] = _OpenBlock(block, self._calls)
        if block.type == "tool_use":
            self._calls += 1
            call = ToolCallDelta(index=opened.place, id=block.id, name=block.name)
            return self._say(ChunkChoice(tool_calls=[call]))
        if block.type == "thinking":
            opened.thinking.append(block.thinking or "")
            return self._say(ChunkChoice(reasoning=block.thinking or ""))
        if block.type == "redacted_thinking":
            return self._say(ChunkChoice(reasoning="", thinking_blocks=_only(_signed(block))))
        return self._say(ChunkChoice(content=block.text)) if block.text else None

    def _grow(self, said: _Event) -> Chunk | None:
        delta = said.delta
        if delta is None:
            return None
        if delta.text is not None:
            return self._say(ChunkChoice(content=delta.text))
        opened = self._open.get(said.index)
        if opened is None:
            return None
        if delta.partial_json is not None and opened.block.type == "tool_use":
            if not delta.partial_json:
                return None
            opened.has_input = True
            call = ToolCallDelta(index=opened.place, arguments=delta.partial_json)
            return self._say(ChunkChoice(tool_calls=[call]))
        if delta.thinking is not None:
            opened.thinking.append(delta.thinking)
            return self._say(ChunkChoice(reasoning=delta.thinking))
        if delta.signature is not None:
            opened.block.signature = (opened.block.signature or "") + delta.signature
        return None

    def _close(self, said: _Event) -> Chunk | None:
        opened = self._open.pop(said.index, None)
        if opened is None:
            return None
        block = opened.block
        if block.type == "tool_use" and not opened.has_input:
            # Its input came with its beginning, or it has none.
            call = ToolCallDelta(index=opened.place, arguments=bytes(block.input).decode())
            return self._say(ChunkChoice(tool_calls=[call]))
        if block.type == "thinking":
            block.thinking = "".join(opened.thinking)
            if (signed := _signed(block)) is not None:
                return self._say(ChunkChoice(reasoning="", thinking_blocks=[signed]))
        return None

    def _count(self, piece: ChunkChoice, usage: Usage | None, said: msgspec.Raw) -> Chunk:
        """A chunk with what was read of the usage that it `said`."""
        chunk = self._say(piece)
        chunk.usage = usage
        chunk.is_miscounted = usage is None and not says_nothing(said)
        return chunk

    def _say(self, piece: ChunkChoice) -> Chunk:
        return Chunk(id=self._id, model=self._model, created=self._now_s, choices=[piece])


def _only(block: JsonObject | None) -> list[JsonObject] | None:
    return None if block is None else [block]
