"""The Mistral dialect over a socket: shapes, streams, errors and limits."""

import json

import pytest

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
MAGIC = "What is the value of magic_function(3)? Use the tool."


async def test_json_answer_has_the_captured_shape(start, ask, chat):
    said = await ask(await start(), chat("Explain how sailing boats use wind"))
    body = said.json
    assert said.status == 200
    assert said.header("content-type") == "application/json"
    assert said.header("mistral-correlation-id") == said.header("x-kong-request-id")
    assert said.header("x-ratelimit-limit-req-minute")
    assert "__cf_bm" in str(said.header("set-cookie"))
    assert body["model"] == "mistral-small-latest"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert "sailing" in said.text.lower() or "wind" in said.text.lower()
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_stream_says_the_same_as_json_and_ends_with_usage(start, ask, chat):
    simulator = await start()
    whole = await ask(simulator, chat("Explain how sailing boats use wind"))
    said = await ask(simulator, chat("Explain how sailing boats use wind", stream=True))
    assert said.header("content-type") == "text/event-stream; charset=utf-8"
    assert said.text == whole.text
    events = said.events
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["usage"] == whole.json["usage"]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("finish_reason" in e["choices"][0] for e in events)
    assert said.body.endswith(b"data: [DONE]\n\n")


async def test_chunks_can_carry_more_tokens(start, ask, chat):
    one = await ask(await start(), chat("Tell me about rivers", stream=True))
    four = await ask(await start(chunk_tokens=4), chat("Tell me about rivers", stream=True))
    assert one.text == four.text
    assert len(four.events) < len(one.events) / 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_comes_whole_and_without_type(start, ask, chat, stream):
    said = await ask(await start(), chat(MAGIC, tools=[TOOL], stream=stream))
    if stream:
        calls = [e["choices"][0]["delta"].get("tool_calls") for e in said.events]
        calls = [one for one in calls if one]
        assert len(calls) == 1
        call = calls[0][0]
        assert said.events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        call = said.json["choices"][0]["message"]["tool_calls"][0]
    assert set(call) == {"id", "function", "index"}
    assert len(call["id"]) == 9
    assert json.loads(call["function"]["arguments"]) == {"input": 3}


async def test_a_tool_result_is_used_in_text(start, ask, chat):
    simulator = await start()
    first = (await ask(simulator, chat(MAGIC, tools=[TOOL]))).json["choices"][0]["message"]
    call = first["tool_calls"][0]
    body = chat(MAGIC, tools=[TOOL])
    body["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "it is 42", "tool_call_id": call["id"]},
    ]
    said = await ask(simulator, body)
    assert said.json["choices"][0]["finish_reason"] == "stop"
    assert "it is 42" in said.text


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_shows_a_thinking_chunk_before_the_text(start, ask, chat, stream):
    body = chat("Explain wind", model="mistral-medium-latest", reasoning_effort="high")
    said = await ask(await start(), {**body, "stream": stream})
    if stream:
        contents = [e["choices"][0]["delta"]["content"] for e in said.events]
        assert contents[1][0]["type"] == "thinking"
        assert isinstance(contents[-2], str)
    else:
        content = said.json["choices"][0]["message"]["content"]
        assert [part["type"] for part in content] == ["thinking", "text"]
        assert content[0]["thinking"][0]["type"] == "text"


async def test_limits_on_the_answer_are_honored(start, ask, chat):
    simulator = await start()
    full = await ask(simulator, chat("Explain how sailing boats use wind"))
    cut = await ask(simulator, chat("Explain how sailing boats use wind", max_tokens=5))
    assert full.text.startswith(cut.text)
    assert cut.json["choices"][0]["finish_reason"] == "length"
    assert cut.json["usage"]["completion_tokens"] == 5
    stop = full.text[20:24]
    stopped = await ask(simulator, chat("Explain how sailing boats use wind", stop=[stop]))
    assert stopped.text == full.text[: full.text.index(stop)]
    two = await ask(simulator, chat("Explain how sailing boats use wind", n=2))
    texts = [choice["message"]["content"] for choice in two.json["choices"]]
    assert texts[0] == full.text
    assert len(texts) == 2


async def test_a_prefix_begins_the_answer(start, ask, chat):
    body = chat("Name a color")
    body["messages"].append({"role": "assistant", "content": "The color is ", "prefix": True})
    assert (await ask(await start(), body)).text.startswith("The color is ")


async def test_answers_repeat_by_seed(start, ask, chat):
    one = await ask(await start(seed=1), chat("Explain how sailing boats use wind"))
    same = await ask(await start(seed=1), chat("Explain how sailing boats use wind"))
    other = await ask(await start(seed=2), chat("Explain how sailing boats use wind"))
    asked = await ask(
        await start(seed=1), chat("Explain how sailing boats use wind", random_seed=5)
    )
    assert one.text == same.text
    assert len({one.text, other.text, asked.text}) == 3
    assert one.json["id"] == same.json["id"]


REFUSED = [
    ("extra field", {"max_completion_tokens": 5}, 422, "extra_forbidden"),
    ("temperature over the limit", {"temperature": 1.6}, 422, "less_than_equal"),
    ("top_p of zero", {"top_p": 0}, 422, "greater_than"),
    ("seed as a word", {"random_seed": "x"}, 422, "int_type"),
    ("no messages", {"messages": None}, 422, "missing"),
    (
        "name on a user message",
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        422,
        "extra_forbidden",
    ),
    (
        "tool without parameters",
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        422,
        "missing",
    ),
    (
        "bad tool name",
        {"tools": [{"type": "function", "function": {"name": "a b", "parameters": {}}}]},
        422,
        "string_pattern_mismatch",
    ),
    ("too many tools", {"tools": [TOOL] * 129}, 422, "too_long"),
    (
        "foreign role",
        {"messages": [{"role": "developer", "content": "x"}]},
        422,
        "union_tag_invalid",
    ),
    ("unknown model", {"model": "mistral-huge"}, 400, "1500"),
    ("retired model", {"model": "magistral-medium-latest"}, 400, "1500"),
    (
        "assistant last",
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        400,
        "3230",
    ),
    ("context overflow", {"model": "voxtral-small-latest", "max_tokens": 40_000}, 400, "3051"),
]


@pytest.mark.parametrize(
    "schema", [{"properties": 5}, {"properties": {"a": 5}, "required": 5}, {"required": [{}]}]
)
async def test_a_broken_schema_is_refused_in_words_of_the_service(start, ask, chat, schema):
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    said = await ask(await start(), chat("x", tools=[tool], tool_choice="any"))
    assert said.status == 400
    assert said.json["message"].startswith("The request cannot be understood: ")
    assert "Error" not in said.json["message"] and "'int'" not in said.json["message"]


@pytest.mark.parametrize(
    ("changes", "status", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
async def test_strict_mode_refuses_as_the_service_does(start, ask, chat, changes, status, code):
    simulator = await start()
    said = await ask(simulator, {**chat("hello"), **changes})
    assert said.status == status
    body = said.json
    if status == 400:
        assert body["code"] == code
        assert body["object"] == "error"
    else:
        detail = body["message"]["detail"] if code == "extra_forbidden" else body["detail"]
        assert detail[0]["type"] == code
        assert detail[0]["loc"][0] == "body"
    assert simulator.bill.total_nano_usd == 0


async def test_foreign_tool_call_ids_are_refused(start, ask, chat):
    body = chat("x")
    call = {"id": "call_123", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "y", "tool_call_id": "call_123"},
    ]
    said = await ask(await start(), body)
    assert (said.status, said.json["code"]) == (400, "3280")
    assert said.json["message"].startswith("Tool call id was call_123 but must be")


async def test_unanswered_calls_are_refused(start, ask, chat):
    body = chat("x")
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}
    body["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "never mind"},
    ]
    assert (await ask(await start(), body)).json["code"] == "3230"


async def test_lax_mode_lets_foreign_fields_pass(start, ask, chat):
    said = await ask(await start(strict=False), chat("hello", user="me", max_completion_tokens=3))
    assert said.status == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"mistral-small-latest","model":"x","messages":[{"role":"user","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"a","content" :"b"}],"model":"codestral-latest"}',
        b'{"model":"mistral-small-latest","messages":[],"temperature":NaN}',
        b'{"model":',
    ],
)
async def test_ambiguous_bodies_are_refused_and_recorded(start, ask, body):
    simulator = await start()
    assert (await ask(simulator, body)).status == 422
    assert len(simulator.violations) == 1


async def test_keys_are_checked(start, ask, chat):
    simulator = await start(api_keys=frozenset({"right"}))
    assert (await ask(simulator, chat("x"), key="right")).status == 200
    for key in ("wrong", None):
        said = await ask(simulator, chat("x"), key=key)
        assert (said.status, said.json) == (401, {"detail": "Unauthorized"})
    openai = await ask(simulator, chat("x"), key="wrong", path="/openai/v1/chat/completions")
    assert openai.json["error"]["code"] == "invalid_api_key"


async def test_requests_per_minute_are_limited_per_key(start, ask, chat):
    simulator = await start(requests_per_minute=2)
    said = [await ask(simulator, chat("x")) for _ in range(3)]
    assert [one.status for one in said] == [200, 200, 429]
    assert said[2].json == {
        "object": "error",
        "message": "Rate limit exceeded",
        "type": "rate_limited",
        "param": None,
        "code": "1300",
        "raw_status_code": 429,
    }
    assert said[2].header("x-ratelimit-remaining-req-minute") == "0"
    assert said[2].header("retry-after")
    assert (await ask(simulator, chat("x"), key="another")).status == 200


async def test_a_key_without_allowance_is_told_so(start, ask, chat):
    said = await ask(await start(requests_per_minute=0), chat("x"))
    assert said.status == 429
    assert said.header("x-ratelimit-limit-req-minute") == "0"
    assert said.header("retry-after") is None


async def test_tokens_per_minute_are_limited(start, ask, chat):
    simulator = await start(tokens_per_minute=120)
    statuses = [(await ask(simulator, chat("Explain wind"))).status for _ in range(4)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


async def test_a_cache_key_makes_a_repeated_prefix_cheap(start, ask, chat):
    simulator = await start()
    long = "The harbor lies below the town. " * 40
    cached = []
    for _ in range(2):
        said = await ask(simulator, chat(long, prompt_cache_key="a"))
        cached.append(said.json["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == 0
    assert cached[1] > 0
    assert cached[1] % 64 == 0
    row = simulator.bill.rows[1]
    fresh = row.input_tokens - cached[1]
    assert row.nano_usd == fresh * 150 + cached[1] * 15 + row.output_tokens * 600


async def test_embeddings_are_unit_vectors_and_alike_for_like_texts(start, ask):
    body = {"model": "mistral-embed", "input": ["red boats sail", "red boats float", "tax law"]}
    said = await ask(await start(), body, path="/v1/embeddings")
    one, like, unlike = (row["embedding"] for row in said.json["data"])
    assert len(one) == 1024
    assert abs(sum(x * x for x in one) - 1) < 1e-4

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(one, like) > 0.5 > dot(one, unlike)


async def test_fill_in_the_middle_and_models(start, ask):
    simulator = await start()
    body = {"model": "codestral-latest", "prompt": "def f():", "suffix": "f()"}
    assert "return" in (await ask(simulator, body, path="/v1/fim/completions")).text
    models = await ask(simulator, path="/v1/models", method="GET")
    names = {card["id"] for card in models.json["data"]}
    assert {"mistral-small-latest", "mistral-large-4", "mistral-embed"} <= names
    one = await ask(simulator, path="/v1/models/mistral-large-4", method="GET")
    assert one.json["max_context_length"] == 1_048_576
    assert (await ask(simulator, path="/v1/models/none", method="GET")).status == 404
    assert (await ask(simulator, path="/v1/nothing", method="GET")).status == 404
