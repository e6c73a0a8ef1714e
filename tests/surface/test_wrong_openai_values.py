"""One value of a request for OpenAI of a wrong type: refused by its name, or one that OpenAI takes."""

import json

import pytest
from tests.surface.test_wrong_values import COMMON, OPENAIS, WRONG, at, changed, param_of, places

from windvane.core.faults import BadRequestError
from windvane.simulator.openai import OpenAI
from windvane.simulator.openai_rules import CHAT_FIELDS, check_chat
from windvane.simulator.refusal import Refusal
from windvane.wire.chat_request import chat_request_of
from windvane.wire.openai_chat import encode_chat, encode_chat_for_openai

MODEL = "gpt-4.1-mini"
FULL = {
    **OPENAIS,
    "audio": {"format": "wav", "voice": "alloy"},
    "function_call": "auto",
    "functions": [{"name": "look"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_tokens": 5,
    "modalities": ["text"],
    "moderation": {"model": "omni-moderation-latest"},
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "ann",
    "store": True,
    "top_logprobs": 2,
    "user": "ann",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
del FULL["messages"], FULL["tools"], FULL["tool_choice"]
HELLO = [{"role": "user", "content": "Hi"}]


def told(fields):
    return json.loads(encode_chat_for_openai(chat_request_of({"messages": HELLO, **fields}), MODEL))


def taken(body):
    try:
        check_chat(body, OpenAI.cards[MODEL])
    except Refusal as refusal:
        return refusal.message
    return None


def test_the_request_says_everything_and_is_right():
    body = told(FULL)
    assert taken(body) is None
    assert FULL.keys() | {"messages", "tools", "tool_choice"} == CHAT_FIELDS.keys()


OWN = ("audio", "moderation", "prompt_cache_options", "web_search_options", "logit_bias")
"""What is in these is left to OpenAI to say."""
CHANGES = [
    pytest.param(path, to, id=f"{param_of(path)} {json.dumps(to)}")
    for path in places(FULL)
    for to in WRONG
    if type(at(FULL, path)) is not type(to) and not (path[0] in OWN and path[1:])
]


@pytest.mark.parametrize(("path", "to"), CHANGES)
def test_a_value_of_a_wrong_type_is_refused_by_its_name(path, to):
    try:
        body = told(changed(FULL, path, to))
    except BadRequestError as error:
        assert error.fault.param.startswith(param_of(path))
    else:
        assert taken(body) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "nope"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}},
         "response_format.json_schema.name"),
        ({"prediction": {}}, "prediction.type"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"seed": 2**70}, "seed"),
        ({"random_seed": 2**70}, "random_seed"),
    ],
)  # fmt: skip
def test_what_lacks_a_part_is_refused_by_its_name(fields, param):
    with pytest.raises(BadRequestError) as caught:
        told({**COMMON, **fields})
    assert caught.value.fault.param == param


def test_other_servers_of_the_dialect_may_have_other_types():
    """llama.cpp takes a list."""
    asked = chat_request_of({"model": "m", "messages": HELLO, "logit_bias": [[15043, False]]})
    assert b"15043" in encode_chat(asked, "m")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", 1),
        ("audio", {"format": "wav"}),
        ("logit_bias", 1),
        ("logit_bias", {"1": 101}),
        ("logprobs", "x"),
        ("top_logprobs", 21),
        ("top_logprobs", 2),
        ("modalities", 1),
        ("modalities", ["smell"]),
        ("modalities", ["text", "audio"]),
        ("response_format", {}),
        ("response_format", {"type": "nope"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a b"}}),
        ("reasoning_effort", "nope"),
        ("prediction", {}),
        ("verbosity", 5),
        ("verbosity", "loud"),
        ("store", "x"),
        ("service_tier", "nope"),
        ("max_tokens", 0),
        ("seed", 2**70),
        ("stop", 5),
        ("n", 129),
        ("tool_choice", 5),
        ("web_search_options", {"search_context_size": "all"}),
    ],
)
def test_the_simulator_is_as_strict_as_openai(field, value):
    refused = taken({"model": MODEL, "messages": HELLO, field: value})
    assert refused is not None
    assert field in refused or "'audio'" in refused
