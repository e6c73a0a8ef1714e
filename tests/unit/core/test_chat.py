"""The small questions that canonical chat values answer."""

import pytest

from windvane.core.chat import (
    FunctionCall,
    ImagePart,
    Message,
    ReplyMessage,
    ResponseFormat,
    Role,
    TextPart,
    ToolCall,
)

CALL = ToolCall(function=FunctionCall(name="f"))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a", ["a"]),
        (None, []),
        ([], []),
        ([TextPart("a"), ImagePart("http://x"), TextPart("b")], ["a", "b"]),
    ],
)
def test_the_texts_of_a_message(content: object, texts: list[str]) -> None:
    assert list(Message(role=Role.USER, content=content).texts()) == texts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "is_empty"),
    [
        (ReplyMessage(), True),
        (ReplyMessage(content=" \n"), True),
        (ReplyMessage(reasoning="hm"), True),
        (ReplyMessage(content="a"), False),
        (ReplyMessage(tool_calls=[CALL]), False),
    ],
)
def test_an_empty_reply_says_nothing_and_calls_nothing(
    message: ReplyMessage, is_empty: bool
) -> None:
    assert message.is_empty is is_empty


@pytest.mark.parametrize(
    ("kind", "is_json"),
    [("json_object", True), ("json_schema", True), ("text", False), (None, False)],
)
def test_a_response_format_asks_for_json_or_not(kind: str | None, is_json: bool) -> None:
    assert ResponseFormat(type=kind).is_json is is_json
