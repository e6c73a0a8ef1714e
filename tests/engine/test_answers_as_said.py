"""Answers that are more than text, or less than an answer: nothing of one is lost on its way, and nothing
is told that was not said."""

from typing import Any

import msgspec
import pytest
from tests.engine.scene import COST, HEAD_S, Got, Scene, ScriptOf, plays

from windvane.core.usage import Usage
from windvane.testing import Call, run_virtual
from windvane.testing.answers import (
    DONE,
    Ends,
    Piece,
    Script,
    chunk,
    completion,
    event_head,
    json_head,
)
from windvane.testing.playbook import (
    Failed,
    Finished,
    HungUp,
    Left,
    Playbook,
    Said,
    Sent,
    Settled,
    ask,
    done,
    ends,
    finishes,
    head,
    leaves,
    opens,
    says,
    sends,
)
from windvane.wire.chat_stream import ChatStreamWriter
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import encode_completion

OLD_CALL = {"function_call": {"name": "f", "arguments": '{"a":1}'}}
CUSTOM_CALL = {
    "tool_calls": [{"id": "a1B2c3D4e", "type": "custom", "custom": {"name": "c", "input": "raw"}}]
}
AUDIO = {"audio": {"id": "audio_1", "data": "QUFB", "transcript": "Hi", "expires_at": 1}}
PARTS = {
    "content": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "a"}], "signature": "s"},
        {"type": "text", "text": "See "},
        {"type": "reference", "reference_ids": [1, 2]},
        {"type": "text", "text": "."},
    ]
}
MORE_THAN_TEXT: dict[str, tuple[dict[str, Any], str]] = {
    "an old call": (OLD_CALL, "function_call"),
    "an old call, forced": (OLD_CALL, "stop"),
    "a custom tool's call": (CUSTOM_CALL, "tool_calls"),
    "audio": (AUDIO, "stop"),
    "parts": (PARTS, "stop"),
    "a reference alone": ({"content": PARTS["content"][2:3]}, "stop"),
}


def script(message: dict[str, Any], finish: str) -> ScriptOf:
    """A provider that says `message`, whole or in one piece."""

    def play(call: Call) -> Script:
        call.input_tokens = 9
        if call.is_stream:
            deltas = [{"role": "assistant"}, message]
            events = b"".join(chunk(**delta) for delta in deltas)
            events += chunk(finish=finish, usage=(9, 2)) + DONE
            return [(HEAD_S, event_head()), (0, Piece(data=events, output_tokens=2)), (0, Ends())]
        body = msgspec.json.decode(completion(None, (9, 2), finish=finish))
        body["choices"][0]["message"].update(message)
        data = msgspec.json.encode(body)
        return [(HEAD_S, json_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]

    return play


def told(got: Got, dialect: Dialect) -> dict[str, Any]:
    """The message that a client of `dialect` gets, put together of its deltas if it came in pieces."""
    if got.completion is not None:
        usage = got.completion.usage or Usage()
        body = msgspec.json.decode(encode_completion(got.completion, usage, dialect, None))
        (choice,) = body["choices"]
        message = choice["message"]
    else:
        fold = Fold()
        for one in got.chunks:
            fold.add(one)
        writer = ChatStreamWriter(dialect, fold, include_usage=False)
        data = writer.write(got.chunks) + writer.end(got.usage, None)
        choices = [
            choice
            for event in data.split(b"\n\n")[:-2]
            for choice in msgspec.json.decode(event.removeprefix(b"data: "))["choices"]
        ]
        message = {}
        for choice in choices:
            message |= {name: value for name, value in choice["delta"].items() if value}
    known = ("content", "tool_calls", "function_call", "audio")
    said = {name: message[name] for name in known if message.get(name)}
    for call in said.get("tool_calls", ()):
        call.pop("index", None)
    return {**said, "finish": choice["finish_reason"]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", MORE_THAN_TEXT)
def test_an_answer_that_is_no_text_is_not_empty_and_nobody_else_is_asked(
    case: str, stream: bool
) -> None:
    async def main() -> None:
        message, finish = MORE_THAN_TEXT[case]
        dialect = Dialect.MISTRAL if "content" in message else Dialect.OPENAI
        scene = Scene()
        scene.scripts = [script(message, finish)]
        got = await scene.ask("why", stream=stream)
        assert [(call.deployment, call.is_stream) for call in scene.calls] == [
            ("one/small", stream)
        ]
        assert told(got, dialect) == {**message, "finish": finish}
        assert [entry.outcome for entry in scene.entries] == ["ok"]
        await scene.close()

    run_virtual(main())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("case", ["an old call", "parts"])
def test_a_hit_is_all_of_it_in_both_forms_from_both_forms(
    case: str, first: bool, second: bool
) -> None:
    async def main() -> None:
        message, finish = MORE_THAN_TEXT[case]
        dialect = Dialect.MISTRAL if "content" in message else Dialect.OPENAI
        scene = Scene()
        scene.scripts = [script(message, finish)]
        await scene.ask("why", stream=first)
        got = await scene.ask("why", stream=second)
        assert (got.how, len(scene.calls)) == ("hit", 1)
        assert told(got, dialect) == {**message, "finish": finish}
        await scene.close()

    run_virtual(main())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("case", ["an old call", "parts"])
def test_who_joins_gets_all_of_it(case: str, first: bool, second: bool) -> None:
    async def main() -> None:
        message, finish = MORE_THAN_TEXT[case]
        dialect = Dialect.MISTRAL if "content" in message else Dialect.OPENAI
        scene = Scene()
        scene.scripts = [script(message, finish)]
        leader, joiner = scene.start("why", stream=first), scene.start("why", stream=second)
        for got in (await leader, await joiner):
            assert told(got, dialect) == {**message, "finish": finish}
        assert joiner.result().how == "joined"
        await scene.close()

    run_virtual(main())


@plays()
async def test_what_an_entry_cannot_hold_is_not_kept_and_told_all_the_same(scene: Scene) -> None:
    message = {"content": [{"type": "reference", "reference_ids": [10**30]}]}
    scene.scripts = [script(message, "stop")] * 2
    for _ in range(2):
        got = await scene.ask("why", stream=True)
        assert (got.how, got.fault, scene.kept) == ("miss", None, 0)
        assert told(got, Dialect.MISTRAL) == {**message, "finish": "stop"}


@plays()
async def test_custom_tools_and_audio_are_not_kept(scene: Scene) -> None:
    asked: list[dict[str, Any]] = [
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    ]
    for fields in asked:
        for _ in range(2):
            assert (await scene.ask("why", **fields)).how == "bypass"
    assert scene.kept == 0


# Answers that failed.


def test_a_generation_that_fails_is_paid_for_by_its_count_and_another_is_asked() -> None:
    (
        Playbook()
        >> ask("auto")
        << Sent("one/small")
        >> head()
        >> sends(completion("Hal", (9, 3), finish="error"), output_tokens=3)
        >> ends()
        << Settled("exact", "upstream_error", cost=9 * 150 + 3 * 600)
        << Sent("two/large")
        >> head()
        >> sends(completion("Half, and the rest", (9, 5)), output_tokens=5)
        >> ends()
        << Settled("exact", "ok")
        << Said("Half, and the rest")
    ).run()


@pytest.mark.parametrize(("usage", "certainty"), [((9, 3), "exact"), (None, "assumed")])
def test_a_generation_that_fails_with_nobody_else_is_an_error(
    usage: tuple[int, int] | None, certainty: str
) -> None:
    (
        Playbook()
        >> ask("small")
        << Sent("one/small")
        >> head()
        >> sends(completion("Hal", usage, finish="error"), output_tokens=3)
        >> ends()
        << Settled(certainty, "upstream_error")
        << Failed("upstream_error", 502)
    ).run()


@pytest.mark.parametrize(("tokens", "certainty"), [(1, "exact"), (None, "estimated")])
def test_a_stream_that_fails_ends_badly_and_is_paid_for_by_its_count(
    tokens: int | None, certainty: str
) -> None:
    (
        Playbook()
        >> ask("small", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("Hal")
        << Said("Hal")
        >> finishes("error", output_tokens=tokens)
        << HungUp("one/small")
        << Settled(certainty, "stream_broken")
        << Failed("stream_broken")
    ).run()


THOUGHT_BESIDE = {
    "xAI": ((1, 396, {"reasoning_tokens": 386}), "exact", 387),
    "Gemini": ((7, 954, None), "estimated", 945),
}
"""What a server says that counts thinking beside its answer, by who does so; and what that comes to."""


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("told", "certainty", "output"), THOUGHT_BESIDE.values(), ids=THOUGHT_BESIDE
)
def test_thinking_that_is_counted_beside_the_answer_is_paid_for(
    told: tuple[int, int, dict[str, int] | None], certainty: str, output: int, *, is_stream: bool
) -> None:
    completion_tokens, total_tokens, details = told
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": completion_tokens,
        "total_tokens": total_tokens,
        "completion_tokens_details": details,
    }
    script = Playbook() >> ask("small", stream=is_stream) << Sent("one/small")
    script = script >> (opens() if is_stream else head())
    if is_stream:
        last = chunk(finish="stop").removeprefix(b"data: ")
        body = msgspec.json.decode(last) | {"usage": usage}
        script = script >> says("9") << Said("9")
        script = script >> sends(
            b"data: " + msgspec.json.encode(body) + b"\n\n", output_tokens=output - 1
        )
        script = script >> done()
    else:
        body = msgspec.json.decode(completion("9", None)) | {"usage": usage}
        script = script >> sends(msgspec.json.encode(body), output_tokens=output) >> ends()
    script = script << Settled(certainty, "ok", cost=9 * 150 + output * 600)
    (script << (Finished() if is_stream else Said("9"))).run()


def with_usage(usage: object, text: str | None = None, finish: str | None = None) -> bytes:
    """One event of a stream, with this usage."""
    said = msgspec.json.decode(chunk(text, finish=finish).removeprefix(b"data: "))
    return b"data: " + msgspec.json.encode(said | {"usage": usage}) + b"\n\n"


THINKING = {"completion_tokens_details": {"reasoning_tokens": 900}}
MISCOUNTED = {
    "half a count": {"prompt_tokens": 9, **THINKING},
    "the other half": {"completion_tokens": 907},
    "no input": {"prompt_tokens": 0, "completion_tokens": 907, **THINKING},
    "below zero": {"prompt_tokens": 9, "completion_tokens": -907},
    "above all": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 10**19, **THINKING},
    "a fraction": {"prompt_tokens": 9, "completion_tokens": 907.5},
    "words": {"prompt_tokens": 9, "completion_tokens": "1,907"},
}
"""What a server says of 907 tokens, most of them unseen, that nobody can believe."""
SILENCE = {
    "null": None,
    "empty": {},
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
}


def settled_uncounted(model: str, usage: object, certainty: str, *, is_stream: bool) -> None:
    """The whole of a short answer with this usage is settled with this certainty."""
    asked = "one/small" if model == "small" else "two/large"
    script = Playbook() >> ask(model, stream=is_stream, max_tokens=1_000) << Sent(asked)
    if is_stream:
        script = script >> opens() >> says("9") << Said("9")
        script = script >> sends(with_usage(usage, finish="stop"), output_tokens=6) >> done()
    else:
        body = msgspec.json.decode(completion("9", None)) | {"usage": usage}
        script = script >> head() >> sends(msgspec.json.encode(body), output_tokens=7) >> ends()
    script = script << Settled(certainty, "ok")
    play = (script << (Finished() if is_stream else Said("9"))).run()
    (entry,) = play.stage.auditor.settlements.values()
    assert entry.hold_nano_usd is not None and entry.cost_nano_usd is not None
    if certainty == "assumed":
        assert entry.cost_nano_usd == entry.hold_nano_usd
    else:
        assert entry.cost_nano_usd < entry.hold_nano_usd
    assert 1 <= entry.output_tokens < 100, "what was seen of it is told"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("model", "certainty"), [("small", "assumed"), ("large", "estimated")])
@pytest.mark.parametrize("usage", MISCOUNTED.values(), ids=MISCOUNTED)
def test_a_usage_that_cannot_be_believed_is_the_hold_where_the_model_can_think(
    usage: object, model: str, certainty: str, *, is_stream: bool
) -> None:
    """`large` cannot: all that it made was shown."""
    settled_uncounted(model, usage, certainty, is_stream=is_stream)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("usage", SILENCE.values(), ids=SILENCE)
def test_a_usage_that_says_nothing_is_none(usage: object, *, is_stream: bool) -> None:
    settled_uncounted("small", usage, "estimated", is_stream=is_stream)


HALF = MISCOUNTED["half a count"]
COUNTED = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


@pytest.mark.parametrize(
    ("usages", "certainty"),
    [((HALF, COUNTED), "exact"), ((COUNTED, HALF), "assumed"), ((HALF, {}), "assumed")],
)
def test_of_several_usages_the_last_that_says_something_decides(
    usages: tuple[object, object], certainty: str
) -> None:
    first, last = usages
    (
        Playbook()
        >> ask("small", stream=True, max_tokens=1_000)
        << Sent("one/small")
        >> opens()
        >> says("9")
        << Said("9")
        >> sends(with_usage(first, finish="stop"), output_tokens=1)
        >> sends(with_usage(last))
        >> done()
        << Settled(certainty, "ok")
        << Finished()
    ).run()


@pytest.mark.parametrize(("model", "certainty"), [("small", "assumed"), ("large", "estimated")])
def test_who_leaves_a_miscounted_stream_pays_for_what_may_have_been_thought(
    model: str, certainty: str
) -> None:
    asked = "one/small" if model == "small" else "two/large"
    (
        Playbook()
        >> ask(model, stream=True, max_tokens=1_000)
        << Sent(asked)
        >> opens()
        >> sends(with_usage(HALF, "9"), output_tokens=1)
        << Said("9")
        >> leaves()
        << HungUp(asked)
        << Settled(certainty, "cancelled")
        << Left()
    ).run()


def test_a_stream_that_fails_before_a_word_is_asked_of_another() -> None:
    (
        Playbook()
        >> ask("auto", stream=True)
        << Sent("one/small")
        >> opens()
        >> says("")
        >> finishes("error", output_tokens=1)
        << HungUp("one/small")
        << Settled("exact", "stream_broken", cost=9 * 150 + 1 * 600)
        << Sent("two/large")
        >> opens()
        >> says("hello")
        << Said("hello")
        >> finishes(output_tokens=1)
        >> done()
        << Settled("exact", "ok")
        << Finished()
    ).run()


# Answers that say more than one end.


def in_pieces(*events: bytes) -> ScriptOf:
    """A stream of these events."""

    def play(call: Call) -> Script:
        call.input_tokens = 9
        data = b"".join(events)
        return [(HEAD_S, event_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]

    return play


def tool_call(index: int) -> dict[str, Any]:
    called = {"name": "f", "arguments": "{}"}
    return {"index": index, "id": f"a1B2c3D4{index}", "type": "function", "function": called}


MANY_ENDS: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "an empty one with each piece": (
        [chunk("a", finish=""), chunk("b", finish=""), chunk(finish="stop", usage=(9, 2))],
        {"content": "ab", "finish": "stop"},
    ),
    "no other": (
        [chunk("a", finish="null"), chunk("b", finish="null", usage=(9, 2))],
        {"content": "ab", "finish": "stop"},
    ),
    "text after one": (
        [chunk("a", finish="stop"), chunk("b", finish="length"), chunk("c", usage=(9, 2))],
        {"content": "abc", "finish": "length"},
    ),
    "one with each call": (
        [
            chunk(finish="tool_calls", tool_calls=[tool_call(0)]),
            chunk(finish="tool_calls", tool_calls=[tool_call(1)], usage=(9, 2)),
        ],
        {
            "tool_calls": [
                {name: value for name, value in tool_call(index).items() if name != "index"}
                for index in range(2)
            ],
            "finish": "tool_calls",
        },
    ),
}


@pytest.mark.parametrize("case", MANY_ENDS)
def test_a_stream_of_many_ends_is_told_and_kept_whole(case: str) -> None:
    async def main() -> None:
        events, expected = MANY_ENDS[case]
        scene = Scene()
        scene.scripts = [in_pieces(*events, DONE)] * 2
        first = await scene.ask("why", stream=True)
        assert joined(first) == expected
        again = await scene.ask("why", stream=True)
        is_kept = expected["finish"] != "length"
        assert again.how == ("hit" if is_kept else "miss")
        assert joined(again) == expected
        assert scene.entries[0].outcome == "ok"
        await scene.close()

    run_virtual(main())


def joined(got: Got) -> dict[str, Any]:
    """What `told` says, the text of all pieces in one."""
    said = told(got, Dialect.OPENAI)
    return {**said, "content": got.text} if got.text else said


@plays()
async def test_a_stream_that_is_cut_after_such_an_end_is_an_error_and_is_not_kept(
    scene: Scene,
) -> None:
    pieces = [chunk(text, finish="", usage=(9, 2)) for text in ("The ", "whole ")]
    scene.scripts = [in_pieces(*pieces)]
    got = await scene.ask("why", stream=True)
    assert (got.text, got.fault and got.fault.kind.value) == ("The whole ", "stream_broken")
    assert scene.kept == 0


# Answers without a name.


def nameless(call: Call) -> Script:
    """What the smallest of servers says."""
    call.input_tokens = 9
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    if not call.is_stream:
        body = {"choices": [{"message": {"content": "Hi"}}], "usage": usage}
        data = msgspec.json.encode(body)
        return [(HEAD_S, json_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]
    events: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": "Hi"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage},
    ]
    data = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + DONE
    return [(HEAD_S, event_head()), (0, Piece(data=data, output_tokens=2)), (0, Ends())]


@plays()
async def test_an_answer_without_a_name_has_an_id_of_its_own_and_the_model_that_was_asked(
    scene: Scene,
) -> None:
    scene.scripts = [nameless] * 4
    asked = [("a", False), ("b", False), ("c", True), ("d", True), ("c", False), ("c", True)]
    answers = [await scene.ask(text, stream=stream) for text, stream in asked]
    assert [got.how for got in answers] == ["miss"] * 4 + ["hit"] * 2
    assert len({got.id for got in answers}) == len(answers)
    for got in answers:
        assert got.id.startswith("chatcmpl-") and len(got.id) > len("chatcmpl-windvane")
        said = [got.completion] if got.completion is not None else got.chunks
        assert {(one.id, one.model) for one in said} == {(got.id, "small")}
        assert got.text == "Hi"
    assert [entry.cost_nano_usd for entry in scene.entries[:4]] == [COST] * 4
