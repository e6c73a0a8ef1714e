"""Checking a configuration tree whole: all problems at once, each with its place.

msgspec stops at the first mistake. This walks the tree with the schema beside it, and asks msgspec
about the leaves alone. What cannot be read is left out, or stood in for, so that the rest can be looked
at all the same; what is then said of such a place would only follow from it (`Doubts`).
"""

import enum
import types
import typing
from collections.abc import Iterable
from datetime import date, datetime
from difflib import get_close_matches

import msgspec
from msgspec import UNSET


class Problem(msgspec.Struct, frozen=True):
    """One mistake: where, and what is wrong there. `about` is the place of the value that is to blame,
    when that is not `path`; `lacking` is a place that was read, and where something may be missing."""

    path: str
    what: str
    about: str | None = None
    lacking: str | None = None

    @property
    def place(self) -> str:
        return self.path if self.about is None else self.about

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` are all its mistakes."""

    def __init__(self, problems: list[Problem], source: str) -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{count} in {source}:\n{lines}")
        self.problems = problems


class Doubts:
    """The places of which it is not known what was meant, by the problems that were found there."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        told = tuple(problems)
        self._places = frozenset(each.place for each in told)
        self._lacking = frozenset(each.lacking for each in told if each.lacking is not None)

    def cover(self, place: str) -> bool:
        """Whether not all is known of `place`: it was not read, or stands in what was not, or was said
        twice, once by another name."""
        return any(is_in(place, each) for each in self._places | self._lacking)

    def touch(self, problem: Problem) -> bool:
        """Whether a problem may be one only because of what was not read."""
        return any(
            is_in(problem.place, each) or is_in(each, problem.place) for each in self._places
        )


def is_in(place: str, outer: str) -> bool:
    """Whether `place` is `outer`, or within it; everything is within the whole, ''."""
    return place == outer or not outer or place.startswith((f"{outer}.", f"{outer}["))


def build(value: object, kind: typing.Any, path: str, problems: list[Problem]) -> typing.Any:
    """The typed value of `value`, as far as it could be read, its mistakes added to `problems`; UNSET
    for one that could not be read at all."""
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
        choices = _choices(kind)
        what = f"must be one of {', '.join(choices)}" if choices else str(error)
        problems.append(Problem(path, what))
        return UNSET


def _choices(kind: typing.Any) -> tuple[str, ...]:
    """The texts that a value may be, where they are known one by one."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
    return tuple(str(each.value) for each in kind) if is_enum else ()


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
) -> object:
    if not isinstance(value, dict):
        problems.append(Problem(path, f"expected a mapping, got {_shown(value)}"))
        return UNSET
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    built: dict[str, object] = {}
    meant = set()
    for name, member in value.items():
        place = _within(path, name)
        field = fields.get(name)
        if field is None:
            near = get_close_matches(str(name), fields, n=1)
            about = _within(path, near[0]) if near else None
            is_there = bool(near) and near[0] in value
            problems.append(
                Problem(place, _unknown(near, fields), lacking=about)
                if is_there
                else Problem(place, _unknown(near, fields), about)
            )
            meant.update(near)
        elif member is None and not field.required:
            continue
        else:
            built[name] = build(member, field.type, place, problems)
    for name, field in fields.items():
        if field.required and name not in value and name not in meant:
            problems.append(Problem(_within(path, name), "this key is required"))
    return _made(kind, {name: member for name, member in built.items() if member is not UNSET})


def _made(kind: type[msgspec.Struct], known: dict[str, object]) -> object:
    """A section of what could be read of it. A required text that could not be is empty; where another
    value would have to be made up there is no section."""
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in known:
            try:
                known[field.name] = msgspec.convert("", field.type)
            except msgspec.ValidationError:
                return UNSET
    return kind(**known)


def _build_dict(value: object, kind: typing.Any, path: str, problems: list[Problem]) -> object:
    if not isinstance(value, dict):
        problems.append(Problem(path, f"expected a mapping, got {_shown(value)}"))
        return UNSET
    if kind in (object, typing.Any):
        return value
    built = {
        str(name): _or_stand_in(build(member, kind, f"{path}.{name}", problems), kind)
        for name, member in value.items()
    }
    return {name: member for name, member in built.items() if member is not UNSET}


def _build_tuple(value: object, kind: typing.Any, path: str, problems: list[Problem]) -> object:
    if not isinstance(value, list | tuple):
        problems.append(Problem(path, f"expected a list, got {_shown(value)}"))
        return UNSET
    built = [
        _or_stand_in(build(member, kind, f"{path}[{place}]", problems), kind)
        for place, member in enumerate(value)
    ]
    return tuple(member for member in built if member is not UNSET)


def _or_stand_in(built: object, kind: typing.Any) -> object:
    """What was read; for a section that could not be, an empty one, so that its name is known and those
    after it keep their places."""
    if built is not UNSET:
        return built
    kind, is_optional = _without_none(kind)
    if is_optional:
        return None
    is_section = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return _made(kind, {}) if is_section else UNSET


def _within(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _unknown(near: list[str], known: Iterable[str]) -> str:
    if near:
        return f'there is no such key; did you mean "{near[0]}"?'
    return f"there is no such key; known are {', '.join(sorted(known))}"


def _shown(value: object) -> str:
    """What kind of value it is; the value itself may be a secret in the wrong place."""
    return "nothing" if value is None else _KINDS.get(type(value), "another kind of value")


_KINDS: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    date: "a date",
    datetime: "a date",
}
"""What YAML can mean."""
