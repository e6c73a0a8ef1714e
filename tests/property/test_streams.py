"""Laws of streams, through real bytes of both dialects cut at random places.

`fold(stream(x)) == complete(x)`; and what the writer sends a client folds to the same completion,
with usage once, every finish reason present, tool calls whole, and the marker last.
"""

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.chat import (
    Choice,
    Chunk,
    Completion,
    FinishReason,
    FunctionCall,
    ReplyMessage,
    ToolCall,
)
from windvane.core.usage import Usage
from windvane.wire.chat_reply import ChatStreamReader, decode_completion
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import encode_completion

TEXT = st.text(alphabet='aé\U0001f600 \n"\\:{}', min_size=1, max_size=12)
MAYBE = st.none() | TEXT
CALL = st.builds(
    ToolCall,
    id=st.from_regex("[a-zA-Z0-9]{9}", fullmatch=True),
    function=st.builds(
        FunctionCall, name=st.sampled_from(["f", "g"]), arguments=TEXT | st.just("")
    ),
)
MESSAGE = st.builds(
    ReplyMessage, content=MAYBE, reasoning=MAYBE, tool_calls=st.lists(CALL, max_size=3)
)
TOLD_OTHERWISE = (FinishReason.MODEL_LENGTH, FinishReason.FUNCTION_CALL, FinishReason.OTHER)
FINISH = st.sampled_from([reason for reason in FinishReason if reason not in TOLD_OTHERWISE])
USAGE = st.tuples(st.integers(0, 999), st.integers(0, 99)).flatmap(
    lambda part: st.builds(
        Usage,
        input_tokens=st.integers(max(part[0], 1), 9_999),
        output_tokens=st.integers(part[1], 9_999),
        cache_read_input_tokens=st.just(part[0]),
        reasoning_output_tokens=st.just(part[1]),
    )
)
"""With more thinking than output, it would not be believed."""


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    choices = []
    for index in range(draw(st.integers(1, 3))):
        message = draw(MESSAGE)
        message.tool_calls = [
            msgspec.structs.replace(call, index=order)
            for order, call in enumerate(message.tool_calls)
        ]
        choices.append(Choice(index=index, message=message, finish_reason=draw(FINISH)))
    return Completion(id="c1", model="m", created=7, choices=choices, usage=draw(USAGE))


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
    }


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": choices,
        **more,
    }
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def one(
    index: int, delta: dict[str, Any], finish: FinishReason | None = None
) -> list[dict[str, Any]]:
    return [{"index": index, "delta": delta, "finish_reason": finish}]


def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    """`text` in one to three pieces, some perhaps empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=2)))
    bounds = [0, *places, len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def openai_events(draw: st.DrawFn, choice: Choice) -> list[bytes]:
    """As OpenAI and its likes stream: calls in fragments, thinking as `reasoning_content`."""
    message, index = choice.message, choice.index
    events = [
        event(
            one(index, {"role": "assistant", "content": draw(st.sampled_from([None, ""]))}),
            usage=None,
        )
    ]
    for thought in pieces_of(draw, message.reasoning or ""):
        content = draw(st.sampled_from([{}, {"content": None}, {"content": ""}]))
        events.append(event(one(index, {"reasoning_content": thought, **content})))
    events += [
        event(one(index, {"content": piece})) for piece in pieces_of(draw, message.content or "")
    ]
    for order, call in enumerate(message.tool_calls):
        head = {
            "index": order,
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": ""},
        }
        events.append(event(one(index, {"tool_calls": [head]})))
        assert isinstance(call.function.arguments, str)
        for piece in pieces_of(draw, call.function.arguments):
            events.append(
                event(
                    one(index, {"tool_calls": [{"index": order, "function": {"arguments": piece}}]})
                )
            )
    return [*events, event(one(index, {}, choice.finish_reason))]


def mistral_events(draw: st.DrawFn, choice: Choice) -> list[bytes]:
    """As Mistral streams: thinking as parts, all calls whole in one delta, without a type."""
    message, index = choice.message, choice.index
    events = [event(one(index, {"role": "assistant", "content": ""}))]
    for thought in pieces_of(draw, message.reasoning or ""):
        part = {"type": "thinking", "thinking": [{"type": "text", "text": thought}]}
        events.append(event(one(index, {"content": [part]})))
    events += [
        event(one(index, {"content": piece})) for piece in pieces_of(draw, message.content or "")
    ]
    last: dict[str, Any] = {"content": ""}
    if message.tool_calls:
        last["tool_calls"] = [
            {
                "id": call.id,
                "index": order,
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for order, call in enumerate(message.tool_calls)
        ]
    return [*events, event(one(index, last, choice.finish_reason))]


@st.composite
def streams(draw: st.DrawFn) -> tuple[Completion, list[bytes]]:
    """A completion, and the bytes a provider streams it in, cut anywhere."""
    completion = draw(completions())
    dialect = draw(st.sampled_from([openai_events, mistral_events]))
    queues = [dialect(draw, choice) for choice in completion.choices]
    events: list[bytes] = []
    while any(queues):
        waiting = [queue for queue in queues if queue]
        events.append(draw(st.sampled_from(waiting)).pop(0))
        if draw(st.booleans()):
            events.append(b": keep-alive\n\n")
    assert completion.usage is not None
    usage = usage_object(completion.usage)
    if dialect is openai_events or draw(st.booleans()):
        events.append(event([], usage=usage))
    else:
        final = msgspec.json.decode(events.pop()[6:]) if events[-1].startswith(b"data") else None
        events.append(event(final["choices"], usage=usage) if final else event([], usage=usage))
    data = b"".join([*events, b"data: [DONE]\n\n"])
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    bounds = [0, *places, len(data)]
    return completion, [data[start:end] for start, end in itertools.pairwise(bounds)]


def read(pieces: list[bytes]) -> tuple[Completion, list[list[Chunk]]]:
    reader, fold = ChatStreamReader(0), Fold()
    batches = []
    for piece in pieces:
        batch = reader.feed(piece)
        for chunk in batch:
            fold.add(chunk)
        batches.append(batch)
    assert reader.is_done
    assert reader.failure is None
    return fold.completion(), batches


@settings(deadline=None, max_examples=100)
@given(streams())
def test_a_folded_stream_is_the_completion(case: tuple[Completion, list[bytes]]) -> None:
    completion, pieces = case
    assert read(pieces)[0] == completion


@settings(deadline=None, max_examples=60)
@given(completions(), st.sampled_from(Dialect), st.none() | st.just(b'{"model":"m"}'))
def test_a_completion_that_is_written_is_read_again(
    completion: Completion, dialect: Dialect, metadata: bytes | None
) -> None:
    assert completion.usage is not None
    again = decode_completion(encode_completion(completion, completion.usage, dialect, metadata), 0)
    again.raw, again.is_everybodys = None, False
    for choice in again.choices:
        choice.message.content = choice.message.content or None
    assert again == completion


@settings(deadline=None, max_examples=100)
@given(streams(), st.sampled_from(Dialect), st.booleans(), st.none() | st.just({"model": "m"}))
def test_what_a_client_is_sent_is_the_completion(
    case: tuple[Completion, list[bytes]],
    dialect: Dialect,
    include_usage: bool,
    metadata: dict[str, object] | None,
) -> None:
    completion, pieces = case
    reader, fold = ChatStreamReader(0), Fold()
    writer = ChatStreamWriter(dialect, fold, include_usage=include_usage)
    sent = []
    for piece in pieces:
        batch = reader.feed(piece)
        for chunk in batch:
            fold.add(chunk)
        sent.append(writer.write(batch))
    assert completion.usage is not None
    sent.append(writer.end(completion.usage, metadata))
    data = b"".join(sent)
    assert read([data])[0] == completion
    _check_shape(data, completion, dialect, include_usage, metadata)


def _check_shape(
    data: bytes, completion: Completion, dialect: Dialect, include_usage: bool, metadata: object
) -> None:
    events = [part for part in data.split(b"\n\n") if part and not part.startswith(b":")]
    assert events[-1] == b"data: [DONE]"
    bodies: list[dict[str, Any]] = [msgspec.json.decode(part[6:]) for part in events[:-1]]
    assert all(
        body["id"] and body["model"] and body["object"] == "chat.completion.chunk"
        for body in bodies
    )
    with_usage = [body for body in bodies if body.get("usage") is not None]
    assert with_usage == bodies[-1:]
    assert (with_usage[0]["choices"] == []) is include_usage
    assert [body["router_metadata"] for body in bodies if "router_metadata" in body] == (
        [metadata] if metadata else []
    )
    pieces = [piece for body in bodies for piece in body["choices"]]
    assert all("finish_reason" in piece and "delta" in piece for piece in pieces)
    calls = [call for piece in pieces for call in piece["delta"].get("tool_calls") or ()]
    assert len(calls) == sum(len(choice.message.tool_calls) for choice in completion.choices)
    for call in calls:
        assert call["id"] and call["type"] == "function"
        assert call["function"].keys() == {"name", "arguments"}
    thinks_in_parts = any(isinstance(piece["delta"].get("content"), list) for piece in pieces)
    thinks_in_text = any(piece["delta"].get("reasoning_content") for piece in pieces)
    thinks = any(choice.message.reasoning for choice in completion.choices)
    if thinks or dialect is Dialect.OPENAI:  # else there may be a part without a thought in it
        assert thinks_in_parts is (thinks and dialect is Dialect.MISTRAL)
    assert thinks_in_text is (thinks and dialect is Dialect.OPENAI)
