"""Reading a caller's JSON so that two parsers can never read it differently.

What we price must be what the provider reads. So duplicate keys and numbers that JSON has not are
refused rather than interpreted, depth and size are bounded, and only bytes written anew from the
parsed value go upstream.
"""

import json
from collections.abc import Collection
from typing import NoReturn

import msgspec

from windvane.core.chat import JsonObject
from windvane.core.faults import FaultKind, refuse

DEPTH_MAX = 64
NODES_MAX = 100_000
"""Objects, arrays and their members: bounds the work a small body can ask for."""

_FIRST_BYTES = 64
"""Enough to see whether JSON is written with spaces: it is only a guess of which proof is the cheaper."""

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
    if not _is_whole(value, pairs, body):
        _refuse_duplicates(body)
    return value


def _is_whole(value: JsonObject, pairs: int, body: bytes) -> bool:
    """Whether `value` is for certain all that `body` says: a key said twice is lost in the value.

    The value written anew says each key once. Compact JSON is the very same bytes, and so says each key
    once, too. Otherwise count colons, one of which follows each key: with no more of them than pairs,
    none was lost. Nor was one when the value written anew has as many, for a lost key takes its colon
    with it, unless one in a text was hidden in an escape.
    """
    is_spaced = body.find(b'": ', 0, _FIRST_BYTES) >= 0
    if is_spaced and body.count(b":") == pairs:
        return True
    anew = _encode(value)
    if anew == body:
        return True
    colons = body.count(b":")
    return colons == pairs or (
        colons == anew.count(b":") and rb"\u003a" not in body and rb"\u003A" not in body
    )


def _count_pairs(value: JsonObject) -> int:
    """Count members of all objects in `value`, level by level, within the bounds."""
    level: Collection[object] = value.values()
    pairs = len(value)
    nodes = pairs
    for _ in range(DEPTH_MAX):
        deeper: list[object] = []
        is_last = True
        for member in level:
            kind = type(member)
            if kind is str:
                continue
            if kind is dict or kind is list:
                size = len(member)  # type: ignore[arg-type]
                nodes += size
                if nodes > NODES_MAX:  # before they are listed: there may be as many as bytes
                    break
                is_last = False
                if kind is dict:
                    pairs += size
                    deeper += member.values()  # type: ignore[attr-defined]
                else:
                    deeper += member  # type: ignore[arg-type]
        if nodes > NODES_MAX:
            raise refuse(FaultKind.INVALID_REQUEST, f"the body has more than {NODES_MAX} values")
        if is_last:
            return pairs
        level = deeper
    raise refuse(FaultKind.INVALID_REQUEST, _too_deep())


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
