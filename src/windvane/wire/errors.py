"""Errors on the wire: rendering ours for a caller, and reading a provider's.

One body serves the clients of OpenAI and of Mistral alike: Mistral's envelope with OpenAI's inside.
"""

import re
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec

from windvane.core.chat import JsonObject
from windvane.core.faults import Fault, FaultKind, LimitReached
from windvane.core.money import usd_text
from windvane.wire.dialect import Dialect

DETAIL_MAX = 20
MESSAGE_CHARS_MAX = 2_000
"""An upstream's error text is passed on no longer than this."""
PARAM_CHARS_MAX = 200

_STEP = re.compile(r"[^.\[\]]+")

_TYPES: dict[FaultKind, str] = {
    FaultKind.INVALID_REQUEST: "invalid_request_error",
    FaultKind.CONTEXT_TOO_LONG: "invalid_request_error",
    FaultKind.CONTENT_FILTERED: "invalid_request_error",
    FaultKind.TOO_LARGE: "invalid_request_error",
    FaultKind.NOT_FOUND: "invalid_request_error",
    FaultKind.NO_ROUTE: "invalid_request_error",
    FaultKind.UNAUTHENTICATED: "authentication_error",
    FaultKind.FORBIDDEN: "permission_error",
    FaultKind.PAYMENT_REQUIRED: "billing_error",
    FaultKind.RATE_LIMITED: "rate_limited",
    FaultKind.BUDGET_EXCEEDED: "insufficient_quota",
    FaultKind.OVERLOADED: "overloaded_error",
    FaultKind.TIMEOUT: "timeout_error",
}

_CODES: dict[FaultKind, str] = {
    FaultKind.CONTEXT_TOO_LONG: "context_length_exceeded",
    FaultKind.CONTENT_FILTERED: "content_filter",
    FaultKind.TOO_LARGE: "request_too_large",
    FaultKind.NOT_FOUND: "not_found",
    FaultKind.UNAUTHENTICATED: "invalid_api_key",
    FaultKind.RATE_LIMITED: "rate_limit_exceeded",
    FaultKind.CONNECT_FAILED: "upstream_unreachable",
}


def error_object(fault: Fault, request_id: str) -> JsonObject:
    """The four fields every dialect of the family knows, with the request id in the message; and the
    limit that refused, when one did."""
    written: JsonObject = {
        "message": f"{fault.message} (request id {request_id})",
        "type": _TYPES.get(fault.kind, "api_error"),
        "param": fault.param,
        "code": fault.code or _CODES.get(fault.kind, fault.kind.value),
    }
    if fault.limit is not None:
        written["limit"] = limit_object(fault.limit)
    return written


def limit_object(limit: LimitReached) -> JsonObject:
    """A limit that refused. Money is in dollars, as text, and in nano-dollars."""
    written: JsonObject = {"scope": limit.scope, "what": limit.what, "period": limit.period}
    amounts = {
        "limit": limit.limit,
        "used": limit.used,
        "left": limit.left,
        "needed": limit.needed,
    }
    for name, amount in amounts.items():
        if amount is None:
            continue
        if limit.what == "budget":
            written[f"{name}_usd"] = usd_text(amount)
            written[f"{name}_nano_usd"] = amount
        else:
            written[name] = amount
    if limit.renews_at_us is not None:
        renews = datetime.fromtimestamp(limit.renews_at_us / 1_000_000, UTC)
        written["renews_at"] = renews.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return written


def render_error(fault: Fault, dialect: Dialect, request_id: str) -> tuple[int, bytes]:
    """The status and body for a caller of `dialect`.

    A caller of Mistral's gets 422 with a `detail` list for a wrong field of the body, as its API answers.
    """
    inner = error_object(fault, request_id)
    if dialect is Dialect.OPENAI and fault.kind is FaultKind.CONTEXT_TOO_LONG:
        inner["code"] = _CODES[fault.kind]  # agents look for it, to shorten the conversation
    body: JsonObject = {"object": "error", **inner, "error": inner, "request_id": request_id}
    status = fault.status
    if dialect is Dialect.MISTRAL and status == HTTPStatus.BAD_REQUEST and _is_of_a_field(fault):
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        place = ["body", *_steps(fault.param or "")]
        texts = fault.detail or (fault.message,)
        body["detail"] = [
            {"type": "value_error", "loc": place, "msg": text} for text in texts[:DETAIL_MAX]
        ]
    return int(status), msgspec.json.encode(body)


def _is_of_a_field(fault: Fault) -> bool:
    """Whether a field of the body is wrong: too long a context is none, nor is a header."""
    param = fault.param
    return fault.kind is FaultKind.INVALID_REQUEST and bool(param and not param.startswith("x-"))


def _steps(param: str) -> list[str | int]:
    """`messages[0].content` as the steps that a `loc` is made of."""
    return [int(step) if step.isdecimal() else step for step in _STEP.findall(param)]


def render_error_event(fault: Fault, request_id: str) -> bytes:
    """The event that ends a stream which cannot go on. Both SDKs raise on it."""
    inner = error_object(fault, request_id)
    body = {"object": "error", **inner, "error": inner, "request_id": request_id}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


class UpstreamError(msgspec.Struct, frozen=True):
    """What a provider's error body says, in whatever shape it says it."""

    message: str
    type: str | None = None
    code: str | None = None
    param: str | None = None


def read_error(body: bytes) -> UpstreamError:
    """Read an error body of either provider, or of the proxy in front of it; never raises."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UpstreamError("the provider's answer is not JSON")
    if not isinstance(value, dict):
        return UpstreamError("the provider's answer is not a JSON object")
    nested = value.get("error")
    inner = nested if isinstance(nested, dict) else value
    sayings = (value.get("message"), inner.get("message"), value.get("detail"), nested)
    message = next((said for each in sayings if (said := _said(each))), None)
    return UpstreamError(
        (message or "the provider gave no reason")[:MESSAGE_CHARS_MAX],
        _text(inner.get("type")),
        _text(inner.get("code")),
        _text(inner.get("param")) or next((at for each in sayings if (at := _param(each))), None),
    )


def _said(value: object) -> str:
    """A string, or the texts of a list of details in one; empty for anything else."""
    if isinstance(value, str):
        return value
    texts = [_detail_text(item) for item in _details(value)[:DETAIL_MAX]]
    return "; ".join(text for text in texts if text)


def _param(value: object) -> str:
    """The field that the first of a list of details is about, as `messages[0].content`; empty when it
    is about none."""
    details = _details(value)
    param = ""
    for step in _place(details[0]) if details else ():
        if isinstance(step, int):
            param += f"[{step}]"
        else:
            param += f".{step}" if param else str(step)
    return param[:PARAM_CHARS_MAX]


def _details(value: object) -> list[object]:
    details = value.get("detail") if isinstance(value, dict) else value
    return details if isinstance(details, list) else []


def _place(detail: object) -> list[object]:
    """Where in the body, step by step."""
    steps = detail.get("loc") if isinstance(detail, dict) else None
    return [step for step in steps if step != "body"] if isinstance(steps, list) else []


def _detail_text(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    said = str(item.get("msg") or "")
    place = ".".join(map(str, _place(item)))
    return f"{place}: {said}" if place else said


def _text(value: object) -> str | None:
    return None if value is None else str(value)
