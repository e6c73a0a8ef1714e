"""Reading a caller's chat request: what is taken, and which field is named when it is not."""

from typing import Any

import msgspec
import pytest

from windvane.core.chat import ChatRequest
from windvane.core.faults import BadRequestError
from windvane.wire.chat_request import chat_request_of, decode_chat_request, dialect_of, limited
from windvane.wire.dialect import Dialect

HELLO = {"role": "user", "content": "hello"}


def request(**fields: Any) -> ChatRequest:
    return chat_request_of({"model": "m", "messages": [HELLO], **fields})


def test_the_least_request() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
    asked = decode_chat_request(body)
    assert (asked.model, asked.stream, asked.n, asked.output_tokens_max) == ("m", False, 1, None)
    assert asked.tools == []
    assert msgspec.json.encode(asked.body) == body


@pytest.mark.parametrize(
    ("fields", "view"),
    [
        ({"stream": True}, {"stream": True, "include_usage": False}),
        ({"stream": None}, {"stream": False}),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}),
        (
            {"stream_options": {"include_usage": None, "include_obfuscation": False}},
            {"include_usage": False},
        ),
        ({"max_tokens": 5}, {"output_tokens_max": 5}),
        ({"max_completion_tokens": 5}, {"output_tokens_max": 5}),
        ({"max_tokens": 9, "max_completion_tokens": 5}, {"output_tokens_max": 5}),
        ({"max_tokens": 9, "max_completion_tokens": 0}, {"output_tokens_max": 0}),
        ({"max_tokens": 9, "max_completion_tokens": None}, {"output_tokens_max": 9}),
        ({"n": 3}, {"n": 3}),
        ({"n": None}, {"n": 1}),
        ({"tools": None}, {"tools": []}),
    ],
)
def test_what_the_engine_reads(fields: dict[str, Any], view: dict[str, Any]) -> None:
    asked = request(**fields)
    assert {name: getattr(asked, name) for name in view} == view


@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": {"kept": True}},
        {"temperature": 2, "top_p": 0, "seed": -1, "stop": ["a"] * 16},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        {"tool_choice": {"type": "custom", "custom": {"name": "c"}}},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": None}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": None}}},
        {"prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
        {"service_tier": "never heard of"},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        {"tools": [{"function": {"name": "f", "parameters": {"properties": {}}}}]},
        {"messages": [{"role": "developer", "content": "be brief", "name": "x"}, HELLO]},
        {
            "messages": [
                HELLO,
                {"role": "assistant", "content": None, "refusal": "no", "audio": None},
                HELLO,
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x"}}],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}],
                }
            ]
        },
        {"messages": [{"role": "tool", "tool_call_id": "x", "content": "1"}, HELLO]},
    ],
)
def test_what_is_accepted_stays_in_the_body_untouched(fields: dict[str, Any]) -> None:
    asked = request(**fields)
    assert asked.body == {"model": "m", "messages": [HELLO], **fields}


REFUSED: list[tuple[dict[str, Any], str | None]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": "m" * 257}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [HELLO, {"content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "system", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "smell", "smell": "x"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (
        {
            "messages": [
                {"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}
            ]
        },
        "messages[0].tool_calls",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    ({"stream": "yes"}, "stream"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"random_seed": -1}, "random_seed"),
    ({"metadata": []}, "metadata"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f\n"}}]}, "tools[0].function.name"),
    (
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
            ]
        },
        "tools[0].function.parameters",
    ),
    ({"tools": [{"type": "function", "function": {"name": "f"}}] * 129}, "tools"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": {"function": {}}}, "tool_choice.function.name"),
    ({"tool_choice": {}}, "tool_choice.function"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": []}}},
        "tool_choice.allowed_tools.mode",
    ),
    ({"function_call": "required"}, "function_call"),
    ({"functions": [{}]}, "functions[0].name"),
    ({"guardrails": [{"block": True}]}, "guardrails[0].block"),
    (
        {"guardrails": [{"moderation_llm_v1": {"action": "blok"}}]},
        "guardrails[0].moderation_llm_v1.action",
    ),
    ({"response_format": "json"}, "response_format"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        request(**fields)
    assert caught.value.fault.param == param
    assert caught.value.fault.message.startswith(f"{param}: ")


def test_the_rule_for_names_of_tools_is_told_in_words() -> None:
    with pytest.raises(BadRequestError, match=r"name: 1 to 64 letters of ASCII, digits"):
        request(tools=[{"type": "function", "function": {"name": "a b"}}])


def test_a_missing_field_is_named() -> None:
    for fields, param in (({"messages": [HELLO]}, "model"), ({"model": "m"}, "messages")):
        with pytest.raises(BadRequestError) as caught:
            chat_request_of(fields)  # type: ignore[arg-type]
        assert (caught.value.fault.param, caught.value.fault.message) == (
            param,
            f"{param}: this field is required",
        )


def test_a_callers_own_words_cannot_pose_as_the_place() -> None:
    with pytest.raises(BadRequestError) as caught:
        request(messages=[{"role": "x` - at `$.model", "content": "x"}])
    assert caught.value.fault.param == "messages[0].role"
    with pytest.raises(BadRequestError) as caught:
        request(guardrails=[{"x` - at `$.model": 1}])
    assert caught.value.fault.param == "guardrails[0].x` - at `$.model"
    with pytest.raises(BadRequestError) as caught:
        request(guardrails=[{"x" * 1000: 1}])
    assert caught.value.fault.param == "guardrails[0]." + "x" * 64


@pytest.mark.parametrize(
    ("fields", "agent", "dialect"),
    [
        ({}, "", Dialect.OPENAI),
        ({}, "mistral-client-python/3.7.0", Dialect.MISTRAL),
        ({}, "OpenAI/Python 3.50.0", Dialect.OPENAI),
        ({"safe_prompt": True}, "", Dialect.MISTRAL),
        ({"random_seed": 1}, "curl/8", Dialect.MISTRAL),
        ({"random_seed": 1}, "OpenAI/Python 3.50.0", Dialect.OPENAI),
        ({"seed": 1}, "curl/8", Dialect.OPENAI),
    ],
)
def test_whose_answers_the_caller_expects(
    fields: dict[str, object], agent: str, dialect: Dialect
) -> None:
    assert dialect_of(fields, agent) is dialect


@pytest.mark.parametrize(
    ("call", "needed"),
    [
        ({"id": "a"}, "function"),
        ({"id": "a", "type": None}, "function"),
        ({"id": "a", "type": "function", "custom": {"name": "c"}}, "function"),
        ({"id": "a", "type": "custom"}, "custom"),
        ({"id": "a", "type": "custom", "function": {"name": "f"}}, "custom"),
        ({"id": "a", "type": "custom", "custom": {"input": "raw"}}, "custom.name"),
    ],
)
def test_a_call_in_a_conversation_needs_what_it_calls(call: dict[str, Any], needed: str) -> None:
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    param = f"messages[1].tool_calls[0].{needed}"
    with pytest.raises(BadRequestError, match=r": this field is required$") as caught:
        decode_chat_request(msgspec.json.encode({"model": "m", "messages": said}))
    assert caught.value.fault.param == param


def test_a_custom_tools_call_in_a_conversation_is_taken() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "c", "input": "raw"}}
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    request = decode_chat_request(msgspec.json.encode({"model": "m", "messages": said}))
    (read,) = request.messages[1].tool_calls or ()
    assert (read.name, read.arguments) == ("c", "raw")


@pytest.mark.parametrize(
    ("asked", "limit", "thinking"),
    [
        (8_000, 5_000, 4_000),  # it still fits
        (8_000, 4_001, 4_000),
        (8_000, 4_000, 2_000),  # half is for the answer
        (None, 4_000, 2_000),
        (0, 4_000, 2_000),
        (8_000, 2_048, 1_024),
        (8_000, 2_047, None),  # nobody thinks in fewer than 1,024
        (8_000, 16, None),
        (3_000, 2_500, 4_000),  # it is the caller who asked for what cannot be
    ],
)
def test_a_lower_limit_leaves_room_for_thinking_or_takes_it_away(
    asked: int | None, limit: int, thinking: int | None
) -> None:
    said = {"type": "enabled", "budget_tokens": 4_000, "display": "omitted"}
    written = limited(request(max_tokens=asked, thinking=said), limit)
    assert written.output_tokens_max == written.body["max_tokens"] == limit
    told = {**said, "budget_tokens": thinking} if thinking else None
    assert written.body.get("thinking") == told
    assert said["budget_tokens"] == 4_000


@pytest.mark.parametrize("said", [{"type": "adaptive"}, {"type": "disabled"}, "much", None])
def test_other_words_on_thinking_are_left_as_they_are(said: object) -> None:
    assert limited(request(max_tokens=8_000, thinking=said), 16).body["thinking"] == said
