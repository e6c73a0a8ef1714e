"""A JSON schema without the names that it has for itself, `$schema` and `$id`.

Mistral makes a grammar of a schema, and fails at them, wherever they are. A property may be called so;
and what is a value, not a schema, is left as it is.
"""

from windvane.core.chat import JsonObject

_NAMES = frozenset(("$schema", "$id"))
_OF_SCHEMAS = frozenset(
    ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
)
"""Maps of names to schemas."""
_VALUES = frozenset(("const", "default", "enum", "examples"))


def nameless(schema: object) -> object:
    """The schema, without them."""
    if isinstance(schema, list):
        return [nameless(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _VALUES else _within(name, value)
        for name, value in schema.items()
        if name not in _NAMES
    }


def _within(name: str, value: object) -> object:
    if name in _OF_SCHEMAS and isinstance(value, dict):
        members: JsonObject = {each: nameless(member) for each, member in value.items()}
        return members
    return nameless(value)
