"""Plain talk is sent as it was said: exactly what the translation of each message would have made of it."""

import json
from collections.abc import Callable

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from windvane.core.chat import ChatRequest, JsonObject
from windvane.core.faults import WindvaneError
from windvane.wire import anthropic_chat, mistral_chat, openai_chat
from windvane.wire.chat_request import chat_request_of, decode_chat_request

ROLES = st.sampled_from(("user", "assistant", "system", "developer"))
TEXTS = st.sampled_from(("hi", "so?", "", " ", "\n\u2028"))
CONTENTS = TEXTS | st.just([{"type": "text", "text": "hi"}])
EXTRAS = st.sampled_from(({}, {}, {"name": "bob"}, {"prefix": False}, {"nobody": 1}))


@st.composite
def messages(draw: st.DrawFn) -> JsonObject:
    said = {"role": draw(ROLES), "content": draw(CONTENTS), **draw(EXTRAS)}
    return dict(reversed(said.items())) if draw(st.booleans()) else said


TALKS = st.lists(messages(), min_size=1, max_size=4)
AS_SAID = (mistral_chat.encode_chat, openai_chat.encode_chat, openai_chat.encode_chat_for_openai)


def both(talk: list[JsonObject]) -> tuple[ChatRequest, ChatRequest]:
    """The request, and the same with every message translated."""
    request = chat_request_of({"model": "m", "messages": talk})
    return request, msgspec.structs.replace(request, is_plain_talk=False)


def told(encode: Callable[[ChatRequest, str], bytes], request: ChatRequest) -> bytes | str:
    try:
        return encode(request, "m")
    except WindvaneError as error:
        return error.fault.message


def spaced(said: JsonObject) -> bytes:
    return json.dumps(said).encode()


def turns(said: bytes | str) -> object:
    """What Anthropic reads: a text is a block of text, and turns of one role are one."""
    if isinstance(said, str):
        return said
    body = msgspec.json.decode(said)
    read: list[tuple[str, list[object]]] = []
    for message in body.pop("messages"):
        if not read or read[-1][0] != message["role"]:
            read.append((message["role"], []))
        read[-1][1].extend(blocks(message["content"]))
    return body, blocks(body.pop("system", [])), read


def blocks(content: str | list[object]) -> list[object]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@given(TALKS)
@example([{"role": "user", "content": "hi", "nobody": 1}])
@example([{"role": "system", "content": "hi"}, {"role": "user", "content": "so?"}])
@example([{"role": "user", "content": "hi"}, {"role": "system", "content": "so?"}])
@example([{"role": "assistant", "content": ""}, {"role": "user", "content": "so?"}])
def test_plain_talk_is_told_as_its_translation_would_be(talk: list[JsonObject]) -> None:
    request, translated = both(talk)
    said = {"model": "m", "messages": talk}
    read = [decode_chat_request(write(said)) for write in (msgspec.json.encode, spaced)]
    for encode in AS_SAID:
        expected = told(encode, translated)
        assert [told(encode, each) for each in (request, *read)] == [expected] * 3


@given(TALKS)
@example([{"role": "user", "content": " "}, {"role": "user", "content": "so?"}])
def test_anthropic_is_told_the_same(talk: list[JsonObject]) -> None:
    request, translated = both(talk)
    encode = anthropic_chat.encode_chat
    assert turns(told(encode, request)) == turns(told(encode, translated))


def test_an_ordinary_conversation_is_plain_talk() -> None:
    said: list[JsonObject] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "so?"},
    ]
    assert both(said)[0].is_plain_talk
    assert not both(said[:3])[0].is_plain_talk, "the assistant spoke last"
