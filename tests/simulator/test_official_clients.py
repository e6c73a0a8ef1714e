"""The vendors' own SDKs, pointed straight at the simulator, find nothing amiss."""

import asyncio

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

TOOL = {
    "type": "function",
    "function": {
        "name": "magic_function",
        "description": "Apply a magic function to an input.",
        "parameters": {
            "type": "object",
            "properties": {"input": {"type": "integer"}},
            "required": ["input"],
        },
    },
}
ASKED = [{"role": "user", "content": "Explain how sailing boats use wind"}]
MAGIC = [{"role": "user", "content": "What is the value of magic_function(3)? Use the tool."}]


async def test_mistralai(start):
    simulator = await start()
    async with Mistral(server_url=simulator.url, api_key="k") as client:
        whole = await client.chat.complete_async(model="mistral-small-latest", messages=ASKED)
        text = whole.choices[0].message.content
        stream = await client.chat.stream_async(model="mistral-small-latest", messages=ASKED)
        chunks = [event.data async for event in stream]
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) == text
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
        called = await client.chat.complete_async(
            model="mistral-small-latest", messages=MAGIC, tools=[TOOL], tool_choice="any"
        )
        assert called.choices[0].message.tool_calls[0].function.arguments == '{"input":3}'
        thought = await client.chat.complete_async(
            model="mistral-medium-latest", messages=ASKED, reasoning_effort="high"
        )
        assert thought.choices[0].message.content[0].type == "thinking"
        vectors = await client.embeddings.create_async(model="mistral-embed", inputs=["a", "b"])
        assert len(vectors.data) == 2
        filled = await client.fim.complete_async(model="codestral-latest", prompt="def f():")
        assert filled.choices[0].message.content
        assert (await client.models.list_async()).data


async def test_mistralai_errors(start):
    simulator = await start()
    async with Mistral(server_url=simulator.url, api_key="k") as client:
        with pytest.raises(HTTPValidationError):
            await client.chat.complete_async(
                model="mistral-small-latest", messages=ASKED, temperature=3
            )
        with pytest.raises(SDKError) as caught:
            await client.chat.complete_async(model="mistral-huge", messages=ASKED)
        assert caught.value.status_code == 400


async def test_openai(start):
    simulator = await start()
    async with openai.AsyncOpenAI(base_url=simulator.url + "/openai/v1", api_key="k") as client:
        create = client.chat.completions.create
        whole = await create(model="gpt-4o", messages=ASKED)
        stream = await create(model="gpt-4o", messages=ASKED, stream=True)
        chunks = [chunk async for chunk in stream]
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == whole.choices[0].message.content
        assert all(chunk.usage is None for chunk in chunks)
        options = {"include_usage": True}
        stream = await create(model="gpt-4o", messages=ASKED, stream=True, stream_options=options)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices == []
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
        vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        assert len(vectors.data[0].embedding) == 1536
        assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"


async def test_openai_tool_calls_come_in_fragments(start):
    simulator = await start()
    url = simulator.url + "/openai/v1"
    async with (
        openai.AsyncOpenAI(base_url=url, api_key="k") as client,
        client.chat.completions.stream(model="gpt-4o", messages=MAGIC, tools=[TOOL]) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    call = final.choices[0].message.tool_calls[0]
    assert len(deltas) > 1
    assert (call.type, call.function.name) == ("function", "magic_function")
    assert call.function.arguments == '{"input":3}'


async def test_openai_errors_and_hidden_reasoning(start):
    simulator = await start(requests_per_minute=1)
    url = simulator.url + "/openai/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="gpt-9", messages=ASKED)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model="gpt-5", messages=ASKED, max_tokens=5)
        assert refused.value.code == "unsupported_parameter"
        thought = await create(model="gpt-5", messages=ASKED, reasoning_effort="high")
        assert thought.usage.completion_tokens_details.reasoning_tokens > 0
        with pytest.raises(openai.RateLimitError) as limited:
            await create(model="gpt-5", messages=ASKED)
        assert limited.value.code == "rate_limit_exceeded"


async def test_openai_sees_an_error_event(start):
    simulator = await start()
    async with openai.AsyncOpenAI(base_url=simulator.url + "/openai/v1", api_key="k") as client:
        asked = [{"role": "user", "content": "Explain wind !error-event 3"}]
        stream = await client.chat.completions.create(model="gpt-4o", messages=asked, stream=True)
        with pytest.raises(openai.APIError):
            async for _ in stream:
                await asyncio.sleep(0)
