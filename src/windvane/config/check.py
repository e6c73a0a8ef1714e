"""Checking a configuration tree whole: all problems at once, each with its place.

msgspec stops at the first mistake. This walks the tree with the schema beside it, and asks msgspec
about the leaves alone.
"""

import types
import typing
from difflib import get_close_matches

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One mistake: where, and what is wrong there."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


def build(value: object, kind: typing.Any, path: str, problems: list[Problem]) -> typing.Any:
    """The typed value of `value`, or None with its mistakes added to `problems`."""
    kind, is_optional = _without_none(kind)
    if value is None and is_optional:
        return None
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _build_struct(value, kind, path, problems)
    if origin is dict:
        return _build_dict(value, typing.get_args(kind)[1], path, problems)
    if origin is tuple:
        return _build_tuple(value, typing.get_args(kind)[0], path, problems)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        problems.append(Problem(path, str(error)))
        return None


def _without_none(kind: typing.Any) -> tuple[typing.Any, bool]:
    """`X | None` as X, when X is one type; other unions stay as they are."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        is_optional = len(members) < len(typing.get_args(kind))
        if len(members) == 1:
            return members[0], is_optional
    return kind, False


def _build_struct(
    value: object, kind: type[msgspec.Struct], path: str, problems: list[Problem]
) -> msgspec.Struct | None:
    if not isinstance(value, dict):
        problems.append(Problem(path, f"expected a mapping, got {_shown(value)}"))
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    before = len(problems)
    built = {}
    for name, member in value.items():
        place = f"{path}.{name}" if path else str(name)
        field = fields.get(name)
        if field is None:
            problems.append(Problem(place, _unknown(str(name), list(fields))))
        elif member is None and not field.required:
            continue
        else:
            built[name] = build(member, field.type, place, problems)
    for name, field in fields.items():
        if field.required and name not in value:
            problems.append(Problem(f"{path}.{name}" if path else name, "this key is required"))
    return kind(**built) if len(problems) == before else None


def _build_dict(
    value: object, kind: typing.Any, path: str, problems: list[Problem]
) -> dict[str, object]:
    if not isinstance(value, dict):
        problems.append(Problem(path, f"expected a mapping, got {_shown(value)}"))
        return {}
    if kind in (object, typing.Any):
        return value
    return {
        str(name): build(member, kind, f"{path}.{name}", problems) for name, member in value.items()
    }


def _build_tuple(
    value: object, kind: typing.Any, path: str, problems: list[Problem]
) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        problems.append(Problem(path, f"expected a list, got {_shown(value)}"))
        return ()
    return tuple(
        build(member, kind, f"{path}[{place}]", problems) for place, member in enumerate(value)
    )


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f'there is no such key; did you mean "{near[0]}"?'
    return f"there is no such key; known are {', '.join(sorted(known))}"


def _shown(value: object) -> str:
    """What kind of value it is; the value itself may be a secret in the wrong place."""
    kinds = {dict: "a mapping", list: "a list", str: "a text", bool: "a truth value"}
    return "nothing" if value is None else kinds.get(type(value), "a number")
