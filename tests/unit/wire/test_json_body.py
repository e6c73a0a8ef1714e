"""A caller's JSON is read in one way only, or refused."""

import pytest

from windvane.core.faults import BadRequestError
from windvane.wire import json_body
from windvane.wire.json_body import DEPTH_MAX, NODES_MAX, read_object, read_object_with


def nested(depth: int) -> bytes:
    """An object `depth` levels deep."""
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' {"a" : 1 , "b":[true,null,-0.5e1]}\r\n', {"a": 1, "b": [True, None, -5.0]}),
        (b'{"a":{"a":1},"b":[{"a":2}]}', {"a": {"a": 1}, "b": [{"a": 2}]}),
        (b'{"":0," ":1}', {"": 0, " ": 1}),
        (b'{"a":"\\"b\\": \\"c\\""}', {"a": '"b": "c"'}),
        (b'{"a":"x\\":"}', {"a": 'x":'}),
        (b'{"\\u00e9":"\\ud83d\\ude00"}', {"é": "😀"}),
        (b'{"a":"\\u003a: \\u003A","b" :"\\u003cb\\u003e"}', {"a": ":: :", "b": "<b>"}),
        (b'{"a":1e2,"b": ":"}', {"a": 100.0, "b": ":"}),
        (b'{"big":123456789012345678901234567890}', {"big": 123456789012345678901234567890}),
    ],
)
def test_an_object_is_read(body: bytes, value: object) -> None:
    assert read_object(body) == value


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the request body is empty"),
        (b" ", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{}{}", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":Infinity}', "not valid JSON"),
        (b'{"a":1e999}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "must be a JSON object, not an array"),
        (b'"a"', "must be a JSON object, not a string"),
        (b"true", "must be a JSON object, not a boolean"),
        (b"null", "must be a JSON object, not null"),
        (b"1.5", "must be a JSON object, not a number"),
        (b'{"a":1,"a":1}', "says the key 'a' twice"),
        (b'{"a":1,"\\u0061":2}', "says the key 'a' twice"),
        (b'{"x":[{"a":1 ,"b":2, "a" : 3}]}', "says the key 'a' twice"),
        (b'{"a":"\\":","b":1,"b":2}', "says the key 'b' twice"),
        (b'{"a":1,"a":"\\u003a"}', "says the key 'a' twice"),
        (b'{"a":1,"a":"\\u003A"}', "says the key 'a' twice"),
        (b'{"a":1,"b":{"c" :1,"c":":"}}', "says the key 'c' twice"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(BadRequestError, match=problem) as caught:
        read_object(body)
    assert caught.value.fault.status == 400


def test_escapes_that_hide_no_colon_cost_no_second_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go and .NET escape `<` and `>` wherever they write them."""
    monkeypatch.setattr(json_body, "_refuse_duplicates", lambda _: pytest.fail("read twice"))
    assert read_object(b'{"a":"\\u003cb\\u003E \\u0026"}') == {"a": "<b> &"}


def test_a_repeated_key_is_named() -> None:
    with pytest.raises(BadRequestError) as caught:
        read_object(b'{"model":"a","model":"b"}')
    assert caught.value.fault.param == "model"


@pytest.mark.parametrize("depth", range(1, 20))
def test_a_key_said_twice_is_found_at_any_depth(depth: int) -> None:
    assert read_object(nested(depth).replace(b"1", b'{"a":1,"b":2}'))
    twice = nested(depth).replace(b"1", b'{"a":1,"a":2}')
    for name in ("a", "b"):
        with pytest.raises(BadRequestError, match="twice"):
            read_object_with(twice, name)


def test_a_member_is_given_as_json_too() -> None:
    value, written = read_object_with(b'{"a": [1.0, "\\u00e9"], "b": null}', "a")
    assert value == {"a": [1.0, "é"], "b": None}
    assert bytes(written or b"") == '[1.0,"é"]'.encode()
    assert read_object_with(b'{"b":null}', "a") == ({"b": None}, None)


def test_depth_is_bounded() -> None:
    assert read_object(nested(DEPTH_MAX))
    for depth in (DEPTH_MAX + 1, 5_000, 200_000):
        with pytest.raises(BadRequestError, match="nested deeper than"):
            read_object(nested(depth))
    for empty in (b"{}", b"[]"):
        assert read_object(nested(DEPTH_MAX - 1).replace(b"1", empty))
        with pytest.raises(BadRequestError, match="nested deeper than"):
            read_object(nested(DEPTH_MAX).replace(b"1", empty))


def test_the_number_of_values_is_bounded() -> None:
    numbers = [b"1"] * (NODES_MAX - 1)
    assert read_object(b'{"a":[' + b",".join(numbers) + b"]}")
    with pytest.raises(BadRequestError, match="more than"):
        read_object(b'{"a":[' + b",".join([*numbers, b"1"]) + b"]}")
