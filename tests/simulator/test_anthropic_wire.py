"""The simulator's Anthropic face: its official SDK finds nothing amiss, and what the service refuses is
refused here."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest

from windvane.simulator import Simulator
from windvane.simulator.anthropic import TOOL_PROMPT_TOKENS
from windvane.simulator.anthropic_rules import signature_of

NEW, OLD, BETWEEN = "claude-sonnet-5-5", "claude-haiku-4-5", "claude-opus-4-6"
PATH = "/anthropic/v1/messages"
VERSION = (("anthropic-version", "2023-06-01"),)
QUESTION: dict[str, Any] = {"role": "user", "content": "What is the wind at Marseille?"}
TOOL: dict[str, Any] = {
    "name": "wind_at",
    "description": "The wind at a place",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
    },
}
EPHEMERAL = {"type": "ephemeral"}


@pytest.fixture
async def simulator(start: Callable[..., Any]) -> Simulator:
    made: Simulator = await start()
    return made


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    address = f"{simulator.url}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=address, api_key="k", max_retries=0) as made:
        yield made


async def test_a_whole_answer_and_its_stream_say_the_same(
    client: anthropic.AsyncAnthropic, simulator: Simulator
) -> None:
    asked: Any = {"model": NEW, "max_tokens": 300, "messages": [QUESTION], "tools": [TOOL]}
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as events:
        kinds = [event.type async for event in events]
        streamed = await events.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert whole.content[0].to_dict()["input"] == {"place": "Marseille"}
    assert [block.type for block in streamed.content] == ["tool_use"]
    assert whole.usage.to_dict() == streamed.usage.to_dict()
    assert {"message_start", "input_json", "content_block_stop", "message_stop"} <= set(kinds)
    first, second = simulator.bill.rows
    assert first.nano_usd == second.nano_usd
    assert first.input_tokens == whole.usage.input_tokens > TOOL_PROMPT_TOKENS
    assert first.nano_usd == first.input_tokens * 2_000 + first.output_tokens * 10_000


@pytest.mark.parametrize(
    ("model", "thinking", "is_shown"),
    [
        (NEW, {"type": "adaptive"}, False),
        (NEW, {"type": "adaptive", "display": "summarized"}, True),
        (BETWEEN, {"type": "adaptive"}, True),
        (OLD, {"type": "enabled", "budget_tokens": 1024}, True),
    ],
)
async def test_thinking_is_signed_and_taken_back_unchanged_only(
    client: anthropic.AsyncAnthropic, model: str, thinking: Any, is_shown: bool
) -> None:
    asked: Any = {"model": model, "max_tokens": 2_000, "thinking": thinking, "tools": [TOOL]}
    async with client.messages.stream(messages=[QUESTION], **asked) as events:
        said = await events.get_final_message()
    thought, call = said.content
    assert thought.type == "thinking" and call.type == "tool_use"
    assert bool(thought.thinking) is is_shown
    assert said.usage.output_tokens_details is not None
    assert said.usage.output_tokens_details.thinking_tokens > 10
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "9 knots"}
    turns: Any = [QUESTION, said.to_param(), {"role": "user", "content": [result]}]
    assert (await client.messages.create(messages=turns, **asked)).stop_reason == "end_turn"
    changed = {"type": "thinking", "thinking": "otherwise", "signature": thought.signature}
    turns[1] = {"role": "assistant", "content": [changed, call.to_dict()]}
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        await client.messages.create(messages=turns, **asked)


def long_prompt(name: str, ttl: str | None = None) -> Any:
    control = {**EPHEMERAL, "ttl": ttl} if ttl else EPHEMERAL
    return [{"type": "text", "text": f"{name} " * 1_500, "cache_control": control}]


async def test_a_prompt_is_written_up_to_its_marks_and_read_again(
    client: anthropic.AsyncAnthropic, simulator: Simulator
) -> None:
    asked: Any = {"model": NEW, "max_tokens": 4, "messages": [QUESTION]}
    plain = (await client.messages.create(system="wind " * 1_500, **asked)).usage
    assert plain.cache_creation_input_tokens == plain.cache_read_input_tokens == 0
    wrote = (await client.messages.create(system=long_prompt("wind", "1h"), **asked)).usage
    read = (await client.messages.create(system=long_prompt("wind", "1h"), **asked)).usage
    assert wrote.cache_creation is not None
    assert wrote.cache_creation.ephemeral_1h_input_tokens == wrote.cache_creation_input_tokens
    assert read.cache_read_input_tokens == wrote.cache_creation_input_tokens
    more: Any = {**asked, "messages": [{"role": "user", "content": long_prompt("gust")}]}
    both = (await client.messages.create(system=long_prompt("wind", "1h"), **more)).usage
    assert both.cache_creation is not None
    assert both.cache_read_input_tokens == read.cache_read_input_tokens
    assert both.cache_creation.ephemeral_5m_input_tokens > 1_000
    assert both.cache_creation.ephemeral_1h_input_tokens == 0
    totals = [row.input_tokens for row in simulator.bill.rows]
    assert totals[0] == totals[1] == totals[2]
    row = simulator.bill.rows[-1]
    assert row.nano_usd == (
        both.input_tokens * 2_000
        + (both.cache_read_input_tokens or 0) * 100
        + (both.cache_creation_input_tokens or 0) * 2_500
        + both.output_tokens * 10_000
    )


async def test_a_short_prompt_is_not_cached_whatever_its_marks(
    client: anthropic.AsyncAnthropic,
) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": EPHEMERAL}]
    asked: Any = {"model": NEW, "max_tokens": 4, "messages": [QUESTION], "system": system}
    for _ in range(2):
        usage = (await client.messages.create(**asked)).usage
        assert usage.cache_creation_input_tokens == usage.cache_read_input_tokens == 0


async def test_counting_tokens_costs_nothing(
    client: anthropic.AsyncAnthropic, simulator: Simulator
) -> None:
    counted = await client.messages.count_tokens(model=NEW, messages=[QUESTION])
    assert simulator.bill.rows == []
    answer = await client.messages.create(model=NEW, max_tokens=3, messages=[QUESTION])
    assert answer.usage.input_tokens == counted.input_tokens
    assert answer.stop_reason == "max_tokens"


async def test_models_are_listed(client: anthropic.AsyncAnthropic) -> None:
    names = [model.id async for model in client.models.list()]
    assert NEW in names
    assert (await client.models.retrieve(NEW)).id == NEW


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("!error 400", anthropic.BadRequestError),
        ("!error 401", anthropic.AuthenticationError),
        ("!error 403", anthropic.PermissionDeniedError),
        ("!error 404", anthropic.NotFoundError),
        ("!error 429", anthropic.RateLimitError),
        ("!error 429 shape=quota", anthropic.EnforcedSpendLimitReachedError),
        ("!error 500", anthropic.InternalServerError),
        ("!error 529", anthropic.OverloadedError),
    ],
)
async def test_the_sdk_knows_each_error(
    client: anthropic.AsyncAnthropic, fault: str, error: type[anthropic.APIStatusError]
) -> None:
    content = f"Say wind. {fault}"
    with pytest.raises(error) as raised:
        await client.messages.create(
            model=NEW, max_tokens=9, messages=[{"role": "user", "content": content}]
        )
    assert (raised.value.request_id or "").startswith("req_")


async def test_an_error_amid_a_stream_is_an_event(client: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"role": "user", "content": "Say wind. !error-event 2"}
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(model=NEW, max_tokens=99, messages=[asked]) as events:
            async for _ in events:
                pass


async def test_limits_are_told_in_anthropics_headers(start: Any, ask: Any) -> None:
    simulator = await start(requests_per_minute=1)
    body = {"model": NEW, "max_tokens": 9, "messages": [QUESTION]}
    first = await ask(simulator, body, path=PATH, headers=VERSION)
    assert first.header("anthropic-ratelimit-requests-limit") == "1"
    assert (first.header("anthropic-ratelimit-requests-reset") or "").endswith("Z")
    second = await ask(simulator, body, path=PATH, headers=VERSION)
    assert (second.status, second.json["error"]["type"]) == (429, "rate_limit_error")
    assert int(second.header("retry-after")) > 0


def body_with(**more: Any) -> dict[str, Any]:
    return {"model": NEW, "max_tokens": 2_000, "messages": [QUESTION], **more}


def turns(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    """A question, then an answer of these blocks, then another question."""
    return [QUESTION, {"role": "assistant", "content": list(blocks)}, QUESTION]


def use(id_: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": "wind_at", "input": {}}


def used(id_: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": "9"}


def form(schema: Any) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


CLOSED = {"type": "object", "properties": {}, "additionalProperties": False}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")}
TEXT = {"type": "text", "text": "x"}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", {"max_tokens": None}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": 128_001}),
    ("n: Extra inputs", {"n": 1}),
    ("temperature", {"temperature": 0.5}),
    ("`top_p`", {"top_p": 1}),
    ("cannot both", {"model": OLD, "temperature": 0.5, "top_p": 0.5}),
    ("temperature", {"model": OLD, "temperature": 1.1}),
    ("thinking.type.enabled", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    ("adaptive", {"model": OLD, "thinking": {"type": "adaptive"}}),
    ("budget_tokens", {"model": OLD, "thinking": {"type": "enabled", "budget_tokens": 9}}),
    ("max_tokens", {"model": OLD, "thinking": {"type": "enabled", "budget_tokens": 2_000}}),
    (
        "forces tool use",
        {"thinking": {"type": "adaptive"}, "tools": [TOOL], "tool_choice": {"type": "any"}},
    ),
    (
        "set to 1",
        {"model": BETWEEN, "thinking": {"type": "adaptive"}, "temperature": 0.5},
    ),
    (
        "Expected `thinking`",
        {
            "model": OLD,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "messages": [*turns(use("a"))[:2], {"role": "user", "content": [used("a")]}],
        },
    ),
    ("tool_choice", {"tool_choice": {"type": "auto"}}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": "auto"}),
    ("not found", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}),
    ("Extra inputs", {"tools": [TOOL], "tool_choice": {"type": "none", "disable_parallel_tool_use": True}}),
    ("input_schema", {"tools": [{"name": "x", "input_schema": {"type": "array"}}]}),
    ("name", {"tools": [{**TOOL, "name": "no spaces"}]}),
    ("Extra inputs", {"tools": [{**TOOL, "parameters": {}}]}),
    ("additionalProperties", {"tools": [{**TOOL, "strict": True}]}),
    ("additionalProperties", form({"type": "object", "properties": {}})),
    ("minimum", form({"type": "integer", "minimum": 1})),
    ("additionalProperties", form({**CLOSED, "properties": {"a": {"type": "object"}}})),
    ("additionalProperties", form({"anyOf": [{"type": "object"}]})),
    ("effort", {"output_config": {"effort": "vast"}}),
    ("schema", {"output_config": {"format": {"type": "json_object"}}}),
    ("stop_sequences", {"stop_sequences": ["\n"]}),
    ("service_tier", {"service_tier": "default"}),
    ("user_id", {"metadata": {"user_id": "x" * 257}}),
    ("Extra inputs", {"metadata": {"trace": "1"}}),
    ("system", {"system": [{"type": "image", "source": {}}]}),
    ("non-whitespace", {"system": [{"type": "text", "text": " "}]}),
    ("messages", {"messages": []}),
    ("role", {"messages": [{"role": "system", "content": "x"}]}),
    ("non-empty", {"messages": [{"role": "user", "content": []}]}),
    ("non-whitespace", {"messages": [{"role": "user", "content": "\n"}]}),
    ("Extra inputs", {"messages": [{**QUESTION, "name": "ann"}]}),
    ("Extra inputs", {"messages": [{"role": "user", "content": [{**TEXT, "index": 1}]}]}),
    ("Input tag", {"messages": [{"role": "user", "content": [use("a")]}]}),
    ("prefill", {"messages": [QUESTION, {"role": "assistant", "content": "So"}]}),
    ("immediately after", {"messages": turns(use("a"))}),
    ("unexpected `tool_use_id`", {"messages": [{"role": "user", "content": [used("a")]}]}),
    (
        "must come first",
        {"messages": [*turns(use("a"))[:2], {"role": "user", "content": [TEXT, used("a")]}]},
    ),
    ("unique", {"messages": turns(use("a"), use("a"))}),
    ("pattern", {"messages": turns(use("a b"))}),
    ("Invalid `signature`", {"messages": turns({**SIGNED, "thinking": "ah"}, TEXT)}),
    ("media_type", {"messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "x"}}]}]}),
    ("source", {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
    ("maximum of 4", {"cache_control": EPHEMERAL, "tools": [{**TOOL, "cache_control": EPHEMERAL}] * 4}),
    ("ttl", {"cache_control": {**EPHEMERAL, "ttl": "2h"}}),
    ("ephemeral", {"cache_control": {"type": "persistent"}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "more"), REFUSED, ids=[f"{n}: {row[0]}" for n, row in enumerate(REFUSED)]
)
async def test_what_the_service_refuses(
    simulator: Simulator, ask: Any, words: str, more: dict[str, Any]
) -> None:
    body = {name: value for name, value in body_with(**more).items() if value is not None}
    said = await ask(simulator, body, path=PATH, headers=VERSION)
    assert (said.status, said.json["error"]["type"]) == (400, "invalid_request_error")
    assert words in said.json["error"]["message"], said.json
    assert simulator.bill.total_nano_usd == 0


TAKEN: list[dict[str, Any]] = [
    {"model": OLD, "temperature": 0.5, "top_k": 3},
    {"thinking": {"type": "disabled"}, "tools": [TOOL], "tool_choice": {"type": "any"}},
    {"messages": turns(SIGNED, TEXT)},
    {"messages": turns({"type": "redacted_thinking", "data": "x"}, TEXT)},
    {"messages": [*turns(use("a"))[:2], {"role": "user", "content": [used("a"), TEXT]}]},
    {"messages": [QUESTION, QUESTION, *turns(TEXT)]},
    {"model": OLD, "messages": [QUESTION, {"role": "assistant", "content": "So"}]},
    form({"$defs": {"a": CLOSED}, "anyOf": [{"$ref": "#/$defs/a"}, {"const": 1}]}),
    {"system": "Be brief.", "stop_sequences": ["END"], "metadata": {"user_id": "u"}},
    {"service_tier": "auto", "output_config": {"effort": "low"}},
]


@pytest.mark.parametrize("more", TAKEN, ids=str)
async def test_what_the_service_takes(simulator: Simulator, ask: Any, more: dict[str, Any]) -> None:
    said = await ask(simulator, body_with(**more), path=PATH, headers=VERSION)
    assert said.status == 200, said.json


async def test_a_key_and_a_version_are_wanted(simulator: Simulator, ask: Any) -> None:
    body = body_with()
    nobody = await ask(simulator, body, path=PATH, key=None, headers=VERSION)
    assert (nobody.status, nobody.json["error"]["type"]) == (401, "authentication_error")
    own = (*VERSION, ("x-api-key", "mine"))
    assert (await ask(simulator, body, path=PATH, key=None, headers=own)).status == 200
    assert (await ask(simulator, body, path=PATH)).status == 400
    assert (await ask(simulator, body, path="/v1/messages", headers=VERSION)).status == 404
    elsewhere = "/anthropic/v1/chat/completions"
    assert (await ask(simulator, body, path=elsewhere, headers=VERSION)).status == 404


async def test_every_event_has_its_name(simulator: Simulator, ask: Any) -> None:
    said = await ask(simulator, body_with(stream=True), path=PATH, headers=VERSION)
    frames = [frame for frame in said.body.decode().split("\n\n") if frame]
    for frame in frames:
        name, data = frame.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")
    assert frames[-1].startswith("event: message_stop")
