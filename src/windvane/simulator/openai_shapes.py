"""What OpenAI takes in fields that are objects, as its own client's types have them."""

import re

from windvane.simulator.field_checks import (
    Check,
    Fault,
    anything,
    boolean,
    each,
    mapping,
    one_of,
    record,
    text,
    text_or_mapping,
)
from windvane.simulator.json_types import Json

_SCHEMA_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def _schema_name(value: Json) -> Fault | None:
    if value is None or (isinstance(value, str) and _SCHEMA_NAME.fullmatch(value)):
        return None
    return "string_pattern_mismatch", "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"


_WITH_SCHEMA = record(
    {
        "type": text,
        "json_schema": record(
            {"name": _schema_name, "description": text, "schema": mapping, "strict": boolean},
            required=("name",),
        ),
    },
    required=("json_schema",),
)
_WITHOUT_SCHEMA = record({"type": one_of("text", "json_object", "json_schema")}, required=("type",))


def response_format(value: Json) -> Fault | None:
    """Accept the three forms."""
    is_schema = isinstance(value, dict) and value.get("type") == "json_schema"
    return _WITH_SCHEMA(value) if is_schema else _WITHOUT_SCHEMA(value)


def _text_or_parts(value: Json) -> Fault | None:
    return each(_text_part)(value) if isinstance(value, list) else text(value)


_text_part = record(
    {"type": one_of("text"), "text": text, "prompt_cache_breakpoint": anything},
    required=("type", "text"),
)

audio = record(
    {
        "format": one_of("wav", "aac", "mp3", "flac", "opus", "pcm16"),
        "voice": text_or_mapping,
    },
    required=("format", "voice"),
)
prediction: Check = record(
    {"type": one_of("content"), "content": _text_or_parts}, required=("type", "content")
)
prompt_cache_options = record({"mode": one_of("implicit", "explicit"), "ttl": one_of("30m")})
web_search_options = record(
    {
        "search_context_size": one_of("low", "medium", "high"),
        "user_location": record(
            {"type": one_of("approximate"), "approximate": mapping},
            required=("type", "approximate"),
        ),
    }
)
