"""The simulator refuses what Mistral refuses: its rules against the same schema written a second time."""

import json

import pytest
from tests.mistral_schema import check_body
from tests.surface.test_wrong_values import (
    FREE,
    REQUESTS,
    WRONG,
    at,
    changed,
    places,
    told,
)

from windvane.simulator.message_order import check_messages
from windvane.simulator.mistral_rules import chat_problems
from windvane.simulator.refusal import Refusal

BODIES = {case: json.loads(told(request)) for case, request in REQUESTS.items()}


def is_right(body):
    try:
        check_body(body)
    except AssertionError:
        return False
    return True


def is_taken(body):
    if chat_problems(body):
        return False
    try:
        check_messages(body["messages"])
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("case", BODIES)
def test_a_body_with_one_value_of_a_wrong_type_is_taken_only_if_it_is_right(case):
    body = BODIES[case]
    for path in places(body):
        for to in WRONG:
            if type(at(body, path)) is not type(to):
                spoiled = changed(body, path, to)
                assert is_taken(spoiled) is is_right(spoiled), (path, to)


@pytest.mark.parametrize("case", BODIES)
def test_a_foreign_field_is_refused_at_every_level(case):
    body = BODIES[case]
    for path in [(), *places(body)]:
        inner = at(body, path)
        if isinstance(inner, dict) and not set(path[-1:]) & set(FREE):
            (found,) = chat_problems(changed(body, path, {**inner, "foreign": 1}))
            assert (found["type"], found["loc"][-1]) == ("extra_forbidden", "foreign"), path


def user(*parts):
    return {"role": "user", "content": list(parts)}


def called(name, tool):
    call = {"id": "abcdefghi", "function": {"name": name, "arguments": "{}"}}
    answer = {"role": "tool", "tool_call_id": "abcdefghi", "name": tool, "content": "1"}
    return [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]


ASKED = {"role": "user", "content": "x"}
REFUSED = {
    "an image of the system's": (
        [{"role": "system", "content": [{"type": "image_url", "image_url": "u"}]}, ASKED],
        "union_tag_invalid",
    ),
    "a file without its id": ([user({"type": "file"})], "missing"),
    "references without ids": ([user({"type": "reference"})], "missing"),
    "an image without its address": (
        [user({"type": "image_url", "image_url": {"detail": "low"}})],
        "missing",
    ),
    "a detail nobody has": (
        [user({"type": "image_url", "image_url": {"url": "u", "detail": "original"}})],
        "literal_error",
    ),
    "an image as a thought": (
        [user({"type": "thinking", "thinking": [{"type": "image_url", "image_url": "u"}]})],
        "union_tag_invalid",
    ),
    "continued in the middle": (
        [ASKED, {"role": "assistant", "content": "a", "prefix": True}, ASKED],
        "3240",
    ),
    "no name of a function": (called("a b", "a"), "3280"),
    "no name of a tool": (called("a", "a b"), "3280"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_messages_that_mistral_refuses(start, ask, chat, case):
    messages, code = REFUSED[case]
    said = await ask(await start(), {**chat("x"), "messages": messages})
    if said.status == 422:
        assert [each["type"] for each in said.json["detail"]] == [code]
    else:
        assert (said.status, said.json["code"]) == (400, code)
