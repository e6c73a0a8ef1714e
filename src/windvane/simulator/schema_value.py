"""Makes a value that is valid against a JSON Schema, filled from the prompt where it offers one.

It covers what tools and structured output use: types, enum, const, $ref, anyOf / oneOf / allOf,
objects with their optional properties, arrays with bounds, text formats and lengths, and number
ranges. Patterns are met when a sample fits, else left to chance; `not`, `if` and
`patternProperties` are not understood.

What would grow too long is broken off, as a model's answer is at its limit: a schema can demand a
billion items, and nobody else would be answered while they are written.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from windvane.simulator.dice import Dice
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.pattern_text import is_met, text_matching
from windvane.simulator.prompt_hints import Hints
from windvane.simulator.prose import phrase

DEPTH_MAX = 12
"""Nesting after which optional parts are left out, so that a recursive schema comes to an end."""
DEPTH_HARD_MAX = 40
"""Nesting that ends even a schema that demands itself."""
ITEMS_DEFAULT = 2
ITEMS_MAX = 50
CHARS_MAX = 32_768
"""Characters of a value, about; then it is broken off."""
VALUE_CHARS = 8
"""What each value counts for at least, so that their number is bounded too."""
PATTERN_CHARS = 64
"""What a pattern counts for: to meet one takes longer."""

_encode = msgspec.json.encode


class Written(NamedTuple):
    """A value as JSON. One that is not whole ends in its midst."""

    json: str
    is_whole: bool


class SchemaWriter:
    """Writes one value for one schema; `$ref` is looked up in the schema it was made with."""

    def __init__(
        self, root: JsonObject, hints: Hints, dice: Dice, chars_max: int = CHARS_MAX
    ) -> None:
        self._root = root
        self._left = chars_max
        self._hints = hints
        self._dice = dice
        self._makers: dict[str, Callable[[JsonObject, str, int], Json]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": self._boolean,
            "null": lambda _schema, _name, _depth: None,
        }

    def value(self) -> Json:
        """Return a value valid against the whole schema, or the beginning of one that is too long."""
        return self._value(self._root, "", 0)

    def written(self) -> Written:
        """Return the value as JSON."""
        text = _encode(self.value()).decode()
        return Written(text, True) if self._left >= 0 else Written(text.rstrip('"]}'), False)

    def _spend(self, chars: int) -> bool:
        """Count so much as written. Returns whether there was room for it."""
        self._left -= chars
        return self._left >= 0

    def _value(self, schema: Json, name: str, depth: int) -> Json:
        if not isinstance(schema, dict) or depth > DEPTH_HARD_MAX:
            return None
        if not self._spend(VALUE_CHARS):
            return None
        schema = self._resolved(schema, depth)
        if "const" in schema:
            self._spend(len(_encode(schema["const"])))
            return schema["const"]
        if schema.get("enum"):
            said = self._one_of(schema["enum"])
            self._spend(len(_encode(said)) + len(schema["enum"]) // VALUE_CHARS)
            return said
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self._value(_first_full(schema[union], depth), name, depth + 1)
        maker = self._makers.get(_type_of(schema), self._string)
        return maker(schema, name, depth)

    def _resolved(self, schema: JsonObject, depth: int) -> JsonObject:
        """Follow `$ref` and fold `allOf` into one schema."""
        for _ in range(DEPTH_MAX):
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                break
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**self._lookup(reference), **rest}
        for part in schema.get("allOf", ()):
            if isinstance(part, dict) and depth <= DEPTH_HARD_MAX and self._spend(VALUE_CHARS):
                schema = _merged(schema, self._resolved(part, depth + 1))
        return schema

    def _lookup(self, reference: str) -> JsonObject:
        found: Json = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if key and isinstance(found, dict) else found
        return found if isinstance(found, dict) else {}

    def _one_of(self, options: list[Json]) -> Json:
        texts = [option for option in options if isinstance(option, str)]
        said = self._hints.mentioned(texts) if texts else None
        return said if said is not None else options[0]

    def _object(self, schema: JsonObject, _name: str, depth: int) -> JsonObject:
        properties = schema.get("properties") or {}
        required = dict.fromkeys(schema.get("required") or ())
        made: JsonObject = {}
        for key, part in properties.items():
            if (depth < DEPTH_MAX or key in required) and self._spend(len(key)):
                made[key] = self._value(part, key, depth + 1)
        extra = schema.get("additionalProperties")
        for key in required:
            if key not in made and self._spend(len(key) + VALUE_CHARS):
                made[key] = self._value(extra, key, depth + 1) if extra else phrase(self._dice, 1)
        while len(made) < min(schema.get("minProperties", 0), ITEMS_MAX):
            made[f"key_{len(made) + 1}"] = self._value(extra or {}, "", depth + 1)
        return made

    def _array(self, schema: JsonObject, name: str, depth: int) -> list[Json]:
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", ITEMS_MAX), max(ITEMS_MAX, least))
        wanted = least if depth >= DEPTH_MAX else max(least, min(ITEMS_DEFAULT, most))
        fixed = schema.get("prefixItems") or ()
        made = [self._value(part, name, depth + 1) for part in fixed if self._left >= 0]
        item = schema.get("items", {})
        singular = name.removesuffix("s")
        tries = 0
        while len(made) < wanted and item is not False and tries < wanted + ITEMS_MAX:
            if not self._spend(0):
                break
            tries += 1
            value = self._value(item, singular, depth + 1)
            if schema.get("uniqueItems") and value in made:
                value = self._different(item, made)
                if value is None:
                    break
            made.append(value)
        return made

    def _different(self, item: Json, made: list[Json]) -> Json:
        """Return another value for a set: the next enum member, number or numbered text."""
        item = self._resolved(item, 0) if isinstance(item, dict) else {}
        if item.get("enum"):
            return next((option for option in item["enum"] if option not in made), None)
        last = made[-1]
        if isinstance(last, int) and not isinstance(last, bool):
            return max(v for v in made if isinstance(v, int)) + 1
        return f"{last} {len(made) + 1}" if isinstance(last, str) else None

    def _string(self, schema: JsonObject, name: str, _depth: int) -> str:
        made = self._formatted(schema.get("format"))
        if made is None and schema.get("pattern") and self._spend(PATTERN_CHARS):
            made = self._patterned(schema["pattern"])
        if made is None:
            made = self._said(name) or phrase(self._dice, 4)
        shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
        while len(made) < shortest and len(made) <= self._left:
            made += f" {phrase(self._dice, 3)}"
        made = made if longest is None else made[: max(longest, 0)]
        self._spend(len(made))
        return made

    def _said(self, name: str) -> str | None:
        """Return what the prompt offers for a text: by name, quoted, a proper name, or itself."""
        hints = self._hints
        said = hints.value_for(name) if name else None
        said = said or hints.take_quoted() or hints.take_name()
        if said is None and name in _WHOLE_PROMPT_NAMES:
            said = hints.text[:200]
        return said

    def _patterned(self, pattern: str) -> str | None:
        for word in _WORDS.findall(self._hints.text):
            if is_met(pattern, word):
                return str(word)
        return text_matching(pattern, self._dice)

    def _formatted(self, kind: Json) -> str | None:
        match kind:
            case "date":
                return self._hints.date() or "2026-11-20"
            case "date-time":
                return f"{self._hints.date() or '2026-11-20'}T09:30:00Z"
            case "time":
                return "09:30:00Z"
            case "duration":
                return "PT1H"
            case "email":
                return self._hints.email() or "ada@example.com"
            case "uri" | "url":
                return self._hints.url() or "https://example.com/"
            case "uuid":
                return "3f2b8c1e-5d4a-4c6b-9e7f-0a1b2c3d4e5f"
            case "ipv4":
                return "192.0.2.1"
            case "ipv6":
                return "2001:db8::1"
            case "hostname":
                return "example.com"
            case _:
                return None

    def _integer(self, schema: JsonObject, _name: str, _depth: int) -> int:
        said = self._hints.take_number(whole=True)
        return int(_in_range(schema, said if said is not None else self._dice.below(100), step=1))

    def _number(self, schema: JsonObject, _name: str, _depth: int) -> float | int:
        said = self._hints.take_number(whole=False)
        return _in_range(schema, said if said is not None else self._dice.below(1000) / 10, step=0)

    def _boolean(self, _schema: JsonObject, name: str, _depth: int) -> bool:
        said = self._hints.value_for(name) if name else None
        return said.lower() in {"true", "yes", "on"} if said else True


_WORDS = re.compile(r"[^\s,;]+")
_WHOLE_PROMPT_NAMES = frozenset({"query", "q", "question", "prompt", "text", "message", "input"})


def _type_of(schema: JsonObject) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "string"


def _first_full(options: list[Json], depth: int) -> Json:
    """Return the first alternative that says something; deep down, null if that is allowed."""
    nulls = [one for one in options if isinstance(one, dict) and one.get("type") == "null"]
    if depth >= DEPTH_MAX and nulls:
        return nulls[0]
    return next((one for one in options if one not in nulls), options[0])


def _merged(schema: JsonObject, part: JsonObject) -> JsonObject:
    merged = {**part, **schema}
    merged["properties"] = {**(part.get("properties") or {}), **(schema.get("properties") or {})}
    merged["required"] = [*(schema.get("required") or ()), *(part.get("required") or ())]
    if not merged["properties"] and not merged["required"]:
        del merged["properties"], merged["required"]
    merged.pop("allOf", None)
    return merged


def _in_range(schema: JsonObject, value: float, *, step: int) -> float | int:
    """Return the value moved into the schema's bounds; `step` 1 for whole numbers."""
    gap = 1 if step else 0.001
    low, high = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(over, int | float) and not isinstance(over, bool):
        low = over + gap if low is None else max(low, over + gap)
    if isinstance(under, int | float) and not isinstance(under, bool):
        high = under - gap if high is None else min(high, under - gap)
    if low is not None and value < low:
        value = low
    if high is not None and value > high:
        value = high
    multiple = schema.get("multipleOf")
    if multiple:
        value = value // multiple * multiple
        if low is not None and value < low:
            value += multiple
    return value
