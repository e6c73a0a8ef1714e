"""Whatever a caller of OpenAI's dialect may say, Anthropic is told only what it accepts.

The judge is the simulator, which has the service's rules written down a second time.
"""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.surface.test_upstream_body import OPENAI_FIELDS, ids, requests, users, words

from windvane.core.faults import BadRequestError
from windvane.simulator.anthropic import Anthropic
from windvane.simulator.anthropic_rules import signature_of
from windvane.wire.anthropic_chat import encode_chat
from windvane.wire.chat_request import chat_request_of

MODELS = st.sampled_from(
    ["claude-sonnet-5-5", "claude-opus-4-7", "claude-opus-4-6", "claude-haiku-4-5"]
)
HARMLESS = {
    **OPENAI_FIELDS,
    **dict.fromkeys(("audio", "function_call", "modalities", "n", "tool_choice"), st.none()),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), st.integers(1, 128_000)),
    "logprobs": st.just(False),
    "top_logprobs": st.just(0),
    "web_search_options": st.none(),
    "response_format": st.none(),
    "stop": st.lists(words.filter(str.strip), max_size=4),
    "tools": st.none(),
    "cache_control": st.sampled_from([{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}]),
}
"""Options that Anthropic has, or that are left out."""


def told(fields: dict[str, Any], model: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_chat(chat_request_of(fields), model))
    return body


@settings(max_examples=250, deadline=None)
@given(requests, MODELS)
def test_what_anthropic_is_told_is_what_it_takes(fields: dict[str, Any], model: str) -> None:
    before = json.dumps(fields)
    try:
        body = told(fields, model)
    except BadRequestError as error:
        assert error.fault.param, "a refusal names the field"
    else:
        if body["max_tokens"] <= 128_000:  # what a model can say is for the caller to know
            Anthropic().read_chat(body, strict=True)
    assert json.dumps(fields) == before, "the caller's request was changed"


@settings(max_examples=150, deadline=None)
@given(words.filter(str.strip), st.fixed_dictionaries({}, optional=HARMLESS), MODELS)
def test_a_plain_question_is_never_refused(text: str, options: dict[str, Any], model: str) -> None:
    fields = {"model": "auto", "messages": [{"role": "user", "content": text}], **options}
    Anthropic().read_chat(told(fields, model), strict=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(ids, min_size=1, max_size=5), users, MODELS, st.booleans())
def test_a_conversation_of_calls_is_taken_whatever_their_ids(
    called: list[str], last: dict[str, Any], model: str, has_thought: bool
) -> None:
    """One call a turn, and perhaps one id for all of them."""
    thought = {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")}
    talk: list[dict[str, Any]] = [{"role": "user", "content": "Go."}]
    for one in called:
        call = {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        said: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
        if has_thought:
            said["thinking_blocks"] = [thought]
        talk += [said, {"role": "tool", "tool_call_id": one, "content": "9"}]
    tool = {"type": "function", "function": {"name": "f"}}
    fields = {"model": "m", "messages": talk, "tools": [tool], "reasoning_effort": "high"}
    Anthropic().read_chat(told(fields, model), strict=True)
    try:
        body = told({**fields, "messages": [*talk, last]}, model)
    except BadRequestError:
        return
    Anthropic().read_chat(body, strict=True)
