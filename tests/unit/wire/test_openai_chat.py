"""What OpenAI and its likes are told, and what both families of clients are answered."""

from typing import Any

import msgspec
import pytest

from windvane.core.chat import (
    ChatRequest,
    Choice,
    Completion,
    FinishReason,
    FunctionCall,
    ReplyMessage,
    ToolCall,
)
from windvane.core.faults import BadRequestError, Retry
from windvane.core.usage import Usage
from windvane.wire.chat_request import chat_request_of
from windvane.wire.dialect import Dialect
from windvane.wire.mistral_chat import nine_characters
from windvane.wire.openai_chat import (
    encode_chat,
    encode_chat_for_openai,
    encode_completion,
    usage_object,
)

HELLO = {"role": "user", "content": "hello"}
USAGE = Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=8)


def request(**fields: Any) -> ChatRequest:
    return chat_request_of({"model": "m", "messages": [HELLO], **fields})


def told(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(encode_chat(request(**fields), "x"))
    assert body.pop("model") == "x"
    assert body.pop("messages") == [HELLO]
    return body


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"top_k": 5, "never_heard_of": [1]}, {"top_k": 5, "never_heard_of": [1]}),
        ({"random_seed": 3}, {"seed": 3}),
        ({"safe_prompt": True, "prompt_mode": "reasoning", "guardrails": []}, {}),
        ({"tool_choice": "any"}, {"tool_choice": "required"}),
        ({"tool_choice": "auto"}, {"tool_choice": "auto"}),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"stream": False, "stream_options": {"include_usage": True}}, {"stream": False}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {
                "stream": True,
                "stream_options": {"include_usage": False, "include_obfuscation": False},
            },
            {
                "stream": True,
                "stream_options": {"include_usage": True, "include_obfuscation": False},
            },
        ),
        (
            {"stream": True, "stream_options": None},
            {"stream": True, "stream_options": {"include_usage": True}},
        ),
    ],
)
def test_the_callers_own_body_is_edited_and_usage_always_asked_for(
    said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert told(**said) == expected


def test_the_callers_body_is_never_changed_in_place() -> None:
    asked = request(stream=True, random_seed=1, max_tokens=3, stream_options={})
    before = msgspec.json.encode(asked.body)
    encode_chat(asked, "x")
    encode_chat_for_openai(asked, "gpt-6.1-sol")
    assert msgspec.json.encode(asked.body) == before


CALL = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}
MESSAGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"role": "user", "content": "x", "name": "ann"},
        {"role": "user", "content": "x", "name": "ann"},
    ),
    ({"role": "assistant", "content": "x", "prefix": True}, {"role": "assistant", "content": "x"}),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
    ),
    (
        {
            "role": "user",
            "content": [{"type": "document_url", "document_url": "u", "document_name": "n"}],
        },
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "u", "filename": "n"}}],
        },
    ),
    (
        {"role": "user", "content": [{"type": "document_url", "document_url": "u"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "u"}}]},
    ),
    (
        {"role": "user", "content": [{"type": "file", "file_id": "f"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
    ),
    (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "x"}],
            "reasoning_content": "hm",
        },
    ),
    (
        {
            "role": "assistant",
            "content": [
                {
                    "type": "thinking",
                    "thinking": [
                        {"type": "text", "text": "so"},
                        {"type": "reference", "reference_ids": [1]},
                        {"type": "text", "text": " it is"},
                    ],
                },
                {"type": "text", "text": "x"},
            ],
            "reasoning_content": None,
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "x"}],
            "reasoning_content": "so it is",
        },
    ),
    (
        {"role": "user", "content": [{"type": "file", "file_data": "d", "filename": "n"}]},
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "d", "filename": "n"}}],
        },
    ),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "reference", "reference_ids": [1]},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
    ),
    (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm"}],
            "tool_calls": [CALL],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**CALL, "type": "function"}],
            "reasoning_content": "hm",
        },
    ),
    (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**CALL, "index": 0, "type": "function"}],
        },
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "type": "function"}]},
    ),
    (
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
            ],
        },
    ),
    (
        {"role": "assistant", "tool_calls": [{"id": "a", "type": None, "function": {"name": "f"}}]},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
    ),
]


CUSTOM_CALL = {"id": "a", "type": "custom", "custom": {"name": "c", "input": "raw"}}
MESSAGES.append(
    (
        {"role": "assistant", "content": None, "tool_calls": [{**CUSTOM_CALL, "index": 0}]},
        {"role": "assistant", "content": None, "tool_calls": [CUSTOM_CALL]},
    )
)


@pytest.mark.parametrize(
    ("said", "expected"), MESSAGES, ids=[str(case[0])[:80] for case in MESSAGES]
)
def test_mistrals_own_words_in_messages_are_told_in_openais(
    said: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = msgspec.json.decode(encode_chat(request(messages=[HELLO, said]), "x"))
    assert body["messages"] == [HELLO, expected]


@pytest.mark.parametrize(
    ("model", "said", "expected"),
    [
        (
            "gpt-6.1-sol",
            {"temperature": 0.5, "top_p": 0.5, "max_tokens": 7},
            {"max_completion_tokens": 7},
        ),
        ("o3", {"temperature": 0.5, "max_tokens": 7}, {"max_completion_tokens": 7}),
        (
            "gpt-6.1-sol",
            {"presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {"1": 1}},
            {},
        ),
        ("gpt-5.4", {"stop": ["x"], "logprobs": True}, {"stop": ["x"], "logprobs": True}),
        ("gpt-5-mini", {"stop": [], "logprobs": False, "top_logprobs": 0}, {}),
        ("gpt-5-chat-latest", {"stop": "x"}, {"stop": "x"}),
        ("gpt-4o", {"stop": "x", "presence_penalty": 1}, {"stop": "x", "presence_penalty": 1}),
        ("gpt-5-mini", {"max_tokens": 7, "max_completion_tokens": 3}, {"max_completion_tokens": 3}),
        (
            "gpt-5-mini",
            {"max_completion_tokens": 3, "seed": 1},
            {"max_completion_tokens": 3, "seed": 1},
        ),
        ("gpt-4o", {"temperature": 0.5, "max_tokens": 7}, {"temperature": 0.5, "max_tokens": 7}),
        ("gpt-4.1-mini", {"top_p": 0.5}, {"top_p": 0.5}),
        ("ft:gpt-4o-mini:acme", {"temperature": 0.5}, {"temperature": 0.5}),
        (
            "ft:gpt-3.5-turbo-0125:acme::x",
            {"frequency_penalty": 0.5, "max_tokens": 9},
            {"frequency_penalty": 0.5, "max_tokens": 9},
        ),
    ],
)
def test_models_from_gpt_5_on_are_spared_what_they_refuse(
    model: str, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = msgspec.json.decode(encode_chat_for_openai(request(**said), model))
    assert body.pop("service_tier") == "default"
    assert body == {"model": model, "messages": [HELLO], **expected}


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5-mini", "gpt-5-nano-2025-08-07", "o3"])
@pytest.mark.parametrize(
    "said", [{"stop": ["x"]}, {"logprobs": True}, {"top_logprobs": 2}], ids=str
)
def test_what_a_model_does_not_take_and_the_answer_hangs_on_is_asked_of_another(
    said: dict[str, Any], model: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        encode_chat_for_openai(request(**said), model)
    assert ([refused.value.fault.param], refused.value.fault.retry) == (list(said), Retry.OTHER)
    assert msgspec.json.decode(encode_chat(request(**said), model)).items() >= said.items()


@pytest.mark.parametrize("tools", [{}, {"tools": []}, {"tools": None}])
def test_openai_is_told_nothing_of_tools_where_there_are_none(tools: dict[str, Any]) -> None:
    asked = request(tool_choice="auto", parallel_tool_calls=True, **tools)
    body = msgspec.json.decode(encode_chat_for_openai(asked, "gpt-4o"))
    assert body == {"model": "gpt-4o", "messages": [HELLO], "service_tier": "default"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"metadata": {"tags": "a,b"}}, {}),
        ({"metadata": {"tags": ["a", "b"]}, "store": False}, {"store": False}),
        ({"metadata": None, "store": True}, {"store": True}),
        (
            {"metadata": {"tags": ["a", "b"], "n": 1, "team": "x"}, "store": True},
            {"metadata": {"team": "x"}, "store": True},
        ),
    ],
)
def test_openai_is_told_metadata_as_it_takes_them(
    said: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Tags are for the gateway; whoever says them need not know which model answers."""
    body = msgspec.json.decode(encode_chat_for_openai(request(**said), "gpt-4o"))
    assert body == {
        "model": "gpt-4o",
        "messages": [HELLO],
        "service_tier": "default",
        **kept,
    }
    assert msgspec.json.decode(encode_chat(request(**said), "x")).items() >= said.items()


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({}, "default"),
        ({"service_tier": None}, "default"),
        ({"service_tier": "standard_only"}, "default"),
        ({"service_tier": "flex"}, "flex"),
        ({"service_tier": "auto"}, "auto"),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-6.1-sol"])
def test_openai_is_always_told_a_tier_lest_its_projects_own_dearer_one_serves(
    said: dict[str, Any], sent: str, model: str
) -> None:
    body = msgspec.json.decode(encode_chat_for_openai(request(**said), model))
    assert body["service_tier"] == sent


def test_openai_is_not_told_what_is_anthropics_alone() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    said = {"role": "user", "content": [{"type": "text", "text": "x", **mark}]}
    tool = {"type": "function", "function": {"name": "f"}}
    asked = request(
        messages=[said], tools=[{**tool, **mark}], thinking={"type": "adaptive"}, **mark
    )
    body = msgspec.json.decode(encode_chat_for_openai(asked, "gpt-6.1-sol"))
    assert body == {
        "model": "gpt-6.1-sol",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [tool],
        "service_tier": "default",
    }
    assert b"cache_control" in encode_chat(asked, "claude-behind-another-gateway")


SERVERS_OWN = {
    "min_tokens": 3,
    "prompt_logprobs": 1,
    "repetition_penalty": 1.1,
    "top_k": 3,
    "top_prompt_logprobs": 1,
}


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-6.1-sol"])
def test_openai_is_not_told_what_mistrals_sdk_and_other_servers_have(model: str) -> None:
    thought = {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    asked = request(messages=[HELLO, thought, HELLO], **SERVERS_OWN)
    body = msgspec.json.decode(encode_chat_for_openai(asked, model))
    assert body == {
        "model": model,
        "messages": [HELLO, {"role": "assistant", "content": "x"}, HELLO],
        "service_tier": "default",
    }
    body = msgspec.json.decode(encode_chat(asked, "x"))
    assert body == {"model": "x", "messages": [HELLO, thought, HELLO], **SERVERS_OWN}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document_url", "document_url": "https://x/a.pdf"},
        {"type": "file", "file": {"file_data": "http://x/a.pdf"}},
        {"type": "file", "file_data": "https://x/a.pdf"},
    ],
)
def test_openai_fetches_no_documents(part: dict[str, Any]) -> None:
    """Some servers of its dialect do."""
    asked = request(messages=[HELLO, {"role": "user", "content": [part]}])
    with pytest.raises(BadRequestError) as refused:
        encode_chat_for_openai(asked, "gpt-4.1")
    fault = refused.value.fault
    assert (fault.param, fault.retry) == ("messages[1].content[0]", Retry.OTHER)
    told = msgspec.json.decode(encode_chat(asked, "x"))["messages"][1]["content"]
    assert told[0]["file"]["file_data"].endswith("://x/a.pdf")


def test_openai_is_not_told_what_was_thought() -> None:
    said = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]
    asked = request(messages=[HELLO, {"role": "assistant", "content": said}, HELLO])
    body = msgspec.json.decode(encode_chat_for_openai(asked, "gpt-4.1"))
    assert body["messages"][1] == {"role": "assistant", "content": said[1:]}


def test_a_compatible_server_is_told_no_tier_by_us() -> None:
    assert "service_tier" not in told()


# Answers.


def completion(raw: bytes | None = None, **said: Any) -> Completion:
    choice = Choice(message=ReplyMessage(**said), finish_reason=FinishReason.STOP)
    return Completion("c1", "m", 7, [choice], USAGE, raw, raw is not None)


def answered(
    one: Completion, dialect: Dialect, metadata: dict[str, object] | None = None
) -> dict[str, Any]:
    written = None if metadata is None else msgspec.json.encode(metadata)
    body: dict[str, Any] = msgspec.json.decode(encode_completion(one, USAGE, dialect, written))
    return body


def test_usage_is_written_as_both_read_it() -> None:
    assert usage_object(
        Usage(
            input_tokens=10, output_tokens=4, cache_read_input_tokens=8, reasoning_output_tokens=3
        )
    ) == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


@pytest.mark.parametrize("dialect", list(Dialect))
def test_an_answer_has_all_that_the_stricter_client_demands(dialect: Dialect) -> None:
    body = answered(completion(content="hi"), dialect)
    assert body == {
        "id": "c1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
        "usage": usage_object(USAGE),
    }


CALL_VALUE = ToolCall(id="a1B2c3D4e", index=0, function=FunctionCall(name="f", arguments="{}"))
CALL_OBJECT = {
    "id": "a1B2c3D4e",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("said", "dialect", "message"),
    [
        (
            {"reasoning": "hm", "content": "x"},
            Dialect.OPENAI,
            {"content": "x", "reasoning_content": "hm"},
        ),
        (
            {"reasoning": "hm", "content": "x"},
            Dialect.MISTRAL,
            {"content": [THINKING, {"type": "text", "text": "x"}]},
        ),
        ({"reasoning": "hm"}, Dialect.MISTRAL, {"content": [THINKING]}),
        (
            {"tool_calls": [CALL_VALUE]},
            Dialect.OPENAI,
            {"content": None, "tool_calls": [CALL_OBJECT]},
        ),
        (
            {"tool_calls": [CALL_VALUE]},
            Dialect.MISTRAL,
            {"content": "", "tool_calls": [{**CALL_OBJECT, "index": 0}]},
        ),
        ({"refusal": "no"}, Dialect.OPENAI, {"content": None, "refusal": "no"}),
    ],
)
def test_a_message_is_written_as_its_client_reads_it(
    said: dict[str, Any], dialect: Dialect, message: Any
) -> None:
    (choice,) = answered(completion(**said), dialect)["choices"]
    assert choice["message"] == {"role": "assistant", **message}


@pytest.mark.parametrize("dialect", list(Dialect))
def test_an_answer_without_a_finish_reason_is_given_one(dialect: Dialect) -> None:
    said = {"stop": ReplyMessage(content="x"), "tool_calls": ReplyMessage(tool_calls=[CALL_VALUE])}
    for reason, message in said.items():
        one = Completion("c1", "m", 7, [Choice(message=message)])
        assert answered(one, dialect)["choices"][0]["finish_reason"] == reason


RAW = b'{"id":"c1",  "choices":[{"message":{"content":"hi"}}]}\n'


def test_the_providers_own_bytes_are_kept_and_metadata_put_at_their_end() -> None:
    one = completion(RAW, content="hi")
    assert encode_completion(one, USAGE, Dialect.OPENAI, None) == RAW
    with_metadata = encode_completion(one, USAGE, Dialect.OPENAI, b'{"model":"x"}')
    assert (
        with_metadata
        == b'{"id":"c1",  "choices":[{"message":{"content":"hi"}}],"router_metadata":{"model":"x"}}'
    )


def test_mistrals_clients_get_thinking_as_parts_even_when_the_bytes_could_be_kept() -> None:
    one = completion(RAW, content="hi", reasoning="hm")
    assert encode_completion(one, USAGE, Dialect.OPENAI, None) == RAW
    body = answered(one, Dialect.MISTRAL, {"model": "x"})
    assert body["choices"][0]["message"]["content"] == [THINKING, {"type": "text", "text": "hi"}]
    assert body["router_metadata"] == {"model": "x"}


def test_guardrails_are_not_dropped_in_silence():
    """Only Mistral has them: another provider would answer what the caller wanted blocked."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "guardrails": [{"block_on_error": True}],
    }
    with pytest.raises(BadRequestError, match="guardrails") as refused:
        encode_chat(chat_request_of(body), "gpt-4o")
    fault = refused.value.fault
    assert (fault.param, fault.retry) == ("guardrails", Retry.OTHER)


@pytest.mark.parametrize(
    ("said", "shown"),
    [("call_123", nine_characters("call_123")), ("a1B2c3D4e", "a1B2c3D4e")],
)
@pytest.mark.parametrize("raw", [None, b'{"id":"a-1","choices":[{}]}'])
def test_mistrals_clients_get_ids_of_calls_as_mistral_makes_them(
    said: str, shown: str, raw: bytes | None
) -> None:
    call = ToolCall(id=said, function=FunctionCall(name="f", arguments="{}"))
    message = ReplyMessage(tool_calls=[call])
    choice = Choice(index=0, message=message, finish_reason=FinishReason.TOOL_CALLS)
    answer = Completion("a-1", "m", 7, [choice], None, raw, raw is not None)
    mistral = encode_completion(answer, USAGE, Dialect.MISTRAL, None)
    if raw is not None and said == shown:
        assert mistral == raw
    else:
        written = msgspec.json.decode(mistral)["choices"][0]["message"]["tool_calls"]
        assert [each["id"] for each in written] == [shown]
    if raw is not None:
        assert encode_completion(answer, USAGE, Dialect.OPENAI, None) == raw
    else:
        openai = msgspec.json.decode(encode_completion(answer, USAGE, Dialect.OPENAI, None))
        assert openai["choices"][0]["message"]["tool_calls"][0]["id"] == said


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("llama", {"max_tokens": 7, "max_completion_tokens": 7}),
        ("mistral-small", {"max_tokens": 7, "max_completion_tokens": 7}),
        # at another's address
        ("gpt-5-mini", {"max_completion_tokens": 7}),
        ("gpt-4o", {"max_completion_tokens": 7}),
        ("o3", {"max_completion_tokens": 7}),
        ("openai/gpt-5", {"max_completion_tokens": 7}),
        ("azure/openai/o4-mini", {"max_completion_tokens": 7}),
        ("gpt-oss:20b", {"max_tokens": 7, "max_completion_tokens": 7}),
        ("openai/gpt-oss-120b", {"max_tokens": 7, "max_completion_tokens": 7}),
    ],
)
def test_a_compatible_server_is_told_a_limit_by_the_name_that_it_knows(model, told):
    for more in ({}, {"max_tokens": 9}):
        body = msgspec.json.decode(encode_chat(request(max_completion_tokens=7, **more), model))
        assert {name: body[name] for name in LIMITS if name in body} == told
    body = msgspec.json.decode(encode_chat(request(max_tokens=7), model))
    assert {name: body[name] for name in LIMITS if name in body} == {"max_tokens": 7}


LIMITS = ("max_tokens", "max_completion_tokens")
