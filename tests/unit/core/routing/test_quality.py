"""What counts as an answer."""

import pytest

from windvane.core.chat import (
    Choice,
    Completion,
    FinishReason,
    FunctionCall,
    ReplyMessage,
    ToolCall,
)
from windvane.core.routing.quality import gate


def reply(finish: FinishReason = FinishReason.STOP, **said: object) -> Choice:
    return Choice(message=ReplyMessage(**said), finish_reason=finish)  # type: ignore[arg-type]


EMPTY = reply()
CALL = ToolCall(function=FunctionCall(name="f"))


@pytest.mark.parametrize(
    ("choices", "passes"),
    [
        ([], False),
        ([EMPTY], False),
        ([EMPTY, EMPTY], False),
        ([reply(content="\n  ")], False),
        ([reply(content="yes")], True),
        ([EMPTY, reply(content="yes")], True),
        ([reply(tool_calls=[CALL])], True),
        ([reply(refusal="I cannot")], True),
        ([reply(FinishReason.CONTENT_FILTER)], True),
        ([reply(FinishReason.LENGTH)], False),
    ],
)
def test_an_answer_says_something_calls_something_or_was_filtered(
    choices: list[Choice], passes: bool
) -> None:
    found = gate(Completion(id="i", model="m", created=1, choices=choices))
    assert found == (None if passes else "empty answer")
