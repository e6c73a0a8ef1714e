"""Whatever a caller of OpenAI's dialect may say, Mistral is told only what it accepts.

The tables are Mistral's published request schema, written down here a second time: it forbids
unknown fields at every level, and so does this check.
"""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.faults import BadRequestError
from windvane.wire.chat_request import chat_request_of
from windvane.wire.mistral_chat import encode_chat

MODEL = "mistral-small-latest"

# ---- what Mistral takes -------------------------------------------------------------------------

EFFORTS = {"none", "minimal", "low", "medium", "high", "xhigh"}
CHOICES = {"auto", "none", "any", "required"}
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")


def is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(low, high, *, above_low=False):
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (low < value if above_low else low <= value) and value <= high

    return check


def is_type(*types):
    return lambda value: isinstance(value, types)


def is_texts(value):
    return isinstance(value, str) or all(isinstance(each, str) for each in value)


def is_object(required, optional=()):
    """Whether an object has all of `required` and nothing beyond `optional`; both map to checks."""
    required, optional = dict(required), dict(optional)

    def check(value):
        return (
            isinstance(value, dict)
            and required.keys() <= value.keys() <= required.keys() | optional.keys()
            and all((required | optional)[name](each) for name, each in value.items())
        )

    return check


def is_list_of(check, most=10_000):
    return lambda value: (
        isinstance(value, list) and len(value) <= most and all(check(each) for each in value)
    )


def either(*checks):
    return lambda value: any(check(value) for check in checks)


def equals(*allowed):
    return lambda value: value in allowed


TEXT, OBJECT, BOOL = is_type(str), is_type(dict), is_type(bool)


def part(kind, required, optional=()):
    return is_object({"type": equals(kind), **required}, optional)


TEXT_PART = part("text", {"text": TEXT})
PARTS = either(
    TEXT_PART,
    part("image_url", {"image_url": either(TEXT, is_object({"url": TEXT}, {"detail": TEXT}))}),
    part("document_url", {"document_url": TEXT}, {"document_name": TEXT}),
    part("file", {"file_id": TEXT}),
    part("input_audio", {"input_audio": TEXT}),
    part("reference", {"reference_ids": is_list_of(either(is_int, TEXT))}),
    part("thinking", {"thinking": is_list_of(TEXT_PART)}),
)
CONTENT = either(TEXT, is_list_of(PARTS))
TOOL = is_object(
    {
        "type": equals("function"),
        "function": is_object(
            {"name": lambda name: bool(TOOL_NAME.fullmatch(name)), "parameters": OBJECT},
            {"description": TEXT, "strict": BOOL},
        ),
    }
)
CALL = is_object(
    {
        "id": lambda one: bool(CALL_ID.fullmatch(one)),
        "type": equals("function"),
        "function": is_object({"name": TEXT, "arguments": either(TEXT, OBJECT)}),
    }
)
MESSAGES = {
    "system": is_object({"role": TEXT, "content": either(TEXT, is_list_of(TEXT_PART))}),
    "user": is_object({"role": TEXT, "content": CONTENT}),
    "assistant": is_object(
        {"role": TEXT, "content": CONTENT}, {"tool_calls": is_list_of(CALL), "prefix": BOOL}
    ),
    "tool": is_object({"role": TEXT, "content": CONTENT, "tool_call_id": TEXT}, {"name": TEXT}),
}
FORMAT = either(
    is_object({"type": equals("text", "json_object")}),
    is_object(
        {
            "type": equals("json_schema"),
            "json_schema": is_object(
                {"name": TEXT, "schema": OBJECT}, {"description": TEXT, "strict": BOOL}
            ),
        }
    ),
)
BODY = is_object(
    {"model": equals(MODEL), "messages": is_type(list)},
    {
        "frequency_penalty": is_number(-2, 2),
        "guardrails": is_type(list),
        "max_tokens": lambda value: is_int(value) and value >= 0,
        "metadata": OBJECT,
        "n": lambda value: is_int(value) and value >= 1,
        "parallel_tool_calls": BOOL,
        "prediction": is_object({"type": equals("content"), "content": TEXT}),
        "presence_penalty": is_number(-2, 2),
        "prompt_cache_key": TEXT,
        "prompt_mode": equals("reasoning"),
        "random_seed": lambda value: is_int(value) and value >= 0,
        "reasoning_effort": lambda value: value in EFFORTS,
        "response_format": FORMAT,
        "safe_prompt": BOOL,
        "service_tier": equals("auto", "standard_only"),
        "stop": is_texts,
        "stream": BOOL,
        "temperature": is_number(0, 1.5),
        "tool_choice": either(
            lambda value: isinstance(value, str) and value in CHOICES,
            is_object({"type": equals("function"), "function": is_object({"name": TEXT})}),
        ),
        "tools": is_list_of(TOOL, most=128),
        "top_p": is_number(0, 1, above_low=True),
    },
)
NEXT = {
    None: {"system", "user", "assistant"},
    "system": {"system", "user", "assistant"},
    "user": {"user", "system", "assistant"},
    "assistant": {"assistant", "user", "tool"},
    "tool": {"tool", "assistant", "user"},
}


def check_body(body):
    assert BODY(body), body
    assert not ("prediction" in body and body.get("n", 1) > 1), "n does not go with prediction"
    check_order(body["messages"])


def check_order(messages):
    assert messages
    before, waiting = None, set()
    for message in messages:
        role = message["role"]
        assert role in NEXT[before], f"{role} after {before}"
        assert MESSAGES[role](message), message
        if role == "tool":
            assert message["tool_call_id"] in waiting
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting, "a call without a result"
        if role == "assistant":
            calls = [call["id"] for call in message.get("tool_calls", ())]
            assert calls or message["content"] or message.get("prefix"), "an empty message"
            assert len(set(calls)) == len(calls), "one id for two calls"
            waiting = set(calls)
        before = role
    assert not waiting
    assert before in {"user", "tool"} or messages[-1].get("prefix")


# ---- what OpenAI's callers may say --------------------------------------------------------------

words = st.text(max_size=12)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
ids = st.one_of(
    st.from_regex(r"call_[a-zA-Z0-9]{24}", fullmatch=True),
    st.from_regex(r"[a-zA-Z0-9]{9}", fullmatch=True),
    st.text(min_size=1, max_size=40),
)
schemas = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "$schema": st.just("https://json-schema.org/draft/2020-12/schema"),
        "$id": words,
        "properties": st.dictionaries(words, st.just({"type": "string"}), max_size=2),
        "additionalProperties": st.booleans(),
    },
)


def maybe(strategy):
    return st.one_of(st.none(), strategy)


def fields(required, **optional):
    return st.fixed_dictionaries(required, optional=optional)


text_parts = fields({"type": st.just("text"), "text": words})
user_parts = st.one_of(
    text_parts,
    fields(
        {
            "type": st.just("image_url"),
            "image_url": fields({"url": words}, detail=st.sampled_from(["auto", "low", "high"])),
        }
    ),
    fields(
        {
            "type": st.just("input_audio"),
            "input_audio": fields({"data": words, "format": st.sampled_from(["wav", "mp3"])}),
        }
    ),
    fields(
        {
            "type": st.just("file"),
            "file": st.one_of(
                fields({"file_id": words.filter(bool)}),
                fields({"file_data": words.filter(bool)}, filename=words),
                fields({}, filename=words),
            ),
        }
    ),
)
contents = st.one_of(words, st.lists(text_parts, min_size=1, max_size=3))
functions = fields(
    {"name": names}, description=words, parameters=schemas, strict=maybe(st.booleans())
)
tools = st.one_of(
    fields({"type": st.just("function"), "function": functions}),
    fields({"type": st.just("custom"), "custom": fields({"name": names}, description=words)}),
)
tool_choices = st.one_of(
    st.sampled_from(["none", "auto", "required"]),
    fields({"type": st.just("function"), "function": fields({"name": names})}),
    fields({"type": st.just("custom"), "custom": fields({"name": names})}),
    fields(
        {
            "type": st.just("allowed_tools"),
            "allowed_tools": fields(
                {"mode": st.sampled_from(["auto", "required"]), "tools": st.just([])}
            ),
        }
    ),
)
formats = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    fields(
        {
            "type": st.just("json_schema"),
            "json_schema": fields(
                {"name": names}, description=words, schema=schemas, strict=maybe(st.booleans())
            ),
        }
    ),
)
leading = fields(
    {"role": st.sampled_from(["system", "developer"]), "content": contents}, name=words
)
users = fields(
    {
        "role": st.just("user"),
        "content": st.one_of(words, st.lists(user_parts, min_size=1, max_size=3)),
    },
    name=words,
)
replies = fields(
    {
        "role": st.just("assistant"),
        "content": st.one_of(
            st.none(),
            words,
            st.lists(
                st.one_of(text_parts, fields({"type": st.just("refusal"), "refusal": words})),
                min_size=1,
                max_size=2,
            ),
        ),
    },
    name=words,
    refusal=maybe(words),
    annotations=st.just([]),
    audio=maybe(fields({"id": words})),
    reasoning_content=maybe(words),
)


@st.composite
def tool_turns(draw):
    """A message that calls, and the results of its calls, perhaps in another order."""
    called = draw(st.lists(ids, min_size=1, max_size=3, unique=True))
    calls = [
        {"id": one, "type": "function", "function": {"name": draw(names), "arguments": draw(words)}}
        for one in called
    ]
    results = [
        {"role": "tool", "tool_call_id": one, "content": draw(contents)}
        for one in draw(st.permutations(called))
    ]
    return [{**draw(replies), "tool_calls": calls}, *results]


@st.composite
def function_turns(draw):
    """The same, in the manner of 2023."""
    name = draw(names)
    call = {"name": name, "arguments": draw(words)}
    return [
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": name, "content": draw(words)},
    ]


@st.composite
def conversations(draw):
    messages = draw(st.lists(leading, max_size=2))
    turns = st.one_of(
        users.map(lambda one: [one]),
        st.tuples(users, replies).map(list),
        tool_turns(),
        function_turns(),
        leading.map(lambda one: [one]),
    )
    for turn in draw(st.lists(turns, max_size=3)):
        messages += turn
    return [*messages, draw(users)] if draw(st.integers(0, 3)) < 3 or not messages else messages


def number(low, high):
    return st.one_of(st.integers(low, high), st.floats(low, high))


OPENAI_FIELDS = {
    "audio": st.sampled_from([{"format": "mp3", "voice": "alloy"}]),
    "frequency_penalty": number(-2, 2),
    "function_call": st.one_of(st.sampled_from(["none", "auto"]), fields({"name": names})),
    "functions": st.lists(
        fields({"name": names}, description=words, parameters=schemas), max_size=2
    ),
    "logit_bias": st.dictionaries(st.from_regex(r"[0-9]{1,5}", fullmatch=True), st.integers()),
    "logprobs": st.booleans(),
    "max_completion_tokens": st.integers(1, 10**8),
    "max_tokens": st.integers(1, 10**8),
    "metadata": st.dictionaries(words, words, max_size=2),
    "modalities": st.sampled_from([["text"], ["text", "audio"]]),
    "moderation": st.just({"mode": "auto"}),
    "n": st.integers(1, 128),
    "parallel_tool_calls": st.booleans(),
    "prediction": fields({"type": st.just("content"), "content": contents}),
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": words,
    "prompt_cache_options": st.just({"mode": "auto"}),
    "prompt_cache_retention": st.just("24h"),
    "reasoning_effort": st.sampled_from([*sorted(EFFORTS), "max"]),
    "response_format": formats,
    "safety_identifier": words,
    "seed": st.integers(-(2**63), 2**63 - 1),
    "service_tier": st.sampled_from(["auto", "default", "flex", "scale", "priority", "fast"]),
    "stop": st.one_of(words, st.lists(words, max_size=4)),
    "store": st.booleans(),
    "stream": st.booleans(),
    "stream_options": fields({}, include_usage=st.booleans(), include_obfuscation=st.booleans()),
    "temperature": number(0, 2),
    "tool_choice": tool_choices,
    "tools": st.lists(tools, max_size=3),
    "top_logprobs": st.integers(0, 20),
    "top_p": number(0, 1),
    "user": words,
    "verbosity": st.sampled_from(["low", "medium", "high"]),
    "web_search_options": st.just({}),
}
requests = st.fixed_dictionaries(
    {"model": st.just("auto"), "messages": conversations()},
    optional={name: maybe(strategy) for name, strategy in OPENAI_FIELDS.items()},
)


def told(fields):
    return json.loads(encode_chat(chat_request_of(fields), MODEL))


@settings(max_examples=250, deadline=None)
@given(requests)
def test_what_mistral_is_told_is_what_it_takes(fields):
    before = json.dumps(fields)
    try:
        body = told(fields)
    except BadRequestError as error:
        assert error.fault.param, "a refusal names the field"
    else:
        check_body(body)
    assert json.dumps(fields) == before, "the caller's request was changed"


@settings(max_examples=150, deadline=None)
@given(users, st.fixed_dictionaries({}, optional=OPENAI_FIELDS))
def test_only_what_cannot_be_said_is_refused(user, options):
    """A plain question with any legal options is passed on, save for the three Mistral has not."""
    cannot = any(
        part["type"] == "file"
        and not (part["file"].get("file_id") or part["file"].get("file_data"))
        for part in (user["content"] if isinstance(user["content"], list) else ())
    )
    cannot |= "audio" in options or "audio" in options.get("modalities", ())
    cannot |= any(tool["type"] == "custom" for tool in options.get("tools", ()))
    fields = {"model": "auto", "messages": [user], **options}
    if cannot:
        with pytest.raises(BadRequestError):
            told(fields)
    else:
        check_body(told(fields))


ASKED = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ({"max_tokens": 9, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
        ({"seed": 1, "random_seed": 2}, {"random_seed": 2}),
        ({"random_seed": 2, "seed": 1}, {"random_seed": 2}),
        ({"temperature": 2}, {"temperature": 1.5}),
        ({"service_tier": "priority"}, {"service_tier": "auto"}),
        ({"service_tier": "flex"}, {}),
        ({"reasoning_effort": "max"}, {"reasoning_effort": "xhigh"}),
        ({"modalities": ["text"], "user": "ann", "logit_bias": {"1": 2}}, {}),
        ({"tool_choice": "required"}, {}),
        ({"n": 2, "prediction": {"type": "content", "content": "x"}}, {"n": 2}),
    ],
    ids=str,
)
def test_a_field_is_told_by_the_table(said, is_told):
    body = told({"model": "auto", "messages": ASKED, **said})
    assert {name: body[name] for name in body if name not in ("model", "messages")} == is_told


@pytest.mark.parametrize("content", ["", None, []], ids=str)
def test_an_assistants_empty_message_is_left_out(content):
    silent = {"role": "assistant", "content": content}
    body = told({"model": "auto", "messages": [*ASKED, silent, *ASKED]})
    assert body["messages"] == ASKED * 2


@pytest.mark.parametrize(
    ("broken", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"functions": [{"name": "no spaces"}]}, "functions[0].name"),
        ({"prompt_mode": "dreaming"}, "prompt_mode"),
    ],
    ids=str,
)
def test_what_mistral_would_refuse_is_refused_here_by_name(broken, param):
    with pytest.raises(BadRequestError) as refused:
        told({"model": "auto", "messages": ASKED, **broken})
    assert refused.value.fault.param == param


def test_one_id_for_two_calls_is_refused():
    call = {"id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    with pytest.raises(BadRequestError) as refused:
        told({"model": "auto", "messages": messages})
    assert refused.value.fault.param == "messages[1].tool_calls"
