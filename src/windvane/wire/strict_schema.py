"""A JSON schema as Anthropic's structured outputs take it: a smaller language than callers write.

Each object is closed, and `oneOf` is `anyOf`. What that language cannot say (a smallest number, a
pattern) goes into the description, where the model reads it, though nothing enforces it there. The
keywords are those that Anthropic's own SDKs let through.
"""

import msgspec

from windvane.core.chat import JsonObject

_AS_THEY_ARE = frozenset(("$ref", "const", "description", "enum", "required", "title", "type"))
_OF_SCHEMAS = frozenset(("$defs", "definitions", "properties"))
"""Maps of names to schemas."""
_LISTS_OF_SCHEMAS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)
_MEANINGLESS = frozenset(("$schema", "$id", "additionalProperties", "$comment"))


def strict(schema: object) -> object:
    """The schema, in the smaller language."""
    if not isinstance(schema, dict):
        return schema
    written: JsonObject = {}
    unsaid: list[str] = []
    for name, value in schema.items():
        if name in _OF_SCHEMAS and isinstance(value, dict):
            written[name] = {each: strict(member) for each, member in value.items()}
        elif name in _LISTS_OF_SCHEMAS and isinstance(value, list):
            written[_LISTS_OF_SCHEMAS[name]] = [strict(member) for member in value]
        elif name == "items":
            written[name] = strict(value)
        elif name in _AS_THEY_ARE or _is_kept(name, value):
            written[name] = value
        elif name not in _MEANINGLESS:
            unsaid.append(f"{name}: {msgspec.json.encode(value).decode()}")
    if schema.get("type") == "object" or "properties" in schema:
        written["additionalProperties"] = False
    if unsaid:
        before = written.get("description")
        note = f"({', '.join(unsaid)})"
        written["description"] = f"{before} {note}" if before else note
    return written


def _is_kept(name: str, value: object) -> bool:
    return (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1))
