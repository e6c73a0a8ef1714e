"""Anthropic behind the gateway, over real sockets: callers of both dialects, tools, thinking, the prompt
cache, faults, and callers who leave. What the ledger says of an exact attempt is what the provider's own
meter says, to the nano-dollar; what it says of any other is never less.
"""

import json
import socket
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import openai
import pytest
from mistralai.client import Mistral
from tests.surface.served import WAIT_S, Served, chat, raw_request, serving

from windvane.config.schema import AuthConfig, BudgetConfig, KeyConfig, LimitsConfig
from windvane.core.ledger import LedgerEntry
from windvane.core.routing.table import Route
from windvane.core.usage import Certainty
from windvane.simulator import SimulatorConfig

KEY, POOR, TERSE = "sk-plain-key", "sk-poor-key", "sk-terse-key"
OWN = "sk-ant-of-the-caller"
NEW, OLD, BETWEEN = "claude-sonnet-5-5", "claude-haiku-4-5", "claude-sonnet-4-6"
TOOL = {
    "type": "function",
    "function": {
        "name": "wind_at",
        "description": "The wind at a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
        },
    },
}
QUESTION = {"role": "user", "content": "What is the wind at Marseille?"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    keys = (
        KeyConfig(key=KEY, name="plain"),
        KeyConfig(key=POOR, name="poor", budget=BudgetConfig(total=Decimal("0.05"))),
        KeyConfig(key=TERSE, name="terse", output_tokens_max=7),
    )
    with serving(
        SimulatorConfig(),
        auth=AuthConfig(keys=keys, passthrough="anthropic"),
        limits=LimitsConfig(body_bytes_max=2 * 1024 * 1024),
        routes={"two": Route(otherwise=NEW, fallbacks=("mistral-small-latest",))},
    ) as running:
        running.headers["authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def only_this_tests_attempts(served: Served) -> None:
    served.seen.settled.clear()
    served.engine.room.forget()


def settled(served: Served, attempts: int = 1) -> list[LedgerEntry]:
    served.until(lambda: len(served.seen.settled) >= attempts, "settling")
    return [event.entry for event in served.seen.settled]


def check_against_the_bill(served: Served, attempts: int = 1) -> list[LedgerEntry]:
    """The attempts; each is on the provider's meter, and costs what it says there or more."""
    entries = settled(served, attempts)
    served.until(
        lambda: {each.attempt_id for each in entries} <= served.sim.bill.by_attempt().keys(), "bill"
    )
    rows = served.sim.bill.by_attempt()
    for entry in entries:
        billed = rows[entry.attempt_id].nano_usd
        assert entry.cost_nano_usd is not None and entry.hold_nano_usd is not None
        if entry.certainty is Certainty.EXACT:
            assert entry.cost_nano_usd == billed, entry
        assert billed <= entry.cost_nano_usd <= entry.hold_nano_usd, entry
    return entries


def last_sent(served: Served) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(served.sim.tape[-1].body)
    return body


def test_a_whole_answer(served: Served, client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model=NEW,
        messages=[{"role": "system", "content": "Be brief."}, QUESTION],
        max_completion_tokens=60,
        stop=["END"],
        temperature=0.3,
        user="u-1",
    )
    assert said.choices[0].message.content and said.choices[0].finish_reason in ("stop", "length")
    (entry,) = check_against_the_bill(served)
    assert said.usage is not None
    assert (entry.input_tokens, entry.output_tokens) == (
        said.usage.prompt_tokens,
        said.usage.completion_tokens,
    )
    assert entry.certainty is Certainty.EXACT
    assert (entry.upstream_request_id or "").startswith("req_")
    sent = last_sent(served)
    assert sent["system"] == "Be brief." and sent["messages"] == [QUESTION]
    assert (sent["max_tokens"], sent["stop_sequences"]) == (60, ["END"])
    assert "temperature" not in sent


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream(served: Served, client: openai.OpenAI, include_usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    stream = client.chat.completions.create(model=NEW, messages=[QUESTION], stream=True, **options)
    chunks = list(stream)
    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    whole = client.chat.completions.create(model=NEW, messages=[QUESTION])
    assert text == whole.choices[0].message.content
    told = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(told) == 1 and whole.usage is not None
    assert told[0].total_tokens == whole.usage.total_tokens
    first, second = check_against_the_bill(served, 2)
    assert first.cost_nano_usd == second.cost_nano_usd
    assert first.certainty is Certainty.EXACT


@pytest.mark.parametrize("stream", [False, True])
def test_tools_called_and_answered(served: Served, client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": NEW, "tools": [TOOL], "tool_choice": "required"}
    if stream:
        with client.chat.completions.stream(messages=[QUESTION], **asked) as events:
            kinds = [event.type for event in events]
            answer = events.get_final_completion().choices[0]
        assert "tool_calls.function.arguments.done" in kinds
    else:
        answer = client.chat.completions.create(messages=[QUESTION], **asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert json.loads(call.function.arguments) == {"place": "Marseille"}
    talk: Any = [
        QUESTION,
        answer.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "32 knots, gusts"},
    ]
    told = client.chat.completions.create(model=NEW, messages=talk, tools=[TOOL])
    assert "32 knots" in (told.choices[0].message.content or "")
    check_against_the_bill(served, 2)


@pytest.mark.parametrize("model", [BETWEEN, OLD, NEW])
@pytest.mark.parametrize("stream", [False, True])
def test_signed_thinking_survives_a_loop_of_tools(
    served: Served, client: openai.OpenAI, model: str, stream: bool
) -> None:
    """The provider refuses thinking that comes back changed, and one model's calls without any."""
    asked: Any = {"model": model, "tools": [TOOL], "reasoning_effort": "high"}
    if stream:
        with client.chat.completions.stream(messages=[QUESTION], **asked) as events:
            list(events)
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(messages=[QUESTION], **asked).choices[0].message
    said = message.model_dump(exclude_none=True)
    (block,) = said["thinking_blocks"]
    assert block["signature"]
    shown = {} if model == NEW else {"reasoning_content": block["thinking"]}
    assert {name: said[name] for name in said if name == "reasoning_content"} == shown
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "32 knots"}
    told = client.chat.completions.create(messages=[QUESTION, said, result], **asked)
    assert told.choices[0].message.content
    sent = last_sent(served)
    assert sent["messages"][1]["content"][0] == block
    entries = check_against_the_bill(served, 2)
    assert entries[0].reasoning_output_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_callers_of_mistrals_dialect(served: Served, stream: bool) -> None:
    http = httpx2.Client()
    with http, Mistral(server_url=served.url, api_key=KEY, client=http) as mistral:
        asked: Any = {"model": BETWEEN, "messages": [QUESTION], "reasoning_effort": "high"}
        if stream:
            with mistral.chat.stream(**asked) as events:
                chunks = [event.data for event in events]
            usage = chunks[-1].usage
            said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
            assert any(isinstance(each, list) and each[0].type == "thinking" for each in said)
        else:
            answer = mistral.chat.complete(**asked)
            usage = answer.usage
            assert [part.type for part in answer.choices[0].message.content] == ["thinking", "text"]
    (entry,) = check_against_the_bill(served)
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        entry.input_tokens,
        entry.output_tokens,
    )


@pytest.mark.parametrize("stream", [False, True])
def test_calls_have_mistrals_ids_for_callers_of_mistrals_dialect(
    served: Served, stream: bool
) -> None:
    """Its own libraries refuse any other; what comes back with them is the same conversation."""
    http = httpx2.Client()
    with http, Mistral(server_url=served.url, api_key=KEY, client=http) as mistral:
        asked: Any = {"model": NEW, "tools": [TOOL]}
        if stream:
            with mistral.chat.stream(messages=[QUESTION], tool_choice="any", **asked) as events:
                deltas = [event.data.choices[0].delta for event in events if event.data.choices]
            calls = [call for delta in deltas for call in delta.tool_calls or ()]
        else:
            said = mistral.chat.complete(messages=[QUESTION], tool_choice="any", **asked)
            calls = said.choices[0].message.tool_calls
        (call,) = calls
        assert len(call.id) == 9 and call.id.isalnum()
        talk: Any = [
            QUESTION,
            {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "32 knots"},
        ]
        told = mistral.chat.complete(messages=talk, **asked)
    assert "32 knots" in told.choices[0].message.content
    assert last_sent(served)["messages"][1]["content"][0]["id"] == call.id
    check_against_the_bill(served, 2)


def marked(text: str, ttl: str | None, question: str = "Which way does it blow?") -> Any:
    control = {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})
    parts = [{"type": "text", "text": text, "cache_control": control}]
    return [{"role": "system", "content": parts}, {"role": "user", "content": question}]


@pytest.mark.parametrize(("ttl", "permille"), [(None, 1_250), ("5m", 1_250), ("1h", 2_000)])
def test_the_prompt_cache_is_written_at_its_price_and_read_at_its_own(
    served: Served, client: openai.OpenAI, ttl: str | None, permille: int
) -> None:
    preamble = f"The wind, kept for {ttl}. " * 500
    asked: Any = {"model": NEW, "max_tokens": 5}
    first = client.chat.completions.create(messages=marked(preamble, ttl), **asked)
    again = client.chat.completions.create(messages=marked(preamble, ttl, "And why?"), **asked)
    written, read = check_against_the_bill(served, 2)
    assert written.cache_creation_input_tokens > 2_500 and not written.cache_read_input_tokens
    assert read.cache_read_input_tokens == written.cache_creation_input_tokens
    assert not read.cache_creation_input_tokens
    fresh = written.input_tokens - written.cache_creation_input_tokens
    assert written.cost_nano_usd == (
        fresh * 2_000 + written.cache_creation_input_tokens * 2 * permille + 5 * 10_000
    )
    assert first.usage is not None and first.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cache_write_tokens == (
        written.cache_creation_input_tokens
    )
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == read.cache_read_input_tokens


def test_a_long_context_costs_more_and_what_is_cached_counts_for_its_length(
    served: Served, client: openai.OpenAI
) -> None:
    for _ in range(2):
        client.chat.completions.create(
            model="claude-haiku-5-5",
            messages=marked("The wind blows. " * 26_000, "1h"),
            max_tokens=3,
        )
    written, read = check_against_the_bill(served, 2)
    assert written.input_tokens > 100_000 and read.cache_read_input_tokens > 100_000
    assert (written.cost_nano_usd or 0) > 100_000 * 1_000


WHOLE_FAULTS = [
    ("!error 400", 400), ("!error 401", 502), ("!error 402", 402), ("!error 403", 403),
    ("!error 404", 404), ("!error 429 retry-after=1", 429), ("!error 429 shape=quota", 429),
    ("!error 500", 502), ("!error 529", 503), ("!error 504", 504), ("!html", 502), ("!redirect", 502),
    ("!reset", 502), ("!garbage", 502), ("!truncated", 502), ("!gzip", 502), ("!error-event", 502),
    ("!usage-missing", 200), ("!usage-zero", 200), ("!bytewise", 200), ("!late 10", 200),
    ("!refuse", 200), ("!empty", 200), ("!loop 20", 200), ("!badjson", 200),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "status"), WHOLE_FAULTS, ids=[row[0] for row in WHOLE_FAULTS])
def test_a_fault_of_a_whole_answer(served: Served, fault: str, status: int) -> None:
    reply = served.ask(chat(f"Say wind. {fault}", model=NEW))
    assert reply.status == status
    if status != 200:
        assert reply.json["error"]["message"]
    elif fault == "!refuse":
        assert reply.json["choices"][0]["finish_reason"] == "content_filter"
    if fault != "!redirect":
        check_against_the_bill(served)


STREAM_FAULTS = {
    "!crlf": True, "!bytewise": True, "!comments": True, "!no-done": True, "!slow 1": True,
    "!usage-missing": True, "!usage-zero": True, "!refuse": True, "!loop 30": True,
    "!cut 3": False, "!cut-clean 3": False, "!error-event 3 !slow 5": False, "!truncated": True,
}  # fmt: skip


@pytest.mark.parametrize(("fault", "is_whole"), STREAM_FAULTS.items())
def test_a_fault_of_a_stream(served: Served, fault: str, is_whole: bool) -> None:
    """A stream that dies ends with an error, never like a good one; one whose answer is whole is good,
    whatever may be wrong behind it."""
    reply = served.ask(chat(f"Say wind. {fault}", model=NEW, stream=True))
    events = [line for line in reply.body.split(b"\n\n") if line]
    assert reply.status == 200
    assert (events[-1] == b"data: [DONE]") is is_whole
    if not is_whole:
        assert json.loads(events[-1].removeprefix(b"data: "))["error"]["message"]
    check_against_the_bill(served)


@pytest.mark.parametrize(
    "fault", ["!error 529", "!garbage", "!error-event 0", "!error-event 3", "!wrong-type", "!cut 0"]
)
def test_a_stream_that_fails_before_its_first_word_has_a_status(served: Served, fault: str) -> None:
    reply = served.ask(chat(f"Say wind. {fault}", model=NEW, stream=True))
    assert reply.status in (502, 503)
    check_against_the_bill(served)


def leave_after(served: Served, body: dict[str, Any], sign: bytes) -> None:
    """Ask, and be gone as soon as `sign` has come."""
    request = raw_request(json.dumps(body).encode(), f"authorization: Bearer {KEY}")
    came = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=WAIT_S) as connection:
        connection.sendall(request)
        while sign not in came:
            piece = connection.recv(65536)
            assert piece, came
            came += piece


def test_a_caller_who_leaves_pays_for_input_to_the_token_and_for_output_by_estimate(
    served: Served,
) -> None:
    body = chat("Say wind. !loop 200 !slow 20", model=NEW, stream=True)
    leave_after(served, body, b"and ")
    (entry,) = check_against_the_bill(served)
    row = served.sim.bill.by_attempt()[entry.attempt_id]
    assert (entry.outcome, entry.certainty) == ("cancelled", Certainty.ESTIMATED)
    assert entry.input_tokens == row.input_tokens
    assert row.output_tokens <= entry.output_tokens < 300
    assert row.aborted


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_of_ours_leaves_room_for_the_thinking_that_was_asked_for(
    served: Served, stream: bool
) -> None:
    """What a budget covers, or a key may have, is less than the tokens to think in: Anthropic would refuse
    that, and blame the caller."""
    thinking = {"type": "enabled", "budget_tokens": 15_000}
    asked = chat("Why?", model=OLD, max_tokens=20_000, thinking=thinking, stream=stream)
    poor = served.ask(asked, authorization=f"Bearer {POOR}")
    assert poor.status == 200, poor.body
    told = json.loads(served.sim.tape[-1].body)
    assert told["max_tokens"] == int(poor.headers["x-windvane-max-tokens"]) < 15_000
    assert told["thinking"]["budget_tokens"] == told["max_tokens"] // 2
    terse = served.ask(asked, authorization=f"Bearer {TERSE}")
    assert terse.status == 200, terse.body
    told = json.loads(served.sim.tape[-1].body)
    assert told["max_tokens"] == 7 and "thinking" not in told


def test_a_caller_who_asks_for_more_thinking_than_answer_is_told_so(served: Served) -> None:
    thinking = {"type": "enabled", "budget_tokens": 4_000}
    wrong = chat("Why?", model=OLD, max_tokens=3_000, thinking=thinking)
    before = len(served.sim.tape)
    refused = served.ask(wrong)
    assert (refused.status, refused.json["error"]["param"]) == (400, "thinking.budget_tokens")
    assert "must be less than max_tokens" in refused.message
    assert len(served.sim.tape) == before


def test_thinking_that_is_not_shown_is_paid_in_full_by_a_caller_who_leaves(
    served: Served,
) -> None:
    asked = chat("Say wind. !slow 5", model=NEW, stream=True, max_tokens=300)
    leave_after(served, {**asked, "reasoning_effort": "high"}, b'"content":"Wind')
    (entry,) = check_against_the_bill(served)
    assert (entry.outcome, entry.certainty) == ("cancelled", Certainty.ASSUMED)
    assert entry.cost_nano_usd == entry.hold_nano_usd


def test_under_a_budget_every_request_is_held_for_what_it_could_cost_at_most(
    served: Served,
) -> None:
    poor = {"authorization": f"Bearer {POOR}"}
    asked = chat("What is the wind at Marseille?", model=NEW, tools=[TOOL], stream=True)
    assert served.ask(asked, **poor).status == 200
    (entry,) = check_against_the_bill(served)
    assert entry.input_tokens > 346, "tools cost a prompt of the provider's own"
    assert 0 < last_sent(served)["max_tokens"] < 20_000
    refused = served.ask({**asked, "max_tokens": 10}, **poor)
    assert refused.status == 200, "what was held is free again"
    reply = served.ask(chat("x", model=NEW, service_tier="auto"), **poor)
    assert (reply.status, reply.json["error"]["code"]) == (403, "unpriceable")


@pytest.mark.parametrize(("asked", "sent"), [(None, 7), (0, 7), (5, 5), (8, 7), (900_000, 7)])
def test_a_key_says_how_long_an_answer_may_be(served: Served, asked: int | None, sent: int) -> None:
    """Zero tokens are no way around it: they mean no limit."""
    more = {} if asked is None else {"max_tokens": asked}
    body = chat("Say wind.", model=NEW, **more)
    assert served.ask(body, authorization=f"Bearer {TERSE}").status == 200
    assert last_sent(served)["max_tokens"] == sent
    check_against_the_bill(served)


def test_a_callers_own_key_goes_where_anthropic_looks_for_it(served: Served) -> None:
    reply = served.ask(chat(model=NEW), authorization=f"Bearer {OWN}")
    assert reply.status == 200
    headers = {name.lower(): value for name, value in served.sim.tape[-1].headers}
    assert b"x-api-key" in headers and b"authorization" not in headers
    assert headers[b"anthropic-version"] == b"2023-06-01"
    assert OWN not in repr(served.seen.settled)


def test_what_cannot_be_said_to_anthropic_is_asked_of_the_next(served: Served) -> None:
    asked = chat("Say wind.", n=2)
    alone = served.ask({**asked, "model": NEW})
    assert (alone.status, alone.json["error"]["param"]) == (400, "n")
    routed = served.ask({**asked, "model": "two"})
    assert routed.status == 200 and len(routed.json["choices"]) == 2
    assert routed.headers["x-router-model"].startswith("mistral-small")
    (entry,) = check_against_the_bill(served)
    assert entry.provider == "mistral"


@pytest.mark.parametrize(
    "unsayable", [{"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}]
)
def test_what_cannot_be_said_is_told_of_before_it_is_asked(
    served: Served, unsayable: dict[str, Any]
) -> None:
    """The explanation is what the request itself comes to: its model, and its error."""
    asked = chat("Say wind.", **unsayable)
    alone = served.ask({**asked, "model": NEW})
    explained = served.ask({**asked, "model": NEW}, path="/v1/route")
    assert alone.status == explained.status == 400
    told, foretold = alone.json["error"], explained.json["error"]
    assert (foretold["param"], foretold["code"]) == (told["param"], told["code"])

    plan = served.ask({**asked, "model": "two"}, path="/v1/route").json
    assert (plan["model"], plan["provider"]) == ("mistral-small-latest", "mistral")
    assert [each["model"] for each in plan["candidates"]] == ["mistral-small-latest"]
    (out,) = plan["ruled_out"]
    assert out["model"] == NEW
    assert out["why"].startswith(told["param"])
    said = served.ask({**chat("Say wind."), "model": "two"}, path="/v1/route").json
    assert (said["model"], said["ruled_out"]) == (NEW, [])
    assert not served.seen.settled


def test_schemas_and_pictures_are_taken(served: Served, client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"knots": {"type": "integer", "minimum": 0}, "from": {"type": "string"}},
        "required": ["knots", "from"],
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "wind", "schema": schema}}
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    said = client.chat.completions.create(
        model=NEW,
        messages=[{"role": "user", "content": [{"type": "text", "text": "The wind?"}, picture]}],
        response_format=form,
    )
    assert json.loads(said.choices[0].message.content or "").keys() == {"knots", "from"}
    (entry,) = check_against_the_bill(served)
    assert entry.input_tokens > 256


def test_nothing_was_sent_that_no_well_behaved_client_sends(served: Served) -> None:
    assert served.sim.violations == []
    refused = [entry for entry in served.sim.tape if entry.status == 400 and not entry.faults]
    assert refused == []
