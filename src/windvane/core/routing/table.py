"""Routes, rules and what they match: the configured part of routing, ordered and without code.

    auto:
      rules:
        - when: {tools: true}
          use: mistral-medium-latest
          reason: tools
        - when: {chars: {gt: 120}, language: [fr, de]}
          use: [mistral-large-latest, mistral-medium-latest]
          reason: long text in French or German
      otherwise: mistral-small-latest
      fallbacks: [mistral-medium-latest, mistral-large-latest]

A rule matches when each of its conditions holds. A condition is a value (equal; `true` means "any"
for counts), a list (one of), or a mapping of `gt, gte, lt, lte, in, not, contains`. One that no request
could meet, such as a number that is to be a text, or an hour of 25, is refused.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from operator import ge, gt, le, lt, not_, truth
from typing import Protocol

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.routing.fields import (
    ANALYSIS_FIELDS,
    FACT_FIELDS,
    TEXT,
    Field,
    field_of,
    is_fact,
    shown,
)


class Facts(Protocol):
    """What rules may ask about besides the analysis: key, team, tag (all tags), hour (UTC), weekday
    (Monday is 0), requested_model and `header.<name>`, as of one exchange. A dict is one."""

    def get(self, name: str, /) -> object: ...


NO_FACTS: Facts = {}
"""For rules that ask about nothing besides the analysis."""

_Test = Callable[[object], bool]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    use: str | tuple[str, ...]
    when: dict[str, object] = {}
    reason: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        return (self.use,) if isinstance(self.use, str) else self.use


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public model name that stands for a choice among models."""

    rules: tuple[Rule, ...] = ()
    otherwise: str | tuple[str, ...] = ()
    otherwise_reason: str = "default"
    fallbacks: tuple[str, ...] = ()

    @property
    def default_models(self) -> tuple[str, ...]:
        return (self.otherwise,) if isinstance(self.otherwise, str) else self.otherwise


_Condition = tuple[str, bool, _Test]
"""What is asked for, whether it is a fact rather than a field of the analysis, and what it must be."""


class CompiledRule(msgspec.Struct, frozen=True):
    """A rule whose conditions are functions, and its place in its route, counted from 1.

    Most rules have one condition: it stands by itself, and is None where there is none.
    """

    rule: Rule
    first: _Condition | None
    others: tuple[_Condition, ...] = ()
    place: int = 1

    @property
    def conditions(self) -> tuple[_Condition, ...]:
        """All of them."""
        return () if self.first is None else (self.first, *self.others)


def first_match(rules: tuple[CompiledRule, ...], analysis: Analysis, facts: Facts) -> int | None:
    """The place of the first rule whose every condition holds; None when none does."""
    for rule in rules:
        if rule.first is not None:
            field, is_fact, test = rule.first
            if not test(facts.get(field) if is_fact else getattr(analysis, field)):
                continue
        if not rule.others or _all_hold(rule.others, analysis, facts):
            return rule.place
    return None


def _all_hold(conditions: tuple[_Condition, ...], analysis: Analysis, facts: Facts) -> bool:
    return all(
        test(facts.get(field) if is_fact else getattr(analysis, field))
        for field, is_fact, test in conditions
    )


def compile_rule(rule: Rule, place: int = 1) -> CompiledRule:
    """Make the rule's conditions callable. Raises ValueError naming the condition at fault."""
    conditions: list[_Condition] = []
    for field, wanted in rule.when.items():
        known = field_of(field)
        if known is None:
            raise ValueError(f"{field}: {_unknown_field(field)}")
        try:
            conditions.append((field, is_fact(field), _test(wanted, known)))
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
    first, *others = conditions or (None,)
    return CompiledRule(rule, first, tuple(others), place)


def _unknown_field(field: str) -> str:
    near = get_close_matches(field, (*ANALYSIS_FIELDS, *FACT_FIELDS), n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"no such field of a request{hint}"


def _test(wanted: object, field: Field) -> _Test:
    """What `wanted` asks of a value of the field."""
    if isinstance(wanted, bool):
        return truth if wanted else not_
    if isinstance(wanted, dict):
        tests = [_comparison(name, limit, field) for name, limit in wanted.items()]
        field.check_range({name: wanted[name] for name in wanted if name in _ORDERINGS})
        return _all_of(tests)
    allowed = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,)
    if not allowed:
        raise ValueError("an empty list matches nothing")
    for each in allowed:
        field.check(each)
    return lambda value: _one_of(value, allowed)


def _one_of(value: object, allowed: tuple[object, ...]) -> bool:
    if isinstance(value, tuple):
        return any(item in allowed for item in value)
    return value in allowed


def _all_of(tests: list[_Test]) -> _Test:
    if not tests:
        raise ValueError("an empty condition matches nothing; leave it out")
    if len(tests) == 1:
        return tests[0]
    return lambda value: all(test(value) for test in tests)


def _comparison(name: str, limit: object, field: Field) -> _Test:
    if name == "not":
        denied = _test(limit, field)
        return lambda value: not denied(value)
    if name == "in":
        if not isinstance(limit, list | tuple):
            raise ValueError("`in` needs a list")
        return _test(limit, field)
    if name == "contains":
        return lambda value: str(limit) in str(value or "")
    if name not in _ORDERINGS:
        known = ", ".join((*_ORDERINGS, "in", "not", "contains"))
        raise ValueError(f"unknown comparison {name!r}; one of {known}")
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise ValueError(f"`{name}` needs a number, not {shown(limit)}")
    if field.kind == TEXT:
        raise ValueError(f"`{name}` compares numbers, and it is {TEXT}")
    test: _Test = partial(_ORDERINGS[name], limit)
    return test if field.always else lambda value: isinstance(value, _NUMBERS) and test(value)


_NUMBERS = (int, float)
_ORDERINGS: dict[str, Callable[[float, float], bool]] = {"gt": lt, "gte": le, "lt": gt, "lte": ge}
"""How the limit must compare with the value: greater than a limit is what the limit is less than."""


class RouteTable(msgspec.Struct, frozen=True):
    """All routes of one moment, ready to match. `asking_facts` are those with rules that ask about
    more than the request; `asked` are the fields of the analysis that the rules of each ask for."""

    routes: dict[str, tuple[Route, tuple[CompiledRule, ...]]]
    asking_facts: frozenset[str] = frozenset()
    asked: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.routes

    @classmethod
    def of(cls, routes: Mapping[str, Route]) -> "RouteTable":
        """Compile `routes`. Raises ValueError naming route, rule and condition."""
        compiled = {}
        for name, route in routes.items():
            rules = []
            for place, rule in enumerate(route.rules, start=1):
                try:
                    rules.append(compile_rule(rule, place))
                except ValueError as error:
                    raise ValueError(f"routes.{name}.rules[{place - 1}].when.{error}") from error
            compiled[name] = (route, tuple(rules))
        asking = [
            name
            for name, (_, rules) in compiled.items()
            if any(is_fact for rule in rules for _, is_fact, _ in rule.conditions)
        ]
        asked = {
            name: frozenset(
                field for rule in rules for field, is_fact, _ in rule.conditions if not is_fact
            )
            for name, (_, rules) in compiled.items()
        }
        return cls(compiled, frozenset(asking), asked)
