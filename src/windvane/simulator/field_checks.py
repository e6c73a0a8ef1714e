"""Checks of single request fields, with the words a strict server uses for what is wrong.

A check takes a value and returns None, or the pair (error type, message). Null is always fine:
optional fields may be null, and required ones are looked for elsewhere.
"""

import math
from collections.abc import Callable, Mapping

from windvane.simulator.json_types import Json

Fault = tuple[str, str]
Check = Callable[[Json], Fault | None]


def anything(_value: Json) -> Fault | None:
    """Accept every value."""
    return None


def boolean(value: Json) -> Fault | None:
    """Accept true and false."""
    if value is None or isinstance(value, bool):
        return None
    return "bool_type", "Input should be a valid boolean"


def text(value: Json) -> Fault | None:
    """Accept strings."""
    if value is None or isinstance(value, str):
        return None
    return "string_type", "Input should be a valid string"


def texts(value: Json) -> Fault | None:
    """Accept a string or a list of strings."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return None
    return "string_type", "Input should be a valid string"


def text_or_mapping(value: Json) -> Fault | None:
    """Accept strings and objects."""
    if value is None or isinstance(value, str | dict):
        return None
    return "string_type", "Input should be a valid string or dictionary"


def mapping(value: Json) -> Fault | None:
    """Accept objects."""
    if value is None or isinstance(value, dict):
        return None
    return "dict_type", "Input should be a valid dictionary"


def number(low: float = -math.inf, high: float = math.inf, *, above_low: bool = False) -> Check:
    """Return a check for numbers from `low` (or above it) to `high`; for all, if neither is said."""

    def check(value: Json) -> Fault | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "float_type", "Input should be a valid number"
        if above_low and value <= low:
            return "greater_than", f"Input should be greater than {low:g}"
        if value < low:
            return "greater_than_equal", f"Input should be greater than or equal to {low:g}"
        if value > high:
            return "less_than_equal", f"Input should be less than or equal to {high:g}"
        return None

    return check


def integer(low: int, high: float = math.inf) -> Check:
    """Return a check for whole numbers from `low` to `high`."""

    def check(value: Json) -> Fault | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            return "int_type", "Input should be a valid integer"
        if value < low:
            return "greater_than_equal", f"Input should be greater than or equal to {low}"
        if value > high:
            return "less_than_equal", f"Input should be less than or equal to {high}"
        return None

    return check


def one_of(*allowed: str) -> Check:
    """Return a check for one of a set of words."""
    said = ", ".join(f"'{word}'" for word in allowed[:-1]) + f" or '{allowed[-1]}'"

    def check(value: Json) -> Fault | None:
        if value is None or (isinstance(value, str) and value in allowed):
            return None
        return "literal_error", f"Input should be {said}"

    return check


def each(inner: Check) -> Check:
    """Return a check for lists whose items all pass another."""

    def check(value: Json) -> Fault | None:
        if value is None:
            return None
        if not isinstance(value, list):
            return "list_type", "Input should be a valid list"
        return next((wrong for one in value if (wrong := _said(one, inner)) is not None), None)

    return check


def members(inner: Check) -> Check:
    """Return a check for objects whose values all pass another, whatever their names."""

    def check(value: Json) -> Fault | None:
        if value is None or not isinstance(value, dict):
            return mapping(value)
        return each(inner)(list(value.values()))

    return check


def record(fields: Mapping[str, Check], required: tuple[str, ...] = ()) -> Check:
    """Return a check for objects with these fields, and no others."""

    def check(value: Json) -> Fault | None:
        if value is None or not isinstance(value, dict):
            return mapping(value)
        for name in required:
            if value.get(name) is None:
                return "missing", f"Field '{name}' is required"
        for name, given in value.items():
            if name not in fields:
                return "extra_forbidden", f"Unknown field '{name}'"
            if (wrong := fields[name](given)) is not None:
                return wrong[0], f"{name}: {wrong[1]}"
        return None

    return check


def _said(value: Json, inner: Check) -> Fault | None:
    """What is wrong with a value that may not be null."""
    return ("missing", "Input should not be null") if value is None else inner(value)


def sequence(longest: int) -> Check:
    """Return a check for lists of at most `longest` items."""

    def check(value: Json) -> Fault | None:
        if value is None:
            return None
        if not isinstance(value, list):
            return "list_type", "Input should be a valid list"
        if len(value) > longest:
            return (
                "too_long",
                f"List should have at most {longest} items after validation, not {len(value)}",
            )
        return None

    return check
