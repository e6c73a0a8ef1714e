"""The Mistral SDK, unchanged, against models of both providers. It is the strict one: it refuses
an answer that lacks a field, and ends a stream over a tool call in pieces."""

import json

import pytest
from mistralai.client.models import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from pydantic import BaseModel

MISTRAL = "mistral-small-latest"
THINKING = "mistral-medium-latest"
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
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
WEATHER_ASKED = [{"role": "user", "content": "Call get_weather for Paris"}]
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def calls_of(chunks):
    return [call for c in chunks for call in (c.choices[0].delta.tool_calls or ())]


@EVERY_MODEL
async def test_a_stream_says_what_the_whole_answer_says(mistral_caller, model):
    whole = await mistral_caller.complete(model=model, messages=ASKED)
    chunks = await mistral_caller.stream(model=model, messages=ASKED)
    assert whole.choices[0].finish_reason == "stop"
    assert text_of(chunks) == whole.choices[0].message.content != ""
    assert all(c.choices for c in chunks)
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens > 0


@EVERY_MODEL
async def test_a_tool_loop_ends_in_an_answer_from_the_result(mistral_caller, model):
    messages = list(WEATHER_ASKED)
    first = await mistral_caller.complete(model=model, messages=messages, tools=[WEATHER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    [call] = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [
        message,
        ToolMessage(content="17 degrees and windy", tool_call_id=call.id, name="get_weather"),
    ]
    second = await mistral_caller.complete(model=model, messages=messages, tools=[WEATHER])
    assert "17 degrees and windy" in second.choices[0].message.content


@EVERY_MODEL
async def test_streamed_calls_come_whole(mistral_caller, model):
    asked = [{"role": "user", "content": "Call get_weather for Paris and London"}]
    chunks = await mistral_caller.stream(
        model=model, messages=asked, tools=[WEATHER], parallel_tool_calls=True
    )
    calls = calls_of(chunks)
    assert [json.loads(c.function.arguments) for c in calls] == [
        {"city": "Paris"},
        {"city": "London"},
    ]
    assert [c.index for c in calls] == [0, 1]
    assert len({c.id for c in calls}) == 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["auto", "none", "any", "required"])
@pytest.mark.parametrize("model", [MISTRAL, GPT])
async def test_tool_choice_holds_at_both_providers(mistral_caller, model, choice):
    whole = await mistral_caller.complete(
        model=model, messages=WEATHER_ASKED, tools=[WEATHER], tool_choice=choice
    )
    assert bool(whole.choices[0].message.tool_calls) is (choice != "none")


async def test_a_tool_may_be_chosen_by_name(mistral_caller):
    whole = await mistral_caller.complete(
        model=MISTRAL,
        messages=ASKED,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    assert whole.choices[0].message.tool_calls[0].function.name == "get_weather"


@EVERY_MODEL
async def test_tool_ids_of_other_makers_are_understood(mistral_caller, surface, model):
    messages = [
        *WEATHER_ASKED,
        AssistantMessage(
            content="",
            tool_calls=[
                {
                    "id": "call_abcdefghijklmnopqrstuvwx",
                    "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
                }
            ],
        ),
        ToolMessage(content="windy", tool_call_id="call_abcdefghijklmnopqrstuvwx"),
    ]
    whole = await mistral_caller.complete(model=model, messages=messages, tools=[WEATHER])
    assert "windy" in whole.choices[0].message.content
    [sent] = surface.sent()
    assert sent["messages"][1]["tool_calls"][0]["id"] == sent["messages"][2]["tool_call_id"]


class Forecast(BaseModel):
    city: str
    knots: int


@EVERY_MODEL
async def test_parse_gives_an_object_of_the_schema(mistral_caller, model):
    asked = [{"role": "user", "content": "Forecast as JSON"}]
    parsed = await mistral_caller.parse(Forecast, model=model, messages=asked)
    assert isinstance(parsed.choices[0].message.parsed, Forecast)


@EVERY_MODEL
async def test_json_mode_gives_json(mistral_caller, model):
    whole = await mistral_caller.complete(
        model=model,
        messages=[{"role": "user", "content": 'Give JSON with "wind" and "sea"'}],
        response_format={"type": "json_object"},
    )
    assert json.loads(whole.choices[0].message.content).keys() == {"wind", "sea"}


@pytest.mark.parametrize("image", [PIXEL, {"url": PIXEL, "detail": "high"}], ids=["str", "dict"])
@EVERY_MODEL
async def test_an_image_reaches_the_model(mistral_caller, surface, model, image):
    parts = [{"type": "text", "text": "Describe"}, {"type": "image_url", "image_url": image}]
    whole = await mistral_caller.complete(
        model=model, messages=[{"role": "user", "content": parts}]
    )
    assert whole.choices[0].message.content
    [sent] = surface.sent()
    told = sent["messages"][0]["content"][1]["image_url"]
    is_openai = sent["model"].startswith("gpt")
    assert told == ({"url": PIXEL} if is_openai and image == PIXEL else image)


async def test_the_start_of_the_answer_may_be_given(mistral_caller, surface):
    messages = [*ASKED, AssistantMessage(content="Briefly: ", prefix=True)]
    whole = await mistral_caller.complete(model=MISTRAL, messages=messages)
    assert whole.choices[0].message.content.startswith("Briefly: ")
    [sent] = surface.sent()
    assert sent["messages"][-1] == {"role": "assistant", "content": "Briefly: ", "prefix": True}


@EVERY_MODEL
async def test_two_choices_come_whole_and_streamed(mistral_caller, model):
    whole = await mistral_caller.complete(model=model, messages=ASKED, n=2)
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert texts.keys() == {0, 1}
    streamed = {0: "", 1: ""}
    chunks = await mistral_caller.stream(model=model, messages=ASKED, n=2)
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert [c.usage is not None for c in chunks].count(True) == 1


@EVERY_MODEL
async def test_every_field_of_the_sdk_is_accepted(mistral_caller, surface, model):
    asked = {
        "model": model,
        "messages": [
            SystemMessage(content=[{"type": "text", "text": "Be brief."}]),
            UserMessage(content="Explain wind"),
        ],
        "temperature": 0.3,
        "top_p": 0.9,
        "max_tokens": 50,
        "stop": ["\n\n\n", "###"],
        "random_seed": 11,
        "metadata": {"team": "sails"},
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "n": 1,
        "prediction": {"type": "content", "content": "Wind is"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "sails",
        "reasoning_effort": "none",
        "safe_prompt": False,
        "response_format": {"type": "text"},
    }
    whole = await mistral_caller.complete(**asked)
    chunks = await mistral_caller.stream(**asked)
    assert text_of(chunks) == whole.choices[0].message.content
    seed = "seed" if surface.sent()[0]["model"].startswith("gpt") else "random_seed"
    assert [sent[seed] for sent in surface.sent()] == [11, 11]


async def test_thinking_is_a_list_of_parts_whole_and_streamed(mistral_caller):
    asked = {"model": THINKING, "messages": ASKED, "reasoning_effort": "high"}
    whole = await mistral_caller.complete(**asked)
    thinking, text = whole.choices[0].message.content
    assert (thinking.type, text.type) == ("thinking", "text")
    chunks = await mistral_caller.stream(**asked)
    thought, said = "", ""
    for chunk in chunks:
        content = chunk.choices[0].delta.content
        for part in content if isinstance(content, list) else ():
            thought += "".join(t.text for t in part.thinking) if part.type == "thinking" else ""
            said += part.text if part.type == "text" else ""
        said += content if isinstance(content, str) else ""
    assert thought == "".join(part.text for part in thinking.thinking) != ""
    assert said == text.text != ""


async def test_thinking_may_be_given_back(mistral_caller, surface):
    asked = {"model": THINKING, "reasoning_effort": "high"}
    whole = await mistral_caller.complete(messages=ASKED, **asked)
    again = await mistral_caller.complete(
        messages=[
            *ASKED,
            whole.choices[0].message,
            {"role": "user", "content": "And upwind?"},
        ],
        **asked,
    )
    assert again.choices[0].message.content
    told = surface.sent()[-1]["messages"][1]["content"]
    assert [part["type"] for part in told] == ["thinking", "text"]


async def test_models_are_listed_and_found_by_any_spelling(mistral_caller):
    listed = await mistral_caller.models()
    assert {"auto", MISTRAL, GPT} <= {model.id for model in listed}
    for name in ("auto", MISTRAL, f"mistral/{MISTRAL}", f"openai/{GPT}"):
        found = await mistral_caller.model(name)
        assert found.id == name
        assert found.capabilities.completion_chat


@pytest.mark.parametrize("model", [MISTRAL, GPT])
async def test_a_stream_left_early_stops_the_provider(mistral_caller, surface, model):
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": "Explain sailing at length !slow 20"}],
    }
    if mistral_caller.is_async:
        async with await mistral_caller.client.chat.stream_async(**asked) as events:
            await anext(aiter(events))
    else:
        with mistral_caller.client.chat.stream(**asked) as events:
            next(iter(events))
    assert surface.ended.next().status == 499
    surface.until(lambda: surface.sim.tape[-1].disconnected_at is not None)
    row = surface.sim.bill.rows[-1]
    assert row.aborted and row.delivered_tokens < 20
