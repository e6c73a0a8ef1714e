"""Reading a caller's JSON so that two parsers can never read it differently.

What we price must be what the provider reads. So duplicate keys and numbers that JSON has not are
refused rather than interpreted, depth and size are bounded, and only bytes written anew from the
parsed value go upstream.
"""

import json
from typing import NoReturn

import msgspec

from windvane.core.chat import JsonObject
from windvane.core.faults import FaultKind, refuse

DEPTH_MAX = 64
NODES_MAX = 100_000
"""Objects, arrays and their members: bounds the work a small body can ask for."""

_COLON_ESCAPED = b"\\u003"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def read_object(body: bytes) -> JsonObject:
    """Parse `body` as one JSON object.

    Raises BadRequestError when it is empty, malformed, not an object, too deep, too large in
    members, or says a key twice.
    """
    if not body:
        raise refuse(FaultKind.INVALID_REQUEST, "the request body is empty; send a JSON object")
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse(FaultKind.INVALID_REQUEST, f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise refuse(FaultKind.INVALID_REQUEST, _too_deep()) from error
    if type(value) is not dict:
        raise refuse(
            FaultKind.INVALID_REQUEST, f"the body must be a JSON object, not {_kind(value)}"
        )
    pairs = _count_pairs(value)
    # Each key is followed by a colon. When there are no more colons than keys, none was said twice;
    # colons inside strings make it worth a closer look, and then, if need be, the exact one.
    if body.count(b":") != pairs and not _is_whole(value, body):
        _refuse_duplicates(body)
    return value


def _is_whole(value: JsonObject, body: bytes) -> bool:
    """Whether `value` is for certain all that `body` says. A key said twice is lost in the value, and
    a colon with it: so, written anew, it has fewer of them, unless one was hidden in an escape."""
    return _COLON_ESCAPED not in body and _encode(value).count(b":") == body.count(b":")


def _count_pairs(value: JsonObject) -> int:
    """Count members of all objects in `value`, level by level, within the bounds."""
    pairs = nodes = depth = 0
    level: list[object] = [value]
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise refuse(FaultKind.INVALID_REQUEST, _too_deep())
        deeper: list[object] = []
        for container in level:
            if type(container) is dict:
                pairs += len(container)
                members = container.values()
            else:
                members = container  # type: ignore[assignment]
            nodes += len(members)
            if nodes > NODES_MAX:
                raise refuse(
                    FaultKind.INVALID_REQUEST, f"the body has more than {NODES_MAX} values"
                )
            for member in members:
                kind = type(member)
                if kind is dict or kind is list:
                    deeper.append(member)
        level = deeper
    return pairs


def _refuse_duplicates(body: bytes) -> None:
    """The exact check, for bodies whose quotes and colons do not add up."""

    def once(members: list[tuple[str, object]]) -> None:
        names = set()
        for name, _ in members:
            if name in names:
                raise _DuplicateKeyError(name)
            names.add(name)

    try:
        json.loads(body, object_pairs_hook=once, parse_int=str, parse_constant=_refuse_constant)
    except _DuplicateKeyError as error:
        raise refuse(
            FaultKind.INVALID_REQUEST,
            f"the body says the key {error.name[:64]!r} twice in one object",
            param=error.name[:64],
        ) from None
    except ValueError as error:
        raise refuse(FaultKind.INVALID_REQUEST, f"the body is not valid JSON: {error}") from error


class _DuplicateKeyError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_deep() -> str:
    return f"the body is nested deeper than {DEPTH_MAX} levels"


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
