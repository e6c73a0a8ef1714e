"""Whatever a caller may say, right or wrong, Mistral is told only what it accepts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mistral_schema import EFFORTS, MODEL, check_body

from windvane.core.faults import BadRequestError
from windvane.wire.chat_request import chat_request_of
from windvane.wire.mistral_chat import encode_chat

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
    if options.get("tools") or options.get("functions"):
        choice = options.get("tool_choice")
        kind = choice["type"] if isinstance(choice, dict) else None
        cannot |= kind == "custom"
        cannot |= kind == "allowed_tools" and choice["allowed_tools"]["mode"] == "required"
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
