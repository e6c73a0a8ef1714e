"""What every client relies on, item by item, read as bytes and headers rather than by an SDK."""

import http.client
import json
import re
import socket
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.surface.conftest import WAIT_S

from windvane.config.resolve import shipped_catalog

MISTRAL = "ministral-14b-latest"
THINKING = "mistral-medium-latest"
GPT = "gpt-4o-mini"
EVERY_MODEL = pytest.mark.parametrize("model", [MISTRAL, GPT])

ASKED = "Explain how sailing boats use wind"
CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
OPENAI_AGENT = {"user-agent": "OpenAI/Python 3.52.0"}
MISTRAL_AGENT = {"user-agent": "mistral-client-python/3.7.0"}
MAY_LEAVE = {
    "cache-control",
    "cache-status",
    "connection",
    "content-length",
    "content-type",
    "date",
    "deprecation",
    "mistral-correlation-id",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "server-timing",
    "sunset",
    "transfer-encoding",
    "www-authenticate",
    "x-accel-buffering",
    "x-request-id",
    "x-should-retry",
}
MAY_LEAVE_BEGIN = ("x-router-", "x-ratelimit-")


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[bytes]:
        whole, rest = self.body.split(b"\n\n")[:-1], self.body.split(b"\n\n")[-1]
        assert rest == b"", "the stream ends inside an event"
        return [frame.removeprefix(b"data: ") for frame in whole]

    @property
    def chunks(self) -> list[Any]:
        assert self.frames[-1] == b"[DONE]"
        return [json.loads(frame) for frame in self.frames[:-1]]


@pytest.fixture
def send(surface):
    """Send one request on a connection of its own, and read the answer to its end."""

    def send_one(method="POST", path="/v1/chat/completions", body=None, key=surface.key, **headers):
        address = urlsplit(surface.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=WAIT_S)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        if data is not None:
            sent.setdefault("content-type", "application/json")
        connection.request(method, path, data, sent)
        got = connection.getresponse()
        lowered = [(name.lower(), value) for name, value in got.getheaders()]
        answer = Answer(got.status, lowered, got.read())
        connection.close()
        return answer

    return send_one


@pytest.fixture
def ask(send):
    """Send one chat request."""

    def ask_one(text=ASKED, model=MISTRAL, headers=None, **more):
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return send(body=body, **(headers or {}))

    return ask_one


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_ends_says_when_though_nobody_knows_since_when(ask, stream):
    ends = shipped_catalog().resolve(GPT, date.max).retires_on
    answer = ask(model=GPT, stream=stream)
    assert parsedate_to_datetime(answer.header("sunset")).date() == ends
    assert answer.header("deprecation") is None
    assert ask(stream=stream).header("sunset") is None


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key"])
def test_a_key_may_come_in_any_of_three_headers(send, surface, name):
    value = f"Bearer {surface.key}" if name == "authorization" else surface.key
    assert send("GET", "/v1/models", key=None, **{name: value}).status == 200
    assert send("GET", "/v1/models", key=None).status == 401


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/"])
def test_a_trailing_slash_is_tolerated(send, path):
    body = {"model": MISTRAL, "messages": [{"role": "user", "content": ASKED}]}
    assert send(path=path, body=body).status == 200


@pytest.mark.parametrize("path", ["mistral/" + MISTRAL, "mistral%2F" + MISTRAL])
def test_a_model_id_may_be_percent_encoded(send, path):
    assert send("GET", f"/v1/models/{path}").json["id"] == "mistral/" + MISTRAL


@EVERY_MODEL
def test_a_whole_answer_is_exactly_json(ask, model):
    assert ask(model=model).header("content-type") == "application/json"


@EVERY_MODEL
def test_a_stream_is_exactly_an_event_stream(ask, model):
    answer = ask(model=model, stream=True)
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    assert answer.header("cache-control") == "no-store"


@EVERY_MODEL
def test_a_whole_answer_has_every_required_field(ask, model):
    answers = [ask(model=model).json for _ in range(3)]
    for answer in answers:
        assert answer["object"] == "chat.completion"
        assert isinstance(answer["created"], int)
        assert answer["model"] == model
        [choice] = answer["choices"]
        assert choice["index"] == 0
        assert choice["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert len({answer["id"] for answer in answers}) == 3


@EVERY_MODEL
@pytest.mark.parametrize("tools", [[], [WEATHER]], ids=["text", "tool call"])
def test_finish_reason_is_in_every_chunk(ask, model, tools):
    chunks = ask("Call get_weather for Paris", model=model, stream=True, tools=tools).chunks
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls" if tools else "stop"]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert (chunk["id"], chunk["model"]) == (chunks[0]["id"], model)
        assert isinstance(chunk["created"], int)
        assert all(c["index"] == 0 and isinstance(c["delta"], dict) for c in chunk["choices"])


@EVERY_MODEL
def test_a_tool_call_is_whole_in_one_delta(ask, model):
    chunks = ask(
        "Call get_weather, city is Paris", model=model, stream=True, tools=[WEATHER]
    ).chunks
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    [calls] = [delta["tool_calls"] for delta in deltas if delta.get("tool_calls")]
    [call] = calls
    assert call["type"] == "function"
    assert call["index"] == 0
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_mistrals_tool_ids_are_nine_letters_or_digits_of_type_function(ask, stream):
    answer = ask("Call get_weather for Paris and London", tools=[WEATHER], stream=stream)
    answers = answer.chunks if stream else [answer.json]
    said = [c["delta" if stream else "message"] for a in answers for c in a["choices"]]
    calls = [call for message in said for call in message.get("tool_calls") or ()]
    assert len(calls) == len({call["id"] for call in calls}) > 0
    assert all(CALL_ID.fullmatch(call["id"]) for call in calls)
    assert {call["type"] for call in calls} == {"function"}


@EVERY_MODEL
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}])
def test_usage_unasked_is_once_on_the_last_chunk_with_a_choice(ask, model, options):
    chunks = ask(model=model, stream=True, **options).chunks
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@EVERY_MODEL
def test_usage_asked_for_is_once_on_one_more_chunk_without_choices(ask, model):
    chunks = ask(model=model, stream=True, stream_options={"include_usage": True}).chunks
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"] == []
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("headers", "shown"),
    [(OPENAI_AGENT, "text"), (MISTRAL_AGENT, "parts"), ({}, "text")],
    ids=["openai", "mistral", "stranger"],
)
def test_thinking_is_shown_in_the_callers_dialect(ask, headers, shown, stream):
    answer = ask(model=THINKING, reasoning_effort="high", headers=headers, stream=stream)
    answers = answer.chunks if stream else [answer.json]
    said = [c["delta" if stream else "message"] for a in answers for c in a["choices"]]
    has_list = any(isinstance(message.get("content"), list) for message in said)
    has_text = any(message.get("reasoning_content") for message in said)
    assert (has_list, has_text) == (shown == "parts", shown == "text")


ERRORS = {
    "400": ({"temperature": 9}, {}),
    "401": ({}, {"key": "sk-not-one-of-ours"}),
    "402": ({"text": "Hi !error 402"}, {}),
    "404": ({"model": "mistral-enormous"}, {}),
    "405": ({}, {"method": "PUT"}),
    "415": ({}, {"content_type": "text/plain"}),
    "422": ({"temperature": 9}, MISTRAL_AGENT),
    "429": ({"text": "Hi !error 429 retry-after=7"}, {}),
    "502": ({"text": "Hi !error 500"}, {}),
    "503": ({"text": "Hi !error 503"}, {}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", ERRORS)
def test_an_error_has_one_body_for_both_sdks(send, status, stream):
    more, headers = ERRORS[status]
    text = more.get("text", ASKED)
    fields = {name: value for name, value in more.items() if name != "text"}
    body = {"model": MISTRAL, "messages": [{"role": "user", "content": text}], **fields}
    answer = send(body={**body, "stream": stream}, **headers)
    assert answer.status == int(status)
    assert answer.header("content-type") == "application/json"
    said = answer.json
    inner = said["error"]
    assert said["object"] == "error"
    assert inner.keys() == {"message", "type", "param", "code"}
    assert {name: said[name] for name in inner} == inner
    assert isinstance(inner["message"], str) and isinstance(inner["code"], str)
    assert said["request_id"] == answer.header("x-request-id")
    assert said["request_id"] in inner["message"]
    if status == "422":
        assert said["detail"][0].keys() == {"type", "loc", "msg"}
        assert said["detail"][0]["loc"] == ["body", "temperature"]
    else:
        assert "detail" not in said


def test_a_wrong_method_says_which_is_right(send):
    assert send("GET").header("allow") == "POST"


def test_an_unknown_path_is_told_in_json(send):
    answer = send("GET", "/v1/nothing")
    assert (answer.status, answer.json["code"]) == (404, "unknown_path")


def test_who_asks_for_responses_is_told_what_to_ask_for(send):
    answer = send(path="/v1/responses", body={"model": GPT, "input": "Hi"})
    assert answer.status == 404 and "use_responses_api=False" in answer.json["message"]


def test_a_model_is_found_with_a_slash_after_it(send):
    assert send("GET", f"/v1/models/{GPT}/").json["id"] == GPT


def test_a_body_too_large_is_refused_by_its_announcement(surface):
    address = urlsplit(surface.url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"authorization: Bearer {surface.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {surface.body_bytes_max + 1}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=WAIT_S) as connection:
        connection.sendall(head.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert json.loads(answer.read())["code"] == "request_too_large"


def test_a_body_too_large_is_refused_to_one_who_sends_it_all(send, surface):
    """Every SDK sends its whole body before it reads a byte."""
    assert send(body=b" " * (surface.body_bytes_max * 8)).status == 413


@pytest.mark.parametrize("own", [None, "order-66.retry_1"])
@pytest.mark.parametrize(
    "text", [ASKED, "Hi !error 503", "Hi !error 402"], ids=["good", "503", "402"]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_one_request_id_comes_under_three_names(ask, text, own, stream):
    answer = ask(text, stream=stream, headers={"x-request-id": own} if own else {})
    ids = {answer.header(n) for n in ("x-request-id", "request-id", "mistral-correlation-id")}
    assert len(ids) == 1
    assert ids == {own} if own else ids.pop()


@EVERY_MODEL
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("text", [ASKED, "Hi !error 429", "Hi !html 503"])
def test_no_header_of_the_provider_leaks(ask, surface, model, stream, text):
    """The simulator sends cookies, Kong's and Cloudflare's headers, and ids of its own."""
    answer = ask(text, model=model, stream=stream)
    names = {name for name, _ in answer.headers}
    unknown = {n for n in names - MAY_LEAVE if not n.startswith(MAY_LEAVE_BEGIN)}
    assert unknown == set()
    assert answer.header("x-router-provider") in (None, "mistral", "openai")


@EVERY_MODEL
def test_an_answer_says_what_was_done_and_at_what_price(ask, surface, model):
    answer = ask(model=model)
    assert answer.header("x-router-model") == model
    assert answer.header("x-router-reason") == "asked for by name"
    assert answer.header("x-router-attempts") == "1"
    assert answer.header("cache-status") == "Windvane; fwd=bypass"
    assert float(answer.header("x-router-latency-ms")) > 0
    assert re.fullmatch(r"upstream;dur=[\d.]+, gateway;dur=[\d.]+", answer.header("server-timing"))
    metadata = answer.json["router_metadata"]
    billed = surface.sim.bill.rows[-1].nano_usd
    assert metadata["cost_nano_usd"] == billed > 0
    assert round(float(answer.header("x-router-cost-usd")) * 1e9) == billed
    assert metadata["selected_model"] == metadata["requested_model"] == model
    assert metadata["cached"] is False


@EVERY_MODEL
@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_says_its_price_at_its_end(ask, surface, model, include_usage):
    options = {"stream_options": {"include_usage": include_usage}}
    answer = ask(model=model, stream=True, **options)
    assert answer.header("x-router-cost-usd") is None
    costs = [c["router_metadata"]["cost_nano_usd"] for c in answer.chunks if "router_metadata" in c]
    surface.ended.next()
    assert costs == [surface.sim.bill.rows[-1].nano_usd]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_metadata_can_be_switched_off(ask, stream):
    answer = ask(stream=stream, headers={"x-router-metadata": "off"})
    assert b"router_metadata" not in answer.body


@EVERY_MODEL
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", [500, 503])
def test_spent_retries_tell_the_client_not_to_retry(ask, surface, model, stream, status):
    answer = ask(f"Hi !error {status}", model=model, stream=stream)
    assert answer.status >= 500
    assert answer.header("x-should-retry") == "false"
    assert int(answer.header("x-router-attempts")) == len(surface.sent())
    assert answer.header("x-router-cost-usd") == "0"


def test_a_fault_before_the_first_byte_is_never_a_stream(ask):
    answer = ask("Hi !error 500", stream=True)
    assert (answer.status, answer.header("content-type")) == (502, "application/json")


@EVERY_MODEL
@pytest.mark.parametrize(
    ("text", "status", "seconds", "milliseconds"),
    [
        ("Hi !error 429 retry-after=7", 429, "7", "7000"),
        ("Hi !error 503 retry-after=2.5", 503, "3", "2500"),
    ],
)
def test_429_and_503_say_when_to_come_again(ask, model, text, status, seconds, milliseconds):
    answer = ask(text, model=model)
    assert answer.status == status
    assert answer.header("retry-after") == seconds
    assert answer.header("retry-after-ms") == milliseconds


@pytest.mark.parametrize(
    ("model", "shape", "seconds"),
    [("ministral-14b-latest", "month", "3600"), (GPT, "quota", "600")],
)
def test_a_final_429_says_at_once_for_how_long_nobody_is_asked(ask, model, shape, seconds):
    answer = ask(f"Hi !error 429 shape={shape}", model=model)
    assert (answer.status, answer.header("retry-after")) == (429, seconds)
    assert answer.header("x-should-retry") == "false"


@EVERY_MODEL
@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("fault", ["cut 5", "cut-clean 5", "error-event 3 !slow 5"])
def test_a_stream_that_dies_ends_with_an_error_event_and_never_done(
    ask, surface, model, include_usage, fault
):
    options = {"stream_options": {"include_usage": include_usage}}
    answer = ask(f"Explain wind !{fault}", model=model, stream=True, **options)
    assert answer.status == 200
    assert len(answer.frames) > 2
    last = json.loads(answer.frames[-1])
    assert last["object"] == "error"
    assert last["error"]["message"] and last["error"]["code"]
    assert last["request_id"] == answer.header("x-request-id")
    assert b"[DONE]" not in answer.body
    assert b'"finish_reason":"stop"' not in answer.body
    assert surface.ended.next().fault == "stream_broken"


@EVERY_MODEL
@pytest.mark.parametrize("fault", ["crlf", "comments", "bytewise", "no-done"])
def test_a_providers_odd_framing_is_not_passed_on(ask, model, fault):
    odd = ask(f"Explain wind !{fault}", model=model, stream=True)
    assert odd.frames[-1] == b"[DONE]"
    assert b"\r" not in odd.body
    assert odd.chunks[-1]["usage"]["total_tokens"] > 0


def test_done_and_the_end_of_the_body_come_in_one_write(surface):
    """Mistral's SDK closes right after [DONE]: a later write would meet a closed connection."""
    address = urlsplit(surface.url)
    body = json.dumps(
        {"model": MISTRAL, "stream": True, "messages": [{"role": "user", "content": ASKED}]}
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"authorization: Bearer {surface.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=WAIT_S) as connection:
        connection.sendall((head + body).encode())
        piece = b""
        while b"data: [DONE]" not in piece:
            piece = connection.recv(1 << 20)
            assert piece, "the stream ended without [DONE]"
    assert piece.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
