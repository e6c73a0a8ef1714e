"""An answer under another id, whole and in pieces."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windvane.core.chat import Chunk
from windvane.core.usage import Usage
from windvane.wire.anthropic_reply import MessageStreamReader
from windvane.wire.chat_reply import ChatStreamReader, decode_completion
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import encode_completion
from windvane.wire.renaming import Renaming, renamed

MINE = 'chatcmpl-"mine"'
USAGE = Usage(9, 2)
CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}
ID_FIRST, ID_LAST, SPACED, SPELLED_OUT = "id first", "id last", "spaced", "spelled out"


def event(id_: str, form: str = ID_FIRST, **choice: Any) -> bytes:
    """An event as the servers of the family write it."""
    rest = {
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "x-unheard-of": {"id": "other"},
        "choices": [{"index": 0, "finish_reason": None, **choice}],
    }
    said = {**rest, "id": id_} if form == ID_LAST else {"id": id_, **rest}
    gaps = None if form == SPACED else (",", ":")
    text = json.dumps(said, separators=gaps, ensure_ascii=False)
    if form == SPELLED_OUT:
        text = text.replace(json.dumps(id_, ensure_ascii=False), f'"\\u{ord(id_[0]):04x}{id_[1:]}"')
    return f"data: {text}\n\n".encode()


def read(*events: bytes) -> list[Chunk]:
    return ChatStreamReader(0).feed(b"".join(events))


def written(chunks: list[Chunk], dialect: Dialect) -> list[dict[str, Any]]:
    """What a client is told, event by event, but for the end's marker."""
    fold = Fold()
    writer = ChatStreamWriter(dialect, fold, include_usage=True)
    data = b""
    for chunk in chunks:
        fold.add(chunk)
        data += writer.write([chunk])
    data += writer.end(USAGE, None)
    return [json.loads(one[6:]) for one in data.split(b"\n\n")[:-2]]


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=3),
    st.sampled_from([ID_FIRST, ID_LAST, SPACED, SPELLED_OUT]),
    st.sampled_from(list(Dialect)),
)
@example(['"id":"theirs"', 'so says "id": "theirs"'], ID_LAST, Dialect.OPENAI)
def test_a_stream_is_the_same_but_for_its_id(words: list[str], form: str, dialect: Dialect) -> None:
    chunks = read(
        event("theirs", form, delta={"role": "assistant", "content": ""}),
        *(event("theirs", form, delta={"content": word}) for word in words),
        event("theirs", form, delta={"tool_calls": [CALL]}),
        event("theirs", form, delta={}, finish_reason="tool_calls"),
    )
    theirs = written(chunks, dialect)
    mine = written(Renaming(MINE).tell(chunks), dialect)
    assert {each["id"] for each in theirs} == {"theirs"}
    assert mine == [{**each, "id": MINE} for each in theirs]


def test_pieces_of_text_are_still_the_providers_own_bytes() -> None:
    raw = event("theirs", delta={"content": "why"})
    for form in (ID_FIRST, ID_LAST, SPACED):
        raw = event("theirs", form, delta={"content": "why"})
        (told,) = Renaming("mine").tell(read(raw))
        assert told.is_plain
        assert told.raw == raw.replace(b'"theirs"', b'"mine"')


def test_an_id_that_changes_within_a_stream_does_not_for_who_is_told_again() -> None:
    chunks = read(*(event(id_, delta={"content": "w"}) for id_ in ("a", "b", "b", "a")))
    renaming = Renaming("mine")
    told = [chunk for one in chunks for chunk in renaming.tell([one])]
    assert [chunk.raw for chunk in told] == [event("mine", delta={"content": "w"})] * 4
    assert [chunk.id for chunk in chunks] == ["a", "b", "b", "a"]


def test_another_dialects_stream_has_the_id_as_well() -> None:
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "So"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ]
    data = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in said)
    chunks = MessageStreamReader(0).feed(data)
    assert {chunk.id for chunk in chunks} == {"msg_1"}
    for dialect in Dialect:
        theirs, mine = written(chunks, dialect), written(Renaming(MINE).tell(chunks), dialect)
        assert mine == [{**each, "id": MINE} for each in theirs]


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 9, "completion_tokens": 2}, {"prompt_tokens": 9}]
)
def test_how_a_stream_counted_is_told_again(usage: dict[str, int]) -> None:
    chunks = read(
        event("theirs", delta={"content": "w"}).replace(
            b'"object"', b'"usage":%b,"object"' % json.dumps(usage).encode(), 1
        )
    )
    (told,) = Renaming("mine").tell(chunks)
    assert (told.usage, told.is_miscounted) == (chunks[0].usage, chunks[0].is_miscounted)
    assert told.is_miscounted is (len(usage) == 1)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_answer_is_the_same_but_for_its_id(dialect: Dialect, indent: int | None) -> None:
    said = {
        "id": "theirs",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "x-unheard-of": {"id": "theirs"},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
    theirs = decode_completion(json.dumps(said, indent=indent).encode(), 0)
    mine = renamed(theirs, MINE)
    told, again = (
        json.loads(encode_completion(each, USAGE, dialect, b"{}")) for each in (theirs, mine)
    )
    assert again == {**told, "id": MINE}
    assert theirs.id == "theirs"
