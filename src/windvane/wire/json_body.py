"""Reading a caller's JSON so that two parsers can never read it differently.

What we price must be what the provider reads. So duplicate keys and numbers that JSON has not are
refused rather than interpreted, depth and size are bounded, and only bytes written anew from the
parsed value go upstream.
"""

import json
import re
from collections.abc import Callable, Collection
from types import GenericAlias, UnionType
from typing import NoReturn

import msgspec

from windvane.core.chat import JsonObject
from windvane.core.faults import FaultKind, refuse

DEPTH_MAX = 64
NODES_MAX = 100_000
"""Objects, arrays and their members: bounds the work a small body can ask for."""

_SHALLOW_LEVELS = 9
"""As deep as tools and their schemas mostly are. Each level more doubles the decoder that knows them."""
_SMALL_BYTES = 2 * NODES_MAX
"""Each member takes two bytes at least: its value, and what ends it."""
_SHORT_BYTES = 32 * 1024
"""What a request may hold twice."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def _shallow(levels: int) -> GenericAlias:
    """The type of an object that is at most so many levels deep."""
    plain = str | int | float | bool | None
    value: UnionType = plain
    for _ in range(levels - 1):
        value = plain | GenericAlias(list, (value,)) | GenericAlias(dict, (str, value))
    return GenericAlias(dict, (str, value))


_decode_shallow: Callable[[bytes], JsonObject]
_decode_shallow = msgspec.json.Decoder(_shallow(_SHALLOW_LEVELS)).decode


def read_object(body: bytes) -> JsonObject:
    """Parse `body` as one JSON object.

    Raises BadRequestError when it is empty, malformed, not an object, too deep, too large in
    members, or says a key twice.
    """
    value = _parse(body)
    if (anew := _encode(value)) != body:
        _refuse_losses(body, anew)
    return value


def read_object_with(body: bytes, name: str) -> tuple[JsonObject, msgspec.Raw | None]:
    """Parse `body` as `read_object` does, and give its member `name` as JSON too, written anew.

    It costs next to nothing: the whole is written anew in any case. Of a long body it is not given: it
    would be one copy more in memory, for as long as the request lasts.
    """
    if len(body) > _SHORT_BYTES:
        return read_object(body), None
    value = _parse(body)
    if name not in value:  # nor may it be in what is written: its colon would stand for a lost one
        _refuse_losses(body, _encode(value))
        return value, None
    member = value[name]
    # In its own place for as long as the whole is written.
    written = value[name] = msgspec.Raw(_encode(member))
    if (anew := _encode(value)) != body:
        _refuse_losses(body, anew)
    value[name] = member
    return value, written


def _parse(body: bytes) -> JsonObject:
    """What `body` says, within the bounds: those of most bodies are seen from their type and length."""
    if not body:
        raise refuse(FaultKind.INVALID_REQUEST, "the request body is empty; send a JSON object")
    try:
        value = _decode_shallow(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = _parse_deep(body)
    else:
        if len(body) <= _SMALL_BYTES:
            return value
    _check_bounds(value)
    return value


def _parse_deep(body: bytes) -> JsonObject:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse(
            FaultKind.INVALID_REQUEST, f"the body is not valid JSON: {_reason(body, error)}"
        ) from error
    except RecursionError as error:
        raise refuse(FaultKind.INVALID_REQUEST, _too_deep()) from error
    if type(value) is not dict:
        raise refuse(
            FaultKind.INVALID_REQUEST, f"the body must be a JSON object, not {_kind(value)}"
        )
    return value


_ESCAPE = re.compile(
    rb"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<half>\\u[dD][89a-fA-F]\w\w)|\\.", re.DOTALL
)
"""A character written as two escapes, half of one, any other escape."""


def _reason(body: bytes, error: Exception) -> str:
    """What is wrong with text that cannot be decoded, and where: the parser counts from the beginning of
    a string, and takes half a character at the end for the end of the body."""
    if isinstance(error, UnicodeDecodeError):
        try:
            body.decode()
        except UnicodeDecodeError as wrong:
            return f"0x{body[wrong.start]:02x} is not UTF-8 (byte {wrong.start})"
    said = str(error)
    if "truncated" in said or "surrogate" in said:
        for escape in _ESCAPE.finditer(body):
            if half := escape["half"]:
                return f"{half.decode()} is half of a surrogate pair (byte {escape.start()})"
    return said


def without_halves(body: bytes) -> bytes:
    """JSON with U+FFFD for each half of a character, within which a model's answer may be cut."""
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape["half"] else escape[0], body)


def _check_bounds(value: JsonObject) -> None:
    """Refuse a value of too many levels, or of too many members in all of them."""
    level: Collection[object] = value.values()
    nodes = len(value)
    for _ in range(DEPTH_MAX):
        deeper: list[object] = []
        is_last = True
        for member in level:
            kind = type(member)
            if kind is dict or kind is list:
                nodes += len(member)  # type: ignore[arg-type]
                if nodes > NODES_MAX:  # before they are listed: there may be as many as bytes
                    break
                is_last = False
                deeper += member.values() if kind is dict else member  # type: ignore[attr-defined,arg-type]
        if nodes > NODES_MAX:
            raise refuse(FaultKind.INVALID_REQUEST, f"the body has more than {NODES_MAX} values")
        if is_last:
            return
        level = deeper
    raise refuse(FaultKind.INVALID_REQUEST, _too_deep())


def _refuse_losses(body: bytes, anew: bytes) -> None:
    """Refuse a key said twice: it is lost in what `body` was read as, and in that, written `anew`.

    Compact JSON is written anew as the very same bytes, which say each key once. Otherwise count colons: a
    lost key takes its own with it, unless one in a text was hidden in an escape. Go and .NET write `<` and
    `>` as escapes that differ from a colon's by the last digit: those hide nothing.
    """
    # `in` takes bytes for a number first, raises, and drops that: longer than it looks for them.
    has_hidden = body.find(rb"\u003a") >= 0 or body.find(rb"\u003A") >= 0
    if has_hidden or anew.count(b":") != body.count(b":"):
        _refuse_duplicates(body)


def _refuse_duplicates(body: bytes) -> None:
    """The exact check, for bodies whose colons do not add up."""

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
