"""What a provider of the OpenAI family says, as parts that a scripted transport plays.

A script is a row of `(delay_s, part)`, each delay counted from the part before. A script that does
not end in `Ends`, `Breaks` or `Refuses` stalls after its last part, for ever. One that does not begin
with `Connects` or `Refuses` is connected to at once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Status and headers, names in lower case."""

    status: int = 200
    headers: Mapping[str, str]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the body. `output_tokens` is what the provider counts for making them."""

    data: bytes
    output_tokens: int = 0


class Ends(msgspec.Struct, frozen=True):
    """The body is whole."""


class Breaks(msgspec.Struct, frozen=True):
    """The connection breaks: before the head, or in the body."""


class Connects(msgspec.Struct, frozen=True):
    """A connection is made, which had to be waited for; only now the request is sent."""


class Refuses(msgspec.Struct, frozen=True):
    """No connection is made; not one byte is sent."""


Part = Connects | Refuses | Head | Piece | Ends | Breaks
Script = Iterable[tuple[float, Part]]


def json_head(status: int = 200, **headers: str) -> Head:
    """The head of a JSON answer; `retry_after="2"` is the header `retry-after`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(status=status, headers={**_JSON, **named})


def event_head() -> Head:
    return Head(headers=_EVENTS)


def usage_object(input_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


def completion(
    text: str | None, usage: tuple[int, int] | None, *, finish: str = "stop", model: str = "m"
) -> bytes:
    """The body of a whole answer; `usage` is (input, output) tokens, or None to say nothing."""
    said: dict[str, Any] = {
        "id": "cmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish,
            }
        ],
    }
    if usage is not None:
        said["usage"] = usage_object(*usage)
    return msgspec.json.encode(said)


def chunk(
    text: str | None = None,
    *,
    finish: str | None = None,
    usage: tuple[int, int] | None = None,
    **delta: object,
) -> bytes:
    """One event of a stream: a piece of text, a finish reason, usage, or several of these."""
    fields: dict[str, object] = {**delta}
    if text is not None:
        fields["content"] = text
    said: dict[str, Any] = {
        "id": "cmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [{"index": 0, "delta": fields, "finish_reason": finish}],
    }
    if usage is not None:
        said["usage"] = usage_object(*usage)
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


def error_body(message: str = "no", code: str | None = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "error", "code": code}})
