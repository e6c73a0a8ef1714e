"""Our reading of JSON beside the standard library's: the same values, less what is ambiguous."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.faults import BadRequestError
from windvane.wire.json_body import read_object, read_object_with

KEY = st.sampled_from(["a", "b", "", '":', '"', "\\", "é", ":", "a\\u0061", '{"a":1}'])
STRING = KEY | st.text(alphabet='ab":{}[],\\ \n\u00e9\U0001f600\x7f', max_size=8)
NUMBER = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True, allow_infinity=True)


class Pairs(list[tuple[str, Any]]):
    """An object that may say a key twice."""


VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | STRING,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(KEY, inner), max_size=4).map(Pairs)
    ),
    max_leaves=12,
)
OBJECT = st.lists(st.tuples(KEY, VALUE), max_size=5).map(Pairs)
SPACE = st.sampled_from(["", "", " ", "\n", "\t \r\n"])


def written(draw: st.DrawFn, value: Any) -> str:
    space = draw(SPACE)
    if isinstance(value, Pairs):
        members = [
            f"{space}{written(draw, key)}{space}:{space}{written(draw, inner)}"
            for key, inner in value
        ]
        return "{" + ",".join(members) + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(space + written(draw, inner) for inner in value) + space + "]"
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    return text.replace(":", draw(st.sampled_from([":", ":", "\\u003a", "\\u003A"])))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    text = draw(SPACE) + written(draw, draw(OBJECT)) + draw(SPACE)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place]
            + draw(st.sampled_from(['"', ":", ",", "}", "{", "x", "\\", ""]))
            + text[place + 1 :]
        )
    return text.encode()


def standard(body: bytes) -> Any:
    """The standard library's reading, refusing repeated keys and what is no JSON number."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a key is said twice")
        return value

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError("not a JSON number")
        return number

    value = json.loads(
        body.decode(), object_pairs_hook=once, parse_constant=finite, parse_float=finite
    )
    if not isinstance(value, dict):
        raise ValueError("not an object")
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return value


def same(left: Any, right: Any) -> bool:
    return repr(left).replace("-0.0", "0.0") == repr(right).replace("-0.0", "0.0")


@settings(deadline=None, max_examples=250)
@given(bodies())
def test_what_is_accepted_is_what_the_standard_accepts_less_the_ambiguous(body: bytes) -> None:
    try:
        expected = standard(body)
    except ValueError:
        expected = None
    try:
        value = read_object(body)
    except BadRequestError:
        value = None
    assert same(value, expected)


@settings(deadline=None, max_examples=100)
@given(bodies())
def test_what_is_written_anew_is_read_the_same(body: bytes) -> None:
    try:
        value = read_object(body)
    except BadRequestError:
        return
    assert same(read_object(msgspec.json.encode(value)), value)


@settings(deadline=None, max_examples=250)
@given(bodies(), KEY)
def test_a_member_asked_for_changes_nothing_that_is_read(body: bytes, name: str) -> None:
    try:
        expected = read_object(body)
    except BadRequestError as error:
        with pytest.raises(BadRequestError) as caught:
            read_object_with(body, name)
        assert caught.value.fault == error.fault
        return
    value, written = read_object_with(body, name)
    assert same(value, expected)
    said = None if written is None else bytes(written)
    assert said == (msgspec.json.encode(value[name]) if name in value else None)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_the_callers_mistake(body: bytes) -> None:
    try:
        assert isinstance(read_object(body), dict)
    except BadRequestError as error:
        assert error.fault.status == 400
