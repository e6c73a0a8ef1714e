"""Writes a text that a simple regular expression matches: for schemas with `pattern`.

Understood: literals, classes, `.`, groups, alternatives, repeats and anchors. Anything else
(look-arounds, back references) gives None, and the caller does without.
"""

import re
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]

from windvane.simulator.dice import Dice
from windvane.simulator.json_types import Json

REPEATS_MAX = 64
"""Repetitions written at most, whatever the pattern demands."""

_CATEGORY_SAMPLES = {
    ops.CATEGORY_DIGIT: "0123456789",
    ops.CATEGORY_WORD: "abcdefghijklmnopqrstuvwxyz",
    ops.CATEGORY_SPACE: " ",
    ops.CATEGORY_NOT_DIGIT: "abcdefgh",
    ops.CATEGORY_NOT_WORD: "-",
    ops.CATEGORY_NOT_SPACE: "abcdefgh",
}
_PRINTABLE = [chr(code) for code in range(ord("!"), ord("~") + 1)]


def text_matching(pattern: str, dice: Dice) -> str | None:
    """Return a text the pattern matches, or None when it is too clever for us."""
    try:
        made = "".join(_write(part, dice) for part in _parser.parse(pattern))
        return made if re.search(pattern, made) else None
    except (re.error, _TooClever, RecursionError):
        return None


class _TooClever(Exception):
    """A construct this writer does not know."""


def _write(node: tuple[Json, Json], dice: Dice) -> str:
    op, value = node
    if op is ops.LITERAL:
        return chr(value)
    if op is ops.ANY:
        return "x"
    if op is ops.AT:
        return ""
    if op is ops.IN:
        return _member(value, dice)
    if op is ops.NOT_LITERAL:
        return "y" if value == ord("x") else "x"
    if op is ops.BRANCH:
        return _sequence(dice.pick(value[1]), dice)
    if op is ops.SUBPATTERN:
        return _sequence(value[-1], dice)
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        least, most, body = value
        times = min(max(least, min(3, most)), max(REPEATS_MAX, least), 10_000)
        return "".join(_sequence(body, dice) for _ in range(times))
    raise _TooClever(str(op))


def _sequence(nodes: Json, dice: Dice) -> str:
    return "".join(_write(node, dice) for node in nodes)


def _member(members: list[tuple[Json, Json]], dice: Dice) -> str:
    if members[0][0] is ops.NEGATE:
        banned = set("".join(_all(member) for member in members[1:]))
        allowed = [letter for letter in _PRINTABLE if letter not in banned]
        if not allowed:
            raise _TooClever("a class that allows nothing printable")
        return dice.pick(allowed)
    return dice.pick(_all(dice.pick(members)))


def _all(member: tuple[Json, Json]) -> str:
    op, value = member
    if op is ops.LITERAL:
        return chr(value)
    if op is ops.RANGE:
        low, high = value
        return "".join(chr(code) for code in range(low, min(high, low + 255) + 1))
    if op is ops.CATEGORY and value in _CATEGORY_SAMPLES:
        return _CATEGORY_SAMPLES[value]
    raise _TooClever(str(op))
