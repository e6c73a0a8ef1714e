"""Mistral's published request schema, written down a second time: by neither the gateway nor the simulator.

It forbids unknown fields at every level, and so does `check_body`. The rules of order are those of the
validator that Mistral publishes.
"""

import re

MODEL = "mistral-small-latest"

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
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(each, str) for each in value)
    )


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
    return lambda value: isinstance(value, str) and value in allowed


def matches(pattern):
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value))


TEXT, OBJECT, BOOL = is_type(str), is_type(dict), is_type(bool)


def part(kind, required, optional=()):
    return is_object({"type": equals(kind), **required}, optional)


NUMBER = is_number(float("-inf"), float("inf"))
TEXT_PART = part("text", {"text": TEXT})
REFERENCE_PART = part("reference", {"reference_ids": is_list_of(either(is_int, TEXT))})
THOUGHT = either(
    TEXT_PART,
    REFERENCE_PART,
    part(
        "tool_reference",
        {"tool": TEXT, "title": TEXT},
        {"url": TEXT, "favicon": TEXT, "description": TEXT},
    ),
)
THINKING_PART = part(
    "thinking", {"thinking": is_list_of(THOUGHT)}, {"signature": TEXT, "closed": BOOL}
)
IMAGE = is_object({"url": TEXT}, {"detail": equals("low", "auto", "high")})
PARTS = either(
    TEXT_PART,
    THINKING_PART,
    REFERENCE_PART,
    part("image_url", {"image_url": either(TEXT, IMAGE)}),
    part("document_url", {"document_url": TEXT}, {"document_name": TEXT}),
    part("file", {"file_id": TEXT}),
    part("input_audio", {"input_audio": TEXT}),
)
CONTENT = either(TEXT, is_list_of(PARTS))
TOOL = is_object(
    {
        "type": equals("function"),
        "function": is_object(
            {"name": matches(TOOL_NAME), "parameters": OBJECT},
            {"description": TEXT, "strict": BOOL},
        ),
    }
)
CALL = is_object(
    {
        "id": matches(CALL_ID),
        "type": equals("function"),
        "function": is_object({"name": matches(TOOL_NAME), "arguments": either(TEXT, OBJECT)}),
    }
)
MESSAGES = {
    "system": is_object(
        {"role": TEXT, "content": either(TEXT, is_list_of(either(TEXT_PART, THINKING_PART)))}
    ),
    "user": is_object({"role": TEXT, "content": CONTENT}),
    "assistant": is_object(
        {"role": TEXT, "content": CONTENT}, {"tool_calls": is_list_of(CALL), "prefix": BOOL}
    ),
    "tool": is_object(
        {"role": TEXT, "content": CONTENT, "tool_call_id": TEXT}, {"name": matches(TOOL_NAME)}
    ),
}


def is_message(value):
    role = value.get("role") if isinstance(value, dict) else None
    return isinstance(role, str) and role in MESSAGES and MESSAGES[role](value)


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


def guardrail(*categories):
    return is_object(
        {},
        {
            "model_name": TEXT,
            "custom_category_thresholds": is_object({}, dict.fromkeys(categories, NUMBER)),
            "ignore_other_categories": BOOL,
            "action": equals("none", "block"),
        },
    )


CATEGORIES = (
    *("sexual", "hate_and_discrimination", "violence_and_threats", "selfharm", "health"),
    *("financial", "law", "pii"),
)
GUARDRAIL = is_object(
    {},
    {
        "block_on_error": BOOL,
        "moderation_llm_v1": guardrail(*CATEGORIES, "dangerous_and_criminal_content"),
        "moderation_llm_v2": guardrail(*CATEGORIES, "dangerous", "criminal", "jailbreaking"),
    },
)
BODY = is_object(
    {"model": equals(MODEL), "messages": is_list_of(is_message)},
    {
        "frequency_penalty": is_number(-2, 2),
        "guardrails": is_list_of(GUARDRAIL),
        "max_tokens": lambda value: is_int(value) and value >= 0,
        "metadata": OBJECT,
        "n": lambda value: is_int(value) and value >= 1,
        "parallel_tool_calls": BOOL,
        "prediction": is_object({"type": equals("content"), "content": TEXT}),
        "presence_penalty": is_number(-2, 2),
        "prompt_cache_key": TEXT,
        "prompt_mode": equals("reasoning"),
        "random_seed": lambda value: is_int(value) and value >= 0,
        "reasoning_effort": equals(*EFFORTS),
        "response_format": FORMAT,
        "safe_prompt": BOOL,
        "service_tier": equals("auto", "standard_only"),
        "stop": is_texts,
        "stream": BOOL,
        "temperature": is_number(0, 1.5),
        "tool_choice": either(
            equals(*CHOICES),
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
        assert message is messages[-1] or not message.get("prefix"), "only the last is continued"
        assert role in NEXT[before], f"{role} after {before}"
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
