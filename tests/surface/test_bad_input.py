"""Bad input: refused in the caller's dialect, naming what was wrong; nothing sent, nothing charged."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surface.served import WAIT_S, Reply, Served, chat, raw_request, serving

from windvane.config.schema import AuthConfig, KeyConfig
from windvane.wire.json_body import DEPTH_MAX, NODES_MAX

KEY = "sk-bad-input-tests"
MISTRAL = "mistral-client-python/3.7"
ERROR_FIELDS = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    auth = AuthConfig(keys=(KeyConfig(key=KEY, name="bad"),))
    with serving(auth=auth) as running:
        running.headers = {"authorization": f"Bearer {KEY}"}
        yield running


@pytest.fixture(autouse=True)
def nothing_is_sent_or_charged(served: Served) -> Iterator[None]:
    sent, settled = len(served.sim.tape), len(served.seen.settled)
    yield
    assert len(served.sim.tape) == sent
    assert len(served.seen.settled) == settled


def check_error(reply: Reply, status: int) -> Any:
    """The one body both SDKs parse, and its ids."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    body = reply.json
    assert body["object"] == "error"
    assert set(body["error"]) == ERROR_FIELDS
    assert {name: body[name] for name in ERROR_FIELDS} == body["error"]
    assert body["request_id"] == reply.headers["x-request-id"]
    assert body["request_id"] in body["message"]
    assert "x-router-cost-usd" not in reply.headers
    return body


def nested(depth: int) -> bytes:
    return b'{"model":"m","messages":' + b"[" * depth + b"]" * depth + b"}"


NOT_AN_OBJECT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank": (b"  \n", "not valid JSON"),
    "cut": (b'{"model": "a"', "truncated"),
    "array": (b"[]", "an array"),
    "string": (b'"a"', "a string"),
    "null": (b"null", "null"),
    "true": (b"true", "a boolean"),
    "number": (b"-0", "a number"),
    "trailing": (b"{} {}", "not valid JSON"),
    "trailing comma": (b'{"a":1,}', "not valid JSON"),
    "comment": (b"{/**/}", "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not valid JSON"),
    "utf-16": ('{"model":"a"}'.encode("utf-16"), "not valid JSON"),
    "invalid utf-8": (b'{"model":"\xff"}', "not valid JSON: 0xff is not UTF-8 (byte 10)"),
    "surrogate in utf-8": (b'{"model":"\xed\xa0\x80"}', "0xed is not UTF-8 (byte 10)"),
    "half in utf-8": (b'{"model":"\xc3\xa9\xc3"}', "0xc3 is not UTF-8 (byte 12)"),
    "lone surrogate": (b'{"model":"\\ud800"}', "\\ud800 is half of a surrogate pair (byte 10)"),
    "lone surrogate, and more": (
        b'{"model":"\\\\ud800 \\n\\ud83d\\ude00\\uD83D","messages":[],"stream":true}',
        "\\uD83D is half of a surrogate pair (byte 32)",
    ),
    "swapped surrogates": (
        b'{"model":"\\udc00\\ud800"}',
        "\\udc00 is half of a surrogate pair (byte 10)",
    ),
    "raw control": (b'{"model":"\x01"}', "not valid JSON"),
    "NaN": (b'{"temperature":NaN}', "not valid JSON"),
    "Infinity": (b'{"temperature":Infinity}', "not valid JSON"),
    "-Infinity": (b'{"temperature":-Infinity}', "not valid JSON"),
    "1e999": (b'{"temperature":1e999}', "out of range"),
    "1e999 unread": (b'{"metadata":{"a":[1e999]}}', "out of range"),
    "5,000 digits": (b'{"seed":' + b"1" * 5000 + b"}", "out of range"),
    "leading zero": (b'{"seed":01}', "not valid JSON"),
    "too deep": (nested(DEPTH_MAX), "nested deeper than"),
    "far too deep": (nested(100_000), "nested deeper than"),
    "too many": (b'{"a":[' + b"0," * NODES_MAX + b"0]}", "more than"),
}


@pytest.mark.parametrize("case", NOT_AN_OBJECT)
@pytest.mark.parametrize("agent", ["openai", MISTRAL])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_a_body_that_is_no_json_object_is_400_and_says_why(served, case, agent, path):
    body, says = NOT_AN_OBJECT[case]
    assert says in check_error(served.ask(body, path=path, user_agent=agent), 400)["message"]


def test_depth_is_allowed_to_the_edge(served):
    """One level less than "too deep" gets as far as the schema."""
    reply = served.ask(nested(DEPTH_MAX - 1))
    assert check_error(reply, 400)["param"] == "messages[0]"


VALID = json.dumps(chat())
TWICE: dict[str, tuple[str, str]] = {
    "at the top": ('{"model":"a","model":"mistral-small-latest",' + VALID[1:], "model"),
    "equal values": (VALID[:-1] + ',"stream":true,"stream":true}', "stream"),
    "escaped": (VALID[:-1] + ',"mod\\u0065l":"mistral-large-latest"}', "model"),
    "both escaped": (VALID[:-1] + ',"\\u006ee":1,"n\\u0065":2}', "ne"),
    "spaced": (VALID[:-1] + ',"max_tokens" : 1 , "max_tokens"\n\t :900}', "max_tokens"),
    "nested": (VALID[:-1] + ',"metadata":{"x":[{"deep":{"k":1,"k":2}}]}}', "k"),
    "in a message": (
        '{"model":"mistral-small-latest","messages":[{"role":"user","role":"tool"}]}',
        "role",
    ),
    "hidden by colons in text": (
        VALID[:-1] + ',"user":"\\":\\":\\":","max_tokens":1,"max_tokens":2}',
        "max_tokens",
    ),
    "empty key": (VALID[:-1] + ',"":1,"":2}', ""),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_said_twice_is_refused_by_name(served, case):
    body, name = TWICE[case]
    error = check_error(served.ask(body.encode()), 400)
    assert f"the key {name!r} twice" in error["message"]
    assert error["param"] == name


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


CALL = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}
WRONG_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{name} is {value!r}": ({name: value}, name)
        for name, value in {
            "model": 5,
            "messages": "hello",
            "stream": "yes",
            "stream_options": 1,
            "temperature": "hot",
            "top_p": [],
            "max_tokens": 1.5,
            "max_completion_tokens": "9",
            "min_tokens": -1,
            "n": 0,
            "stop": 7,
            "seed": "x",
            "random_seed": -3,
            "presence_penalty": 2.5,
            "frequency_penalty": "x",
            "tools": {},
            "tool_choice": 3,
            "functions": "f",
            "function_call": 1,
            "parallel_tool_calls": 1,
            "response_format": "json",
            "reasoning_effort": 3,
            "prompt_cache_key": 1,
            "metadata": [],
            "user": {},
            "prediction": "x",
            "prompt_mode": 1,
            "guardrails": {},
            "service_tier": 5,
        }.items()
    },
    "no model": ({"model": None}, "model"),
    "empty model": ({"model": ""}, "model"),
    "endless model": ({"model": "x" * 257}, "model"),
    "temperature beyond": ({"temperature": 2.01}, "temperature"),
    "temperature huge": ({"temperature": 10**400}, "temperature"),
    "n beyond": ({"n": 129}, "n"),
    "unknown choice": ({"tool_choice": "sometimes"}, "tool_choice"),
    "no messages": ({"messages": []}, "messages"),
    "message is text": ({"messages": ["hi"]}, "messages[0]"),
    "no role": ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    "unknown role": ({"messages": [{"role": "root", "content": "hi"}]}, "messages[0].role"),
    "no content": ({"messages": [{"role": "system"}]}, "messages[0].content"),
    "content is a number": ({"messages": user(5)}, "messages[0].content"),
    "unknown part": ({"messages": user([{"type": "hologram"}])}, "messages[0].content[0].type"),
    "part without type": ({"messages": user([{"text": "a"}])}, "messages[0].content[0].type"),
    "part without text": ({"messages": user([{"type": "text"}])}, "messages[0].content[0].text"),
    "image without url": (
        {"messages": user([{"type": "image_url", "image_url": {}}])},
        "messages[0].content[0].image_url.url",
    ),
    "tool without id": (
        {"messages": [{"role": "tool", "content": "1"}]},
        "messages[0].tool_call_id",
    ),
    "tool nobody called": (
        {"messages": [*user("a"), {"role": "tool", "content": "1", "tool_call_id": "x"}]},
        "messages[1].role",
    ),
    "user calls a tool": (
        {"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
        "messages[0].tool_calls",
    ),
    "call without function": (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    "tool of nothing": ({"tools": [{}]}, "tools[0].function"),
    "tool's name": ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
    "tool's parameters": (
        {"tools": [{"function": {"name": "a", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters",
    ),
    "old function's parameters": (
        {"functions": [{"name": "a", "parameters": 3}]},
        "functions[0].parameters",
    ),
    "too many tools": ({"tools": [{"function": {"name": "a"}}] * 129}, "tools"),
    "tool's strictness": (
        {"tools": [{"function": {"name": "a", "strict": "x"}}]},
        "tools[0].function.strict",
    ),
    "old function's description": (
        {"functions": [{"name": "a", "description": 5}]},
        "functions[0].description",
    ),
    "choice without a name": (
        {"tool_choice": {"type": "function", "function": {}}},
        "tool_choice.function.name",
    ),
    "name of the choice": (
        {"tool_choice": {"type": "function", "function": {"name": 5}}},
        "tool_choice.function.name",
    ),
    "choice of nothing": ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    "unknown old choice": ({"function_call": "sometimes"}, "function_call"),
    "foreign field of a guardrail": ({"guardrails": [{"zz": 1}]}, "guardrails[0].zz"),
    "foreign category": (
        {"guardrails": [{"moderation_llm_v2": {"custom_category_thresholds": {"zz": 1}}}]},
        "guardrails[0].moderation_llm_v2.custom_category_thresholds.zz",
    ),
    "prediction's content": ({"prediction": {"content": 5}}, "prediction.content"),
    "prediction's kind": ({"prediction": {"type": "x", "content": "a"}}, "prediction.type"),
    **{
        f"schema's {name}": (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", name: value}}},
            f"response_format.json_schema.{name}",
        )
        for name, value in {"name": 5, "schema": "x", "strict": "x", "description": 5}.items()
    },
    "file's id": (
        {"messages": user([{"type": "file", "file": {"file_id": 5}}])},
        "messages[0].content[0].file.file_id",
    ),
    "sound without data": (
        {"messages": user([{"type": "input_audio", "input_audio": {"format": "wav"}}])},
        "messages[0].content[0].input_audio.data",
    ),
    "thought of an image": (
        {"messages": user([{"type": "thinking", "thinking": [{"type": "image_url"}]}])},
        "messages[0].content[0].thinking[0].type",
    ),
    "name of a tool": (
        {"messages": [{"role": "tool", "content": "1", "tool_call_id": "x", "name": 5}]},
        "messages[0].name",
    ),
}


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_a_wrong_field_is_named_in_openais_manner(served, case):
    change, param = WRONG_FIELDS[case]
    error = check_error(served.ask({**chat(), **change}, user_agent="OpenAI/Python 3.52"), 400)
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert error["type"] == "invalid_request_error"
    assert "detail" not in error


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_a_wrong_field_is_named_in_mistrals_manner(served, case):
    change, param = WRONG_FIELDS[case]
    error = check_error(served.ask({**chat(), **change}, user_agent=MISTRAL), 422)
    (detail,) = error["detail"]
    steps = "".join(f"[{s}]" if type(s) is int else f".{s}" for s in detail["loc"][1:])
    assert detail["loc"][0] == "body"
    assert steps.removeprefix(".") == param
    assert detail["msg"].startswith(param)


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("mistral-smal-latest", "mistral-small-latest"),
        ("ministral-8b-lates", "ministral-8b-latest"),
        ("gpt-4.1-mni", "gpt-4.1-mini"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_an_unknown_model_is_404_with_near_names(served, model, near, path):
    error = check_error(served.ask(chat(model=model), path=path), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert near in error["message"]


@pytest.mark.parametrize(
    "model",
    ["a\r\nset-cookie: x=1", "a\x00b", "\u202egpt", "\x1b[31mred", "\ud83d\ude00", "é" * 200, " "],
)
def test_a_model_name_cannot_reach_a_header(served, model):
    reply = served.ask(chat(model=model))
    check_error(reply, 404)
    assert "set-cookie" not in reply.headers
    for name, value in reply.headers.items():
        assert value.isascii() and value.isprintable(), name


def test_a_request_id_of_the_callers_is_shown_only_when_it_is_plain(served):
    assert served.ask(b"", x_request_id="mine-1.2_3").json["request_id"] == "mine-1.2_3"
    for strange in ("a b", "x" * 129, "é", "<script>"):
        assert served.ask(b"", x_request_id=strange).json["request_id"].startswith("req_")


MAX = 256 * 1024


def test_a_body_declared_too_large_is_413_before_it_is_sent(served):
    head = raw_request(b"", f"authorization: Bearer {KEY}").replace(
        b"content-length: 0", b"content-length: %d" % (MAX + 1)
    )
    answer = served.talk(head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"larger than {MAX} bytes".encode() in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_a_caller_who_waits_to_send_too_much_is_not_told_to(served, path):
    lines = (f"authorization: Bearer {KEY}", "expect: 100-continue")
    head = raw_request(b"", *lines, path=path).replace(
        b"content-length: 0", b"content-length: 99999999"
    )
    answer = served.talk(head)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_grows_too_large_in_chunks_is_413(served):
    head = raw_request(b"", f"authorization: Bearer {KEY}").replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = served.talk(head, chunk * 4 + b"1\r\n \r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_of_exactly_the_limit_is_read(served):
    body = b'{"model":"nobody"}'.ljust(MAX)
    assert check_error(served.ask(body), 400)["param"] == "messages"


HEADERS: dict[str, tuple[dict[str, str], int, str]] = {
    "plain text": ({"content_type": "text/plain"}, 415, "text/plain"),
    "plain text in disguise": ({"content_type": "text/plain; a=json"}, 415, "text/plain"),
    "a form": ({"content_type": "application/x-www-form-urlencoded"}, 415, "form"),
    "from a page, typeless": ({"content_type": "", "origin": "https://a.test"}, 415, "must be"),
    "gzip": ({"content_encoding": "gzip"}, 415, "encoded"),
    "br": ({"content_encoding": "br"}, 415, "encoded"),
    "two credentials": ({"x_api_key": "another-key"}, 400, "two different"),
    "basic": ({"authorization": "Basic YTpi"}, 401, "Bearer"),
    "no scheme": ({"authorization": KEY}, 401, "Bearer"),
    "bare scheme": ({"authorization": "Bearer"}, 401, "Bearer"),
    "two tokens": ({"authorization": f"Bearer {KEY} {KEY}"}, 401, "not one of"),
    "no key": ({"authorization": ""}, 401, "no key"),
    "wrong key": ({"authorization": "Bearer nope"}, 401, "not one of"),
    "key and more": ({"authorization": f"Bearer {KEY}x"}, 401, "not one of"),
    "part of a key": ({"authorization": f"Bearer {KEY[:-1]}"}, 401, "not one of"),
    "key of another case": ({"authorization": f"Bearer {KEY.upper()}"}, 401, "not one of"),
    "a loop": ({"via": "1.1 windvane"}, 508, "already been through"),
    "a longer loop": ({"via": "1.0 a, 1.1 windvane, 1.1 b"}, 508, "already been through"),
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_a_wrong_header_is_refused(served, case, path):
    headers, status, says = HEADERS[case]
    reply = served.ask(chat(), path=path, **headers)
    error = check_error(reply, status)
    assert says in error["message"]
    assert KEY not in reply.body.decode()
    if status == 401:
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert error["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("x-windvane-priority", "urgent", "invalid_priority"),
        ("x-windvane-tags", "a" * 129, "invalid_tags"),
        ("x-windvane-user", "ann, bob", "invalid_user"),
    ],
)
@pytest.mark.parametrize("agent", ["openai", MISTRAL])
def test_a_wrong_header_is_no_wrong_field(served, header, value, code, agent):
    said = {header.replace("-", "_"): value, "user_agent": agent}
    reply = served.ask(chat(), **said)
    error = check_error(reply, 400)
    assert (error["code"], error["param"], "detail" in reply.json) == (code, header, False)


def test_wrong_tags_of_the_body_are_named_by_their_field(served):
    body = chat(metadata={"tags": ["a" * 129]})
    reply = served.ask(body, user_agent=MISTRAL)
    error = check_error(reply, 422)
    assert (error["code"], error["param"]) == ("invalid_tags", "metadata.tags")
    assert reply.json["detail"][0]["loc"] == ["body", "metadata", "tags"]


def test_what_no_window_holds_is_no_wrong_field(served):
    reply = served.ask(chat(max_tokens=10_000_000), user_agent=MISTRAL)
    error = check_error(reply, 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")


def test_a_loop_is_seen_in_whichever_via_header(served):
    body = json.dumps(chat()).encode()
    lines = (f"authorization: Bearer {KEY}", "via: 1.1 windvane", "via: 1.1 proxy")
    answer = served.talk(raw_request(body, *lines, "connection: close"))
    assert answer.startswith(b"HTTP/1.1 508 ")


@pytest.mark.parametrize("framing", [b"content-length: 200000", b"transfer-encoding: chunked"])
def test_a_stranger_s_large_body_is_not_waited_for(served, framing):
    """What may be large is not held in memory for someone without a key."""
    with served.open() as connection:
        connection.sendall(raw_request(b"").replace(b"content-length: 0", framing))
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_a_key_in_a_trailer_is_none(served, path):
    """RFC 9110, 6.5.1: a trailer is no header, and least of all one that says who calls."""
    body = b'{"model":"auto","messages":[]}'
    head = raw_request(b"", "connection: close", path=path)
    request = head.replace(b"content-length: 0", b"transfer-encoding: chunked")
    request += b"%x\r\n%b\r\n0\r\nauthorization: Bearer %b\r\n\r\n" % (
        len(body),
        body,
        KEY.encode(),
    )
    assert served.talk(request).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("GET", "/v1/route", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/auto", "GET"),
        ("POST", "/health", "GET"),
        ("DELETE", "/user/stats", "GET"),
        ("PATCH", "/metrics", "GET"),
    ],
)
def test_a_wrong_method_is_405_and_says_the_right_one(served, method, path, allowed):
    reply = served.ask(method=method, path=path)
    assert check_error(reply, 405)["param"] is None
    assert allowed in reply.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/embeddingz",
        "/v1/chat",
        "/v2/models",
        "//v1/models",
        "/v1//models",
        "/v1/../v1/models",
        "/nope/%ff%00%0d%0aset-cookie:x",
        "/v1/models/no-such-model",
        "/v1/models/%ff%00%0d%0a",
        "/admin/requests/%ff%00%0d%0a",
        "/admin/requests/req_none",
        "/admin",
        "/docs/../app.py",
        "/docs/%2e%2e%2fapp.py",
    ],
)
def test_an_unknown_path_is_404_in_json(served, path):
    reply = served.ask(path=path)
    check_error(reply, 404)
    assert "set-cookie" not in reply.headers


async def asgi(app: Any, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Reply:
    """One request straight into the application."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    shown = {name.decode().lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], shown, b"".join(each.get("body", b"") for each in sent[1:]))


def ask_app(
    served: Served, path: str, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> Reply:
    base = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    key = [(b"authorization", b"Bearer " + KEY.encode())]
    asked = asgi(served.app, path, body, base + (key if headers is None else headers))
    return asyncio.run_coroutine_threadsafe(asked, served.loop).result(WAIT_S)


FUZZ = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/route"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**40), max_value=10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=8,
)
RICH: dict[str, Any] = {
    "model": "no-such-model",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "t"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "1", "tool_call_id": "abcdefghi"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "functions": [{"name": "g", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "stop": ["a"],
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "n": 2,
    "seed": 4,
    "max_tokens": 5,
    "prediction": {"type": "content", "content": "x"},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    members = (
        value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    )
    for step, member in members:
        yield from places(member, (*path, step))


def mutated(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    if not path:
        return to
    copy = value.copy()
    copy[path[0]] = mutated(value[path[0]], path[1:], to)
    return copy


def check_documented(reply: Reply, allowed: set[int]) -> None:
    assert reply.status in allowed, reply.body
    if reply.status != 200:
        check_error(reply, reply.status)
    assert reply.headers["x-request-id"]


@FUZZ
@given(PATHS, st.binary(max_size=300))
def test_random_bytes_are_refused_as_documented(served, path, body):
    check_documented(ask_app(served, path, body), {400})


@FUZZ
@given(PATHS, st.data())
def test_valid_json_with_bytes_changed_is_refused_as_documented(served, path, data):
    body = bytearray(json.dumps(RICH).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check_documented(ask_app(served, path, bytes(body)), {400, 404, 422})


@settings(FUZZ, max_examples=300)
@given(st.sampled_from(list(places(RICH))), JSON_VALUES)
def test_a_request_with_one_value_changed_is_refused_as_documented(served, place, value):
    body = json.dumps(mutated(RICH, place, value)).encode()
    check_documented(ask_app(served, "/v1/chat/completions", body), {400, 404, 422})


@pytest.mark.parametrize("model", ["auto", "mistral-small-latest", "gpt-4.1-mini"])
def test_the_request_that_is_changed_below_is_itself_right(served, model):
    reply = ask_app(served, "/v1/route", json.dumps({**RICH, "model": model}).encode())
    check_documented(reply, {200})
    written_for(served, {**RICH, "model": model}, reply.json["provider"])


@settings(FUZZ, max_examples=300)
@given(
    st.sampled_from([p for p in places(RICH) if p[:1] != ("model",)]),
    JSON_VALUES,
    st.sampled_from(["auto", "mistral-small-latest", "gpt-4.1-mini"]),
)
def test_what_can_be_read_can_also_be_written_for_a_provider(served, place, value, model):
    """The part of a request's way that random values may break: none of it may fail inside."""
    changed = mutated(RICH, place, value)
    if type(changed) is dict:
        changed["model"] = model
    reply = ask_app(served, "/v1/route", json.dumps(changed).encode())
    check_documented(reply, {200, 400, 422})
    if reply.status == 200:
        written_for(served, changed, reply.json["provider"])


def written_for(served: Served, fields: dict[str, Any], provider: str) -> None:
    """Encode the request as it would be sent; only a refusal may come of it."""
    from windvane.core.faults import BadRequestError
    from windvane.wire.chat_request import chat_request_of

    encode = served.engine.snapshot.upstreams[provider].provider.encode_chat
    try:
        assert json.loads(encode(chat_request_of(fields), "told"))["model"] == "told"
    except BadRequestError as error:
        assert error.fault.param


HEADER_NAMES = st.sampled_from(
    [
        b"authorization", b"x-api-key", b"api-key", b"content-type", b"content-encoding", b"via",
        b"x-request-id", b"user-agent", b"content-length", b"host", b"x-router-metadata", b"accept",
    ]
)  # fmt: skip
HEADER_VALUES = st.binary(max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F)
)


@settings(FUZZ, max_examples=300)
@given(PATHS, st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=5))
def test_random_headers_are_answered_as_documented(served, path, headers):
    reply = ask_app(served, path, b"{}", headers)
    check_documented(reply, {400, 401, 413, 415, 422, 508})
    assert all("\r" not in value and "\n" not in value for value in reply.headers.values())
