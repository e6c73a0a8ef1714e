"""Reads a request body as a stranger would, and refuses what two parsers could read differently.

A duplicate key means one thing to the program that checked the body and another to the one that
obeys it. The cheap test: a body that equals the compact encoding of its own parse has no
duplicates. Only other bodies are read a second time, by the standard library, key by key.
"""

import json

import msgspec

from windvane.simulator.json_types import Json

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class AmbiguousJson(ValueError):
    """The body has no single meaning; the text says why."""


class DuplicateKey(AmbiguousJson):
    """An object names the same key twice."""


def read_json(body: bytes) -> Json:
    """Return the parsed body; raise AmbiguousJson unless every reader must agree on it."""
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AmbiguousJson(str(error)) from error
    if _encode(value) != body:
        _refuse_duplicates(body)
    return value


def _refuse_duplicates(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except AmbiguousJson:
        raise
    except (ValueError, RecursionError) as error:
        raise AmbiguousJson(f"the second parser disagrees: {error}") from error


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise DuplicateKey(f"duplicate keys: {', '.join(twice)}")
    return seen


def _refuse_constant(name: str) -> Json:
    raise AmbiguousJson(f"not a JSON number: {name}")
