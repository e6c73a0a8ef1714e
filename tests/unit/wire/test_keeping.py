"""A provider's answer without its id, and with another."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.wire.chat_reply import decode_completion
from windvane.wire.keeping import completion_of, raw_of, rest_of

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "So."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OWN = ("id", "router_metadata")
UNKNOWN = st.text().map("x-".__add__)
"""Names of members that nobody here has heard of."""


@given(st.dictionaries(UNKNOWN, JSON, max_size=4), st.sampled_from([None, 2]), st.text())
def test_all_but_the_id_is_what_the_provider_said(
    more: dict[str, object], indent: int | None, answer_id: str
) -> None:
    said = {**more, **ANSWER}
    rest = rest_of(json.dumps(said, indent=indent).encode(), 9)
    assert rest is not None
    kept = {name: value for name, value in said.items() if name not in OWN}
    assert json.loads(raw_of(rest, answer_id)) == {"id": answer_id, **kept}
    read = completion_of(rest)
    whole = decode_completion(json.dumps(said).encode(), 0)
    assert (read.choices, read.usage, read.created) == (whole.choices, whole.usage, whole.created)


def test_what_an_answer_says_of_routing_is_not_the_providers() -> None:
    rest = rest_of(json.dumps({**ANSWER, "router_metadata": {"cached": False}}).encode(), 9)
    assert rest is not None and b"router_metadata" not in rest


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"a":1', b'{"\xff":1}', b"[" * 100_000])
def test_what_is_no_object_has_no_rest(raw: bytes) -> None:
    assert rest_of(raw, 9) is None


@pytest.mark.parametrize("said", [{}, {"created": None}, {"created": 0}])
def test_an_answer_without_a_time_keeps_the_one_it_was_given(said: dict[str, object]) -> None:
    answer = {name: value for name, value in ANSWER.items() if name != "created"} | said
    rest = rest_of(json.dumps(answer).encode(), 9)
    assert rest is not None
    assert json.loads(raw_of(rest, "x"))["created"] == completion_of(rest).created == 9
