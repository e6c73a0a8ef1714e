"""Whatever ids a conversation has, Mistral is told nine letters or digits, the same for the same."""

import re

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.wire.chat_request import chat_request_of
from windvane.wire.mistral_chat import encode_chat, nine_characters

NINE = re.compile("[a-zA-Z0-9]{9}")
ID = st.text(min_size=1, max_size=20) | st.from_regex(NINE, fullmatch=True)


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(codec=None, categories=None), max_size=60))
def test_nine_characters_are_nine_and_always_the_same(text: str) -> None:
    assert NINE.fullmatch(nine_characters(text))
    assert nine_characters(text) == nine_characters(text)


@settings(deadline=None, max_examples=100)
@given(st.lists(ID, min_size=1, max_size=5, unique=True), st.data())
def test_answers_find_their_calls_again(ids: list[str], data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        ids = list(dict.fromkeys([*ids, nine_characters(ids[0])]))
    calls = [
        {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids
    ]
    order = data.draw(st.permutations(ids))
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *[{"role": "tool", "tool_call_id": one, "content": one} for one in order],
    ]
    told = msgspec.json.decode(
        encode_chat(chat_request_of({"model": "m", "messages": messages}), "m")
    )["messages"]
    made = [call["id"] for call in told[1]["tool_calls"]]
    assert all(NINE.fullmatch(one) for one in made)
    assert len(set(made)) == len(ids)
    assert {message["content"]: message["tool_call_id"] for message in told[2:]} == dict(
        zip(ids, made, strict=True)
    )
