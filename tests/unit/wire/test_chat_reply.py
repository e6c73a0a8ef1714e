"""Providers' answers and streams, read with each provider's habits."""

from typing import Any

import msgspec
import pytest

from windvane.core.chat import Chunk, FinishReason
from windvane.core.faults import (
    APIConnectionError,
    FaultKind,
    InternalServerError,
    Retry,
    WindvaneError,
)
from windvane.core.usage import Usage
from windvane.wire.chat_reply import (
    TOKENS_MAX,
    ChatStreamReader,
    decode_completion,
    read_usage,
)
from windvane.wire.content_parts import split_thinking

NOW_S = 1_790_000_000
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def usage_of(**fields: Any) -> Usage | None:
    return read_usage(msgspec.json.encode(fields))


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        (USAGE, Usage(input_tokens=10, output_tokens=4)),
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=8),
        ),
        (
            {
                **USAGE,
                "prompt_tokens_details": {
                    "cached_tokens": 3,
                    "cache_write_tokens": 5,
                    "audio_tokens": 0,
                },
            },
            Usage(
                input_tokens=10,
                output_tokens=4,
                cache_read_input_tokens=3,
                cache_creation_input_tokens=5,
            ),
        ),
        ({**USAGE, "prompt_tokens_details": None}, Usage(input_tokens=10, output_tokens=4)),
        (
            {**USAGE, "prompt_token_details": {"cached_tokens": 8}},
            Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=8),
        ),
        (
            {**USAGE, "prompt_tokens_details": {}, "num_cached_tokens": 6},
            Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=6),
        ),
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 0}, "num_cached_tokens": 6},
            Usage(input_tokens=10, output_tokens=4),
        ),
        (
            {**USAGE, "completion_tokens_details": {"reasoning_tokens": 4}},
            Usage(input_tokens=10, output_tokens=4, reasoning_output_tokens=4),
        ),
        (
            {**USAGE, "num_cached_tokens": 6},
            Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=6),
        ),
        (
            {**USAGE, "completion_tokens_details": {"reasoning_tokens": 2}},
            Usage(input_tokens=10, output_tokens=4, reasoning_output_tokens=2),
        ),
        (
            {**USAGE, "service_tier": "priority"},
            Usage(input_tokens=10, output_tokens=4, service_tier="priority"),
        ),
        (
            {**USAGE, "prompt_audio_seconds": {}, "new": [1]},
            Usage(input_tokens=10, output_tokens=4),
        ),
        (
            {**USAGE, "completion_tokens_details": {"reasoning_tokens": 5}},
            Usage(
                input_tokens=10, output_tokens=9, reasoning_output_tokens=5, is_at_most=True
            ),  # the total knows nothing of it
        ),
        (
            {**USAGE, "total_tokens": 20},
            Usage(input_tokens=10, output_tokens=10, is_at_most=True),
        ),
        (
            {**USAGE, "total_tokens": 3264, "prompt_audio_seconds": 203},
            Usage(input_tokens=10, output_tokens=4),  # what was heard is in the total alone
        ),
        # Numbers as text, or as fractions of nothing, are numbers.
        ({**USAGE, "prompt_tokens": "10", "completion_tokens": 4.0}, Usage(10, 4)),
        # A part that is more than the whole was counted beside it: more cannot be meant.
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 11}},
            Usage(21, 4, is_at_most=True, contested_input_tokens=11),
        ),
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 5}},
            Usage(
                21,
                4,
                cache_creation_input_tokens=5,
                is_at_most=True,
                contested_input_tokens=11,
            ),
        ),
        (
            {**USAGE, "prompt_cache_hit_tokens": 11},
            Usage(21, 4, is_at_most=True, contested_input_tokens=11),
        ),
        (
            {**USAGE, "prompt_token_details": {"cached_tokens": 11}},
            Usage(21, 4, is_at_most=True, contested_input_tokens=11),
        ),
        (
            # What the total has above what was asked may be output, unless all adds up.
            {**USAGE, "num_cached_tokens": 11, "total_tokens": 20},
            Usage(21, 10, is_at_most=True, contested_input_tokens=11),
        ),
        (
            {**USAGE, "num_cached_tokens": 11, "total_tokens": 25},
            Usage(21, 4, is_at_most=True, contested_input_tokens=11),
        ),
        ({**USAGE, "num_cached_tokens": TOKENS_MAX}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        # What cannot be believed is no usage.
        ({}, None),
        ({"prompt_tokens": None, "completion_tokens": 4}, None),
        ({**USAGE, "prompt_tokens": -1}, None),
        ({**USAGE, "prompt_tokens": 1.5}, None),
        ({**USAGE, "prompt_tokens": "ten"}, None),
        ({**USAGE, "completion_tokens": -4}, None),
        ({**USAGE, "completion_tokens": True}, None),
        ({**USAGE, "prompt_tokens": TOKENS_MAX + 1}, None),
        ({**USAGE, "completion_tokens": 10**30}, None),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": -1}}, None),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": -2}}, None),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": TOKENS_MAX}}, None),
        ({**USAGE, "total_tokens": TOKENS_MAX + 11}, None),
        ({**USAGE, "prompt_token_details": 5}, None),
    ],
)
def test_usage_is_believed_or_is_none(said: dict[str, Any], usage: Usage | None) -> None:
    assert usage_of(**said) == usage


BESIDE = {"prompt_tokens": 50, "completion_tokens": 7, "reasoning_tokens": 900}


@pytest.mark.parametrize(
    "thought", [{}, {"reasoning_tokens": 0}, {"reasoning_tokens": 900}, {"accepted": 1}, None]
)
def test_thinking_counts_wherever_it_is_told(thought: object) -> None:
    usage = read_usage(msgspec.json.encode({**BESIDE, "completion_tokens_details": thought}))
    assert usage is not None
    assert (usage.output_tokens, usage.reasoning_output_tokens) == (907, 900)


@pytest.mark.parametrize(
    "raw",
    [b"null", b"[]", b'"x"', b"{", b'{"prompt_tokens":1,"service_tier":"\xff"}', b"[" * 10_000],
)
def test_a_usage_that_is_no_object_is_none(raw: bytes) -> None:
    assert read_usage(raw) is None


def reply(*choices: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode(
        {
            "id": "c1",
            "object": "chat.completion",
            "created": 7,
            "model": "m",
            "choices": list(choices),
            "usage": USAGE,
            **more,
        }
    )


def said(finish: str | None = "stop", index: int = 0, **message: Any) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish}


def only(body: bytes) -> Any:
    (choice,) = decode_completion(body, NOW_S).choices
    return choice


CALL = {"id": "abcdefghi", "function": {"name": "f", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("model_length", FinishReason.MODEL_LENGTH),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("function_call", FinishReason.FUNCTION_CALL),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("eos", FinishReason.OTHER),
        ("", FinishReason.STOP),
        (None, None),
    ],
)
def test_each_finish_reason(finish: str | None, reason: FinishReason | None) -> None:
    assert only(reply(said(finish, content="x"))).finish_reason is reason


@pytest.mark.parametrize(
    ("message", "content", "reasoning"),
    [
        ({"content": "x"}, "x", None),
        ({"content": None}, None, None),
        ({"content": ""}, "", None),
        ({"content": "x", "reasoning_content": "hm"}, "x", "hm"),
        ({"content": "x", "reasoning": "hm"}, "x", "hm"),
        ({"content": "x", "reasoning": "hm", "reasoning_content": "hm"}, "x", "hm"),
        ({"content": "x", "reasoning": [{"text": "hm"}]}, "x", None),
        (
            {
                "content": [
                    {
                        "type": "thinking",
                        "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}],
                    },
                    {"type": "text", "text": "x"},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "y"},
                ]
            },
            "xy",
            "hm",
        ),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, None, "hm"),
        ({"content": []}, None, None),
    ],
)
def test_text_and_thinking_in_both_families_manners(
    message: dict[str, Any], content: str | None, reasoning: str | None
) -> None:
    read = only(reply(said(**message))).message
    assert (read.content, read.reasoning) == (content, reasoning)


def test_thinking_in_an_unknown_shape_is_no_accident() -> None:
    assert split_thinking(
        [{"type": "thinking", "thinking": [3, None, {"text": "a"}]}, {"type": "thinking"}]
    ) == (None, "a")
    assert split_thinking([{"type": "text", "text": 3}, {}]) == (None, None)


MISCOUNTED: list[tuple[Any, bool]] = [
    (USAGE, False),
    ({**USAGE, "prompt_tokens": "10"}, False),
    # Silence, as servers keep it.
    (None, False),
    ({}, False),
    ([], False),
    ("", False),
    (0, False),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, False),
    ({"prompt_tokens": "0", "completion_tokens": 0.0, "details": {"cached_tokens": None}}, False),
    ({"prompt_tokens": 0, "total_tokens": 0, "is_byok": True, "tier": "default"}, False),
    ({"prompt_tokens": 0, "total_tokens": 0, "queue_time": 0.02, "cost": 0.0}, False),
    # Half a count, or none that can be one.
    ({"prompt_tokens": 10}, True),
    ({"completion_tokens": 4, "total_tokens": 14}, True),
    ({**USAGE, "prompt_tokens": 0}, True),
    ({**USAGE, "prompt_tokens": -1}, True),
    ({**USAGE, "completion_tokens": 4.5}, True),
    ({**USAGE, "completion_tokens": "1,907"}, True),
    ({**USAGE, "total_tokens": 10**19}, True),
    ({**USAGE, "total_tokens": 10**18}, True),
    ({**USAGE, "completion_tokens": 10**400}, True),
    ({**USAGE, "num_cached_tokens": 10**9}, True),
    ({**USAGE, "completion_tokens_details": []}, True),
    ({"prompt_tokens": 0, "details": {"reasoning_tokens": 900}}, True),
    ({"prompt_tokens": 0, "completion_tokens": 907.5}, True),
    ({"prompt_tokens": 0, "completion_tokens": "many"}, True),
    ({"new": 9}, True),
    ({"input_tokens": 10, "output_tokens": 4}, True),
    ([USAGE], True),
    ("many", True),
    (907, True),
]


@pytest.mark.parametrize(("usage", "is_miscounted"), MISCOUNTED, ids=repr)
def test_a_usage_that_is_not_believed_is_not_the_same_as_none(
    usage: Any, *, is_miscounted: bool
) -> None:
    whole = decode_completion(reply(said(content="x"), usage=usage), NOW_S)
    streamed = [
        chunk_of(event(delta("stop"), usage=usage)),
        chunk_of(event(delta(content="x"), usage=usage)),
    ]
    if usage is not None:
        streamed.append(chunk_of(event(usage=usage)))  # it may come alone, believed or not
    for read in (whole, *streamed):
        assert read.is_miscounted is is_miscounted
        assert read.usage is None or not is_miscounted


def test_what_is_said_without_a_usage_is_not_miscounted() -> None:
    assert not decode_completion(b'{"choices":[{"message":{"content":"x"}}]}', NOW_S).is_miscounted
    assert not chunk_of(event(delta(content="x"))).is_miscounted


def test_mistrals_tool_calls_lack_a_type_and_may_have_an_object_for_arguments() -> None:
    second = {"id": "b", "index": 5, "function": {"name": "g", "arguments": {"a": 1}}}
    first, other = only(
        reply(said("tool_calls", content="", tool_calls=[CALL, second]))
    ).message.tool_calls
    assert (first.id, first.type, first.index) == ("abcdefghi", "function", 0)
    assert (first.function.name, first.function.arguments) == ("f", '{"a":1}')
    assert (other.index, other.function.arguments) == (5, '{"a":1}')


def test_several_choices_and_a_refusal() -> None:
    completion = decode_completion(reply(said(content="a"), said(index=1, refusal="no")), NOW_S)
    assert [
        (one.index, one.message.content, one.message.refusal) for one in completion.choices
    ] == [
        (0, "a", None),
        (1, None, "no"),
    ]
    assert completion.usage == Usage(input_tokens=10, output_tokens=4)


def test_an_answer_without_a_date_is_dated_now() -> None:
    completion = decode_completion(b'{"choices":[{"message":{"content":"x"}}]}', NOW_S)
    assert (completion.created, completion.id, completion.model, completion.usage) == (
        NOW_S,
        "",
        "",
        None,
    )


def test_the_tier_is_read_where_openai_says_it() -> None:
    usage = decode_completion(reply(said(content="x"), service_tier="flex"), NOW_S).usage
    assert usage is not None and usage.service_tier == "flex"


def without(name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


TYPED = {**CALL, "type": "function"}
RELAYED: list[tuple[bytes, bool]] = [
    (reply(said(content="x")), True),
    (reply(said("tool_calls", content=None, tool_calls=[TYPED])), True),
    (reply(said(content="x"), said(index=1, content="y"), extra=1), True),
    (reply(said("tool_calls", content="", tool_calls=[CALL])), False),
    (reply(said("tool_calls", tool_calls=[{**TYPED, "id": None}])), False),
    (reply(said("tool_calls", tool_calls=[{**TYPED, "id": ""}])), False),
    (reply(said("tool_calls", tool_calls=[{"id": "a", "type": "function"}])), False),
    (
        reply(
            said("tool_calls", tool_calls=[{**TYPED, "function": {"name": "f", "arguments": {}}}])
        ),
        False,
    ),
    (reply(said("model_length", content="x")), False),
    (reply(said("eos", content="x")), False),
    (reply(said(None, content="x")), False),
    (reply(said(content=None)), False),
    (reply(said(content=[{"type": "text", "text": "x"}])), False),
    (reply({"index": 0, "finish_reason": "stop"}), False),
    (reply(said(content="x"), usage=None), False),
    (reply(said(content="x"), usage={"prompt_tokens": -1}), False),
    (reply(said(content="x"), id=None), False),
    (reply(said(content="x"), model=""), False),
    (reply(said(content="x"), created=None), False),
    (reply(said(content="x"), object=None), False),
    (reply(without("index", said(content="x"))), False),
    (reply({**said(content="x"), "index": None}), False),
    (reply(said(content="x"), error=None), True),
]


@pytest.mark.parametrize(("body", "is_everybodys"), RELAYED)
def test_bytes_are_everybodys_only_when_every_client_accepts_them(
    body: bytes, is_everybodys: bool
) -> None:
    read = decode_completion(body, NOW_S)
    assert (read.raw, read.is_everybodys) == (body, is_everybodys)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"{}", "no reason"),
        (b'{"choices":[]}', "no choices"),
        (b'{"choices":"x"}', "array"),
        (b'{"choices":[{"index":0,"message":{"content":"\xff"}}]}', "utf-8"),
        (b'{"error":{"message":"overloaded"}}', "overloaded"),
        (b'{"x":' + b"[" * 100_000, "."),
    ],
)
def test_what_is_no_answer_is_the_providers_fault_and_may_be_billed(
    body: bytes, words: str
) -> None:
    with pytest.raises(InternalServerError, match=words) as caught:
        decode_completion(body, NOW_S)
    fault = caught.value.fault
    assert (fault.kind, fault.retry, fault.billed) == (FaultKind.UPSTREAM_ERROR, Retry.OTHER, True)


def test_choices_without_a_number_have_their_places() -> None:
    unnumbered = [without("index", said(content=text)) for text in ("a", "b")]
    choices = decode_completion(reply(*unnumbered), NOW_S).choices
    assert [(one.index, one.message.content) for one in choices] == [(0, "a"), (1, "b")]


HALVES = [(rb"\ud83d", "\ufffd"), (rb"\ude00", "\ufffd"), (rb"\\ud83d", "\\ud83d")]
ODD: list[tuple[dict[str, Any], tuple[str, str, int]]] = [
    ({"created": 8.75}, ("c1", "m", 8)),
    ({"created": "8"}, ("c1", "m", 8)),
    ({"created": "Monday"}, ("c1", "m", NOW_S)),
    ({"created": {}}, ("c1", "m", NOW_S)),
    ({"created": "1e999"}, ("c1", "m", NOW_S)),
    ({"id": 17}, ("17", "m", 7)),
    ({"id": []}, ("", "m", 7)),
    ({"model": 5}, ("c1", "", 7)),
    ({"service_tier": 5, "object": 5}, ("c1", "m", 7)),
]


@pytest.mark.parametrize(("members", "named"), ODD)
def test_an_answer_is_not_lost_for_a_member_around_it(
    members: dict[str, Any], named: tuple[str, str, int]
) -> None:
    read = decode_completion(reply(said(content="x"), **members), NOW_S)
    piece = chunk_of(event(delta(content="x"), **members))
    usage = chunk_of(event(usage=USAGE, **members)).usage
    for one in (read, piece):
        assert (one.id, one.model, one.created) == named
    assert read.usage == usage == Usage(input_tokens=10, output_tokens=4)
    assert (read.choices[0].message.content, piece.choices[0].content) == ("x", "x")
    assert not read.is_everybodys and not piece.is_plain


@pytest.mark.parametrize(("escape", "text"), HALVES)
def test_half_a_character_is_no_reason_to_lose_an_answer(escape: bytes, text: str) -> None:
    body = reply(said(content="x ?")).replace(b"?", escape)
    assert decode_completion(body, NOW_S).choices[0].message.content == f"x {text}"
    piece = chunk_of(event(delta(content="x ?")).replace(b"?", escape))
    assert piece.choices[0].content == f"x {text}"


ERROR = {"error": {"message": "add credits", "code": 429}}


@pytest.mark.parametrize(
    "body",
    [
        reply(said("error", content="x"), **ERROR),
        reply(said("stop", content="x"), **ERROR),
        reply({**said("error", content="x"), **ERROR}),
        reply(**ERROR),
        reply(choices=None, **ERROR),
        reply(said(content="x"), error="add credits"),
    ],
)
def test_an_error_beside_choices_is_told_in_the_providers_words(body: bytes) -> None:
    with pytest.raises(InternalServerError, match=r"add credits$") as caught:
        decode_completion(body, NOW_S)
    fault = caught.value.fault
    assert (fault.kind, fault.billed) == (FaultKind.UPSTREAM_ERROR, True)
    assert fault.usage == Usage(input_tokens=10, output_tokens=4)


def test_a_failure_without_words_is_one() -> None:
    with pytest.raises(InternalServerError, match=r"finish_reason: error"):
        decode_completion(reply(said("error", content="x")), NOW_S)


# Streams.


def event(*choices: dict[str, Any], **more: Any) -> bytes:
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": list(choices),
        **more,
    }
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **said: Any) -> dict[str, Any]:
    return {"index": index, "delta": said, "finish_reason": finish}


def chunk_of(body: bytes) -> Chunk:
    (chunk,) = ChatStreamReader(NOW_S).feed(body)
    return chunk


PLAIN: list[tuple[bytes, bool]] = [
    (event(delta(content="x")), True),
    (event(delta(role="assistant", content="")), True),
    (event(delta(content="x"), usage=None), True),
    (event(delta(content="x", reasoning_content=None)), True),
    (event(delta(content="", reasoning_content="hm")), False),
    (event(delta(content="", reasoning="hm")), False),
    (event(delta("stop", content="")), False),
    (event(delta(content="x"), usage=USAGE), False),
    (event(delta(content=None)), False),
    (event(delta(content=[{"type": "text", "text": "x"}])), False),
    (event(delta(content="", tool_calls=[{"index": 0}])), False),
    (event({"index": 0, "delta": {"content": "x"}}), False),
    (event({"index": 0, "delta": {"content": "x", "finish_reason": None}}), False),
    (event(delta(content="x"), delta(index=1, content="y")), False),
    (event(), False),
    (event(delta(content="x"), id=None), False),
    (event(delta(content="x"), model=None), False),
    (event(delta(content="x"), object=None), False),
    (event(delta(content="x"), created=None), False),
    (event(without("index", delta(content="x"))), False),
    (b"event: x\n" + event(delta(content="x")), False),
]


@pytest.mark.parametrize(("body", "is_plain"), PLAIN)
def test_only_a_mere_piece_of_text_is_plain(body: bytes, is_plain: bool) -> None:
    chunk = chunk_of(body)
    assert chunk.is_plain is is_plain
    assert chunk.raw == body


def test_a_thinking_delta_is_read_in_both_families_manners() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "x"},
    ]
    for body in (
        event(delta(content=parts)),
        event(delta(content="x", reasoning_content="hm")),
        event(delta(content="x", reasoning="hm")),
    ):
        (piece,) = chunk_of(body).choices
        assert (piece.reasoning, piece.content) == ("hm", "x")


def test_calls_without_an_index_are_counted() -> None:
    (piece,) = chunk_of(event(delta("tool_calls", tool_calls=[CALL, {**CALL, "id": "b"}]))).choices
    assert piece.tool_calls is not None
    assert [(call.index, call.id) for call in piece.tool_calls] == [(0, "abcdefghi"), (1, "b")]
    assert piece.finish_reason is FinishReason.TOOL_CALLS


def test_usage_is_read_with_a_choice_or_without_one() -> None:
    for body in (event(delta("stop", content=""), usage=USAGE), event(usage=USAGE)):
        assert chunk_of(body).usage == Usage(input_tokens=10, output_tokens=4)


NO_END = ["", "null", "eos", "not yet"]
DONE = b"data: [DONE]\n\n"


def ends(*events: bytes) -> list[list[tuple[int, FinishReason | None]]]:
    """How each chunk of a stream ends its choices."""
    chunks = ChatStreamReader(NOW_S).feed(b"".join(events))
    return [[(piece.index, piece.finish_reason) for piece in chunk.choices] for chunk in chunks]


@pytest.mark.parametrize("word", NO_END)
def test_a_word_that_is_no_known_end_is_one_only_by_the_streams_own(word: str) -> None:
    said = [event(delta(word, content=text)) for text in ("a", "b")]
    assert ends(*said) == [[(0, None)]] * 2
    end = FinishReason.STOP if word in ("", "null") else FinishReason.OTHER
    assert ends(*said, DONE) == [[(0, None)], [(0, None)], [(0, end)]]
    assert ends(*said, event(delta("length")), DONE)[-1] == [(0, FinishReason.LENGTH)]
    calling = event(delta(word, tool_calls=[CALL]))
    assert ends(calling, event(delta(word)), DONE)[-1] == [(0, FinishReason.TOOL_CALLS)]


@pytest.mark.parametrize("word", [None, *NO_END])
def test_an_end_that_more_follows_is_one_again_by_the_streams_own(word: str | None) -> None:
    """What the marker ends is named as the rest of its answer."""
    data = [event(delta("length", content="a")), event(delta(word, content="b")), DONE]
    last = ChatStreamReader(NOW_S).feed(b"".join(data))[-1]
    assert (last.id, last.model, last.created, last.raw) == ("c1", "m", 7, None)
    assert [(piece.index, piece.finish_reason) for piece in last.choices] == [
        (0, FinishReason.LENGTH)
    ]


def test_the_marker_ends_only_what_has_spoken_of_an_end() -> None:
    assert ends(event(delta(content="a")), DONE) == [[(0, None)]]
    assert ends(event(delta("", index=2)), event(delta("", index=1)), DONE)[-1] == [
        (1, FinishReason.STOP),
        (2, FinishReason.STOP),
    ]


def test_an_unknown_end_beside_calls_is_theirs() -> None:
    assert only(reply(said("", tool_calls=[TYPED]))).finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("choices", [b"null", None])
def test_the_last_usage_may_come_without_choices(choices: bytes | None) -> None:
    body = event(usage=USAGE)
    if choices is None:
        body = body.replace(b'"choices":[],', b"")
    else:
        body = body.replace(b'"choices":[]', b'"choices":' + choices)
    chunk = chunk_of(body)
    assert (chunk.choices, chunk.usage) == ([], Usage(input_tokens=10, output_tokens=4))


def test_the_marker_ends_the_stream_and_what_follows_is_nothing() -> None:
    reader = ChatStreamReader(NOW_S)
    assert not reader.is_done
    assert (
        len(
            reader.feed(event(delta(content="x")) + b"data: [DONE]\n\n" + event(delta(content="y")))
        )
        == 1
    )
    assert reader.is_done
    assert reader.feed(event(delta(content="z"))) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"error":{"message":"it broke","type":"server_error"}}', "^it broke$"),
        (
            b'{"object":"error","message":"Service unavailable.","type":"x"}',
            "^Service unavailable.$",
        ),
        (event(**ERROR)[6:-2], "^add credits$"),
        (event(delta("stop"), usage=USAGE, **ERROR)[6:-2], "^add credits$"),
        (event(delta("error"), **ERROR)[6:-2], "^add credits$"),
        (event({**delta("error"), **ERROR})[6:-2], "add credits$"),
        (event(choices=None)[6:-2], "an event is not a chunk: the provider gave no reason"),
        (b'{"detail":"Internal"}', "an event is not a chunk: Internal"),
        (b"nonsense", "an event is not a chunk"),
        (b'{"choices":3}', "an event is not a chunk"),
        (b'{"choices":[{"index":0,"delta":{"content":"\xff"}}]}', "an event is not a chunk"),
    ],
)
def test_an_error_in_the_stream_is_raised_in_the_providers_words(data: bytes, words: str) -> None:
    with pytest.raises(WindvaneError, match=words) as caught:
        ChatStreamReader(NOW_S).feed(b"data: " + data + b"\n\n")
    assert isinstance(caught.value, APIConnectionError)
    assert caught.value.fault.billed
