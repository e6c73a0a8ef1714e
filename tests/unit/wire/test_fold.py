"""Chunks folded into the completion they amount to."""

import tracemalloc
from typing import Any

import pytest

from windvane.core.chat import (
    Chunk,
    ChunkChoice,
    FinishReason,
    FunctionCall,
    ToolCall,
    ToolCallDelta,
)
from windvane.core.usage import Usage
from windvane.wire.fold import Fold


def chunk(*pieces: ChunkChoice, **more: Any) -> Chunk:
    return Chunk(**{"id": "c1", "model": "m", "created": 7, "choices": list(pieces), **more})


def folded(*chunks: Chunk) -> Fold:
    fold = Fold()
    for one in chunks:
        fold.add(one)
    return fold


def call(index: int, id_: str | None, name: str, arguments: str) -> ToolCall:
    return ToolCall(id=id_, index=index, function=FunctionCall(name=name, arguments=arguments))


def test_text_thinking_and_refusal_grow_apart() -> None:
    fold = folded(
        chunk(ChunkChoice(role="assistant", content="")),
        chunk(ChunkChoice(reasoning="h")),
        chunk(ChunkChoice(reasoning="m", content="a")),
        chunk(ChunkChoice(content="b", refusal="n")),
        chunk(ChunkChoice(refusal="o", finish_reason=FinishReason.STOP)),
    )
    (choice,) = fold.completion().choices
    message = choice.message
    assert (message.content, message.reasoning, message.refusal) == ("ab", "hm", "no")
    assert choice.finish_reason is FinishReason.STOP
    assert (fold.pieces, fold.chunks, fold.longest_piece) == (5, 4, 1)


def test_choices_grow_apart_and_come_in_order() -> None:
    fold = folded(
        chunk(ChunkChoice(index=1, content="b")),
        chunk(ChunkChoice(index=0, content="a"), ChunkChoice(index=1, content="b")),
        chunk(ChunkChoice(index=1, finish_reason=FinishReason.LENGTH)),
    )
    assert not fold.is_finished
    fold.add(chunk(ChunkChoice(index=0, finish_reason=FinishReason.STOP)))
    assert fold.is_finished
    assert [
        (one.index, one.message.content, one.finish_reason) for one in fold.completion().choices
    ] == [
        (0, "a", FinishReason.STOP),
        (1, "bb", FinishReason.LENGTH),
    ]


@pytest.mark.parametrize(
    "more", [ChunkChoice(content="b"), ChunkChoice(tool_calls=[ToolCallDelta(id="i", name="f")])]
)
def test_an_end_that_more_follows_was_none(more: ChunkChoice) -> None:
    fold = folded(chunk(ChunkChoice(content="a", finish_reason=FinishReason.STOP)), chunk(more))
    assert not fold.is_finished
    fold.add(chunk(ChunkChoice(finish_reason=FinishReason.LENGTH)))
    fold.add(chunk(ChunkChoice(content="")))
    assert fold.is_finished
    assert fold.completion().choices[0].finish_reason is FinishReason.LENGTH


def test_a_call_in_pieces_and_a_call_in_one_are_the_same_call() -> None:
    pieces = folded(
        chunk(ChunkChoice(tool_calls=[ToolCallDelta(index=0, id="i", name="f")])),
        chunk(ChunkChoice(tool_calls=[ToolCallDelta(index=0, arguments='{"a"')])),
        chunk(ChunkChoice(tool_calls=[ToolCallDelta(index=1, id="j", name="g", arguments="{}")])),
        chunk(ChunkChoice(tool_calls=[ToolCallDelta(index=0, arguments=":1}")])),
    )
    whole = folded(
        chunk(
            ChunkChoice(
                tool_calls=[
                    ToolCallDelta(index=1, id="j", name="g", arguments="{}"),
                    ToolCallDelta(index=0, id="i", name="f", arguments='{"a":1}'),
                ]
            )
        )
    )
    expected = [call(0, "i", "f", '{"a":1}'), call(1, "j", "g", "{}")]
    assert pieces.calls_of(0) == whole.calls_of(0) == expected
    assert pieces.completion().choices[0].message.tool_calls == expected
    assert pieces.calls_of(3) == []


def test_an_id_and_a_name_said_again_are_not_said_twice() -> None:
    again = ToolCallDelta(index=0, id="i", name="f", arguments="1")
    fold = folded(chunk(ChunkChoice(tool_calls=[again])), chunk(ChunkChoice(tool_calls=[again])))
    assert fold.calls_of(0) == [call(0, "i", "f", "11")]
    assert again.arguments == "1"


def test_the_last_usage_counts_and_the_first_id() -> None:
    first, last = Usage(output_tokens=1), Usage(output_tokens=2)
    fold = folded(
        chunk(id=""),
        chunk(ChunkChoice(content="a"), usage=first),
        chunk(id="c2", model="n", usage=last),
        chunk(),
    )
    completion = fold.completion()
    assert (completion.id, completion.model, completion.created) == ("c1", "m", 7)
    assert completion.usage is last


BELIEVED, BAD, SILENT = {"usage": Usage(5, 2)}, {"is_miscounted": True}, dict[str, Any]()


@pytest.mark.parametrize(
    ("said", "is_miscounted"),
    [
        ([SILENT], False),
        ([BELIEVED, SILENT], False),
        ([BAD, SILENT], True),
        ([BAD, BELIEVED, SILENT], False),
        ([BELIEVED, BAD, SILENT], True),
        ([BAD, BELIEVED, BAD], True),
    ],
)
def test_the_last_usage_counts_be_it_believed_or_not(
    said: list[dict[str, Any]], *, is_miscounted: bool
) -> None:
    fold = folded(chunk(ChunkChoice(content="a")), *(chunk(**more) for more in said))
    assert fold.is_miscounted is fold.completion().is_miscounted is is_miscounted
    is_counted = BELIEVED in said and not is_miscounted
    assert (fold.final_usage == Usage(5, 2)) is is_counted


def test_nothing_folds_into_nothing() -> None:
    fold = Fold()
    assert not fold.is_finished
    assert fold.completion().choices == []
    assert fold.completion().usage is None


def test_another_id_under_the_same_index_is_another_call() -> None:
    """Some servers number none of their calls."""
    fold = Fold()
    for name, arguments in (("a", '{"a":1}'), ("b", '{"b":1}')):
        delta = ToolCallDelta(index=0, id=name, name=name, arguments=arguments)
        choices = [ChunkChoice(tool_calls=[delta])]
        fold.add(Chunk(id="i", model="m", created=1, choices=choices))
    calls = fold.calls_of(0)
    assert [(call.id, call.index, call.function.arguments) for call in calls] == [
        ("a", 0, '{"a":1}'),
        ("b", 1, '{"b":1}'),
    ]


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (ChunkChoice(), False),
        (ChunkChoice(role="assistant", content=""), False),
        (ChunkChoice(content=" "), True),
        (ChunkChoice(reasoning="r"), True),
        (ChunkChoice(refusal="r"), True),
        (ChunkChoice(tool_calls=[ToolCallDelta()]), True),
    ],
)
def test_a_piece_says_something_or_not(piece: ChunkChoice, says: bool) -> None:
    fold = Fold()
    fold.add(chunk(piece))
    assert fold.chunks == says


def test_a_long_answer_takes_little_more_than_its_text() -> None:
    """Counted by what Python has allocated, while a thousand streams might be alive."""
    said = [f"word {number} " for number in range(3_000)]

    def fold_all() -> Fold:
        fold = Fold()
        for text in said:
            one = text.encode().decode()  # as of a wire: a text of its own
            fold.add(chunk(ChunkChoice(content=one, reasoning=one.upper())))
        return fold

    tracemalloc.start()
    try:
        fold = fold_all()
        taken_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    message = fold.completion().choices[0].message
    assert message.content == "".join(said)
    assert message.reasoning == "".join(said).upper()
    assert taken_bytes < 1.6 * 2 * len("".join(said))


def test_words_that_were_joined_before_a_part_came_are_no_piece() -> None:
    fold = Fold()
    for _ in range(200):
        fold.add(chunk(ChunkChoice(content="ab")))
    fold.add(chunk(ChunkChoice(parts=["cd", {"type": "t"}])))
    fold.add(chunk(ChunkChoice(content="ef")))
    assert fold.longest_piece == len('{"type":"t"}')
    message = fold.completion().choices[0].message
    assert message.content == "ab" * 200 + "cdef"
    assert message.parts == [
        {"type": "text", "text": "ab" * 200 + "cd"},
        {"type": "t"},
        {"type": "text", "text": "ef"},
    ]


@pytest.mark.parametrize("place", [0, 63, 64, 500, 999])
def test_the_longest_piece_is_known_when_it_was_joined(place: int) -> None:
    fold = Fold()
    for number in range(1_000):
        text = "n\u00e4her" * 4 if number == place else "ab"
        fold.add(chunk(ChunkChoice(content=text)))
    assert fold.longest_piece == 6 * 4
