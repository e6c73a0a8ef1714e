"""The key of the cache: whatever may change an answer is in it, and nothing else is.

Requests are made from the dialect's own schema, so a field that is added to it is tried by itself. Each
law takes the function that it tests, and at the end each is shown to catch a worse one.
"""

import string
import unicodedata
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from msgspec import inspect

from windvane.core.cache.key import cache_key, origin_of
from windvane.core.chat import ChatRequest, JsonObject
from windvane.core.faults import WindvaneError
from windvane.wire import canonical as module
from windvane.wire.canonical import DENIED, canonical
from windvane.wire.chat_request import ChatBody, chat_request_of
from windvane.wire.json_body import read_object

Canonical = Callable[[ChatRequest], JsonObject]
FIELDS = {field.encode_name: field for field in inspect.type_info(ChatBody).fields}  # type: ignore[attr-defined]
WHOLE = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Why?"}, {"type": "text", "text": "x"}],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "abcdefghi",
                    "type": "function",
                    "function": {"name": "f", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "abcdefghi", "name": "f"},
        {"role": "assistant", "content": "So", "prefix": True},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": "d",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"type": "string", "const": None, "enum": [1, 2.5, None]}},
                    "required": ["a"],
                },
            },
        }
        for name in ("f", "g")
    ],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "s", "strict": False, "schema": {"type": "object"}},
    },
    "temperature": 0.5,
    "stop": ["a", "b"],
    "seed": 7,
    "max_tokens": 9,
    "logit_bias": {"50256": -100},
    "a_field_of_next_year": {"deep": [{"er": [0, False, "", None]}]},
}


def key(body: Mapping[str, Any], said: Canonical = canonical) -> bytes:
    try:
        request = chat_request_of(dict(body))
    except WindvaneError:
        reject()
    return cache_key("key:a", "one", "m", said(request))


# values of any type of the schema

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSON, max_size=3)


def within(kind: Any, least: float, most: float) -> dict[str, Any]:
    low = kind.ge if kind.ge is not None else least
    high = kind.le if kind.le is not None else most
    return {"min_value": low, "max_value": high}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """JSON values that the schema takes for `kind`."""
    match kind:
        case inspect.UnionType(types=types):
            return st.one_of([values(each) for each in types])
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(**within(kind, -99, 99))
        case inspect.FloatType():
            return st.floats(**within(kind, -99, 99))
        case inspect.StrType(pattern=None):
            return st.text(min_size=kind.min_length or 0, max_size=6)
        case inspect.StrType(pattern=pattern):
            return st.from_regex(pattern, fullmatch=True)
        case inspect.LiteralType(values=said):
            return st.sampled_from(said)
        case inspect.EnumType(cls=cls):
            return st.sampled_from([each.value for each in cls])
        case inspect.ListType(item_type=item):
            return st.lists(values(item), min_size=kind.min_length or 0, max_size=2)
        case inspect.StructType():
            return structs(kind)
        case inspect.DictType():
            return OBJECTS
        case inspect.AnyType():
            return JSON
    raise AssertionError(f"this test must learn to make values of {kind}")


def structs(kind: Any) -> st.SearchStrategy[Any]:
    said = {each.encode_name: values(each.type) for each in kind.fields}
    required = {each.encode_name for each in kind.fields if each.required}
    tag = {} if kind.tag is None else {kind.tag_field: st.just(kind.tag)}
    return st.fixed_dictionaries(
        tag | {name: said[name] for name in said if name in required},
        optional={name: said[name] for name in said if name not in required},
    )


ROLES = st.sampled_from(["user", "system", "developer"])
PLAIN = st.builds(lambda role, text: {"role": role, "content": text}, ROLES, st.text(max_size=5))
A_MESSAGE = PLAIN | values(FIELDS["messages"].type).map(lambda some: some[0])
NARROWED = {
    "messages": st.lists(A_MESSAGE, min_size=1, max_size=3),
    "tool_choice": st.sampled_from(["auto", "none", "any", "required"])
    | st.builds(lambda name: {"type": "function", "function": {"name": name}}, st.text(max_size=2)),
}
"""Where a rule that the schema does not state refuses most of what it allows."""


def values_of(field: str) -> st.SearchStrategy[Any]:
    return NARROWED[field] if field in NARROWED else values(FIELDS[field].type)


# when two values say the same: told apart from `wire.canonical`, in this test's own words


def meaning(field: str, value: Any) -> Any:
    if field == "tool_choice" and value == "any":
        value = "required"
    if field == "stop" and isinstance(value, str):
        value = [value]
    if field == "messages":
        return [message_meaning(each) for each in value]
    return plain(value)


def message_meaning(message: Any) -> Any:
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and set(content[0]) == {"type", "text"}:
        message = {**message, "content": content[0]["text"]}
    said = {name: plain(each) for name, each in message.items() if each is not None}
    if message.get("prefix") is False:
        del said["prefix"]
    return said


def plain(value: Any) -> Any:
    """Numbers that are equal are the same; true is not one, and neither is "1"."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return (type(value).__name__, value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()}


# the laws


def a_field_counts(field: str, base: JsonObject, one: Any, other: Any, said: Canonical) -> None:
    before, after = key({**base, field: one}, said), key({**base, field: other}, said)
    assert (before == after) == (field in DENIED), (field, one, other)


OTHERS = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(PLAIN, min_size=1, max_size=2)},
    optional={
        "temperature": st.floats(0, 2),
        "user": st.text(max_size=3),
        "stream": st.booleans(),
        "tools": st.just(WHOLE["tools"]),
        "an_unknown_field": JSON,
    },
)
MANY = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_dialect_counts_unless_it_is_denied(field: str) -> None:
    checked = 0

    @MANY
    @given(base=OTHERS, one=values_of(field), other=values_of(field))
    def check(base: JsonObject, one: Any, other: Any) -> None:
        nonlocal checked
        assume(meaning(field, one) != meaning(field, other))
        a_field_counts(field, base, one, other, canonical)
        checked += 1

    check()
    assert checked >= 4 or FIELDS[field].type == inspect.BoolType(), f"only {checked} were tried"


@MANY
@given(base=OTHERS, name=st.text(min_size=1, max_size=8), one=JSON, other=JSON)
def test_a_field_that_nobody_has_heard_of_counts(
    base: JsonObject, name: str, one: Any, other: Any
) -> None:
    assume(name not in FIELDS and name not in DENIED and plain(one) != plain(other))
    a_field_counts(name, base, one, other, canonical)
    assert key({**base, name: one}) != key({k: v for k, v in base.items() if k != name})


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    if isinstance(value, dict):
        members = value.items()
    else:
        members = enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        found += paths(member, (*here, name))
    return found


def changed(value: Any) -> list[Any]:
    """Values of the same type that say something else."""
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [0]
    if isinstance(value, int | float):
        return [value + 1]
    if isinstance(value, str):
        return [value + "x", value + " ", value.swapcase() if value.swapcase() != value else "y"]
    if isinstance(value, list):
        return [[*value, value[0]] if value else [0], value[1:]]
    return [{**value, "more": 1}, {**value, "more": None}, dict(list(value.items())[1:])]


def with_change(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, dict):
        return {**value, first: with_change(value[first], tuple(rest), new)}
    return [*value[:first], with_change(value[first], tuple(rest), new), *value[first + 1 :]]


def member(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def every_leaf_counts(said: Canonical) -> int:
    before, tried = cache_key("key:a", "one", "m", said(chat_request_of(dict(WHOLE)))), 0
    for path in paths(WHOLE):
        for new in changed(member(WHOLE, path)):
            body = with_change(WHOLE, path, new)
            is_message = path[0] == "messages" and len(path) == 2 and isinstance(new, dict)
            if path[0] in DENIED or (is_message and new.get("more", 1) is None):
                continue
            try:
                request = chat_request_of(body)
            except WindvaneError:
                continue
            assert cache_key("key:a", "one", "m", said(request)) != before, (path, new)
            tried += 1
    return tried


def test_every_leaf_counts_however_deep() -> None:
    assert every_leaf_counts(canonical) > 100


def order_counts(said: Canonical) -> None:
    before = key(WHOLE, said)
    for name in ("messages", "tools", "stop"):
        turned = [*WHOLE[name][1:], WHOLE[name][0]]  # type: ignore[index]
        assert key({**WHOLE, name: turned}, said) != before, name


def test_the_order_of_messages_and_tools_counts() -> None:
    order_counts(canonical)


def spelled(value: Any, rng: Random) -> str:
    """`value` as JSON text: members in any order, numbers in any spelling, blanks anywhere."""
    blank = rng.choice(("", " ", "\n\t"))
    if isinstance(value, dict):
        members = [
            f"{spelled(name, rng)}{blank}:{spelled(each, rng)}" for name, each in value.items()
        ]
        rng.shuffle(members)
        return "{" + blank + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spelled(each, rng) for each in value) + blank + "]"
    if isinstance(value, str):
        escaped = "".join(f"\\u{ord(sign):04x}" if ord(sign) < 0xD800 else sign for sign in value)
        return rng.choice((msgspec.json.encode(value).decode(), f'"{escaped}"'))
    if isinstance(value, float) and value.is_integer():
        number = int(value)
        return rng.choice((str(number), f"{number}.0", f"{number}e0", f"{number}.000E+0"))
    return msgspec.json.encode(value).decode()


FREE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9).map(float)
    | st.floats(-2, 2)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@MANY
@given(extra=FREE, temperature=st.sampled_from([0.0, 1.0, 2.0, 0.7]), seed=st.integers(0, 9_999))
def test_the_order_of_members_and_the_spelling_of_numbers_do_not_count(
    extra: Any, temperature: float, seed: int
) -> None:
    body = {**WHOLE, "temperature": temperature, "extra": extra}
    keys = {key(read_object(spelled(body, Random(seed + n)).encode())) for n in range(4)}
    assert keys == {key(body)}


def test_what_is_denied_is_a_short_list_with_reasons() -> None:
    """A change of this list is a change of what the cache promises: it is made on purpose."""
    assert set(DENIED) == {
        "model",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
    assert all(len(why) > 5 for why in DENIED.values())


@pytest.mark.parametrize("field", sorted(DENIED))
def test_what_is_denied_does_not_count(field: str) -> None:
    kind = values_of(field) if field in FIELDS else JSON

    @settings(MANY, max_examples=20)
    @given(value=kind)
    def check(value: Any) -> None:
        assert key({**WHOLE, field: value}) == key(WHOLE)

    check()


ORIGIN = ("one", "compatible", "https://one.test/v1")


@pytest.mark.parametrize(
    "other",
    [
        ("two", "compatible", "https://one.test/v1"),
        ("one", "mistral", "https://one.test/v1"),
        ("one", "compatible", "http://one.test/v1"),
        ("one", "compatible", "https://two.test/v1"),
        ("one", "compatible", "https://one.test:8443/v1"),
        ("one", "compatible", "https://one.test/v2"),
        ("one", "compatible", "https://one.test/V1"),
        ("one", "compatible", "https://one.test"),
        ("v1 one", "compatible", "https://one.test/"),
        ("one", "compatible", "https://[::1]/v1"),
    ],
)
def test_another_name_kind_or_address_is_another_origin(other: tuple[str, str, str]) -> None:
    assert origin_of(*other) != origin_of(*ORIGIN)


@pytest.mark.parametrize(
    "url",
    [
        "https://one.test/v1/",
        "HTTPS://One.Test/v1",
        "https://one.test:443/v1",
        "https://one.test./v1",
    ],
)
def test_an_address_is_the_same_in_all_its_spellings(url: str) -> None:
    assert origin_of("one", "compatible", url) == origin_of(*ORIGIN)


def test_no_two_scopes_models_or_origins_share() -> None:
    """A hundred thousand pairs, made to run into each other."""
    rng, said = Random(1), canonical(chat_request_of(body()))
    signs = "ab:\0 1234567890" + string.ascii_letters[:3]

    def part() -> str:
        return "".join(rng.choices(signs, k=rng.randint(0, 6)))

    seen: dict[bytes, tuple[str, str, str]] = {}
    for _ in range(100_000):
        parts = part(), part(), part()
        assert seen.setdefault(cache_key(*parts, said), parts) == parts
    assert len(set(seen.values())) == len(seen) > 90_000


TWO = [{"role": "user", "content": "Why?"}]


def body(**fields: Any) -> JsonObject:
    return {"model": "m", "messages": TWO, **fields}


def messages(*said: Any) -> JsonObject:
    return {"model": "m", "messages": list(said)}


def call(arguments: object) -> JsonObject:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"function": function}]}


SAME = {
    "a seed": (body(seed=7), body(random_seed=7)),
    "a limit": (body(max_tokens=7), body(max_completion_tokens=7)),
    "the newer limit counts": (body(max_tokens=9, max_completion_tokens=7), body(max_tokens=7)),
    "a must": (body(tool_choice="any"), body(tool_choice="required")),
    "one stop": (body(stop="x"), body(stop=["x"])),
    "one text": (
        body(),
        messages({"role": "user", "content": [{"type": "text", "text": "Why?"}]}),
    ),
    "no prefix": (
        messages({"role": "user", "content": "Why?", "prefix": False}),
        messages({"role": "user", "content": "Why?"}),
    ),
    "nothing said in a message": (
        messages(*TWO, {"role": "assistant", "content": "So", "refusal": None, "tool_calls": None}),
        messages(*TWO, {"role": "assistant", "content": "So"}),
    ),
    "minus zero": (body(temperature=-0.0), body(temperature=0)),
    "a large number": (body(logit=1e15), body(logit=10**15)),
    "a number past 53 bits": (body(x=float(2**53)), body(x=2**53)),
    "a number past 64 bits": (body(x=1e20), body(x=10**20)),
}


@pytest.mark.parametrize("case", SAME)
def test_one_question_in_two_spellings_has_one_key(case: str) -> None:
    one, other = SAME[case]
    assert key(one) == key(other)


ACCENT = "é"
OTHER_ACCENT = unicodedata.normalize("NFD", ACCENT)
PART = {"type": "text", "text": "Why?"}
DIFFERENT = {
    "null is not absent: some servers tell them apart": (body(top_k=None), body()),
    "null is not absent in a schema": (
        body(response_format={"type": "json_schema", "json_schema": {"schema": {"const": None}}}),
        body(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
    ),
    "null is not zero": (body(x=None), body(x=0)),
    "true is not one": (body(x=True), body(x=1)),
    "a digit is not a number": (body(x="1"), body(x=1)),
    "nothing is not an empty list": (body(stop=[]), body()),
    "an empty list is not an empty text": (body(stop=[]), body(stop="")),
    "past 53 bits too": (body(x=2**53), body(x=2**53 + 1)),
    "and past 64 bits": (body(x=2**64), body(x=2**64 + 1)),
    "both seeds: who wins is the provider's taste": (body(seed=1, random_seed=2), body(seed=1)),
    "both seeds, again": (body(seed=1, random_seed=2), body(random_seed=2)),
    "both seeds, the other way": (body(seed=1, random_seed=2), body(seed=2, random_seed=1)),
    "both seeds and one twice": (body(seed=1, random_seed=1), body(seed=1)),
    "the older limit does not count beside the newer": (
        body(max_tokens=7, max_completion_tokens=9),
        body(max_tokens=7),
    ),
    "a limit of none": (body(max_tokens=0), body()),
    "an accent in one piece, and in two": (
        messages({"role": "user", "content": ACCENT}),
        messages({"role": "user", "content": OTHER_ACCENT}),
    ),
    "wide letters": (
        messages({"role": "user", "content": "Ａ"}),
        messages({"role": "user", "content": "A"}),
    ),
    "blanks": (
        messages({"role": "user", "content": "Why? "}),
        messages({"role": "user", "content": "Why?"}),
    ),
    "one text in two parts": (
        messages({"role": "user", "content": [PART, PART]}),
        messages({"role": "user", "content": "Why?Why?"}),
    ),
    "a part that says more than its text": (
        messages({"role": "user", "content": [{**PART, "cache_control": {"type": "ephemeral"}}]}),
        messages({"role": "user", "content": [PART]}),
    ),
    "a developer is not the system": (
        messages({"role": "developer", "content": "x"}, *TWO),
        messages({"role": "system", "content": "x"}, *TWO),
    ),
    "two messages are not one": (
        messages({"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        messages({"role": "user", "content": "ab"}),
    ),
    "an answer to go on with": (
        messages(*TWO, {"role": "assistant", "content": "So", "prefix": True}),
        messages(*TWO, {"role": "assistant", "content": "So"}),
    ),
    "a name": (
        messages({"role": "user", "content": "Why?", "name": "ann"}),
        messages({"role": "user", "content": "Why?"}),
    ),
    "two answers": (body(n=2), body(n=1)),
    "functions are not tools": (
        body(functions=[{"name": "f"}]),
        body(tools=[{"type": "function", "function": {"name": "f"}}]),
    ),
    "arguments as text, and as an object": (
        messages(
            *TWO,
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        ),
        messages(
            *TWO,
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        ),
    ),
    "no tools, and none given": (body(tools=[]), body()),
}


def differ(case: str, said: Canonical) -> None:
    one, other = DIFFERENT[case]
    assert key(one, said) != key(other, said)


@pytest.mark.parametrize("case", DIFFERENT)
def test_two_questions_that_look_alike_have_two_keys(case: str) -> None:
    differ(case, canonical)


def test_the_order_of_two_names_of_one_thing_does_not_count() -> None:
    for one, other in (("seed", "random_seed"), ("max_tokens", "max_completion_tokens")):
        assert key(body(**{one: 1, other: 2})) == key(body(**{other: 2, one: 1}))


def test_the_callers_body_is_left_as_it_is() -> None:
    request = chat_request_of(dict(WHOLE))
    before = msgspec.json.encode(request.body)
    canonical(request)
    assert msgspec.json.encode(request.body) == before


# what these laws would say of worse keys


def allow_listed(request: ChatRequest) -> JsonObject:
    return {name: value for name, value in canonical(request).items() if name in FIELDS}


def composed(request: ChatRequest) -> JsonObject:
    text = msgspec.json.encode(canonical(request)).decode()
    return msgspec.json.decode(unicodedata.normalize("NFKC", text))  # type: ignore[no-any-return]


def without_nulls(request: ChatRequest) -> JsonObject:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(each) for name, each in value.items() if each is not None}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(canonical(request))  # type: ignore[no-any-return]


def unordered(request: ChatRequest) -> JsonObject:
    def sort(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: sort(each) for name, each in value.items()}
        if isinstance(value, list):
            return sorted((sort(each) for each in value), key=msgspec.json.encode)
        return value

    return sort(canonical(request))  # type: ignore[no-any-return]


def test_worse_keys_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        a_field_counts("top_k", body(), 1, 2, allow_listed)
    with pytest.raises(AssertionError):
        every_leaf_counts(allow_listed)
    with pytest.raises(AssertionError):
        every_leaf_counts(without_nulls)
    with pytest.raises(AssertionError):
        differ("null is not absent in a schema", without_nulls)
    for case in ("an accent in one piece, and in two", "wide letters"):
        with pytest.raises(AssertionError):
            differ(case, composed)
    with pytest.raises(AssertionError):
        order_counts(unordered)
    monkeypatch.setattr(module, "DENIED", {**DENIED, "temperature": "an oversight"})
    with pytest.raises(AssertionError):
        a_field_counts("temperature", body(), 0, 1, canonical)
