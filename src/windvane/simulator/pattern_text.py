"""Writes a text that a simple regular expression matches: for schemas with `pattern`.

Understood: literals, classes, `.`, groups, alternatives, repeats and anchors. Anything else
(look-arounds, back references) gives None, and the caller does without. Patterns come from requests:
one that could be tried for ages, as `(a+)+b`, is never tried.
"""

import re
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]

from windvane.simulator.dice import Dice
from windvane.simulator.json_types import Json

REPEATS_MAX = 64
"""Repetitions written at most, unless the pattern demands more."""
TEXT_MAX = 10_000
"""Characters of one repetition, and times of the shortest, whatever the pattern demands."""
PATTERN_MAX = 1_000
TRIED_MAX = 32
"""Characters of a text that is tried."""
VARYING_MAX = 2
"""Choices in a pattern that is tried: each repetition multiplies the ways to match by the text's length."""
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT)

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
    """Return a text the pattern matches, as far as that can be tried, or None when it is too clever
    for us."""
    if len(pattern) > PATTERN_MAX:
        return None
    try:
        parsed = _parser.parse(pattern)
        made = _sequence(parsed, dice)
        is_tried = len(made) <= TRIED_MAX and _varying(parsed) <= VARYING_MAX
        return made if not is_tried or re.search(pattern, made) else None
    except (re.error, _TooClever, RecursionError, OverflowError):
        return None


def is_met(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text; false for what would take too long to know."""
    if len(pattern) > PATTERN_MAX or len(text) > TRIED_MAX:
        return False
    try:
        is_tried = _varying(_parser.parse(pattern)) <= VARYING_MAX
        return is_tried and re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _varying(nodes: Json) -> int:
    """How many choices there are: alternatives, and repetitions of no fixed number. One within such a
    repetition is too many."""
    found = 0
    for op, value in nodes:
        if op in _REPEATS:
            least, most, body = value
            within = _varying(body)
            if least == most:
                found += within * least
            else:
                found += VARYING_MAX + within if within else 1
        elif op is ops.BRANCH:
            found += 1 + sum(_varying(each) for each in value[1])
        elif op is ops.SUBPATTERN:
            found += _varying(value[-1])
    return found


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
    if op in _REPEATS:
        least, most, body = value
        one = _sequence(body, dice)
        times = min(max(least, min(3, most)), max(REPEATS_MAX, least))
        times = min(times, TEXT_MAX // len(one)) if one else 1
        return one + "".join(_sequence(body, dice) for _ in range(times - 1)) if times else ""
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
