"""Anthropic's answers, whole and as streams: every shape, cut at every byte, and every odd usage."""

import json
from typing import Any

import pytest

from windvane.core.chat import Chunk, Completion, FinishReason
from windvane.core.faults import FaultKind, WindvaneError
from windvane.core.usage import Usage
from windvane.wire.anthropic_reply import (
    FINISH_REASONS,
    MessageStreamReader,
    decode_message,
    read_usage,
)
from windvane.wire.fold import Fold

NOW_S = 1_790_000_000
USAGE = {"input_tokens": 10, "output_tokens": 4}
SIGNED = {"type": "thinking", "thinking": "They ask.", "signature": "sig="}
REDACTED = {"type": "redacted_thinking", "data": "xyz"}
TEXT = {"type": "text", "text": "Nine knots, é🌬"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "wind", "input": {"at": "sea"}}
BARE = {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}


def message(*blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": list(blocks),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
        **more,
    }


def whole(*blocks: dict[str, Any], **more: Any) -> Completion:
    return decode_message(
        json.dumps(message(*blocks, **more), separators=(",", ":")).encode(), NOW_S
    )


def event(kind: str, **members: Any) -> bytes:
    data = json.dumps({"type": kind, **members}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def start(**usage: Any) -> bytes:
    said = message(stop_reason=None, usage={**USAGE, "output_tokens": 1, **usage})
    return event("message_start", message=said)


def pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How a block begins in a stream, and the deltas it grows by."""
    kind = block["type"]
    if kind == "text":
        half = len(block["text"]) // 2
        texts = (block["text"][:half], block["text"][half:])
        return {**block, "text": ""}, [{"type": "text_delta", "text": text} for text in texts]
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": text} for text in block["thinking"]]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {"type": kind, "thinking": "", "signature": ""}, [*deltas, signed]
    if kind == "tool_use" and block["input"]:
        said = json.dumps(block["input"], separators=(",", ":"))
        parts = ["", said[:4], said[4:]]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        return {**block, "input": {}}, deltas
    return block, []


def grown(*blocks: dict[str, Any]) -> bytes:
    """The events of these blocks."""
    events = [event("ping")]
    for index, block in enumerate(blocks):
        first, deltas = pieces(block)
        events.append(event("content_block_start", index=index, content_block=first))
        events += [event("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(event("content_block_stop", index=index))
    return b"".join(events)


def end(reason: str | None = "end_turn", usage: Any = None) -> bytes:
    members: dict[str, Any] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
    if usage is not False:
        members["usage"] = usage or {"output_tokens": USAGE["output_tokens"]}
    return event("message_delta", **members) + event("message_stop")


def read(stream: bytes, piece_bytes: int = 10**9) -> tuple[list[Chunk], MessageStreamReader, Fold]:
    reader, fold, chunks = MessageStreamReader(NOW_S), Fold(), []
    for at in range(0, len(stream), piece_bytes):
        batch = reader.feed(stream[at : at + piece_bytes])
        for chunk in batch:
            fold.add(chunk)
        chunks += batch
        if reader.failure is not None:
            raise reader.failure
    return chunks, reader, fold


ANSWERS = [(TEXT,), (SIGNED, TEXT), (REDACTED, TEXT), (SIGNED, TEXT, CALL, BARE), (CALL,), ()]


@pytest.mark.parametrize("blocks", ANSWERS, ids=lambda blocks: "+".join(b["type"] for b in blocks))
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 64, 10**9])
def test_a_stream_folds_to_what_the_whole_answer_says(
    blocks: tuple[dict[str, Any], ...], piece_bytes: int
) -> None:
    _, reader, fold = read(start() + grown(*blocks) + end(), piece_bytes)
    assert reader.is_done
    assert fold.completion() == whole(*blocks)
    assert fold.final_usage == whole().usage


def test_a_stream_may_be_cut_in_two_at_any_byte() -> None:
    stream = start() + grown(SIGNED, TEXT, CALL) + end("tool_use")
    expected = whole(SIGNED, TEXT, CALL, stop_reason="tool_use")
    for cut in range(len(stream)):
        reader, fold = MessageStreamReader(NOW_S), Fold()
        for piece in (stream[:cut], stream[cut:]):
            for chunk in reader.feed(piece):
                fold.add(chunk)
        assert fold.completion() == expected


def test_what_a_whole_answer_says() -> None:
    answer = whole(SIGNED, TEXT, CALL, BARE, stop_reason="tool_use")
    (choice,) = answer.choices
    assert (answer.id, answer.model, answer.created) == ("msg_1", "claude-sonnet-5-5", NOW_S)
    assert choice.finish_reason is FinishReason.TOOL_CALLS
    said = choice.message
    assert (said.content, said.reasoning) == (TEXT["text"], "They ask.")
    assert said.thinking_blocks == [SIGNED]
    made = [
        (call.id, call.index, call.function.name, call.function.arguments)
        for call in said.tool_calls
    ]
    assert made == [("toolu_1", 0, "wind", '{"at":"sea"}'), ("toolu_2", 1, "now", "{}")]
    assert answer.raw is None, "no client of ours reads these bytes"


@pytest.mark.parametrize(
    ("reason", "finish"), [*FINISH_REASONS.items(), ("new", FinishReason.OTHER)]
)
def test_each_reason_to_stop(reason: str, finish: FinishReason) -> None:
    assert whole(TEXT, stop_reason=reason).choices[0].finish_reason is finish
    _, _, fold = read(start() + grown(TEXT) + end(reason))
    assert fold.is_finished
    assert fold.completion().choices[0].finish_reason is finish


def test_a_stream_without_a_reason_to_stop_is_not_finished() -> None:
    _, reader, fold = read(start() + grown(TEXT) + end(None))
    assert reader.is_done and not fold.is_finished


def test_thinking_that_is_not_shown_is_told_of_all_the_same() -> None:
    hidden = {"type": "thinking", "thinking": "", "signature": "sig="}
    begun = event("content_block_start", index=0, content_block={**hidden, "signature": ""})
    _, _, fold = read(start() + begun)
    assert (fold.chunks, fold.has_thought) == (0, True)
    _, _, fold = read(start() + grown(TEXT))
    assert not fold.has_thought
    _, _, fold = read(start() + grown(hidden, TEXT) + end())
    assert fold.completion().choices[0].message.thinking_blocks == [hidden]


def test_what_nobody_has_heard_of_is_passed_over() -> None:
    odd = event("content_block_start", index=0, content_block={"type": "odd", "made_up": 1})
    odd += event("content_block_delta", index=0, delta={"type": "odd_delta", "made_up": 1})
    odd += event(
        "content_block_delta", index=7, delta={"type": "signature_delta", "signature": "x"}
    )
    odd += event("content_block_stop", index=0) + event("new_event", index=3) + event("ping")
    _, _, fold = read(start() + odd + grown(TEXT) + end())
    assert fold.completion() == whole(TEXT)
    assert whole({"type": "odd", "made_up": 1}, TEXT).choices == whole(TEXT).choices


def test_input_that_comes_with_the_beginning_of_a_call_is_kept() -> None:
    eager = event("content_block_start", index=0, content_block=CALL)
    _, _, fold = read(start() + eager + event("content_block_stop", index=0) + end("tool_use"))
    assert fold.completion() == whole(CALL, stop_reason="tool_use")


def test_an_error_amid_a_stream_comes_behind_what_was_said() -> None:
    said = {"type": "overloaded_error", "message": "Overloaded", "details": None}
    reader = MessageStreamReader(NOW_S)
    chunks = reader.feed(start() + grown(TEXT) + event("error", error=said) + end())
    assert (
        "".join(piece.content or "" for chunk in chunks for piece in chunk.choices) == TEXT["text"]
    )
    assert reader.failure is not None
    fault = reader.failure.fault
    assert (fault.kind, fault.message, fault.billed) == (
        FaultKind.STREAM_BROKEN,
        "Overloaded",
        True,
    )


@pytest.mark.parametrize("data", [b"{", b"[]", b'"x"', b'{"type":5}', b'{"no":"type"}', b"\xff"])
def test_an_event_that_is_none_ends_the_stream(data: bytes) -> None:
    with pytest.raises(WindvaneError) as broken:
        MessageStreamReader(NOW_S).feed(b"event: x\ndata: " + data + b"\n\n")
    assert broken.value.fault.kind is FaultKind.STREAM_BROKEN


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        b'{"content":"text"}',
        b'{"type":"error","error":{"type":"api_error","message":"no"}}',
    ],
)
def test_a_body_that_is_no_message_is_no_answer_but_may_have_cost(body: bytes) -> None:
    with pytest.raises(WindvaneError) as broken:
        decode_message(body, NOW_S)
    fault = broken.value.fault
    assert (fault.kind, fault.billed) == (FaultKind.UPSTREAM_ERROR, True)
    if b"error" in body:
        assert fault.message.endswith("no")


WRITTEN = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
COUNTS: list[tuple[Any, Usage | None]] = [
    (USAGE, Usage(input_tokens=10, output_tokens=4)),
    (
        {
            **USAGE,
            "cache_read_input_tokens": 200,
            "cache_creation_input_tokens": 100,
            "cache_creation": WRITTEN,
            "service_tier": "batch",
            "output_tokens_details": {"thinking_tokens": 3},
            "inference_geo": "us",
        },
        Usage(
            input_tokens=310,
            output_tokens=4,
            cache_read_input_tokens=200,
            cache_creation_input_tokens=100,
            cache_creation_1h_input_tokens=70,
            reasoning_output_tokens=3,
            service_tier="batch",
        ),
    ),
    (
        {**USAGE, "input_tokens": 0, "cache_read_input_tokens": 5, "cache_creation": None},
        Usage(input_tokens=5, output_tokens=4, cache_read_input_tokens=5),
    ),
    ({**USAGE, "output_tokens": "4"}, Usage(10, 4)),
    (
        {**USAGE, "output_tokens_details": {"thinking_tokens": 5}},
        Usage(10, 9, reasoning_output_tokens=5, is_at_most=True),
    ),
    (
        {**USAGE, "cache_creation": WRITTEN},
        Usage(
            110,
            4,
            cache_creation_input_tokens=100,
            cache_creation_1h_input_tokens=70,
            is_at_most=True,
            contested_input_tokens=100,
        ),
    ),
    (None, None),
    ({}, None),
    ({"input_tokens": 10}, None),
    ({"output_tokens": 4}, None),
    ({**USAGE, "input_tokens": 0}, None),
    ({**USAGE, "input_tokens": -1}, None),
    ({**USAGE, "output_tokens": 1.5}, None),
    ({**USAGE, "output_tokens": "four"}, None),
    ({**USAGE, "output_tokens": True}, None),
    ({**USAGE, "cache_read_input_tokens": -1}, None),
    ({**USAGE, "cache_creation_input_tokens": 10**10}, None),
    ([], None),
]


@pytest.mark.parametrize(("said", "usage"), COUNTS, ids=[str(row[0])[:80] for row in COUNTS])
def test_a_usage_is_whole_or_not_believed(said: Any, usage: Usage | None) -> None:
    assert read_usage(json.dumps(said).encode()) == usage
    assert whole(TEXT, usage=said).usage == usage


def test_a_streams_input_is_counted_first_and_its_output_last() -> None:
    cached = {
        "cache_read_input_tokens": 200,
        "cache_creation_input_tokens": 100,
        "cache_creation": WRITTEN,
        "service_tier": "standard",
    }
    _, _, fold = read(start(**cached) + grown(TEXT))
    so_far = fold.usage
    assert so_far is not None and so_far.is_so_far and fold.final_usage is None
    assert (so_far.input_tokens, so_far.output_tokens) == (310, 1)
    for ended in ({"output_tokens": 9}, {"output_tokens": 9, "input_tokens": 10, **cached}):
        _, _, fold = read(start(**cached) + grown(TEXT) + end(usage=ended))
        assert fold.final_usage == Usage(
            input_tokens=310,
            output_tokens=9,
            cache_read_input_tokens=200,
            cache_creation_input_tokens=100,
            cache_creation_1h_input_tokens=70,
            service_tier="standard",
        )


def test_a_stream_that_does_not_say_what_it_used_has_no_final_usage() -> None:
    _, reader, fold = read(start() + grown(TEXT) + end(usage=False))
    assert reader.is_done and fold.is_finished and fold.final_usage is None
    assert fold.usage is not None and fold.usage.is_so_far
    _, _, fold = read(start(input_tokens=None) + grown(TEXT) + end())
    assert fold.usage is None


@pytest.mark.parametrize("last", [{"input_tokens": 10}, {"output_tokens": None}, {"new": 1}])
def test_what_had_been_written_at_the_beginning_is_no_count_of_the_whole(
    last: dict[str, Any],
) -> None:
    _, reader, fold = read(start() + grown(TEXT) + end(usage=last))
    assert reader.is_done
    assert fold.final_usage is None
    assert fold.usage is not None and fold.usage.is_so_far


@pytest.mark.parametrize(
    "last",
    [
        {"input_tokens": 0},
        {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},
        {"input_tokens": 0, "cache_creation": {"ephemeral_1h_input_tokens": 0}},
    ],
)
def test_no_input_in_the_end_is_that_of_the_beginning(last: dict[str, Any]) -> None:
    """Some tell the input in the beginning alone, and say zero where they have no more to say of it."""
    said = {
        "cache_read_input_tokens": 200,
        "cache_creation_input_tokens": 100,
        "cache_creation": WRITTEN,
    }
    _, _, fold = read(start(**said) + grown(TEXT) + end(usage={**last, "output_tokens": 9}))
    assert fold.final_usage == Usage(
        input_tokens=310,
        output_tokens=9,
        cache_read_input_tokens=200,
        cache_creation_input_tokens=100,
        cache_creation_1h_input_tokens=70,
    )


def test_input_that_was_read_from_the_cache_in_the_end_is_all_of_it() -> None:
    last = {"input_tokens": 0, "cache_read_input_tokens": 10, "output_tokens": 9}
    _, _, fold = read(start() + grown(TEXT) + end(usage=last))
    assert fold.final_usage == Usage(10, 9, cache_read_input_tokens=10)


NO_TOKENS = {"input_tokens": 0, "output_tokens": 0}
SILENCE = (
    None,
    {},
    [],
    NO_TOKENS,
    {**NO_TOKENS, "service_tier": "standard"},
    {"output_tokens": None},
)


@pytest.mark.parametrize("said", [*SILENCE, *(row[0] for row in COUNTS)], ids=str)
def test_a_usage_that_is_not_believed_is_not_the_same_as_none(said: Any) -> None:
    answer = whole(TEXT, usage=said)
    assert answer.is_miscounted is (answer.usage is None and said not in SILENCE)


@pytest.mark.parametrize(
    ("first", "last", "is_miscounted"),
    [
        ({}, {"output_tokens": 9}, False),
        ({}, False, False),
        ({}, {"output_tokens": None}, False),
        ({}, {"input_tokens": 0, "output_tokens": 9}, False),
        ({}, {"output_tokens": -1}, True),
        ({}, {"output_tokens": 10**19}, True),
        ({}, {"input_tokens": 10}, True),
        ({"input_tokens": 0, "output_tokens": 0}, False, False),
        ({"input_tokens": 0, "output_tokens": 0, "service_tier": "standard"}, False, False),
        ({"input_tokens": 0, "output_tokens": 0}, {"output_tokens": 9}, True),
        ({"input_tokens": 0}, {"input_tokens": 10, "output_tokens": 9}, False),
        ({"input_tokens": 1.5}, False, True),
    ],
)
def test_of_a_stream_the_last_count_that_was_said_decides(
    first: dict[str, Any], last: Any, *, is_miscounted: bool
) -> None:
    _, reader, fold = read(start(**first) + grown(TEXT) + end(usage=last))
    assert reader.is_done
    assert fold.is_miscounted is fold.completion().is_miscounted is is_miscounted
    assert not (is_miscounted and fold.final_usage)


def test_half_a_character_is_no_reason_to_lose_an_answer() -> None:
    said = whole({"type": "text", "text": "x \ud83d"})
    assert said.choices[0].message.content == "x \ufffd"
    delta = event("content_block_delta", delta={"type": "text_delta", "text": "x ?"})
    (chunk,) = MessageStreamReader(NOW_S).feed(delta.replace(b"?", rb"\ude00"))
    assert chunk.choices[0].content == "x \ufffd"
