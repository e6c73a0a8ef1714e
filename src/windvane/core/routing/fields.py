"""What rules may ask about, and what each of these can be: a condition that cannot hold is refused."""

from math import ceil, floor, inf, nextafter

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.analysis.lexicon import LANGUAGES
from windvane.core.analysis.shape import LATIN, SCRIPTS

ANALYSIS_FIELDS = tuple(field.name for field in msgspec.structs.fields(Analysis))
FACT_FIELDS = ("key", "team", "tag", "hour", "weekday", "requested_model")
HEADER_PREFIX = "header."

NUMBER, TEXT, TRUTH = "a number", "a text", "true or false"
COUNTED_MAX = float(2**63)
"""No count is as high."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """What a field may be. One that is `always` there, and no text, compares without being asked what
    it is (a truth value is a number). `texts` are all that a text can be, where they are known."""

    kind: str
    always: bool
    least: float = 0
    most: float = COUNTED_MAX
    is_whole: bool = True
    texts: tuple[str, ...] = ()

    def check(self, value: object) -> None:
        """Raise ValueError for a value that the field never has: a condition that cannot hold."""
        if value is None:
            fits = not self.always
        elif self.kind == TEXT:
            fits = isinstance(value, str) and (not self.texts or value in self.texts)
        elif self.kind == TRUTH:
            fits = isinstance(value, bool | int) and value in (0, 1)
        else:
            fits = (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and self._may_be({"gte": value, "lte": value})
            )
        if not fits:
            kind = TEXT if self.texts and not isinstance(value, str) else self._described()
            raise ValueError(f"it is {kind}, never {shown(value)}")

    def check_range(self, limits: dict[str, float]) -> None:
        """Raise ValueError when no value of the field compares so (`gt`, `gte`, `lt`, `lte`)."""
        if not self._may_be(limits):
            said = " and ".join(f"{name} {shown(limit)}" for name, limit in limits.items())
            raise ValueError(f"it is {self._described()}, never {said}")

    def _may_be(self, limits: dict[str, float]) -> bool:
        low, high = self.least, self.most
        for name, said in limits.items():
            if said != said:  # noqa: PLR0124 - not a number
                return False
            limit = max(-COUNTED_MAX, min(said, 2 * COUNTED_MAX))
            match name:
                case "gt":
                    low = max(low, nextafter(limit, inf))
                case "gte":
                    low = max(low, limit)
                case "lt":
                    high = min(high, nextafter(limit, -inf))
                case "lte":
                    high = min(high, limit)
        return low <= high and (not self.is_whole or ceil(low) <= floor(high))

    def _described(self) -> str:
        if self.texts:
            return f"one of {', '.join(self.texts)}"
        if self.kind == NUMBER and self.most != COUNTED_MAX:
            return f"a number from {self.least:g} to {self.most:g}"
        return self.kind


def shown(value: object) -> str:
    return repr(value)[:40]


_TYPES: dict[object, Field] = {
    bool: Field(kind=TRUTH, always=True, most=1),
    int: Field(kind=NUMBER, always=True),
    float: Field(kind=NUMBER, always=True, is_whole=False),
    int | None: Field(kind=NUMBER, always=False),
    str: Field(kind=TEXT, always=True),
    str | None: Field(kind=TEXT, always=False),
}
_OF_ANALYSIS = {
    **{field.name: _TYPES[field.type] for field in msgspec.structs.fields(Analysis)},
    "difficulty": Field(kind=NUMBER, always=True, most=1, is_whole=False),
    "language": Field(
        kind=TEXT, always=False, texts=(*LANGUAGES, *(each for each in SCRIPTS if each != LATIN))
    ),
    "script": Field(kind=TEXT, always=True, texts=SCRIPTS),
}
_HEADER = Field(kind=TEXT, always=False)
_FACTS = dict.fromkeys(FACT_FIELDS, _HEADER) | {
    "hour": Field(kind=NUMBER, always=False, most=23),
    "weekday": Field(kind=NUMBER, always=False, most=6),
}


def is_fact(name: str) -> bool:
    """Whether that is asked of who calls, and when, rather than of the request."""
    return name in FACT_FIELDS or name.startswith(HEADER_PREFIX)


def field_of(name: str) -> Field | None:
    """What a field may be; None when there is no such field."""
    return _FACTS.get(name, _HEADER) if is_fact(name) else _OF_ANALYSIS.get(name)
