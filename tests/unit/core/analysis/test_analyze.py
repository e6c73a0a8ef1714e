"""What is known of a request: every field that rules may ask about."""

from timeit import timeit
from typing import Any

import pytest

from windvane.core.analysis import Analysis, analyze
from windvane.core.analysis.tokens import IMAGE_TOKENS
from windvane.wire.chat_request import chat_request_of


def of(*messages: Any, **fields: Any) -> Analysis:
    said = [
        {"role": "user", "content": one} if not isinstance(one, dict) else one for one in messages
    ]
    return analyze(chat_request_of({"model": "m", "messages": said, **fields}))


SYSTEM = {"role": "system", "content": "You are a python expert. Explain why."}
ANSWER = {"role": "assistant", "content": "4"}
IMAGE = {"type": "image_url", "image_url": "http://x"}
AUDIO = {"type": "input_audio", "input_audio": "QQ=="}
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            of("hello"),
            {"chars": 5, "input_chars": 5, "turns": 1, "messages": 1, "tools": 0, "stream": False},
        ),
        (
            of(SYSTEM, "hi"),
            {
                "chars": 2,
                "input_chars": 39,
                "turns": 1,
                "messages": 2,
                "reasoning_words": 0,
                "code": False,
            },
        ),
        (of("2+2?", ANSWER, "and 3"), {"chars": 5, "input_chars": 10, "turns": 2, "messages": 3}),
        (
            of([{"type": "text", "text": "a"}, IMAGE, IMAGE, {"type": "text", "text": "b"}]),
            {"chars": 3, "images": 2},
        ),
        (of([AUDIO]), {"audio": 1, "chars": 0}),
        (of("x", tools=[TOOL, TOOL]), {"tools": 2}),
        (of("x", response_format=SCHEMA), {"json": True, "json_schema": True}),
        (of("x", response_format={"type": "json_object"}), {"json": True, "json_schema": False}),
        (of("x", response_format={"type": "text"}), {"json": False, "json_schema": False}),
        (of("x", stream=True, max_tokens=9), {"stream": True, "output_tokens_max": 9}),
        (
            of("x", {"role": "assistant", "content": "y", "prefix": True}),
            {"prefix": True, "chars": 1},
        ),
        (of("x"), {"prefix": False, "output_tokens_max": None}),
        (of({"role": "system", "content": "x"}), {"chars": 0, "turns": 0, "input_chars": 1}),
        (
            of("Explain why the sky is blue?"),
            {"reasoning_words": 2, "question": True, "language": "en", "code": False},
        ),
        (of("```x```"), {"code": True}),
        (of("Solve the equation"), {"math": True}),
    ],
)
def test_each_field(asked: Analysis, expected: dict[str, Any]) -> None:
    assert {name: getattr(asked, name) for name in expected} == expected


def test_everything_that_is_sent_adds_tokens() -> None:
    least = of("hello").input_tokens
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": {"a": "b" * 100}}}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "x"}
    for more in (
        of(SYSTEM, "hello"),
        of("hello", tools=[TOOL]),
        of("hello", functions=[{"name": "f"}]),
        of("hello", response_format=SCHEMA),
        of("hello", {"role": "assistant", "tool_calls": [call]}, result),
    ):
        assert more.input_tokens > least + 4
    assert of([{"type": "text", "text": "hello"}, IMAGE]).input_tokens == least + IMAGE_TOKENS


def test_functions_are_tools_by_their_old_name() -> None:
    assert of("hello", functions=[{"name": "f"}, {"name": "g"}]).tools == 2
    assert of("hello", functions=[{"name": "f"}], tools=[TOOL]).tools == 2
    assert of("hello", functions=None).tools == 0


def test_difficulty_rises_with_each_sign_and_ends_at_one() -> None:
    questions = [
        "Hi",
        "Explain it",
        "Explain and compare",
        "Explain and compare: solve the equation",
        "Explain and compare: solve the equation " + "carefully " * 300,
    ]
    scores = [of(question).difficulty for question in questions]
    assert scores == sorted(set(scores))
    assert scores[0] < 0.05 and scores[1] < 0.5 <= scores[2]
    hardest = of(
        *["Explain and compare: solve the equation ```x``` " + "x " * 3_000] * 12, tools=[TOOL] * 9
    )
    assert hardest.difficulty == 1


def test_the_cost_is_linear() -> None:
    """A quadratic step would make sixty-four times the text four thousand times the work."""
    short, long = (
        chat_request_of(
            {"model": "m", "messages": [{"role": "user", "content": "Why is it so? " * times}]}
        )
        for times in (1_000, 64_000)
    )
    times = [
        min(timeit(lambda asked=asked: analyze(asked), number=3) for _ in range(5))
        for asked in (short, long)
    ]
    assert times[1] < 400 * times[0]
