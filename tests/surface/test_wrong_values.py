"""One value of a right request made wrong: refused by its name, or told rightly all the same.

The requests say, between them, all that Mistral can be told, and all ways of saying it.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistralai.client.models import ChatCompletionRequest
from tests.mistral_schema import MODEL, check_body
from tests.surface.test_upstream_body import requests as openais_requests

from windvane.core.faults import BadRequestError
from windvane.simulator.message_order import check_messages
from windvane.simulator.mistral_rules import CHAT_FIELDS, chat_problems
from windvane.wire.chat_request import ChatBody, chat_request_of
from windvane.wire.mistral_chat import FIELDS, encode_chat

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "look", "description": "Looks.", "strict": None, "parameters": SCHEMA}
COMMON = {
    "model": "auto",
    "temperature": 0.5,
    "top_p": 0.5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "n": 1,
    "parallel_tool_calls": True,
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "reasoning_effort": "high",
}
OPENAIS = {
    **COMMON,
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "t"}], "name": "ann"},
        {
            "role": "user",
            "name": "ben",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image_url", "image_url": {"url": "data:,", "detail": "original"}},
                {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
                {"type": "file", "file": {"file_id": "f"}},
                {"type": "file", "file": {"file_data": "data:,", "filename": "a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "t"}, {"type": "refusal", "refusal": "no"}],
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "1", "name": "look"},
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": ""}},
        {"role": "function", "name": "look", "content": "1"},
    ],
    "max_completion_tokens": 5,
    "seed": 4,
    "stop": "a",
    "stream": True,
    "stream_options": {"include_usage": True},
    "prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]},
    "service_tier": "priority",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "description": "d", "strict": True, "schema": SCHEMA},
    },
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
}
OLD = {"functions": [FUNCTION], "function_call": {"name": "look"}, "max_tokens": 5}
MODERATION = {
    "model_name": "m",
    "ignore_other_categories": True,
    "action": "block",
    "custom_category_thresholds": {"sexual": 0.5, "health": None},
}
MISTRALS = {
    **COMMON,
    "messages": [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": "data:,"},
                {"type": "input_audio", "input_audio": "QQ=="},
                {"type": "file", "file_id": "f"},
                {"type": "document_url", "document_url": "data:,", "document_name": "a"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {
                    "type": "thinking",
                    "signature": "s",
                    "closed": True,
                    "thinking": [
                        {"type": "text", "text": "t"},
                        {"type": "reference", "reference_ids": [1, "2"]},
                        {
                            "type": "tool_reference",
                            "tool": "web_search",
                            "title": "t",
                            "url": "u",
                            "favicon": "f",
                            "description": "d",
                        },
                    ],
                },
                {"type": "reference", "reference_ids": [1, "2"]},
            ],
            "tool_calls": [
                {
                    "id": "abcdefghi",
                    "type": "function",
                    "index": 0,
                    "function": {"name": "look", "arguments": {"city": "Paris"}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "look", "content": "1"},
        {"role": "assistant", "content": "a", "prefix": True},
    ],
    "max_tokens": 5,
    "random_seed": 4,
    "stop": ["a"],
    "prediction": {"type": "content", "content": "x"},
    "service_tier": "standard_only",
    "prompt_mode": "reasoning",
    "safe_prompt": False,
    "guardrails": [
        {"block_on_error": True, "moderation_llm_v1": MODERATION, "moderation_llm_v2": MODERATION}
    ],
    "response_format": {"type": "json_object"},
    "tools": [{"function": FUNCTION}],
    "tool_choice": "any",
}
REQUESTS = {"openais": OPENAIS, "mistrals": MISTRALS, "old": {**COMMON, **OLD, "messages": []}}
REQUESTS["old"]["messages"] = [{"role": "user", "content": "Hi"}]

FREE = ("metadata", "parameters", "schema", "arguments")
"""What is in them is the caller's own."""
WRONG = (True, 7, "zz", [7], {"zz": 7})


def places(value, path=()):
    """The path of each value in `value`, but for what is in the caller's own."""
    if path:
        yield path
    if path and path[-1] in FREE:
        return
    if isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, (*path, name))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from places(member, (*path, number))


def at(value, path):
    for step in path:
        value = value[step]
    return value


def changed(value, path, to):
    """The value with another at the path."""
    if not path:
        return to
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], to)
    return copy


def param_of(path):
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def told(fields):
    return encode_chat(chat_request_of(fields), MODEL)


def check_told(body):
    """By our own tables, by the simulator's, and by the models of Mistral's SDK."""
    read = json.loads(body)
    check_body(read)
    assert chat_problems(read) == []
    check_messages(read["messages"])
    ChatCompletionRequest.model_validate_json(body, strict=True)


@pytest.mark.parametrize("case", REQUESTS)
def test_the_requests_that_are_changed_below_are_right(case):
    check_told(told(REQUESTS[case]))


def test_the_requests_say_everything():
    said = {name for request in REQUESTS.values() for name in request}
    assert said >= FIELDS.keys()
    read = set(ChatBody.__struct_fields__)
    assert said >= read - {"user", "min_tokens"}, "what Mistral is not told"
    answered = {name for request in REQUESTS.values() for name in json.loads(told(request))}
    unpublished = {"stream_options", "min_tokens", "repetition_penalty", "top_k", "logprobs"}
    unpublished |= {"top_logprobs", "prompt_logprobs", "top_prompt_logprobs"}
    assert answered == CHAT_FIELDS.keys() - unpublished


CHANGES = [
    pytest.param(request, path, to, id=f"{case} {param_of(path)} {json.dumps(to)}")
    for case, request in REQUESTS.items()
    for path in places(request)
    for to in WRONG
    if type(at(request, path)) is not type(to)
]


@pytest.mark.parametrize(("request_", "path", "to"), CHANGES)
def test_a_value_of_a_wrong_type_is_refused_by_its_name_or_not_told(request_, path, to):
    try:
        body = told(changed(request_, path, to))
    except BadRequestError as error:
        param = error.fault.param
        assert param is not None
        assert param.startswith(param_of(path))
        assert error.fault.message.startswith(f"{param}: ")
    else:
        check_told(body)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(-9, 9), st.text(max_size=9)
)
texts = st.text(max_size=9)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def spoiled(draw):
    """A request with some of its values changed, left out, put where another was, or added to."""
    request = draw(st.sampled_from(list(REQUESTS.values())) | openais_requests)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(request))))
        outer = at(request, path[:-1])
        there = list(places(request))
        kind = draw(st.sampled_from(("change", "leave out", "exchange", "add")))
        if kind == "change":
            request = changed(request, path, draw(json_values))
        elif kind == "exchange":
            request = changed(request, path, at(request, draw(st.sampled_from(there))))
        elif not isinstance(outer, dict):
            continue
        elif kind == "add":
            name = draw(texts | st.sampled_from([step for each in there for step in each[-1:]]))
            request = changed(request, path[:-1], {**outer, str(name): draw(json_values)})
        else:
            kept = {name: value for name, value in outer.items() if name != path[-1]}
            request = changed(request, path[:-1], kept)
    return request


@settings(max_examples=400, deadline=None)
@given(spoiled())
def test_what_mistral_is_told_of_a_spoiled_request_is_what_it_takes(request_):
    before = json.dumps(request_)
    try:
        body = told(request_)
    except BadRequestError as error:
        assert error.fault.param, "a refusal names the field"
    else:
        check_told(body)
    assert json.dumps(request_) == before, "the caller's request was changed"
