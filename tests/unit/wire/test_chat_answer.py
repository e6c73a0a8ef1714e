"""What a provider said, to clients of its own dialect: all of it, whole and in pieces."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.chat import Completion
from windvane.core.usage import Usage
from windvane.wire.chat_reply import ChatStreamReader, decode_completion
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import encode_completion

NOW_S = 1_790_000_000
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "seconds": 0.5}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
UNKNOWN = st.dictionaries(st.text(max_size=4).map("x-".__add__), JSON, max_size=3)
"""Members that nobody here has heard of."""
OLD_CALL = {"function_call": {"name": "f", "arguments": "{}"}}
CUSTOM = {"tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "c", "input": "x"}}]}
REFERENCE = {"content": [{"type": "reference", "reference_ids": [1]}]}
SPOKEN = [
    (Dialect.OPENAI, {"content": "Hi", "reasoning_content": "hm"}),
    (Dialect.OPENAI, {"content": None, "refusal": "no"}),
    (Dialect.OPENAI, {"content": None, **OLD_CALL}),
    (Dialect.OPENAI, {"content": None, **CUSTOM}),
    (Dialect.OPENAI, {"content": None, "audio": {"id": "a", "data": "QQ=="}}),
    (Dialect.MISTRAL, {"content": "Hi"}),
    (Dialect.MISTRAL, REFERENCE),
]


def answer(choice: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    head = {"id": "c1", "object": kind, "created": 7, "model": "m"}
    return {**head, "choices": [choice], "usage": USAGE, **more}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SPOKEN), UNKNOWN, UNKNOWN, UNKNOWN)
def test_a_whole_answer_has_all_its_members(
    spoken: tuple[Dialect, dict[str, Any]],
    on_answer: dict[str, Any],
    on_choice: dict[str, Any],
    on_message: dict[str, Any],
) -> None:
    dialect, words = spoken
    message = {"role": "assistant", **words, **on_message}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **on_choice}
    said = answer(choice, "chat.completion", **on_answer)
    read = decode_completion(msgspec.json.encode(said), NOW_S)
    assert msgspec.json.decode(encode_completion(read, Usage(), dialect, None)) == said


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SPOKEN), UNKNOWN, UNKNOWN, UNKNOWN)
def test_the_last_piece_of_a_stream_has_all_its_members(
    spoken: tuple[Dialect, dict[str, Any]],
    on_answer: dict[str, Any],
    on_choice: dict[str, Any],
    on_delta: dict[str, Any],
) -> None:
    dialect, words = spoken
    delta = {"role": "assistant", **words, **on_delta}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop", **on_choice}
    said = answer(choice, "chat.completion.chunk", **on_answer)
    bodies = written(said, dialect)
    told: dict[str, Any] = {}
    for body in bodies:
        words = body["choices"][0]["delta"]
        told |= {name: value for name, value in words.items() if value or name not in told}
        assert {name: body[name] for name in on_answer} == on_answer
    assert bodies[-1]["usage"] == USAGE
    assert bodies[-1]["choices"][0]["finish_reason"] == "stop"
    first = bodies[0]["choices"][0]
    assert {name: first[name] for name in on_choice} == on_choice
    for call in told.get("tool_calls", ()):
        del call["index"]  # streams have them
    assert told == delta


def written(said: dict[str, Any], dialect: Dialect) -> list[dict[str, Any]]:
    fold = Fold()
    writer = ChatStreamWriter(dialect, fold, include_usage=False)
    data = b"data: " + msgspec.json.encode(said) + b"\n\n"
    (chunk,) = ChatStreamReader(NOW_S).feed(data)
    fold.add(chunk)
    assert fold.usage is not None
    events = (writer.write([chunk]) + writer.end(fold.usage, None)).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    return [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events[:-2]]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(("reason", "told"), [("eos", "stop"), (None, "stop"), ("stop", "stop")])
def test_an_end_without_a_known_word_is_told_as_a_stop(
    dialect: Dialect, reason: str | None, told: str
) -> None:
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": reason, "more": 1}
    read = decode_completion(msgspec.json.encode(answer(choice, "chat.completion")), NOW_S)
    body = msgspec.json.decode(encode_completion(read, Usage(), dialect, None))
    assert (body["choices"][0]["finish_reason"], body["choices"][0]["more"]) == (told, 1)


def test_what_cannot_be_taken_apart_is_told_as_it_was_understood() -> None:
    """A member that nobody needs may be a number that is none."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": None}
    said = msgspec.json.encode(answer({**choice, "more": "?"}, "chat.completion"))
    read = decode_completion(said.replace(b'"?"', b"1e400"), NOW_S)
    assert read.choices[0].message.content == "x"
    body = msgspec.json.decode(encode_completion(read, Usage(1, 2), Dialect.OPENAI, None))
    assert (body["choices"][0]["message"]["content"], body["id"]) == ("x", "c1")
    assert body["usage"]["completion_tokens"] == 2


def test_a_usage_that_cannot_be_believed_is_not_told() -> None:
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
    said = answer(choice, "chat.completion")
    said["usage"] = {"prompt_tokens": -1}
    read: Completion = decode_completion(msgspec.json.encode(said), NOW_S)
    body = msgspec.json.decode(encode_completion(read, Usage(5, 6), Dialect.OPENAI, None))
    assert body["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("missing", ["index", "object", "created", "id", "model", "finish_reason"])
def test_what_a_server_leaves_out_is_told_all_the_same(missing: str, dialect: Dialect) -> None:
    """Mistral's client wants each of them."""

    def left_out(kind: str, words: str) -> dict[str, Any]:
        choice = {"index": 0, words: {"role": "assistant", "content": "x"}, "finish_reason": None}
        if words == "message":
            choice["finish_reason"] = "stop"
        choice.pop(missing, None)
        return {name: value for name, value in answer(choice, kind).items() if name != missing}

    def named(read: Any) -> Any:
        return msgspec.structs.replace(read, id=read.id or "c2", model=read.model or "n")

    read = named(decode_completion(msgspec.json.encode(left_out("chat.completion", "message")), 7))
    whole = msgspec.json.decode(encode_completion(read, Usage(), dialect, None))
    said = {**left_out("chat.completion.chunk", "delta"), "usage": None}
    data = b"data: " + msgspec.json.encode(said) + b"\n\n"
    chunk = named(ChatStreamReader(7).feed(data)[0])
    piece = ChatStreamWriter(dialect, Fold(), include_usage=False).write([chunk])
    for body in (whole, msgspec.json.decode(piece.removeprefix(b"data: "))):
        assert body["id"] and body["model"] and body["created"] == 7
        assert body["object"].startswith("chat.completion")
        (choice,) = body["choices"]
        assert choice["index"] == 0 and "finish_reason" in choice


@pytest.mark.parametrize("left_out", [False, True])
def test_usage_without_choices_is_told_with_what_is_beside_it(left_out: bool) -> None:
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
    first = {**answer(choice, "chat.completion.chunk"), "usage": None}
    second = {**first, "choices": None, "usage": USAGE, "more": 1}
    if left_out:
        del second["choices"]
    fold, reader = Fold(), ChatStreamReader(NOW_S)
    writer = ChatStreamWriter(Dialect.OPENAI, fold, include_usage=True)
    data = b"".join(b"data: " + msgspec.json.encode(said) + b"\n\n" for said in (first, second))
    chunks = reader.feed(data)
    for chunk in chunks:
        fold.add(chunk)
    assert writer.write(chunks) == b"" and fold.usage is not None
    extra = writer.end(fold.usage, None).split(b"\n\n")[1]
    told = msgspec.json.decode(extra.removeprefix(b"data: "))
    assert (told["choices"], told["usage"], told["more"]) == ([], USAGE, 1)


def test_half_a_character_costs_no_other_member() -> None:
    choice = {"index": 0, "message": {"content": "x?"}, "finish_reason": "stop", "more": 1}
    said = msgspec.json.encode(answer(choice, "chat.completion")).replace(b"?", rb"\ud83d")
    written = encode_completion(decode_completion(said, NOW_S), Usage(), Dialect.OPENAI, None)
    (told,) = msgspec.json.decode(written)["choices"]
    assert (told["message"]["content"], told["more"]) == ("x\ufffd", 1)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("nameless", [{}, {"id": None}, {"id": ""}])
def test_a_call_without_an_id_is_given_one_so_that_it_can_be_answered(
    nameless: dict[str, Any], dialect: Dialect
) -> None:
    def said(kind: str, words: str, answer_id: str) -> bytes:
        call = {**nameless, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        calls = [
            {**call, "index": 0},
            {**call, "index": 1},
            {**call, "index": 2, "id": "a1B2c3D4e"},
        ]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        choice = {"index": 0, words: message, "finish_reason": "tool_calls"}
        return msgspec.json.encode({**answer(choice, kind), "id": answer_id})

    def ids(answer_id: str) -> list[str]:
        read = decode_completion(said("chat.completion", "message", answer_id), NOW_S)
        body = msgspec.json.decode(encode_completion(read, Usage(), dialect, None))
        whole = [call["id"] for call in body["choices"][0]["message"]["tool_calls"]]
        chunk = said("chat.completion.chunk", "delta", answer_id)
        pieces = written(msgspec.json.decode(chunk), dialect)
        assert [call["id"] for call in pieces[0]["choices"][0]["delta"]["tool_calls"]] == whole
        return whole

    first, second, third = ids("c1")
    assert third == "a1B2c3D4e"
    others = ids("c2")[:2]
    assert len({first, second, *others}) == 4
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", one) for one in (first, second, *others))
