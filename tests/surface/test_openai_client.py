"""The OpenAI SDK, unchanged, against models of both providers."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

MISTRAL = "mistral-small-latest"
GPT = "gpt-4o-mini"
REASONING_GPT = "gpt-5.4-mini"
EVERY_MODEL = pytest.mark.parametrize("model", [MISTRAL, GPT, REASONING_GPT, "auto"])

ASKED = [{"role": "user", "content": "Explain how sailing boats use wind"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
WEATHER_ASKED = [{"role": "user", "content": "Call get_weather for Paris"}]
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@EVERY_MODEL
async def test_a_stream_says_what_the_whole_answer_says(openai_caller, model):
    whole = await openai_caller.create(model=model, messages=ASKED)
    chunks = await openai_caller.stream(model=model, messages=ASKED)
    assert whole.object == "chat.completion"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].message.role == "assistant"
    assert text_of(chunks) == whole.choices[0].message.content != ""
    assert {c.id for c in chunks} == {chunks[0].id}
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    usages = [c.usage for c in chunks if c.usage is not None]
    assert [u.total_tokens for u in usages] == [whole.usage.total_tokens]


@EVERY_MODEL
async def test_usage_is_asked_for_and_comes_once_without_choices(openai_caller, model):
    chunks = await openai_caller.stream(
        model=model, messages=ASKED, stream_options={"include_usage": True}
    )
    assert [bool(c.choices) for c in chunks] == [True] * (len(chunks) - 1) + [False]
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.completion_tokens > 0


@EVERY_MODEL
async def test_a_tool_loop_ends_in_an_answer_from_the_result(openai_caller, model):
    messages = list(WEATHER_ASKED)
    first = await openai_caller.create(model=model, messages=messages, tools=[WEATHER, CLOCK])
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [
        choice.message.model_dump(exclude_unset=True),
        {"role": "tool", "tool_call_id": call.id, "content": "17 degrees and windy"},
    ]
    second = await openai_caller.create(model=model, messages=messages, tools=[WEATHER, CLOCK])
    assert second.choices[0].finish_reason == "stop"
    assert "17 degrees and windy" in second.choices[0].message.content


@EVERY_MODEL
async def test_the_stream_helper_collects_parallel_calls_whole(openai_caller, model):
    asked = [{"role": "user", "content": "Call get_weather for Paris and London"}]
    events, final = await openai_caller.helper(
        model=model, messages=asked, tools=[WEATHER], parallel_tool_calls=True
    )
    calls = final.choices[0].message.tool_calls
    assert [c.function.name for c in calls] == ["get_weather", "get_weather"]
    cities = [json.loads(c.function.arguments)["city"] for c in calls]
    assert cities == ["Paris", "London"]
    assert len({c.id for c in calls}) == 2
    done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert [e.name for e in done] == ["get_weather", "get_weather"]


async def test_one_call_at_a_time_can_be_asked_for(openai_caller):
    asked = [{"role": "user", "content": "Call get_weather for Paris and London"}]
    whole = await openai_caller.create(
        model=MISTRAL, messages=asked, tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(whole.choices[0].message.tool_calls) == 1


@pytest.mark.parametrize(
    ("choice", "told", "is_called"),
    [
        ("auto", "auto", True),
        ("none", "none", False),
        ("required", "any", True),
        (
            {"type": "function", "function": {"name": "get_weather"}},
            {"type": "function", "function": {"name": "get_weather"}},
            True,
        ),
    ],
    ids=["auto", "none", "required", "by name"],
)
async def test_tool_choice_is_told_to_mistral_in_its_words(
    openai_caller, surface, choice, told, is_called
):
    whole = await openai_caller.create(
        model=MISTRAL, messages=WEATHER_ASKED, tools=[WEATHER, CLOCK], tool_choice=choice
    )
    assert bool(whole.choices[0].message.tool_calls) is is_called
    [sent] = surface.sent()
    assert sent["tool_choice"] == told
    assert sent["tools"][1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert "$schema" not in sent["tools"][0]["function"]["parameters"]


@EVERY_MODEL
async def test_tool_ids_of_other_makers_are_understood(openai_caller, surface, model):
    """Mistral takes nine letters or digits; ids of any other shape come from other models."""
    ids = ["call_" + "a" * 24, "toolu_01AbC-dEf", "call_" + "a" * 23 + "b"]
    calls = [
        {"id": i, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
        for i in ids
    ]
    messages = [
        *WEATHER_ASKED,
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": i, "content": f"result {i}"} for i in ids),
    ]
    whole = await openai_caller.create(model=model, messages=messages, tools=[WEATHER])
    assert whole.choices[0].finish_reason == "stop"
    [sent] = surface.sent()
    called = [call["id"] for call in sent["messages"][1]["tool_calls"]]
    assert called == [m["tool_call_id"] for m in sent["messages"][2:]]
    assert len(set(called)) == 3


async def test_old_function_calling_is_told_as_tools(openai_caller, surface):
    whole = await openai_caller.create(
        model=MISTRAL,
        messages=WEATHER_ASKED,
        functions=[WEATHER["function"]],
        function_call={"name": "get_weather"},
    )
    assert whole.choices[0].message.tool_calls[0].function.name == "get_weather"
    [sent] = surface.sent()
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}


class Forecast(BaseModel):
    city: str
    wind: Literal["calm", "fresh", "storm"]
    knots: int


@EVERY_MODEL
async def test_parse_gives_an_object_of_the_schema(openai_caller, model):
    parsed = await openai_caller.parse(
        model=model,
        messages=[{"role": "user", "content": "Forecast as JSON"}],
        response_format=Forecast,
    )
    assert isinstance(parsed.choices[0].message.parsed, Forecast)


@EVERY_MODEL
async def test_json_mode_gives_json_whole_and_streamed(openai_caller, model):
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": 'Give JSON with "wind" and "sea"'}],
        "response_format": {"type": "json_object"},
    }
    whole = await openai_caller.create(**asked)
    assert json.loads(whole.choices[0].message.content).keys() == {"wind", "sea"}
    assert text_of(await openai_caller.stream(**asked)) == whole.choices[0].message.content


@EVERY_MODEL
async def test_an_image_reaches_the_model(openai_caller, surface, model):
    parts = [
        {"type": "text", "text": "What is in this picture?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    whole = await openai_caller.create(model=model, messages=[{"role": "user", "content": parts}])
    assert whole.choices[0].message.content
    [sent] = surface.sent()
    assert sent["messages"][0]["content"] == parts


async def test_audio_reaches_a_model_that_hears(openai_caller, surface):
    parts = [
        {"type": "text", "text": "What is said here?"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]
    asked = [{"role": "user", "content": parts}]
    whole = await openai_caller.create(model="voxtral-small-latest", messages=asked)
    assert whole.choices[0].message.content
    [sent] = surface.sent()
    assert sent["messages"][0]["content"][1] == {"type": "input_audio", "input_audio": "UklGRg=="}


@EVERY_MODEL
async def test_two_choices_come_whole_and_streamed(openai_caller, model):
    whole = await openai_caller.create(model=model, messages=ASKED, n=2)
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert texts.keys() == {0, 1}
    chunks = await openai_caller.stream(model=model, messages=ASKED, n=2)
    streamed = {0: "", 1: ""}
    finished = []
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            finished += [choice.index] if choice.finish_reason else []
    assert streamed == texts
    assert sorted(finished) == [0, 1]
    assert len([c for c in chunks if c.usage]) == 1


@EVERY_MODEL
async def test_limits_of_an_answer_hold(openai_caller, model):
    whole = await openai_caller.create(model=model, messages=ASKED)
    words = whole.choices[0].message.content.split()
    stopped = await openai_caller.create(model=model, messages=ASKED, stop=[words[3]])
    assert words[3] not in stopped.choices[0].message.content
    assert stopped.choices[0].finish_reason == "stop"
    for limit in ("max_tokens", "max_completion_tokens"):
        short = await openai_caller.create(model=model, messages=ASKED, **{limit: 5})
        assert short.choices[0].finish_reason == "length"
        assert short.usage.completion_tokens == 5
        assert whole.choices[0].message.content.startswith(short.choices[0].message.content)


async def test_a_seed_is_told_and_repeats_the_answer(openai_caller, surface):
    asked = {"messages": ASKED, "temperature": 0.9}
    texts = []
    for seed in (1, 1, 2):
        whole = await openai_caller.create(model=MISTRAL, seed=seed, **asked)
        texts.append(whole.choices[0].message.content)
    assert texts[0] == texts[1] != texts[2]
    assert [sent["random_seed"] for sent in surface.sent()] == [1, 1, 2]
    await openai_caller.create(model=GPT, seed=3, **asked)
    assert surface.sent()[-1]["seed"] == 3


@EVERY_MODEL
async def test_every_field_of_the_sdk_is_accepted(openai_caller, surface, model):
    """Fields without a counterpart are left out, not sent to be refused."""
    whole = await openai_caller.create(
        model=model,
        messages=[
            {"role": "developer", "content": "Be brief.", "name": "boss"},
            {"role": "user", "content": "Explain wind", "name": "ann"},
            {"role": "assistant", "content": "Air moves.", "refusal": None, "name": "bot"},
            {"role": "user", "content": [{"type": "text", "text": "And storms?"}]},
        ],
        temperature=2,
        top_p=0,
        frequency_penalty=1,
        presence_penalty=-1,
        logit_bias={"50256": -100},
        logprobs=True,
        top_logprobs=2,
        metadata={"team": "sails"},
        modalities=["text"],
        parallel_tool_calls=True,
        prediction={"type": "content", "content": "Storms are"},
        prompt_cache_key="sails",
        prompt_cache_retention="24h",
        reasoning_effort="none",
        safety_identifier="someone",
        seed=-7,
        service_tier="flex",
        store=False,
        user="ann",
        verbosity="low",
        tools=[WEATHER],
        tool_choice="none",
        stop=["\n\n\n"],
    )
    assert whole.choices[0].message.content
    [sent] = surface.sent()
    roles = [message["role"] for message in sent["messages"]]
    first = "developer" if sent["model"].startswith("gpt") else "system"
    assert roles == [first, "user", "assistant", "user"]


@pytest.mark.parametrize("model", ["mistral-medium-latest", "mistral-large-4"])
async def test_thinking_is_text_beside_the_content_whole_and_streamed(openai_caller, model):
    asked = {"model": model, "messages": ASKED, "reasoning_effort": "high"}
    whole = await openai_caller.create(**asked)
    message = whole.choices[0].message
    assert isinstance(message.content, str) and message.content
    assert isinstance(message.reasoning_content, str) and message.reasoning_content
    chunks = await openai_caller.stream(**asked)
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    thought = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert thought == message.reasoning_content
    assert all(d.content is None or isinstance(d.content, str) for d in deltas)
    assert text_of(chunks) == message.content


async def test_thinking_may_be_given_back(openai_caller, surface):
    asked = {"model": "mistral-medium-latest", "reasoning_effort": "high"}
    whole = await openai_caller.create(messages=ASKED, **asked)
    message = whole.choices[0].message.model_dump(exclude_unset=True)
    again = await openai_caller.create(
        messages=[*ASKED, message, {"role": "user", "content": "And upwind?"}], **asked
    )
    assert again.choices[0].message.content
    told = surface.sent()[-1]["messages"][1]["content"]
    assert [part["type"] for part in told] == ["thinking", "text"]


async def test_hidden_reasoning_is_counted(openai_caller):
    asked = {"model": REASONING_GPT, "messages": ASKED, "reasoning_effort": "high"}
    whole = await openai_caller.create(**asked)
    details = whole.usage.completion_tokens_details
    assert details.reasoning_tokens > 0
    chunks = await openai_caller.stream(stream_options={"include_usage": True}, **asked)
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == details.reasoning_tokens


async def test_models_are_listed_and_found_by_any_spelling(openai_caller):
    listed = [model.id for model in await openai_caller.models()]
    assert {"auto", MISTRAL, GPT} <= set(listed)
    assert len(listed) == len(set(listed))
    for name in ("auto", MISTRAL, f"mistral/{MISTRAL}", f"openai/{GPT}"):
        assert (await openai_caller.model(name)).id == name


async def test_a_model_may_be_asked_for_by_provider(openai_caller, surface):
    whole = await openai_caller.create(model=f"openai/{GPT}", messages=ASKED)
    assert whole.choices[0].message.content
    assert surface.sim.tape[-1].target == "/openai/v1/chat/completions"


@pytest.mark.parametrize("model", [MISTRAL, GPT])
async def test_a_stream_closed_early_stops_the_provider(openai_caller, surface, model):
    asked = [{"role": "user", "content": "Explain sailing at length !slow 20"}]
    stream = await openai_caller.create(model=model, messages=asked, stream=True)
    if openai_caller.is_async:
        await anext(stream)
        await stream.close()
    else:
        next(stream)
        stream.close()
    assert surface.ended.next().status == 499
    surface.until(lambda: surface.sim.tape[-1].disconnected_at is not None)
    row = surface.sim.bill.rows[-1]
    assert row.aborted and row.delivered_tokens < 20


@pytest.mark.parametrize("store", [None, True])
@EVERY_MODEL
async def test_tags_in_metadata_are_refused_by_no_provider(openai_caller, surface, model, store):
    for tags in ("nightly,eval", ["nightly", "eval"]):
        metadata = {"tags": tags, "team": "sails"}
        await openai_caller.create(model=model, messages=ASKED, metadata=metadata, store=store)
    assert surface.refusals() == []


async def test_a_stop_word_goes_to_no_model_that_refuses_them(openai_caller):
    with pytest.raises(openai.BadRequestError, match="stop: gpt-5-mini does not take it"):
        await openai_caller.create(model="gpt-5-mini", messages=ASKED, stop=["x"])
