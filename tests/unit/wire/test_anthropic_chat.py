"""A chat request as Anthropic is told it: each row of the table, and each rule of a conversation."""

from typing import Any

import msgspec
import pytest

from windvane.core.faults import BadRequestError, Retry
from windvane.wire.anthropic_chat import FIELDS, MAX_TOKENS_DEFAULT, encode_chat
from windvane.wire.chat_request import chat_request_of
from windvane.wire.mistral_chat import nine_characters

NEW, OLD, BETWEEN = "claude-sonnet-5-5", "claude-haiku-4-5", "claude-opus-4-6"
HELLO = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "wind", "parameters": {"type": "object"}}}
TOLD_TOOL = {"name": "wind", "input_schema": {"type": "object"}}
OTHER_TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
PNG = "data:image/png;base64,iVBORw0KGgo="


def allowed(mode: str, *names: str) -> dict[str, Any]:
    """OpenAI's choice among some tools."""
    some = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": some}}


def sent(model: str = NEW, **fields: Any) -> dict[str, Any]:
    request = chat_request_of({"model": "m", "messages": [HELLO], **fields})
    before = msgspec.json.encode(request.body)
    body: dict[str, Any] = msgspec.json.decode(encode_chat(request, model))
    assert msgspec.json.encode(request.body) == before, "the caller's body was changed"
    return body


def told(model: str = NEW, **fields: Any) -> dict[str, Any]:
    """What is told besides what is always told."""
    body = sent(model, **fields)
    assert body.pop("model") == model
    assert body.pop("messages") == [HELLO]
    for name, usual in (("max_tokens", MAX_TOKENS_DEFAULT), ("service_tier", "standard_only")):
        if body[name] == usual:
            del body[name]
    return body


def test_a_plain_request_has_a_limit_and_a_tier_and_nothing_else() -> None:
    assert sent() == {
        "model": NEW,
        "max_tokens": MAX_TOKENS_DEFAULT,
        "messages": [HELLO],
        "service_tier": "standard_only",
    }


TABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_tokens": 7}, {"max_tokens": 7}),
    ({"max_tokens": 7, "max_completion_tokens": 9}, {"max_tokens": 9}),
    ({"max_tokens": 0}, {}),
    ({"stop": "END"}, {"stop_sequences": ["END"]}),
    ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
    ({"stop": []}, {}),
    ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
    ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
    ({"safety_identifier": "s", "user": "u"}, {"metadata": {"user_id": "s"}}),
    ({"user": "u" * 300}, {"metadata": {"user_id": "u" * 256}}),
    ({"service_tier": "auto"}, {"service_tier": "auto"}),
    ({"service_tier": "priority"}, {"service_tier": "auto"}),
    ({"service_tier": "flex"}, {}),
    ({"service_tier": "batch"}, {}),
    ({"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral"}}),
    *[
        ({"thinking": thinking}, {"thinking": thinking})
        for thinking in (
            {"type": "enabled", "budget_tokens": 2_000, "display": "omitted"},
            {"type": "adaptive", "display": "summarized"},
            {"type": "between_tools"},
            {"type": "disabled"},
        )
    ],
    ({"tools": [TOOL]}, {"tools": [TOLD_TOOL]}),
    ({"tools": []}, {}),
    ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOLD_TOOL], "tool_choice": {"type": "auto"}}),
    (
        {"tools": [TOOL], "tool_choice": {"type": "auto"}},
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "auto"}},
    ),
    ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [TOLD_TOOL], "tool_choice": {"type": "any"}}),
    ({"tools": [TOOL], "tool_choice": "any"}, {"tools": [TOLD_TOOL], "tool_choice": {"type": "any"}}),
    ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [TOLD_TOOL], "tool_choice": {"type": "none"}}),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "wind"}}},
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "tool", "name": "wind"}},
    ),
    (
        {"tools": [TOOL, OTHER_TOOL], "tool_choice": allowed("auto", "wind")},
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "auto"}},
    ),
    (
        {
            "tools": [OTHER_TOOL, TOOL],
            "tool_choice": allowed("required", "wind"),
            "parallel_tool_calls": False,
        },
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
    ),
    (
        {"tools": [TOOL], "tool_choice": allowed("auto")},
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "none"}},
    ),
    (
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    (
        {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
        {"tools": [TOLD_TOOL], "tool_choice": {"type": "none"}},
    ),
    ({"tools": [TOOL], "parallel_tool_calls": True}, {"tools": [TOLD_TOOL]}),
    ({"tool_choice": "required", "parallel_tool_calls": False}, {}),
    (
        {"functions": [{"name": "wind"}], "function_call": {"name": "wind"}},
        {
            "tools": [{"name": "wind", "input_schema": {"type": "object", "properties": {}}}],
            "tool_choice": {"type": "tool", "name": "wind"},
        },
    ),
    (
        {"tools": [{**TOOL, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
        {"tools": [{**TOLD_TOOL, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    ),
    ({"response_format": {"type": "text"}}, {}),
    (
        {"seed": 1, "random_seed": 2, "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {}},
        {},
    ),
    ({"prediction": {"type": "content", "content": "x"}, "store": True, "verbosity": "low"}, {}),
    ({"metadata": {"a": "b"}, "safe_prompt": True, "never_heard_of": 1, "n": 1}, {}),
    ({"logprobs": False, "modalities": ["text"], "guardrails": [], "top_logprobs": 0}, {}),
    ({"reasoning_effort": "none"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), TABLE, ids=[str(row[0])[:80] for row in TABLE])
def test_a_field_is_told_by_the_table(said: dict[str, Any], expected: dict[str, Any]) -> None:
    assert told(**said) == expected


def test_what_is_not_in_the_table_is_not_sent() -> None:
    known = {outer.partition(".")[0] for outer, _ in FIELDS.values()}
    always = {"model", "max_tokens", "messages", "service_tier", "stream", "system"}
    assert sent(made_up=1, inference_geo="us", speed="fast", container="c").keys() <= known | always


SAMPLING = {"temperature": 1.7, "top_p": 0.5, "top_k": 3}


@pytest.mark.parametrize(
    ("model", "said", "expected"),
    [
        (NEW, SAMPLING, {}),
        (NEW, {"top_k": -1}, {}),
        ("claude-opus-4-7", SAMPLING, {}),
        ("never-heard-of", SAMPLING, {}),
        (OLD, SAMPLING, {"temperature": 1.0, "top_k": 3}),
        (BETWEEN, {"top_p": 0.5}, {"top_p": 0.5}),
        ("claude-sonnet-4-5-20250929", {"temperature": 0}, {"temperature": 0}),
    ],
)
def test_later_models_are_spared_the_sampling_they_refuse(
    model: str, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert told(model, **said) == expected


@pytest.mark.parametrize("count", ["many", -1, 1.5])
def test_a_count_that_is_sent_must_be_one(count: object) -> None:
    """vLLM's callers say -1 for none. It matters to those models alone that are told it."""
    with pytest.raises(BadRequestError) as caught:
        sent(OLD, top_k=count)
    assert (caught.value.fault.param, caught.value.fault.retry) == ("top_k", Retry.OTHER)
    assert "top_k" not in sent(
        OLD, top_k=count, thinking={"type": "enabled", "budget_tokens": 2000}
    )


@pytest.mark.parametrize(
    ("model", "said", "expected"),
    [
        (
            NEW,
            {"reasoning_effort": "minimal"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        ),
        (
            BETWEEN,
            {"reasoning_effort": "max", "temperature": 0.3},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        ),
        (
            OLD,
            {"reasoning_effort": "medium", "temperature": 0.3},
            {"thinking": {"type": "enabled", "budget_tokens": MAX_TOKENS_DEFAULT // 2}},
        ),
        (OLD, {"reasoning_effort": "low", "max_tokens": 5_000}, {"max_tokens": 5_000}),
        (
            OLD,
            {"thinking": {"type": "enabled", "budget_tokens": MAX_TOKENS_DEFAULT}},
            {"thinking": {"type": "enabled", "budget_tokens": MAX_TOKENS_DEFAULT // 2}},
        ),
        (
            NEW,
            {"reasoning_effort": "high", "tools": [TOOL], "tool_choice": "required"},
            {
                "output_config": {"effort": "high"},
                "tools": [TOLD_TOOL],
                "tool_choice": {"type": "any"},
            },
        ),
        (
            NEW,
            {"thinking": {"type": "adaptive", "display": "summarized"}, "temperature": 1},
            {"thinking": {"type": "adaptive", "display": "summarized"}},
        ),
        (
            OLD,
            {"thinking": {"type": "disabled"}, "reasoning_effort": "high", "temperature": 0.3},
            {"thinking": {"type": "disabled"}, "temperature": 0.3},
        ),
        (NEW, {"reasoning_effort": "none"}, {}),
        (NEW, {"reasoning_effort": "vast"}, {}),
    ],
    ids=str,
)
def test_an_effort_is_told_as_each_model_takes_it(
    model: str, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert told(model, **said) == expected


def test_a_schema_is_told_in_the_smaller_language() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "knots": {"type": "integer", "minimum": 0, "description": "How fast"},
            "from": {"oneOf": [{"type": "string", "format": "uri"}, {"$ref": "#/$defs/place"}]},
            "days": {"type": "array", "minItems": 2, "items": {"type": "string", "format": "odd"}},
            "minimum": {"enum": ["a", "b"]},
        },
        "$defs": {"place": {"type": "object", "properties": {}, "additionalProperties": True}},
        "required": ["knots"],
    }
    form = {
        "type": "json_schema",
        "json_schema": {"name": "wind", "schema": schema, "strict": True},
    }
    expected = {
        "type": "object",
        "properties": {
            "knots": {"type": "integer", "description": "How fast (minimum: 0)"},
            "from": {"anyOf": [{"type": "string", "format": "uri"}, {"$ref": "#/$defs/place"}]},
            "days": {
                "type": "array",
                "description": "(minItems: 2)",
                "items": {"type": "string", "description": '(format: "odd")'},
            },
            "minimum": {"enum": ["a", "b"]},
        },
        "$defs": {"place": {"type": "object", "properties": {}, "additionalProperties": False}},
        "required": ["knots"],
        "additionalProperties": False,
    }
    assert told(response_format=form) == {
        "output_config": {"format": {"type": "json_schema", "schema": expected}}
    }
    strict = {"type": "function", "function": {"name": "w", "parameters": schema, "strict": True}}
    assert told(tools=[strict])["tools"] == [
        {"name": "w", "strict": True, "input_schema": expected}
    ]
    loose = {"type": "function", "function": {"name": "w", "parameters": schema}}
    assert told(tools=[loose])["tools"] == [{"name": "w", "input_schema": schema}]


def call(id_: str, arguments: Any = "{}", name: str = "wind") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(made), **more}


def result(id_: str, content: Any = "9") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def use(id_: str, name: str = "wind", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": given}


def used(id_: str, text: str = "9") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": [words(text)]}


def words(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


MARK = {"type": "ephemeral", "ttl": "1h"}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "sig"}
REDACTED = {"type": "redacted_thinking", "data": "xyz"}
TALKS: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    (
        "turns of one role are one",
        [HELLO, {"role": "user", "content": [words("there")]}],
        [user(words("hello"), words("there"))],
    ),
    (
        "blank texts are left out, and messages of nothing else",
        [HELLO, {"role": "assistant", "content": " \n"}, {"role": "user", "content": [words("")]}],
        [user(words("hello"))],
    ),
    (
        "calls and their results, in one turn each, results first",
        [
            HELLO,
            calls(call("a", '{"at": "sea"}'), call("b"), content="I look."),
            result("a"),
            {"role": "user", "content": "hurry"},
            result("b", [words("8")]),
        ],
        [
            user(words("hello")),
            assistant(words("I look."), use("a", at="sea"), use("b")),
            user(used("a"), used("b", "8"), words("hurry")),
        ],
    ),
    (
        "a result without a word",
        [HELLO, calls(call("a", {"n": 1})), result("a", "")],
        [
            user(words("hello")),
            assistant(use("a", n=1)),
            user({"type": "tool_result", "tool_use_id": "a"}),
        ],
    ),
    (
        "an id that comes again is another",
        [HELLO, calls(call("a")), result("a"), calls(call("a")), result("a", "7")],
        [
            user(words("hello")),
            assistant(use("a")),
            user(used("a")),
            assistant(use(nine_characters("a/a"))),
            user(used(nine_characters("a/a"), "7")),
        ],
    ),
    (
        "an id that Anthropic would refuse",
        [HELLO, calls(call("é:1")), result("é:1")],
        [user(words("hello")), assistant(use(nine_characters("é:1"))), user(used(nine_characters("é:1")))],
    ),
    (
        "functions in the manner of 2023",
        [
            HELLO,
            {"role": "assistant", "content": None, "function_call": {"name": "wind", "arguments": ""}},
            {"role": "function", "name": "wind", "content": "9"},
        ],
        [user(words("hello")), assistant(use("wind")), user(used("wind"))],
    ),
    (
        "signed thinking goes back as it came, and comes first",
        [HELLO, calls(call("a"), content="So.", thinking_blocks=[SIGNED, REDACTED]), result("a")],
        [user(words("hello")), assistant(SIGNED, REDACTED, words("So."), use("a")), user(used("a"))],
    ),
    (
        "thinking that nobody signed does not",
        [
            HELLO,
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "hm"}, words("So.")],
                "reasoning_content": "hm",
                "thinking_blocks": [{"type": "thinking", "thinking": "hm"}],
            },
            HELLO,
        ],
        [user(words("hello")), assistant(words("So.")), user(words("hello"))],
    ),
    (
        "images by address and by data, with their marks",
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": "https://pictures.test/1"},
                    {"type": "image_url", "image_url": {"url": PNG}, "cache_control": MARK},
                ],
            }
        ],
        [
            user(
                {"type": "image", "source": {"type": "url", "url": "https://pictures.test/1"}},
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": "iVBORw0KGgo=",
                    },
                    "cache_control": MARK,
                },
            )
        ],
    ),
    (
        "documents: a page's address, a PDF, a text",
        [
            {
                "role": "user",
                "content": [
                    {"type": "document_url", "document_url": "https://a.test/b.pdf", "document_name": "b"},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}},
                    {"type": "file", "file": {"file_data": "data:text/plain;base64,w6k="}},
                ],
            }
        ],
        [
            user(
                {
                    "type": "document",
                    "source": {"type": "url", "url": "https://a.test/b.pdf"},
                    "title": "b",
                },
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                },
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "é"},
                },
            )
        ],
    ),
    (
        "a refusal was said, and references mean nothing elsewhere",
        [
            HELLO,
            {
                "role": "assistant",
                "content": [
                    {"type": "refusal", "refusal": "No."},
                    {"type": "reference", "reference_ids": [1]},
                ],
            },
            HELLO,
        ],
        [user(words("hello")), assistant(words("No.")), user(words("hello"))],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expected"), [row[1:] for row in TALKS], ids=[row[0] for row in TALKS]
)
def test_a_conversation_in_turns(
    said: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert sent(messages=said)["messages"] == expected


@pytest.mark.parametrize(
    ("said", "system", "turns"),
    [
        ([{"role": "system", "content": "Be brief."}, HELLO], "Be brief.", [HELLO]),
        (
            [
                {"role": "developer", "content": [words("Be brief.", cache_control=MARK)]},
                HELLO,
                {"role": "system", "content": "In French."},
                {"role": "assistant", "content": "Oui."},
                HELLO,
            ],
            [words("Be brief.", cache_control=MARK), words("In French.")],
            [user(words("hello")), assistant(words("Oui.")), user(words("hello"))],
        ),
    ],
)
def test_the_systems_words_stand_apart(
    said: list[dict[str, Any]], system: Any, turns: list[dict[str, Any]]
) -> None:
    body = sent(messages=said)
    assert (body["system"], body["messages"]) == (system, turns)


def test_a_budget_of_thought_is_not_asked_for_amid_calls_made_without_one() -> None:
    talk = [HELLO, calls(call("a")), result("a")]
    assert "thinking" not in sent(OLD, messages=talk, reasoning_effort="high")
    assert "thinking" in sent(NEW, messages=talk, reasoning_effort="high")
    thought = [HELLO, calls(call("a"), thinking_blocks=[SIGNED]), result("a")]
    assert "thinking" in sent(OLD, messages=thought, reasoning_effort="high")
    over = [*talk, {"role": "assistant", "content": "9 knots"}, HELLO]
    assert "thinking" in sent(OLD, messages=over, reasoning_effort="high")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "alloy"}}, "audio"),
    ({"guardrails": [{"block_on_error": True}]}, "guardrails"),
    ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"stop": ["a", "\n\n"]}, "stop"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"cache_control": "yes"}, "cache_control"),
    ({"cache_control": {}}, "cache_control.type"),
    ({"cache_control": {"type": "ephemeral", "ttl": 5}}, "cache_control.ttl"),
    ({"cache_control": {"type": "ephemeral", "scope": "x"}}, "cache_control.scope"),
    ({"tools": [{**TOOL, "cache_control": True}]}, "tools[0].cache_control"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": 1}]}
            ]
        },
        "messages[0].content[0].cache_control",
    ),
    ({"thinking": True}, "thinking"),
    ({"thinking": {"type": "x"}}, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "disabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    *[
        ({"messages": [{"role": role, "content": [part]}, HELLO]}, "messages[0].content[0].type")
        for role in ("system", "developer", "assistant")
        for part in (
            {"type": "image_url", "image_url": {"url": PNG}},
            {"type": "document_url", "document_url": "https://x/a.pdf"},
        )
    ],
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "rain"}}},
        "tool_choice",
    ),
    (
        {"tools": [TOOL], "tool_choice": allowed("auto", "rain")},
        "tool_choice.allowed_tools.tools[0]",
    ),
    ({"tools": [TOOL], "tool_choice": allowed("required")}, "tool_choice.allowed_tools.tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice.type"),
    (
        {
            "messages": [
                HELLO,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "a", "type": "custom", "custom": {"name": "c", "input": "raw"}}
                    ],
                },
            ]
        },
        "messages[1].tool_calls[0].type",
    ),
    ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
    ({"messages": [HELLO, {"role": "assistant", "content": "So", "prefix": True}]}, "messages"),
    ({"messages": [HELLO, calls(call("a"))]}, "messages"),
    ({"messages": [HELLO, calls(call("a")), {"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [HELLO, calls(call("a"), call("a")), result("a")]}, "messages"),
    ({"messages": [HELLO, result("a")]}, "messages[1].tool_call_id"),
    ({"messages": [HELLO, calls(call("a")), result("a"), result("a")]}, "messages[3].tool_call_id"),
    (
        {"messages": [HELLO, calls(call("a", "{oops")), result("a")]},
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [HELLO, calls(call("a", "[1]")), result("a")]},
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": "AA"}]}]},
        "messages[0].content[0]",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file_id": "f"}]}]},
        "messages[0].content[0]",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x.png"}]}]},
        "messages[0].content[0]",
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}
                    ],
                }
            ]
        },
        "messages[0].content[0]",
    ),
]


@pytest.mark.parametrize(("said", "param"), REFUSED, ids=[str(row[0])[:80] for row in REFUSED])
def test_what_cannot_be_said_is_refused_by_name_and_may_be_said_to_another(
    said: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        sent(**said)
    fault = refused.value.fault
    assert (fault.param, fault.retry, fault.status) == (param, Retry.OTHER, 400)
    assert fault.message.startswith(f"{param}: ")
