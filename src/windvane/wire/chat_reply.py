"""Reading a provider's chat answers: the OpenAI family's completion and its stream.

Reading is lenient where a provider's habit differs (Mistral leaves `type` out of tool calls, gives
thinking as a list of parts, ends some models' streams with a choice-less chunk) and strict where a
mistake would cost: a usage that is not made of whole, non-negative numbers counts as no usage, and what
it was said of as miscounted.

What is read is for us, and for clients of another dialect; beside it goes what was said, of which a
client is told all that it can read. How an answer ends:
1. A choice that ends in `error` has failed, and the answer with it, as has one with an error beside its
   choices; whole or in pieces, it is told in the provider's words.
2. JSON that is whole is a whole answer, with or without a reason; one that nobody has heard of is told as
   `stop`, or as `tool_calls` beside calls.
3. A stream without a reason may have been cut (see `engine.asking`). In it, a word that nobody has heard of
   (some servers say an empty one, or "null", with each piece) ends nothing by itself, nor does a reason
   that more of its choice follows. The stream's own end makes the last of them the end of their choice.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from windvane.core.chat import (
    OLD_CALL,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    CustomCall,
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
from windvane.wire.content_parts import more_than_text, split_thinking
from windvane.wire.errors import read_error
from windvane.wire.json_body import without_halves
from windvane.wire.sse import DONE, Event

TOKENS_MAX = 1_000_000_000
"""A count above this is a broken upstream's, not a bill."""

_Tokens = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]


_ABSENT = msgspec.Raw(b"null")
_Anything = object
"""Where a member takes the name."""


class _Details(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None


class _OutputDetails(msgspec.Struct, frozen=True, gc=False):
    reasoning_tokens: _Tokens | None = None


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: Annotated[int, Meta(gt=0, le=TOKENS_MAX)]
    completion_tokens: _Tokens | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    num_cached_tokens: int | None = None
    completion_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None
    prompt_token_details: _Details | None = None
    """As Mistral also spells it."""
    prompt_cache_hit_tokens: int | None = None
    """As DeepSeek spells what was cached."""
    reasoning_tokens: _Tokens | None = None
    """As Perplexity and SGLang spell it."""
    prompt_audio_seconds: _Anything = None
    """What was heard: Mistral counts it in the total alone."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | JsonObject | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Message(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | list[JsonObject] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    audio: JsonObject | None = None
    reasoning: object = None
    """As vLLM, Ollama and others name `reasoning_content`. It is any text that they show."""


_SAID_NOTHING = _Message()


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | msgspec.UnsetType | None = msgspec.UNSET
    """Every dialect says it, with a piece of text as null; unset where a provider does not."""


class _Reply(msgspec.Struct, kw_only=True, gc=False):
    """A completion or a chunk of one: they differ in `message` and `delta` alone. The members stand as
    they are mostly said, where they are found at once."""

    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    service_tier: str | None = None
    error: _Anything = None
    """What went wrong, if anything did: whatever is beside it, it is no answer then."""
    usage: _Usage | None = None


class _OddReply(msgspec.Struct, kw_only=True, gc=False):
    """The same, with anything at all around its choices."""

    id: msgspec.Raw = _ABSENT
    created: msgspec.Raw = _ABSENT
    model: msgspec.Raw = _ABSENT
    choices: list[_Choice] | None = None
    service_tier: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT
    usage: msgspec.Raw = _ABSENT


_decode_reply = msgspec.json.Decoder(_Reply).decode
_decode_odd = msgspec.json.Decoder(_OddReply).decode
_decode_any = msgspec.json.Decoder().decode
_as_said: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)
_as_text: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None, strict=False)

_NOT_TO_BE_BELIEVED = _Usage(prompt_tokens=1)
"""Half a count."""
_NOTHING_SAID = _Usage(prompt_tokens=1)
"""No count at all; still it stood there, and a chunk may be nothing else."""

_FINISH_REASONS: dict[str | msgspec.UnsetType | None, FinishReason | None] = {
    msgspec.UNSET: None,
    None: None,
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.MODEL_LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.FUNCTION_CALL,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_STOP, _TOOL_CALLS, _OTHER = FinishReason.STOP, FinishReason.TOOL_CALLS, FinishReason.OTHER
_NO_WORDS = ("", "null")
"""Some servers say these where they have nothing to say."""
_EVERYBODYS_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter"))
"""Those that every client of the family knows."""
_ERROR = "error"


def _decode_usage(raw: bytes | msgspec.Raw) -> _Usage | None:
    """A usage object; some servers write its numbers as text, or as fractions of one. Raises what msgspec
    raises."""
    try:
        return _as_said.decode(raw)
    except msgspec.DecodeError:
        return _as_text.decode(raw)


def read_usage(raw: bytes | msgspec.Raw, service_tier: str | None = None) -> Usage | None:
    """A provider's usage object, or None when there is none that can be believed."""
    try:
        said = _decode_usage(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if said is None else _believed(said, service_tier)


def says_nothing(raw: bytes | msgspec.Raw) -> bool:
    """Whether a usage counts nothing, be it well or badly: it is null, empty, or zeros alone."""
    try:
        return _is_nothing(_decode_any(raw))
    except _UNREADABLE:
        return False


def _is_nothing(said: object) -> bool:
    """What is no whole number (a time, a word for a service tier, a yes) counts by a name alone that
    speaks of tokens."""
    if isinstance(said, dict):
        return all(
            _is_nothing(each) or ("token" not in name and isinstance(each, float | str | bool))
            for name, each in said.items()
        )
    return not said or said == "0"


def _counts_badly(said: _Usage | None) -> bool:
    """Whether what came to no usage that can be believed says something all the same."""
    return said is not None and said is not _NOTHING_SAID


def _believed(said: _Usage, service_tier: str | None) -> Usage | None:
    details, thought = said.prompt_tokens_details, said.completion_tokens_details
    if details is None:
        details = said.prompt_token_details
    cached = written = 0
    if details is not None and details.cached_tokens is not None:
        cached = details.cached_tokens
    elif said.num_cached_tokens is not None:
        cached = said.num_cached_tokens
    elif said.prompt_cache_hit_tokens is not None:
        cached = said.prompt_cache_hit_tokens
    if details is not None and details.cache_write_tokens is not None:
        written = details.cache_write_tokens
    asked, output, total = said.prompt_tokens, said.completion_tokens, said.total_tokens
    contested, is_most_asked = 0, cached < 0 or cached + written > asked
    if is_most_asked:
        # It may have been counted beside what was asked: then this is all of it, at no less than its price.
        contested = max(cached, 0) + written
        asked, cached = asked + contested, 0
        if asked > TOKENS_MAX:
            return None
    reasoning = said.reasoning_tokens or 0
    if thought is not None and (thought.reasoning_tokens or 0) > reasoning:
        reasoning = thought.reasoning_tokens or 0
    is_at_most = False
    if (
        output is None
        or reasoning > output
        or (total is not None and total > said.prompt_tokens + output and total != asked + output)
    ):
        output, is_at_most = _output_in_all(said, reasoning)
        if not 0 <= output <= TOKENS_MAX:
            return None
    tier, is_at_most = said.service_tier or service_tier, is_at_most or is_most_asked
    return Usage(asked, output, cached, written, reasoning, tier, 0, False, is_at_most, contested)


def _output_in_all(said: _Usage, reasoning: int) -> tuple[int, bool]:
    """How long an answer was whose parts do not add up, and whether that is but the most it can have been;
    -1 when it cannot be told.

    Some servers count thinking beside the answer (xAI tells how much, converters of Gemini leave it to the
    total). What the total has above its parts is billed as output, if nothing says that it was heard.
    """
    output, total = said.completion_tokens, said.total_tokens
    if output is None:  # half a count is no count, unless the total says the other half
        return -1 if total is None else total - said.prompt_tokens, False
    both = output + reasoning
    least = both if reasoning > output else output
    if total is None:
        return least, False
    beside = total - said.prompt_tokens
    if said.prompt_audio_seconds and beside > both:
        return least, False
    return max(least, beside), beside != both


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _read_reply(data: bytes) -> _Reply:
    """A reply. Raises what msgspec raises."""
    try:
        return _decode_reply(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_odd_reply(without_halves(data))


def _read_odd_reply(data: bytes) -> _Reply:
    """What can be read of a reply whose choices can: it is paid for, whatever is odd around them.

    It has no `object`, so that its bytes are not relayed as they are. Raises what msgspec raises.
    """
    said = _decode_odd(data)
    try:
        usage = _decode_usage(said.usage)
    except _UNREADABLE:
        usage = _NOTHING_SAID if says_nothing(said.usage) else _NOT_TO_BE_BELIEVED
    answer_id, model, tier = map(_any, (said.id, said.model, said.service_tier))
    return _Reply(
        id=str(answer_id) if isinstance(answer_id, str | int) else None,
        created=_seconds(_any(said.created)),
        model=model if isinstance(model, str) else None,
        choices=said.choices,
        service_tier=tier if isinstance(tier, str) else None,
        error=_any(said.error),
        usage=usage,
    )


def _any(said: msgspec.Raw) -> object:
    try:
        return _decode_any(said)
    except _UNREADABLE:
        return None


def _seconds(said: object) -> int | None:
    """A time, be it as text or with a fraction."""
    if not isinstance(said, str | int | float):
        return None
    try:
        return int(float(said))
    except (ValueError, OverflowError):
        return None


def decode_completion(body: bytes, now_s: int) -> Completion:
    """Read a whole answer.

    Raises APIConnectionError when it is not one, or one that has failed: the provider may have billed
    it all the same.
    """
    try:
        reply = _read_reply(body)
    except _UNREADABLE as error:
        raise error_of(_unreadable(body, str(error))) from error
    usage = None if reply.usage is None else _believed(reply.usage, reply.service_tier)
    if not reply.choices:
        raise error_of(_unreadable(body, "it has no choices", usage))
    if reply.error:
        raise error_of(_failed(FaultKind.UPSTREAM_ERROR, body, usage))
    is_everybodys = bool(reply.id and reply.model and reply.created and reply.object and usage)
    choices: list[Choice] = []
    for choice in reply.choices:
        if not _is_everybodys(choice):
            if choice.finish_reason == _ERROR:
                raise error_of(_failed(FaultKind.UPSTREAM_ERROR, body, usage))
            is_everybodys = False
            if choice.index is None:
                choice.index = len(choices)
        choices.append(_choice(choice))
    return Completion(
        reply.id or "",
        reply.model or "",
        reply.created or now_s,
        choices,
        usage,
        body,
        is_everybodys,
        usage is None and _counts_badly(reply.usage),
    )


def _is_everybodys(choice: _Choice) -> bool:
    """Whether every client of the family accepts this choice as it is."""
    message = choice.message
    if message is None or choice.finish_reason not in _EVERYBODYS_REASONS or choice.index is None:
        return False
    content, calls = message.content, message.tool_calls
    if type(content) is not str and (content is not None or not calls):
        return False
    return not calls or all(map(_is_whole, calls))


def _is_whole(call: _ToolCall) -> bool:
    return (
        call.type is not None
        and bool(call.id)
        and call.function is not None
        and isinstance(call.function.arguments, str)
    )


def _choice(choice: _Choice) -> Choice:
    message = choice.message or _SAID_NOTHING
    content, reasoning, parts = message.content, _reasoning(message), None
    if content is not None and type(content) is not str:
        assert isinstance(content, list)
        parts = more_than_text(content)
        content, thinking = split_thinking(content)
        reasoning = thinking or reasoning
    calls = message.tool_calls
    told = [_call(call, order) for order, call in enumerate(calls)] if calls else []
    if message.function_call is not None and not told:
        told = [ToolCall(type=OLD_CALL, function=_function(message.function_call), index=0)]
    return Choice(
        ReplyMessage(content, told, reasoning, message.refusal, [], parts, message.audio),
        choice.index or 0,
        _FINISH_REASONS.get(choice.finish_reason, _TOOL_CALLS if told else _odd_end(choice)),
    )


def _odd_end(choice: _Choice) -> FinishReason:
    """The end of a choice whose word for it we do not know."""
    return _STOP if choice.finish_reason in _NO_WORDS else _OTHER


def _reasoning(said: _Message) -> str | None:
    """The thinking that is shown, by either of its names."""
    if said.reasoning_content is None and isinstance(said.reasoning, str):
        return said.reasoning
    return said.reasoning_content


def _call(call: _ToolCall, order: int) -> ToolCall:
    index = call.index if call.index is not None else order
    if call.custom is not None:
        custom = CustomCall(call.custom.name or "", call.custom.input or "")
        return ToolCall(id=call.id, index=index, type="custom", custom=custom)
    return ToolCall(id=call.id, index=index, function=_function(call.function or _Function()))


def _function(said: _Function) -> FunctionCall:
    return FunctionCall(name=said.name or "", arguments=_arguments_text(said.arguments))


def _arguments_text(arguments: str | JsonObject | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


class ChatStreamReader(ChunkReader):
    """OpenAI's and Mistral's event stream: chunks, then a marker."""

    def __init__(self, now_s: int) -> None:
        super().__init__(now_s)
        self._reasons: dict[int, FinishReason] = {}
        """The last that each choice said of its end, whatever it said since."""
        self._unended: set[int] = set()
        """Choices of these that went on since, or said it in a word that nobody has heard of."""
        self._last: _Reply | None = None

    def _chunk(self, event: Event) -> Chunk | None:
        if event.data == DONE:
            self.is_done = True
            return self._last_words()
        try:
            reply = _read_reply(event.data)
        except _UNREADABLE as error:
            raise error_of(stream_fault(event.data, str(error))) from error
        usage = None if reply.usage is None else _believed(reply.usage, reply.service_tier)
        choices, is_plain, is_miscounted = reply.choices or [], _is_plain(reply), False
        if not is_plain:
            _check(reply, event.data, usage)
            is_miscounted = usage is None and _counts_badly(reply.usage)
        pieces = list(map(_chunk_choice, choices))
        if self._reasons or not is_plain:
            self._last = reply
            self._note_ends(choices, pieces)
        return Chunk(
            reply.id or "",
            reply.model or "",
            reply.created or self._now_s,
            pieces,
            usage,
            event.raw,
            is_plain and event.name is None,
            is_miscounted,
        )

    def _note_ends(self, said: list[_Choice], pieces: list[ChunkChoice]) -> None:
        for choice, piece in zip(said, pieces, strict=True):
            index, reason = piece.index, piece.finish_reason
            if reason is not None:
                self._reasons[index] = reason
                self._unended.discard(index)
                continue
            if isinstance(choice.finish_reason, str):
                end = self._reasons.get(index, _STOP).then(_odd_end(choice))
                self._reasons[index] = _TOOL_CALLS if piece.tool_calls else end
            if index in self._reasons:
                self._unended.add(index)

    def _last_words(self) -> Chunk | None:
        """What the stream's own end says: the ends of choices whose last piece was none."""
        last = self._last
        if last is None or not self._unended:
            return None
        ends = [
            ChunkChoice(index=index, finish_reason=self._reasons[index])
            for index in sorted(self._unended)
        ]
        return Chunk(last.id or "", last.model or "", last.created or self._now_s, ends)


def _check(reply: _Reply, data: bytes, usage: Usage | None) -> None:
    """Raise what a chunk says that is none: some usage comes without choices, nothing else does."""
    if reply.error or (reply.choices is None and reply.usage is None):
        raise error_of(stream_fault(data, read_error(data).message, usage))
    if any(choice.finish_reason == _ERROR for choice in reply.choices or ()):
        raise error_of(_failed(FaultKind.STREAM_BROKEN, data, usage))


def _is_plain(reply: _Reply) -> bool:
    """A single piece of text that both dialects write the same way, name for name."""
    choices = reply.choices
    if reply.usage is not None or not choices or len(choices) != 1 or reply.error:
        return False
    if not (reply.id and reply.model and reply.object and reply.created):
        return False
    choice = choices[0]
    delta = choice.delta
    return (
        delta is not None
        and choice.index is not None
        and choice.finish_reason is None
        and type(delta.content) is str
        and not delta.reasoning_content
        and not delta.reasoning
        and not delta.tool_calls
        and not delta.function_call
    )


def _chunk_choice(choice: _Choice) -> ChunkChoice:
    delta = choice.delta or choice.message or _SAID_NOTHING
    content, calls, parts = delta.content, delta.tool_calls, None
    reasoning = delta.reasoning_content if delta.reasoning is None else _reasoning(delta)
    if content is not None and type(content) is not str:
        assert isinstance(content, list)
        parts = content
        content, thinking = split_thinking(content)
        reasoning = thinking or reasoning
    told = [_delta(call, order) for order, call in enumerate(calls)] if calls else None
    if delta.function_call is not None and not told:
        told = [_old_delta(delta.function_call)]
    return ChunkChoice(
        choice.index or 0,
        content,
        reasoning,
        delta.refusal,
        delta.role,
        told,
        _FINISH_REASONS.get(choice.finish_reason),
        None,
        parts,
        delta.audio,
    )


def _delta(call: _ToolCall, order: int) -> ToolCallDelta:
    index = call.index if call.index is not None else order
    if (custom := call.custom) is not None:
        return ToolCallDelta(
            index=index,
            id=call.id,
            name=custom.name,
            arguments=custom.input or "",
            type="custom",
        )
    function = call.function or _Function()
    return ToolCallDelta(
        index=index,
        id=call.id,
        name=function.name,
        arguments=_arguments_text(function.arguments),
    )


def _old_delta(said: _Function) -> ToolCallDelta:
    arguments = _arguments_text(said.arguments)
    return ToolCallDelta(name=said.name, arguments=arguments, type=OLD_CALL)


def _failed(kind: FaultKind, data: bytes, usage: Usage | None) -> Fault:
    """The fault of an answer that ends in an error: what it used is billed, if it says so."""
    words = _error_words(data)
    why = " (finish_reason: error)" if words is None else f": {words}"
    return Fault(
        kind=kind,
        source=Source.UPSTREAM,
        message=f"the provider could not go on with its answer{why}",
        status=502,
        retry=Retry.OTHER,
        upstream_status=200,
        billed=True,
        usage=usage,
    )


class _Failure(msgspec.Struct):
    """What failed: an answer, or one choice of it."""

    error: object = None
    choices: list["_Failure"] | None = None


_decode_failure = msgspec.json.Decoder(_Failure).decode


def _error_words(data: bytes) -> str | None:
    """The provider's own words for its failure, beside the choices or in one of them."""
    try:
        failure = _decode_failure(data)
    except _UNREADABLE:
        return None
    for one in (failure, *(failure.choices or ())):
        if one.error:
            return read_error(msgspec.json.encode({"error": one.error})).message
    return None


def _unreadable(body: bytes, why: str, usage: Usage | None = None) -> Fault:
    said = _error_words(body)
    if said is None:
        said = read_error(body).message if b'"choices"' not in body else why
    return Fault(
        kind=FaultKind.UPSTREAM_ERROR,
        source=Source.UPSTREAM,
        message=f"the provider's answer is not a completion: {said}",
        status=502,
        retry=Retry.OTHER,
        upstream_status=200,
        billed=True,
        usage=usage,
    )


def stream_fault(data: bytes, why: str, usage: Usage | None = None) -> Fault:
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
        usage=usage,
    )
