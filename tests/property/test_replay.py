"""Stored answers told again as streams: the fold of the chunks is the answer, whatever its form.

Only an empty text and none at all are the same here: neither says anything, and a stream cannot tell.
"""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.chat import (
    OLD_CALL,
    Choice,
    Completion,
    CustomCall,
    FinishReason,
    FunctionCall,
    ReplyMessage,
    ToolCall,
)
from windvane.core.usage import Usage
from windvane.wire.chat_reply import ChatStreamReader, decode_completion
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.content_parts import grown, more_than_text, split_thinking
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import encode_completion
from windvane.wire.replay import PIECE_CHARS, PIECES_MAX, chunks_of

TEXT = st.text(alphabet='aé\U0001f600 \n"\\:{}', max_size=90)
MAYBE = st.none() | TEXT
NAME = st.sampled_from(["f", "g"])
ID = st.from_regex("[a-zA-Z0-9]{9}", fullmatch=True)
FUNCTION = st.builds(FunctionCall, name=NAME, arguments=TEXT)
CALL = st.builds(ToolCall, id=ID, function=FUNCTION) | st.builds(
    ToolCall, id=ID, type=st.just("custom"), custom=st.builds(CustomCall, name=NAME, input=TEXT)
)
OLD = st.builds(ToolCall, type=st.just(OLD_CALL), function=FUNCTION, index=st.just(0))
TEXT_PART = TEXT.map(lambda text: {"type": "text", "text": text})
PART = st.one_of(
    TEXT_PART,
    st.builds(
        lambda ids: {"type": "reference", "reference_ids": ids},
        st.lists(st.integers(0, 9), max_size=2),
    ),
    st.builds(
        lambda said, more: {"type": "thinking", "thinking": said, **more},
        st.lists(TEXT_PART, max_size=2),
        st.sampled_from([{}, {"signature": "s"}, {"closed": True}]),
    ),
)
PARTS = st.lists(PART, min_size=1, max_size=5).filter(lambda parts: more_than_text(grown(parts)))
AUDIO = st.fixed_dictionaries({"id": TEXT, "data": TEXT}, optional={"transcript": TEXT})
USAGE = Usage(input_tokens=9, output_tokens=4, cache_read_input_tokens=3)


def ordered(items: list[int]) -> list[int]:
    return sorted(set(items))


@st.composite
def completions(draw: st.DrawFn, are_plain: bool = False) -> Completion:
    """`are_plain`: numbered from 0, as providers do; else with any rising numbers."""
    choices = []
    numbers = list(range(draw(st.integers(1, 3))))
    if not are_plain:
        numbers = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(ordered))
    for index in numbers:
        calls = draw(st.lists(CALL, max_size=3, unique_by=lambda call: call.id))
        places = list(range(len(calls)))
        if not are_plain and calls:
            size = {"min_size": len(calls), "max_size": len(calls), "unique": True}
            places = sorted(draw(st.lists(st.integers(0, 9), **size)))
        message = ReplyMessage(
            content=draw(MAYBE),
            reasoning=draw(MAYBE) or None,
            refusal=draw(MAYBE) or None,
            tool_calls=[
                msgspec.structs.replace(call, index=place)
                for place, call in zip(places, calls, strict=True)
            ],
            audio=draw(st.none() | AUDIO),
        )
        if draw(st.booleans()):
            message.parts = draw(PARTS)
            message.content, message.reasoning = split_thinking(message.parts)
        if not calls and draw(st.booleans()):
            message.tool_calls = [draw(OLD)]
        reason = draw(st.none() | st.sampled_from(FinishReason))
        choices.append(Choice(index=index, message=message, finish_reason=reason))
    return Completion(id="c1", model="m", created=7, choices=choices, usage=USAGE)


def folded(completion: Completion, pieces: tuple[int, ...] = ()) -> Completion:
    fold = Fold()
    for chunk in chunks_of(completion, USAGE, pieces):
        fold.add(chunk)
    return fold.completion()


def as_told(completion: Completion) -> Completion:
    said = msgspec.msgpack.decode(msgspec.msgpack.encode(completion), type=Completion)
    for choice in said.choices:
        message = choice.message
        message.content = message.content or None
        message.parts = message.parts and grown(message.parts)
    return said


MANY = settings(max_examples=80, deadline=None)
PIECES = st.lists(st.integers(0, 40), max_size=6).map(tuple)


@MANY
@given(completions(), PIECES)
def test_the_fold_of_the_chunks_is_the_answer(said: Completion, pieces: tuple[int, ...]) -> None:
    assert folded(said, pieces) == as_told(said)


@MANY
@given(completions())
def test_each_choice_begins_with_its_role_and_ends_with_its_reason(said: Completion) -> None:
    chunks = list(chunks_of(said, USAGE))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == USAGE
    for choice in said.choices:
        mine = [piece for chunk in chunks for piece in chunk.choices if piece.index == choice.index]
        assert mine[0].role == "assistant"
        assert [piece.role for piece in mine[1:]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == choice.finish_reason
        assert all(piece.finish_reason is None for piece in mine[:-1])


@pytest.mark.parametrize("dialect", Dialect)
@MANY
@given(said=completions(are_plain=True), include_usage=st.booleans())
def test_a_stream_and_a_whole_answer_say_the_same_in_both_dialects(
    dialect: Dialect, said: Completion, include_usage: bool
) -> None:
    for choice in said.choices:
        choice.finish_reason = choice.finish_reason or FinishReason.STOP
    whole = decode_completion(encode_completion(said, USAGE, dialect, None), 0)
    fold = Fold()
    writer = ChatStreamWriter(dialect, fold, include_usage=include_usage)
    chunks = list(chunks_of(said, USAGE))
    for chunk in chunks:
        fold.add(chunk)
    sent = writer.write(chunks) + writer.end(USAGE, None)
    reader, heard = ChatStreamReader(0), Fold()
    for chunk in reader.feed(sent):
        heard.add(chunk)
    assert reader.is_done
    told = as_told(heard.completion())
    assert told.choices == as_told(msgspec.structs.replace(whole, raw=None)).choices
    assert told.usage == whole.usage == USAGE
    assert sent.count(b'"usage"') == 1
    has_extra = b'"choices":[]' in sent
    assert has_extra == include_usage


def test_text_comes_in_the_pieces_it_first_came_in() -> None:
    said = Completion(
        id="c",
        model="m",
        created=1,
        choices=[Choice(message=ReplyMessage(content="Hello, world"))],
    )
    texts = [chunk.choices[0].content for chunk in chunks_of(said, USAGE, (5, 2, 5))]
    assert texts == ["", "Hello", ", ", "world", None]
    long = msgspec.structs.replace(
        said, choices=[Choice(message=ReplyMessage(content="x" * (2 * PIECE_CHARS + 1)))]
    )
    lengths = [len(chunk.choices[0].content or "") for chunk in chunks_of(long, USAGE)]
    assert lengths == [0, PIECE_CHARS, PIECE_CHARS, 1, 0]


def call(text: str, **more: object) -> ToolCall:
    return ToolCall(function=FunctionCall(name="f", arguments=text), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "calls",
    [
        [call("1"), call("2")],
        [call("1", index=0), call("2", index=0)],
        [call("1", index=1), call("2", index=0)],
        [call("1", index=0, id="a"), call("2", index=0, id="a")],
        [call("1", index=3), call("2")],
    ],
    ids=["no numbers", "one number", "backwards", "one id", "half numbered"],
)
def test_calls_that_are_badly_numbered_stay_apart_and_in_order(calls: list[ToolCall]) -> None:
    """Some servers number all calls 0, or none."""
    message = ReplyMessage(tool_calls=calls)
    said = Completion(id="c", model="m", created=1, choices=[Choice(message=message)])
    told = folded(said).choices[0].message.tool_calls
    assert [each.function.arguments for each in told] == ["1", "2"]
    assert [each.id for each in told] == [each.id for each in calls]


@pytest.mark.parametrize("indexes", [(2, 1, 0), (1, 0, 7), (0, 2, 1)])
def test_choices_in_any_order_keep_their_numbers_and_are_told_by_them(
    indexes: tuple[int, ...],
) -> None:
    """A stream says the same of each index as the JSON does."""
    choices = [
        Choice(index=index, message=ReplyMessage(content=f"text {index}")) for index in indexes
    ]
    said = Completion(id="c", model="m", created=1, choices=choices)
    assert {choice.index: choice.message.content for choice in folded(said, (1, 2)).choices} == {
        index: f"text {index}" for index in indexes
    }
    told = [chunk.choices[0].index for chunk in chunks_of(said, USAGE)]
    assert told == sorted(told)


@pytest.mark.parametrize("length", [100_000, 5_000_000])
def test_a_long_text_comes_in_so_many_pieces_and_no_more(length: int) -> None:
    choice = Choice(message=ReplyMessage(content="x" * length), finish_reason=FinishReason.STOP)
    said = Completion(id="c", model="m", created=1, choices=[choice])
    chunks = list(chunks_of(said, USAGE))
    assert PIECES_MAX / 2 < len(chunks) <= PIECES_MAX + 2
    assert folded(said).choices[0].message.content == choice.message.content


def test_choices_that_are_badly_numbered_stay_apart() -> None:
    choices = [Choice(message=ReplyMessage(content=text)) for text in ("one", "two")]
    said = Completion(id="c", model="m", created=1, choices=choices)
    assert [choice.message.content for choice in folded(said).choices] == ["one", "two"]


def test_arguments_that_are_an_object_are_told_as_json() -> None:
    function = FunctionCall(name="f", arguments={"a": None, "b": "c"})
    message = ReplyMessage(tool_calls=[ToolCall(function=function)])
    said = Completion(id="c", model="m", created=1, choices=[Choice(message=message)])
    assert folded(said).choices[0].message.tool_calls[0].function.arguments == '{"a":null,"b":"c"}'
