"""The simulator refuses what OpenAI refuses, in OpenAI's words where they are known."""

import pytest

from windvane.simulator.catalogue import OPENAI_MODELS, by_name
from windvane.simulator.openai_rules import check_chat
from windvane.simulator.refusal import Refusal

CARDS = by_name(OPENAI_MODELS)
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("model", "said", "param"),
    [
        ("gpt-4o", {"metadata": {"a": "b"}}, "metadata"),
        ("gpt-4o", {"metadata": {"a": "b"}, "store": False}, "metadata"),
        ("gpt-4o", {"metadata": {"a": ["b"]}, "store": True}, "metadata.a"),
        ("gpt-4o", {"metadata": {"a": "b" * 513}, "store": True}, "metadata.a"),
        ("gpt-4o", {"metadata": dict.fromkeys("abcdefghijklmnopq", ""), "store": True}, "metadata"),
        ("gpt-6-luna", {"presence_penalty": 0.5}, "presence_penalty"),
        ("gpt-6-luna", {"logit_bias": {"1": 1}}, "logit_bias"),
        ("gpt-5-mini", {"stop": ["x"]}, "stop"),
        ("o3", {"logprobs": True}, "logprobs"),
        ("gpt-4o", {"tools": []}, "tools"),
        ("gpt-4o", {"tool_choice": "none"}, "tool_choice"),
        ("gpt-4o", {"tools": None, "parallel_tool_calls": False}, "parallel_tool_calls"),
    ],
)
def test_it_refuses(model, said, param):
    with pytest.raises(Refusal) as refused:
        check_chat({**HELLO, **said}, CARDS[model])
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("gpt-4o", {"metadata": {"a": "b"}, "store": True}),
        ("gpt-4o", {"metadata": None}),
        ("gpt-4o", {"presence_penalty": 0.5, "stop": ["x"], "logprobs": True}),
        ("gpt-5.4", {"stop": ["x"], "logprobs": True}),
    ],
)
def test_it_takes(model, said):
    check_chat({**HELLO, **said}, CARDS[model])
