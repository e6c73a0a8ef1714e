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
for counts), a list (one of), or a mapping of `gt, gte, lt, lte, in, not, contains`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from operator import not_, truth
from typing import Protocol

import msgspec

from windvane.core.analysis import Analysis

ANALYSIS_FIELDS = tuple(field.name for field in msgspec.structs.fields(Analysis))
FACT_FIELDS = ("key", "team", "tag", "hour", "weekday", "requested_model")
HEADER_PREFIX = "header."


class Facts(Protocol):
    """What rules may ask about besides the analysis: key, team, tag (all tags), hour (UTC), weekday
    (Monday is 0), requested_model and `header.<name>`, as of one exchange. A dict is one."""

    def get(self, name: str, /) -> object: ...


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


class CompiledRule(msgspec.Struct, frozen=True):
    """A rule whose conditions are functions."""

    rule: Rule
    tests: tuple[tuple[str, bool, _Test], ...]

    def matches(self, analysis: Analysis, facts: Facts) -> bool:
        for field, is_fact, test in self.tests:
            if not test(facts.get(field) if is_fact else getattr(analysis, field)):
                return False
        return True


def compile_rule(rule: Rule) -> CompiledRule:
    """Make the rule's conditions callable. Raises ValueError naming the condition at fault."""
    tests = []
    for field, wanted in rule.when.items():
        is_fact = field in FACT_FIELDS or field.startswith(HEADER_PREFIX)
        if not is_fact and field not in ANALYSIS_FIELDS:
            raise ValueError(f"{field}: {_unknown_field(field)}")
        try:
            tests.append((field, is_fact, _test(wanted)))
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
    return CompiledRule(rule, tuple(tests))


def _unknown_field(field: str) -> str:
    near = get_close_matches(field, (*ANALYSIS_FIELDS, *FACT_FIELDS), n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"no such field of a request{hint}"


def _test(wanted: object) -> _Test:
    if isinstance(wanted, bool):
        return truth if wanted else not_
    if isinstance(wanted, list | tuple):
        allowed = tuple(wanted)
        return lambda value: _one_of(value, allowed)
    if isinstance(wanted, dict):
        return _all_of([_comparison(name, limit) for name, limit in wanted.items()])
    return lambda value: _one_of(value, (wanted,))


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


def _comparison(name: str, limit: object) -> _Test:
    if name == "not":
        test = _test(limit)
        return lambda value: not test(value)
    if name == "in":
        if not isinstance(limit, list | tuple):
            raise ValueError("`in` needs a list")
        return _test(limit)
    if name == "contains":
        return lambda value: str(limit) in str(value or "")
    if name not in _ORDERINGS:
        known = ", ".join((*_ORDERINGS, "in", "not", "contains"))
        raise ValueError(f"unknown comparison {name!r}; one of {known}")
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise ValueError(f"`{name}` needs a number, not {limit!r}")
    return _ORDERINGS[name](limit)


_NUMBERS = (int, float)
_ORDERINGS: dict[str, Callable[[float], _Test]] = {
    "gt": lambda limit: lambda value: isinstance(value, _NUMBERS) and value > limit,
    "gte": lambda limit: lambda value: isinstance(value, _NUMBERS) and value >= limit,
    "lt": lambda limit: lambda value: isinstance(value, _NUMBERS) and value < limit,
    "lte": lambda limit: lambda value: isinstance(value, _NUMBERS) and value <= limit,
}


class RouteTable(msgspec.Struct, frozen=True):
    """All routes of one moment, ready to match. `asking_facts` are those with rules that ask about
    more than the request."""

    routes: dict[str, tuple[Route, tuple[CompiledRule, ...]]]
    asking_facts: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.routes

    @classmethod
    def of(cls, routes: Mapping[str, Route]) -> "RouteTable":
        """Compile `routes`. Raises ValueError naming route, rule and condition."""
        compiled = {}
        for name, route in routes.items():
            rules = []
            for place, rule in enumerate(route.rules):
                try:
                    rules.append(compile_rule(rule))
                except ValueError as error:
                    raise ValueError(f"routes.{name}.rules[{place}].when.{error}") from error
            compiled[name] = (route, tuple(rules))
        asking = [
            name
            for name, (_, rules) in compiled.items()
            if any(is_fact for rule in rules for _, is_fact, _ in rule.tests)
        ]
        return cls(compiled, frozenset(asking))
