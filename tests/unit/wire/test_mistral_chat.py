"""What Mistral is told: the whole translation, tool-call ids, and the order of messages."""

import re
from typing import Any

import msgspec
import pytest

from windvane.core.faults import BadRequestError, Retry
from windvane.wire.chat_request import chat_request_of
from windvane.wire.mistral_chat import FIELDS, TOP_P_MIN, encode_chat, nine_characters

HELLO = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOOL_G = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
VALUE = {"$id": "a value of the caller's", "$schema": 1}
NAMED_SCHEMA = {
    "$schema": "s",
    "$id": "i",
    "type": "object",
    "properties": {
        "$id": {"$id": "x", "type": "string"},
        "any": {"anyOf": [{"$schema": "s", "type": "null"}, {"$ref": "#/$defs/$schema"}]},
        "each": {"type": "array", "items": {"$id": "x", "type": "integer"}},
        "given": {"const": VALUE, "default": VALUE, "enum": [VALUE], "examples": [VALUE]},
    },
    "$defs": {"$schema": {"$schema": "s", "type": "boolean"}},
    "additionalProperties": {"$id": "x"},
}
NAMELESS_SCHEMA = {
    "type": "object",
    "properties": {
        "$id": {"type": "string"},
        "any": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/$schema"}]},
        "each": {"type": "array", "items": {"type": "integer"}},
        "given": {"const": VALUE, "default": VALUE, "enum": [VALUE], "examples": [VALUE]},
    },
    "$defs": {"$schema": {"type": "boolean"}},
    "additionalProperties": {},
}
NO_PARAMETERS = {"type": "object", "properties": {}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    """OpenAI's choice among some tools."""
    some = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": some}}


def told(**fields: Any) -> dict[str, Any]:
    """What Mistral is told besides model and messages."""
    request = chat_request_of({"model": "m", "messages": [HELLO], **fields})
    body: dict[str, Any] = msgspec.json.decode(encode_chat(request, "mistral-small-2603"))
    assert body.pop("model") == "mistral-small-2603"
    body.pop("messages")
    return body


def messages(*said: dict[str, Any]) -> list[dict[str, Any]]:
    request = chat_request_of({"model": "m", "messages": list(said)})
    written: list[dict[str, Any]] = msgspec.json.decode(encode_chat(request, "x"))["messages"]
    return written


def refusal(*said: dict[str, Any], **fields: Any) -> str | None:
    with pytest.raises(BadRequestError) as caught:
        encode_chat(
            chat_request_of({"model": "m", "messages": list(said) or [HELLO], **fields}), "x"
        )
    fault = caught.value.fault
    assert fault.param is not None
    assert fault.message.startswith(f"{fault.param}: ")
    assert (fault.retry, fault.status) == (Retry.OTHER, 400)  # another may know how to say it
    return fault.param


TRANSLATION: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.7}, {"temperature": 0.7}),
    ({"temperature": 1.8}, {"temperature": 1.5}),
    ({"temperature": None}, {}),
    ({"top_p": 0.9}, {"top_p": 0.9}),
    ({"top_p": 0}, {"top_p": TOP_P_MIN}),
    ({"max_tokens": 7}, {"max_tokens": 7}),
    ({"max_completion_tokens": 7}, {"max_tokens": 7}),
    ({"max_tokens": 9, "max_completion_tokens": 7}, {"max_tokens": 7}),
    ({"max_completion_tokens": 7, "max_tokens": 9}, {"max_tokens": 7}),
    ({"max_completion_tokens": None, "max_tokens": 9}, {"max_tokens": 9}),
    ({"seed": 42}, {"random_seed": 42}),
    ({"seed": -1}, {"random_seed": 0x7FFFFFFF}),
    ({"seed": 2**62 + 5}, {"random_seed": 5}),
    ({"prediction": {}}, {}),
    ({"prediction": {"type": "content", "content": []}}, {}),
    ({"random_seed": 3, "seed": 42}, {"random_seed": 3}),
    ({"stop": "a"}, {"stop": "a"}),
    ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
    ({"metadata": {"a": "b"}}, {"metadata": {"a": "b"}}),
    (
        {"presence_penalty": 1, "frequency_penalty": -1},
        {"presence_penalty": 1, "frequency_penalty": -1},
    ),
    ({"n": 2}, {"n": 2}),
    ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
    ({"safe_prompt": True}, {"safe_prompt": True}),
    ({"prompt_mode": "reasoning"}, {"prompt_mode": "reasoning"}),
    ({"guardrails": [{"block_on_error": True}]}, {"guardrails": [{"block_on_error": True}]}),
    (
        {"guardrails": [{"block_on_error": None, "moderation_llm_v2": {"action": "block"}}]},
        {"guardrails": [{"moderation_llm_v2": {"action": "block"}}]},
    ),
    ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    ({"reasoning_effort": "max"}, {"reasoning_effort": "xhigh"}),
    ({"reasoning_effort": "immense"}, {}),
    ({"service_tier": "auto"}, {"service_tier": "auto"}),
    ({"service_tier": "priority"}, {"service_tier": "auto"}),
    ({"service_tier": "fast"}, {"service_tier": "auto"}),
    ({"service_tier": "standard_only"}, {"service_tier": "standard_only"}),
    ({"service_tier": "default"}, {}),
    ({"service_tier": "flex"}, {}),
    ({"service_tier": "scale"}, {}),
    (
        {"prediction": {"type": "content", "content": "x"}},
        {"prediction": {"type": "content", "content": "x"}},
    ),
    (
        {
            "prediction": {
                "type": "content",
                "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
            }
        },
        {"prediction": {"type": "content", "content": "xy"}},
    ),
    ({"response_format": {"type": "text"}}, {"response_format": {"type": "text"}}),
    ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "strict": True, "schema": {}, "x": 1},
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": {}, "strict": True},
            }
        },
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": NAMED_SCHEMA},
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": NAMELESS_SCHEMA},
            }
        },
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": NAMED_SCHEMA}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": NAMELESS_SCHEMA}}]},
    ),
    ({"tools": [TOOL]}, {"tools": [TOOL]}),
    ({"tools": []}, {}),
    (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": NO_PARAMETERS}}]},
    ),
    (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "description": "d",
                        "strict": True,
                        "extra": 1,
                        "parameters": {
                            "$schema": "s",
                            "$id": "i",
                            "type": "object",
                            "properties": {"$id": {}},
                        },
                    },
                }
            ]
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "description": "d",
                        "strict": True,
                        "parameters": {"type": "object", "properties": {"$id": {}}},
                    },
                }
            ]
        },
    ),
    ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "auto"}),
    ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": "none"}),
    ({"tools": [TOOL], "tool_choice": "any"}, {"tools": [TOOL], "tool_choice": "any"}),
    ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": "any"}),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f", "x": 1}}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [TOOL], "tool_choice": "auto"}),
    ({"tool_choice": "required"}, {}),
    (
        {"tools": [TOOL, TOOL_G], "tool_choice": allowed("auto", "g")},
        {"tools": [TOOL_G], "tool_choice": "auto"},
    ),
    (
        {"tools": [TOOL, TOOL_G], "tool_choice": allowed("required", "f")},
        {"tools": [TOOL], "tool_choice": "any"},
    ),
    (
        {"tools": [TOOL, TOOL_G], "tool_choice": allowed("auto", "g", "f", "g")},
        {"tools": [TOOL, TOOL_G], "tool_choice": "auto"},
    ),
    ({"tools": [TOOL], "tool_choice": allowed("auto")}, {"tools": [TOOL], "tool_choice": "none"}),
    ({"tool_choice": allowed("required")}, {}),
    ({"tool_choice": {"type": "custom", "custom": {"name": "c"}}}, {}),
    (
        {"functions": [{"name": "g"}], "function_call": {"name": "g"}},
        {
            "tools": [{"type": "function", "function": {"name": "g", "parameters": NO_PARAMETERS}}],
            "tool_choice": {"type": "function", "function": {"name": "g"}},
        },
    ),
    ({"tools": [TOOL], "functions": [{"name": "g"}]}, {"tools": [TOOL]}),
    ({"stream": True}, {"stream": True}),
    ({"stream": False}, {}),
    ({"modalities": ["text"]}, {}),
    ({"audio": None}, {}),
    *[
        ({name: value}, {})
        for name, value in {
            "user": "u",
            "store": True,
            "safety_identifier": "s",
            "logit_bias": {"1": 2},
            "logprobs": True,
            "top_logprobs": 2,
            "verbosity": "low",
            "web_search_options": {},
            "prompt_cache_retention": "24h",
            "prompt_cache_options": {},
            "moderation": "auto",
            "stream_options": {"include_usage": True, "include_obfuscation": False},
            "never_heard_of": 1,
        }.items()
    ],
]


@pytest.mark.parametrize(
    ("said", "expected"), TRANSLATION, ids=[str(case[0])[:70] for case in TRANSLATION]
)
def test_what_a_caller_says_is_told_in_mistrals_words(
    said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert told(**said) == expected


def test_every_row_of_the_table_has_its_case() -> None:
    assert set(FIELDS) - {name for said, _ in TRANSLATION for name in said} == set()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [TOOL, {"type": "custom", "custom": {"name": "c"}}]}, "tools[1].type"),
        (
            {"tools": [TOOL], "tool_choice": allowed("auto", "f", "h")},
            "tool_choice.allowed_tools.tools[1]",
        ),
        ({"tools": [TOOL], "tool_choice": allowed("required")}, "tool_choice.allowed_tools.tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
            "tool_choice.type",
        ),
    ],
)
def test_what_mistral_cannot_be_told_is_refused(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields) == param


MESSAGES: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    (HELLO, HELLO),
    ({"role": "user", "content": "x", "name": "ann"}, {"role": "user", "content": "x"}),
    ({"role": "system", "content": "x", "name": "ann"}, {"role": "system", "content": "x"}),
    ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
    ({"role": "assistant", "content": "x"}, {"role": "assistant", "content": "x"}),
    (
        {
            "role": "assistant",
            "content": "x",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "name": "bot",
        },
        {"role": "assistant", "content": "x"},
    ),
    ({"role": "assistant", "content": None}, None),
    ({"role": "assistant", "content": ""}, None),
    ({"role": "assistant", "content": None, "refusal": "no"}, None),
    (
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "x"},
            ],
        },
    ),
    (
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]},
    ),
    (
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "low", "x": 1}}],
        },
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "low"}}],
        },
    ),
    *[
        (
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "u", "detail": said}}],
            },
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", **told}}]},
        )
        for said, told in (
            ("auto", {"detail": "auto"}),
            ("original", {"detail": "high"}),
            ("with a loupe", {}),
            (None, {}),
        )
    ],
    (
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}],
        },
        {"role": "user", "content": [{"type": "input_audio", "input_audio": "QQ=="}]},
    ),
    (
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
        {"role": "user", "content": [{"type": "file", "file_id": "f"}]},
    ),
    (
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "data:x", "filename": "a.pdf"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "document_url", "document_url": "data:x", "document_name": "a.pdf"}
            ],
        },
    ),
    (
        {"role": "user", "content": [{"type": "document_url", "document_url": "u", "x": 1}]},
        {"role": "user", "content": [{"type": "document_url", "document_url": "u"}]},
    ),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}],
        },
    ),
    (
        {
            "role": "assistant",
            "content": [
                {
                    "type": "thinking",
                    "signature": "s",
                    "closed": True,
                    "x": 1,
                    "thinking": [
                        {"type": "text", "text": "hm", "x": 1},
                        {"type": "reference", "reference_ids": [1], "x": 1},
                        {"type": "tool_reference", "tool": "t", "title": "u", "url": None, "x": 1},
                    ],
                }
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
                        {"type": "text", "text": "hm"},
                        {"type": "reference", "reference_ids": [1]},
                        {"type": "tool_reference", "tool": "t", "title": "u"},
                    ],
                }
            ],
        },
    ),
    (
        {"role": "system", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "system", "content": []},
    ),
    (
        {"role": "assistant", "content": [{"type": "reference", "reference_ids": [1]}]},
        {"role": "assistant", "content": [{"type": "reference", "reference_ids": [1]}]},
    ),
]


@pytest.mark.parametrize(
    ("said", "expected"), MESSAGES, ids=[str(case[0])[:80] for case in MESSAGES]
)
def test_a_message_is_told_as_mistrals_schema_has_it(
    said: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    written = messages(HELLO, said, HELLO)
    assert written == [HELLO, *([expected] if expected else []), HELLO]


def test_a_custom_tools_call_is_refused() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "c", "input": "raw"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert refusal(HELLO, said) == "messages[1].tool_calls[0].type"


def test_a_file_without_an_id_or_data_is_refused() -> None:
    said = {
        "role": "user",
        "content": [{"type": "text", "text": "x"}, {"type": "file", "file": {}}],
    }
    assert refusal(HELLO, said) == "messages[1].content[1]"


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "u"},
        {"type": "input_audio", "input_audio": "QQ=="},
        {"type": "file", "file_id": "f"},
    ],
)
def test_the_system_says_nothing_but_text(role: str, part: dict[str, Any]) -> None:
    said = {"role": role, "content": [{"type": "text", "text": "x"}, part]}
    assert refusal(said, HELLO) == "messages[0].content[1].type"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "f\n"])
def test_a_call_of_what_can_be_no_function_is_refused(name: str) -> None:
    call = {"id": "abcdefghi", "function": {"name": name, "arguments": "{}"}}
    said = {"role": "assistant", "tool_calls": [call]}
    place = "messages[1].tool_calls[0].function.name"
    assert refusal(HELLO, said, answer("abcdefghi")) == place
    old = {"role": "assistant", "function_call": {"name": name}}
    place = "messages[1].function_call.name"
    assert refusal(HELLO, old, {"role": "function", "name": name, "content": "1"}) == place


def test_a_tools_name_is_told_only_if_mistral_takes_it() -> None:
    said = [HELLO, calls("abcdefghi")]
    for name, is_told in (("f", True), ("", False), ("my tool", False), (None, False)):
        last = messages(*said, {**answer("abcdefghi"), "name": name})[-1]
        assert ("name" in last) is is_told


def test_a_place_is_the_callers_own() -> None:
    """A message that says nothing is not told, and counts all the same."""
    silent = {"role": "assistant", "content": None}
    assert refusal(HELLO, silent, SAID) == "messages[2].prefix"
    assert refusal(HELLO, silent, ANSWER) == "messages[2].role"


# Tool-call ids: nine letters or digits.


def calls(*ids: str | None) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            for one in ids
        ],
    }


def answer(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "1"}


@pytest.mark.parametrize(
    ("said", "is_kept"),
    [
        ("abcDEF123", True),
        ("000000000", True),
        ("call_abcdefghijklmnop", False),
        ("abcdefgh", False),
        ("abcdefghij", False),
        ("abcdefgh_", False),
        ("abcdefgh\u00e9", False),
        ("abcdefghi\n", False),
        ("toolu_01A09q90qw90lq917835lq9", False),
    ],
)
def test_a_foreign_id_becomes_nine_characters_and_the_same_everywhere(
    said: str, is_kept: bool
) -> None:
    first = messages(HELLO, calls(said), answer(said))
    again = messages(HELLO, calls(said), answer(said), {"role": "assistant", "content": "1"}, HELLO)
    made = first[1]["tool_calls"][0]["id"]
    assert re.fullmatch("[a-zA-Z0-9]{9}", made)
    assert (made == said) is is_kept
    assert first[2]["tool_call_id"] == made == again[1]["tool_calls"][0]["id"]


def test_two_ids_never_become_one() -> None:
    foreign = "call_1"
    written = messages(
        HELLO,
        calls(nine_characters(foreign), foreign),
        answer(foreign),
        answer(nine_characters(foreign)),
    )
    first, second = (call["id"] for call in written[1]["tool_calls"])
    assert first == nine_characters(foreign) != second
    assert [message["tool_call_id"] for message in written[2:]] == [second, first]


def test_nine_characters_stay_the_same_for_ever() -> None:
    assert nine_characters("call_abc") == nine_characters("call_abc")
    assert nine_characters("call_abc") != nine_characters("call_abd")


def test_a_tool_call_is_told_whole_and_without_what_mistral_does_not_name() -> None:
    said = {
        "role": "assistant",
        "tool_calls": [{"id": "abcdefghi", "index": 0, "function": {"name": "f"}}],
    }
    assert messages(HELLO, said, {**answer("abcdefghi"), "name": "f"})[1:] == [
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
        {"role": "tool", "content": "1", "tool_call_id": "abcdefghi", "name": "f"},
    ]


def test_the_old_function_call_is_told_as_a_tool_call() -> None:
    written = messages(
        HELLO,
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "f", "arguments": '{"a":1}'},
        },
        {"role": "function", "name": "f", "content": "1"},
    )
    made = nine_characters("f")
    assert written[1]["tool_calls"] == [
        {"id": made, "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert written[2] == {"role": "tool", "content": "1", "tool_call_id": made, "name": "f"}


# The order of messages.

SYSTEM = {"role": "system", "content": "s"}
SAID = {"role": "assistant", "content": "a"}
PREFIX = {"role": "assistant", "content": "a", "prefix": True}
CALLS, ANSWER = calls("abcdefghi"), answer("abcdefghi")


@pytest.mark.parametrize(
    "said",
    [
        [SYSTEM, HELLO],
        [HELLO, HELLO],
        [HELLO, SYSTEM, HELLO],
        [SYSTEM, SAID, HELLO],
        [HELLO, SAID, SAID, HELLO],
        [HELLO, PREFIX],
        [HELLO, CALLS, ANSWER],
        [HELLO, CALLS, ANSWER, SAID, HELLO],
        [HELLO, CALLS, ANSWER, HELLO],
        [HELLO, calls("abcdefghi", "abcdefghj"), answer("abcdefghj"), answer("abcdefghi")],
        [HELLO, CALLS, ANSWER, CALLS, ANSWER],
    ],
)
def test_orders_that_mistral_takes(said: list[dict[str, Any]]) -> None:
    assert [message["role"] for message in messages(*said)] == [message["role"] for message in said]


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ([SYSTEM], "messages"),
        ([HELLO, SYSTEM], "messages"),
        ([HELLO, SAID], "messages[1].prefix"),
        ([HELLO, SAID, SYSTEM, HELLO], "messages[2].role"),
        ([HELLO, CALLS], "messages"),
        ([HELLO, CALLS, HELLO], "messages[2]"),
        ([HELLO, CALLS, SAID, HELLO], "messages[2]"),
        ([HELLO, calls("abcdefghi", "abcdefghj"), ANSWER], "messages"),
        ([HELLO, calls("abcdefghi", "abcdefghj"), ANSWER, SAID, HELLO], "messages[3]"),
        ([HELLO, CALLS, answer("zzzzzzzzz")], "messages[2].tool_call_id"),
        ([HELLO, CALLS, ANSWER, ANSWER], "messages[3].tool_call_id"),
        ([ANSWER, HELLO], "messages[0].tool_call_id"),
        ([HELLO, ANSWER], "messages[1].role"),
        ([HELLO, CALLS, ANSWER, SYSTEM, HELLO], "messages[3].role"),
        ([{"role": "assistant", "content": None}], "messages"),
        ([HELLO, PREFIX, HELLO], "messages[1].prefix"),
        ([HELLO, PREFIX, PREFIX], "messages[1].prefix"),
    ],
)
def test_orders_that_mistral_would_refuse_are_refused_here_by_name(
    said: list[dict[str, Any]], param: str
) -> None:
    assert refusal(*said) == param
