"""Faults on demand: what can be asked for, and who gets it.

A fault is asked for in one of two ways. A word in the last user message (`!error 503
retry-after=2`) strikes that request alone. A `FaultRule` in the configuration strikes by model,
by schedule (`first`, `after`, `every`) and by seeded chance (`rate`). What a fault then does is in
fault_effects.py; this file only knows the names.
"""

import re
from collections.abc import Sequence
from math import inf

from msgspec import Struct, structs

from windvane.simulator.dice import Dice


class FaultWord(Struct, frozen=True):
    """One kind of fault: the field its number fills, that number's default, and what it does."""

    argument: str | None
    default: float
    says: str


FAULT_WORDS: dict[str, FaultWord] = {
    "error": FaultWord("status", 500, "answer with an error status; shape= picks a variant"),
    "html": FaultWord("status", 502, "answer with an HTML error page, as an edge proxy does"),
    "redirect": FaultWord("status", 307, "redirect to a place that does not exist"),
    "reset": FaultWord(None, 0, "reset the connection before the first byte"),
    "hang": FaultWord(None, 0, "accept the request and say nothing"),
    "garbage": FaultWord(None, 0, "answer 200 with a body that does not parse"),
    "empty": FaultWord(None, 0, "answer with no text at all"),
    "refuse": FaultWord(None, 0, "stop with finish_reason content_filter"),
    "loop": FaultWord("at_token", 512, "repeat one phrase for so many tokens"),
    "badjson": FaultWord(None, 0, "answer with JSON that breaks off"),
    "badargs": FaultWord(None, 0, "call a tool with arguments that do not parse"),
    "usage-missing": FaultWord(None, 0, "leave the usage out"),
    "usage-zero": FaultWord(None, 0, "report a usage of zero, and bill the truth"),
    "cut": FaultWord("at_token", 5, "reset the connection after so many chunks"),
    "cut-clean": FaultWord("at_token", 5, "end the body properly after so many chunks"),
    "stall": FaultWord("at_token", 5, "fall silent after so many chunks"),
    "error-event": FaultWord("at_token", 3, "send an error as a data frame after so many chunks"),
    "slow": FaultWord("delay_s", 0.05, "wait so many milliseconds between chunks"),
    "late": FaultWord("delay_s", 1.0, "wait so many milliseconds before the first byte"),
    "truncated": FaultWord(None, 0, "promise more body than is sent, then close"),
    "gzip": FaultWord(None, 0, "compress the body although nobody asked"),
    "bytewise": FaultWord(None, 0, "write the body a byte at a time"),
    "wrong-type": FaultWord(None, 0, "label the body text/plain"),
    "crlf": FaultWord(None, 0, "end stream lines with CR LF"),
    "comments": FaultWord(None, 0, "put comment lines between stream frames"),
    "no-done": FaultWord(None, 0, "end a stream without [DONE]"),
}

SHAPES = ("zero", "month", "capacity", "quota")
"""Variants of `!error 429 shape=...`: no allowance, month used up, backend full, no credit."""

STATUSES = range(200, 600)
"""What an answer's status can be."""
_MS_PER_S = 1000.0
_WORD = re.compile(r"(?<!\S)!([a-z][a-z-]*)((?:[ \t]+(?:[a-z-]+=[^\s]+|\d+(?:\.\d+)?(?![\w.])))*)")


class Fault(Struct, frozen=True, kw_only=True):
    """One fault about to strike one request."""

    kind: str
    status: int = 500
    retry_after: float | None = None
    at_token: int = 5
    delay_s: float = 0.0
    shape: str | None = None


class FaultRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests get a fault: all fields that are set must agree.

    `models` names ids or aliases as asked; `first` = only the first k matching requests; `after` =
    only those behind the first k; `every` = each nth; `rate` = seeded chance among what remains.
    """

    kind: str
    rate: float = 1.0
    models: tuple[str, ...] = ()
    every: int | None = None
    first: int | None = None
    after: int | None = None
    status: int | None = None
    retry_after: float | None = None
    at_token: int | None = None
    delay_s: float | None = None
    shape: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in FAULT_WORDS:
            raise ValueError(f"no fault is called {self.kind!r}; known: {', '.join(FAULT_WORDS)}")
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate is a share from 0 to 1, not {self.rate}")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every is 1 or more, not {self.every}")
        if self.status is not None and self.status not in STATUSES:
            raise ValueError(f"status is {STATUSES[0]} to {STATUSES[-1]}, not {self.status}")
        for name in ("first", "after", "retry_after", "at_token", "delay_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise ValueError(f"{name} is 0 or more, not {value}")
        if self.shape is not None and self.shape not in SHAPES:
            raise ValueError(f"no shape is called {self.shape!r}; known: {', '.join(SHAPES)}")

    def as_fault(self) -> Fault:
        """Return the fault this rule causes, its open fields filled with the kind's default."""
        chosen = {
            name: value
            for name in ("status", "retry_after", "at_token", "delay_s", "shape")
            if (value := getattr(self, name)) is not None
        }
        return structs.replace(default_fault(self.kind), **chosen)

    def strikes(self, nth: int, chance: float) -> bool:
        """Return whether the nth matching request (from 1) is struck."""
        if self.first is not None and nth > self.first:
            return False
        if self.after is not None and nth <= self.after:
            return False
        if self.every is not None and nth % self.every:
            return False
        return chance < self.rate


class FaultSchedule:
    """The rules in force and how many requests each has seen."""

    def __init__(self, seed: int, rules: Sequence[FaultRule]) -> None:
        self._seed = seed
        self.replace(rules)

    def replace(self, rules: Sequence[FaultRule]) -> None:
        """Put other rules in force and start counting anew."""
        self.rules = tuple(rules)
        self._seen = [0] * len(self.rules)

    def faults_for(self, model: str) -> list[Fault]:
        """Count one request and return the faults that strike it."""
        struck = []
        for place, rule in enumerate(self.rules):
            if rule.models and model not in rule.models:
                continue
            self._seen[place] += 1
            nth = self._seen[place]
            chance = 0.0
            if rule.rate < 1.0:
                chance = Dice(f"fault {self._seed} {place} {nth}".encode()).fraction()
            if rule.strikes(nth, chance):
                struck.append(rule.as_fault())
        return struck


def default_fault(kind: str) -> Fault:
    """Return a fault as it is when only its name is given."""
    word = FAULT_WORDS[kind]
    if word.argument is None:
        return Fault(kind=kind)
    value = word.default if word.argument == "delay_s" else int(word.default)
    return structs.replace(Fault(kind=kind), **{word.argument: value})


def faults_in(text: str) -> list[Fault]:
    """Return the faults a message asks for by word; words nobody knows are only words."""
    if "!" not in text:
        return []
    found = _WORD.findall(text)
    return [_read_word(kind, rest) for kind, rest in found if kind in FAULT_WORDS]


def _read_word(kind: str, rest: str) -> Fault:
    word = FAULT_WORDS[kind]
    changes: dict[str, int | float | str] = {}
    for part in rest.split():
        name, equals, value = part.partition("=")
        if not equals:
            if word.argument and word.argument not in changes:
                number = float(part)
                if word.argument == "status" and number not in STATUSES:
                    continue
                is_delay = word.argument == "delay_s"
                changes[word.argument] = number / _MS_PER_S if is_delay else int(number)
        elif name == "retry-after" and value.replace(".", "", 1).isdigit():
            changes["retry_after"] = float(value)
        elif name == "shape" and value in SHAPES:
            changes["shape"] = value
    return structs.replace(default_fault(kind), **changes)
