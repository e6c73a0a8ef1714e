"""Errors rendered for callers, and providers' errors read in whatever shape they come."""

from typing import Any

import msgspec
import pytest

from windvane.core.faults import Fault, FaultKind, Source
from windvane.wire.dialect import Dialect
from windvane.wire.errors import (
    DETAIL_MAX,
    MESSAGE_CHARS_MAX,
    read_error,
    render_error,
    render_error_event,
)


def fault(kind: FaultKind = FaultKind.INVALID_REQUEST, status: int = 400, **more: Any) -> Fault:
    return Fault(kind=kind, source=Source.CLIENT, message="it is wrong", status=status, **more)


def rendered(one: Fault, dialect: Dialect = Dialect.OPENAI) -> tuple[int, dict[str, Any]]:
    status, body = render_error(one, dialect, "req-1")
    return status, msgspec.json.decode(body)


def test_one_body_is_mistrals_envelope_and_openais() -> None:
    status, body = rendered(fault(param="model", code="no_route"))
    inner = {
        "message": "it is wrong (request id req-1)",
        "type": "invalid_request_error",
        "param": "model",
        "code": "no_route",
    }
    assert status == 400
    assert body == {"object": "error", **inner, "error": inner, "request_id": "req-1"}


KINDS = {
    "invalid_request": ("invalid_request_error", "invalid_request"),
    "unauthenticated": ("authentication_error", "invalid_api_key"),
    "forbidden": ("permission_error", "forbidden"),
    "not_found": ("invalid_request_error", "not_found"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "context_too_long": ("invalid_request_error", "context_length_exceeded"),
    "content_filtered": ("invalid_request_error", "content_filter"),
    "rate_limited": ("rate_limited", "rate_limit_exceeded"),
    "budget_exceeded": ("insufficient_quota", "budget_exceeded"),
    "payment_required": ("billing_error", "payment_required"),
    "overloaded": ("overloaded_error", "overloaded"),
    "upstream_error": ("api_error", "upstream_error"),
    "timeout": ("timeout_error", "timeout"),
    "connect_failed": ("api_error", "upstream_unreachable"),
    "stream_broken": ("api_error", "stream_broken"),
    "low_quality": ("api_error", "low_quality"),
    "no_route": ("invalid_request_error", "no_route"),
    "shutting_down": ("api_error", "shutting_down"),
    "internal": ("api_error", "internal"),
}


@pytest.mark.parametrize("kind", list(FaultKind))
def test_each_kind_has_its_type_and_code(kind: FaultKind) -> None:
    _, body = rendered(fault(kind))
    assert (body["type"], body["code"]) == KINDS[kind.value]


@pytest.mark.parametrize(
    ("dialect", "status", "param", "shown", "loc"),
    [
        (Dialect.OPENAI, 400, "messages[0].content", 400, None),
        (Dialect.MISTRAL, 400, None, 400, None),
        (Dialect.MISTRAL, 400, "messages[0].content", 422, ["body", "messages", 0, "content"]),
        (Dialect.MISTRAL, 400, "model", 422, ["body", "model"]),
        (Dialect.OPENAI, 422, None, 422, ["body"]),
        (Dialect.MISTRAL, 404, "model", 404, None),
        (Dialect.MISTRAL, 400, "x-windvane-priority", 400, None),
    ],
)
def test_mistrals_clients_get_422_with_a_list_of_details_for_a_wrong_field(
    dialect: Dialect, status: int, param: str | None, shown: int, loc: list[str | int] | None
) -> None:
    told, body = rendered(fault(status=status, param=param), dialect)
    assert told == shown
    expected = [{"type": "value_error", "loc": loc, "msg": "it is wrong"}] if loc else None
    assert body.get("detail") == expected


@pytest.mark.parametrize("kind", [FaultKind.CONTEXT_TOO_LONG, FaultKind.NO_ROUTE])
def test_what_is_no_wrong_field_keeps_its_status(kind: FaultKind) -> None:
    status, body = rendered(fault(kind, param="messages"), Dialect.MISTRAL)
    assert (status, body["param"], "detail" in body) == (400, "messages", False)


def test_openais_clients_find_a_context_that_is_too_long_by_the_code_they_look_for() -> None:
    long = fault(FaultKind.CONTEXT_TOO_LONG, code="3051")
    _, body = rendered(long)
    assert body["code"] == body["error"]["code"] == "context_length_exceeded"
    _, body = rendered(long, Dialect.MISTRAL)
    assert body["code"] == body["error"]["code"] == "3051"


def test_details_are_a_list_of_limited_length() -> None:
    _, body = rendered(fault(status=422, detail=tuple(str(n) for n in range(100))))
    assert [item["msg"] for item in body["detail"]] == [str(n) for n in range(DETAIL_MAX)]


def test_an_error_in_a_stream_is_one_event_with_both_shapes() -> None:
    event = render_error_event(fault(FaultKind.STREAM_BROKEN), "req-1")
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
    body = msgspec.json.decode(event[6:])
    assert body["object"] == "error"
    assert body["error"]["message"] == body["message"] == "it is wrong (request id req-1)"


def detail(*items: Any) -> Any:
    return {"detail": list(items)}


FORBIDDEN = {
    "type": "extra_forbidden",
    "loc": ["body", "user"],
    "msg": "Extra inputs are not permitted",
}

SHAPES: list[tuple[Any, tuple[str, str | None, str | None, str | None]]] = [
    (
        {
            "object": "error",
            "message": "Invalid model: X",
            "type": "invalid_model",
            "param": None,
            "code": "1500",
        },
        ("Invalid model: X", "invalid_model", "1500", None),
    ),
    (
        {
            "error": {
                "message": "no",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        },
        ("no", "invalid_request_error", "model_not_found", "model"),
    ),
    ({"detail": "Unauthorized"}, ("Unauthorized", None, None, None)),
    ({"message": "Unauthorized", "request_id": "x"}, ("Unauthorized", None, None, None)),
    ({"error": "gone"}, ("gone", None, None, None)),
    (
        {
            "error": {"message": "Content blocked by guardrail", "status": 403},
            "guardrails": {"results": {}},
        },
        ("Content blocked by guardrail", None, None, None),
    ),
    (
        detail({"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}),
        ("messages: Field required", None, None, "messages"),
    ),
    (
        {
            "object": "error",
            "message": detail(FORBIDDEN),
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
        ("user: Extra inputs are not permitted", "invalid_request_error", None, "user"),
    ),
    (
        {
            "message": [{"type": "extra_forbidden"}],
            "detail": [FORBIDDEN],
            "type": "invalid_request_error",
            "code": 3001,
        },
        ("user: Extra inputs are not permitted", "invalid_request_error", "3001", "user"),
    ),
    (
        detail(
            {"loc": ["body", "messages", 0, "user", "content"], "msg": "empty"}, {"loc": ["body"]}
        ),
        ("messages.0.user.content: empty", None, None, "messages[0].user.content"),
    ),
    ({"message": ["a", "b"]}, ("a; b", None, None, None)),
    ({"message": "", "detail": "said here"}, ("said here", None, None, None)),
    (detail({"loc": None, "msg": None}, {"loc": 3, "msg": "x"}), ("x", None, None, None)),
    ({}, ("the provider gave no reason", None, None, None)),
    ({"message": {"detail": []}}, ("the provider gave no reason", None, None, None)),
    ([], ("the provider's answer is not a JSON object", None, None, None)),
    (None, ("the provider's answer is not a JSON object", None, None, None)),
]


@pytest.mark.parametrize(("body", "said"), SHAPES)
def test_a_providers_error_is_read_in_any_shape(
    body: Any, said: tuple[str, str | None, str | None, str | None]
) -> None:
    read = read_error(msgspec.json.encode(body))
    assert (read.message, read.type, read.code, read.param) == said


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b'{"message":"\xff"}', b"[" * 100_000])
def test_what_is_not_json_says_so(body: bytes) -> None:
    assert read_error(body).message == "the provider's answer is not JSON"


def test_a_providers_words_are_passed_on_only_so_far() -> None:
    assert (
        len(read_error(msgspec.json.encode({"message": "x" * 10_000})).message) == MESSAGE_CHARS_MAX
    )
