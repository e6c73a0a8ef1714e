"""A stream written for a client: plain text at once, calls whole, usage in its one place."""

from typing import Any

import msgspec
import pytest

from windvane.core.chat import Chunk, ChunkChoice, FinishReason, ToolCallDelta
from windvane.core.usage import Usage
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import usage_object

USAGE = Usage(input_tokens=10, output_tokens=4)


def chunk(*pieces: ChunkChoice, **more: Any) -> Chunk:
    return Chunk(**{"id": "c1", "model": "m", "created": 7, "choices": list(pieces), **more})


class Told:
    """A writer with its fold, and all that it has written."""

    def __init__(self, dialect: Dialect = Dialect.OPENAI, *, include_usage: bool = False) -> None:
        self._fold = Fold()
        self._writer = ChatStreamWriter(dialect, self._fold, include_usage=include_usage)

    def write(self, *chunks: Chunk) -> list[Any]:
        for one in chunks:
            self._fold.add(one)
        return bodies(self._writer.write(list(chunks)))

    def end(self, metadata: dict[str, object] | None = None) -> list[Any]:
        return bodies(self._writer.end(USAGE, metadata))


def bodies(written: bytes) -> list[Any]:
    events = [event.removeprefix(b"data: ") for event in written.split(b"\n\n") if event]
    return [
        event if event in (b"[DONE]", b"raw") else msgspec.json.decode(event) for event in events
    ]


def delta(body: Any) -> Any:
    return body["choices"][0]["delta"]


PLAIN = chunk(ChunkChoice(content="x"), raw=b"data: raw\n\n", is_plain=True)
STOP = chunk(ChunkChoice(content="", finish_reason=FinishReason.STOP))


def test_a_plain_piece_is_the_providers_own_bytes_at_once() -> None:
    assert Told().write(PLAIN, PLAIN) == [b"raw", b"raw"]


def test_usage_comes_on_the_last_choice() -> None:
    told = Told()
    assert told.write(STOP) == []
    last, done = told.end({"model": "x"})
    assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]
    assert (last["usage"], last["router_metadata"]) == (usage_object(USAGE), {"model": "x"})
    assert done == b"[DONE]"


def test_usage_comes_on_a_chunk_of_its_own_for_who_asked() -> None:
    told = Told(include_usage=True)
    told.write(STOP)
    last, extra, done = told.end({"model": "x"})
    assert "usage" not in last and "router_metadata" not in last
    assert (extra["choices"], extra["usage"]) == ([], usage_object(USAGE))
    assert extra["router_metadata"] == {"model": "x"}
    assert done == b"[DONE]"


def test_a_stream_that_never_finished_still_says_its_usage() -> None:
    told = Told()
    told.write(PLAIN)
    extra, done = told.end()
    assert (extra["choices"], extra["usage"], done) == ([], usage_object(USAGE), b"[DONE]")
    assert Told().end() == [b"[DONE]"]


def call(index: int, **said: Any) -> ChunkChoice:
    return ChunkChoice(tool_calls=[ToolCallDelta(index=index, **said)])


def test_a_call_in_pieces_is_told_whole_at_the_end() -> None:
    told = Told()
    (first,) = told.write(
        chunk(ChunkChoice(role="assistant", tool_calls=[ToolCallDelta(index=0, id="i", name="f")])),
        chunk(call(0, arguments='{"a"')),
        chunk(call(0, arguments=":1}")),
    )
    assert delta(first) == {"role": "assistant"}
    assert told.write(chunk(ChunkChoice(finish_reason=FinishReason.TOOL_CALLS))) == []
    whole, last, _ = told.end()
    assert delta(whole)["tool_calls"] == [
        {
            "id": "i",
            "type": "function",
            "index": 0,
            "function": {"name": "f", "arguments": '{"a":1}'},
        }
    ]
    assert whole["choices"][0]["finish_reason"] is None
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert "tool_calls" not in delta(last)


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (Dialect.OPENAI, {"reasoning_content": "hm", "content": "x"}),
        (
            Dialect.MISTRAL,
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "x"},
                ]
            },
        ),
    ],
)
def test_thinking_is_told_as_its_client_reads_it(dialect: Dialect, expected: Any) -> None:
    (body,) = Told(dialect).write(chunk(ChunkChoice(reasoning="hm", content="x")))
    assert delta(body) == expected


def test_a_piece_that_says_nothing_is_not_told() -> None:
    assert Told().write(chunk(ChunkChoice(content="")), chunk(), chunk(usage=USAGE)) == []


def test_each_choice_has_its_finish_and_the_last_has_the_usage() -> None:
    told = Told()
    told.write(chunk(ChunkChoice(index=1, finish_reason=FinishReason.LENGTH)))
    (said,) = told.write(chunk(ChunkChoice(index=0, content="x"), raw=b"data: raw\n\n"))
    assert said["choices"][0]["finish_reason"] is None
    told.write(chunk(ChunkChoice(index=0, finish_reason=FinishReason.STOP)))
    first, last, _ = told.end()
    assert [
        (one["choices"][0]["index"], one["choices"][0]["finish_reason"]) for one in (first, last)
    ] == [
        (1, "length"),
        (0, "stop"),
    ]
    assert "usage" not in first and "usage" in last


def test_an_envelope_has_all_that_the_stricter_client_demands() -> None:
    (body,) = Told().write(chunk(ChunkChoice(content="x")))
    assert body["id"] == "c1"
    assert (body["object"], body["created"], body["model"]) == ("chat.completion.chunk", 7, "m")


def test_a_choice_that_finishes_twice_gives_its_calls_once() -> None:
    """Some servers say the finish reason again beside the usage."""
    fold = Fold()
    writer = ChatStreamWriter(Dialect.OPENAI, fold, include_usage=False)
    call = ToolCallDelta(index=0, id="c1", name="f", arguments="{}")
    written = b""
    for piece in (
        ChunkChoice(tool_calls=[call]),
        ChunkChoice(finish_reason=FinishReason.TOOL_CALLS),
        ChunkChoice(finish_reason=FinishReason.TOOL_CALLS),
    ):
        chunk = Chunk(id="i", model="m", created=1, choices=[piece])
        fold.add(chunk)
        written += writer.write([chunk])
    written += writer.end(Usage(input_tokens=1, output_tokens=1), None)
    assert written.count(b'"tool_calls":[') == 1
    assert written.count(b'"finish_reason":"tool_calls"') == 1


@pytest.mark.parametrize("again", [None, FinishReason.LENGTH])
def test_text_after_an_end_is_told_and_the_choice_ends_once(again: FinishReason | None) -> None:
    """Some servers say an end with each piece. Many clients read the first choice of a chunk alone."""
    told = Told()
    assert told.write(chunk(ChunkChoice(content="a", finish_reason=FinishReason.STOP))) == []
    before, *after = told.write(chunk(ChunkChoice(content="b", finish_reason=again)))
    assert [len(one["choices"]) for one in (before, *after)] == [1] * (1 + len(after))
    assert (delta(before), before["choices"][0]["finish_reason"]) == ({"content": "a"}, None)
    assert list(map(delta, after)) == ([] if again else [{"content": "b"}])
    if again is None:
        assert told.write(STOP) == []
    last, done = told.end()
    assert delta(last)["content"] == ("b" if again else "")
    assert last["choices"][0]["finish_reason"] == (again or FinishReason.STOP).value
    assert "usage" in last and done == b"[DONE]"


def test_a_plain_piece_after_an_end_follows_what_was_held() -> None:
    told = Told()
    told.write(chunk(ChunkChoice(content="a", finish_reason=FinishReason.STOP)))
    body = msgspec.json.encode({"id": "c1", "choices": [{"index": 0, "delta": {"content": "b"}}]})
    piece = ChunkChoice(content="b")
    more = told.write(chunk(piece, raw=b"data: " + body + b"\n\n", is_plain=True))
    assert [delta(one)["content"] for one in more] == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "said"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("other", "stop")],
)
def test_an_end_that_is_said_again_is_told_once_and_not_as_a_better_one(
    first: str, said: str
) -> None:
    told = Told()
    told.write(chunk(ChunkChoice(content="a", finish_reason=FinishReason(first))), STOP)
    last, _ = told.end()
    assert (delta(last), last["choices"][0]["finish_reason"]) == ({"content": "a"}, said)


def test_calls_that_end_one_by_one_are_told_together() -> None:
    told = Told()
    for index in range(2):
        piece = call(index, id=f"i{index}", name="f", arguments="{}")
        piece.finish_reason = FinishReason.TOOL_CALLS
        assert told.write(chunk(piece)) == []
    whole, last, _ = told.end()
    assert [one["id"] for one in delta(whole)["tool_calls"]] == ["i0", "i1"]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
