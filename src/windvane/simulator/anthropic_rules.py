"""What Anthropic accepts as a message request, and how it says no.

Unknown fields are refused at every level that is looked at here; so are blank texts, calls without
their results, sampling parameters on later models, and schemas outside of its smaller language.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b

from windvane.simulator.catalogue import ModelCard
from windvane.simulator.field_checks import Check, anything, boolean, integer, mapping, number
from windvane.simulator.json_types import Json, JsonObject
from windvane.simulator.refusal import Refusal

MARKS_MAX = 4
"""Places in a prompt up to which it may be cached."""
THINKING_TOKENS_MIN = 1024
USER_ID_MAX = 256
OUTPUT_TOKENS_MAX = 128_000

_FIELDS: dict[str, Check] = {
    **dict.fromkeys(
        (
            "model messages system tools tool_choice stop_sequences thinking output_config metadata"
            " service_tier cache_control speed container inference_geo"
        ).split(),
        anything,
    ),
    "max_tokens": integer(1),
    "stream": boolean,
    "temperature": number(0, 1),
    "top_p": number(0, 1),
    "top_k": integer(0),
    "metadata": mapping,
}
_SAMPLING = ("temperature", "top_p", "top_k")
_BLOCK_FIELDS: dict[str, frozenset[str]] = {
    "text": frozenset({"text", "citations"}),
    "image": frozenset({"source"}),
    "document": frozenset({"source", "title", "context", "citations"}),
    "tool_use": frozenset({"id", "name", "input"}),
    "tool_result": frozenset({"tool_use_id", "content", "is_error"}),
    "thinking": frozenset({"thinking", "signature"}),
    "redacted_thinking": frozenset({"data"}),
}
_OF_ROLE = {
    "user": frozenset({"text", "image", "document", "tool_result"}),
    "assistant": frozenset({"text", "tool_use", "thinking", "redacted_thinking"}),
}
_SOURCES: dict[str, frozenset[str]] = {
    "base64": frozenset({"media_type", "data"}),
    "url": frozenset({"url"}),
    "text": frozenset({"media_type", "data"}),
}
_IMAGE_KINDS = ("image/jpeg", "image/png", "image/gif", "image/webp")
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_SCHEMA_WORDS = frozenset(
    (
        "$defs $ref additionalProperties allOf anyOf const default definitions description enum"
        " format items minItems properties required title type"
    ).split()
)


def check_message(body: JsonObject, card: ModelCard) -> None:
    """Raise a refusal unless the body is one Anthropic takes for this model."""
    for name, given in body.items():
        check = _FIELDS.get(name)
        if check is None:
            raise _wrong(name, "Extra inputs are not permitted")
        if (wrong := check(given)) is not None:
            raise _wrong(name, wrong[1])
    longest = body.get("max_tokens")
    if longest is None:
        raise _wrong("max_tokens", "Field required")
    if longest > OUTPUT_TOKENS_MAX:
        says = f"{longest} > {OUTPUT_TOKENS_MAX}, which is the maximum for {card.id}"
        raise _wrong("max_tokens", says)
    _check_sampling(body, card)
    _check_tools(body)
    _check_thinking(body, card)
    _check_output(body)
    _check_small_fields(body)
    _check_system(body.get("system"))
    _check_conversation(body, card)
    marks = [mark for mark in _marks(body) if mark is not None]
    if len(marks) > MARKS_MAX:
        says = f"A maximum of {MARKS_MAX} blocks with cache_control may be provided."
        raise Refusal(400, f"{says} Found {len(marks)}.")
    for mark in marks:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
            raise _wrong("cache_control", "Input tag must be 'ephemeral'")
        if mark.get("ttl", "5m") not in ("5m", "1h"):
            raise _wrong("cache_control.ttl", "Input should be '5m' or '1h'")


def signature_of(shown: str) -> str:
    """Return what a thinking block is signed with; only the service can make it."""
    return "sim" + blake2b(shown.encode(), key=b"simulator", digest_size=24).hexdigest()


def _check_sampling(body: JsonObject, card: ModelCard) -> None:
    said = [name for name in _SAMPLING if body.get(name) is not None]
    if said and not card.takes_sampling:
        raise Refusal(400, f"`{said[0]}` is deprecated for this model.")
    if "temperature" in said and "top_p" in said:
        raise Refusal(400, "`temperature` and `top_p` cannot both be specified for this model.")


def _check_tools(body: JsonObject) -> None:
    names = set()
    for place, tool in enumerate(body.get("tools") or ()):
        where = f"tools.{place}"
        _no_more_than(tool, {"name", "description", "input_schema", "strict", "type"}, where)
        if not _TOOL_NAME.fullmatch(str(tool.get("name", ""))):
            raise _wrong(f"{where}.custom.name", "String should match pattern")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise _wrong(f"{where}.custom.input_schema.type", "Input should be 'object'")
        if tool.get("strict"):
            _check_schema(schema, f"{where}.custom.input_schema")
        names.add(tool["name"])
    choice = body.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise _wrong("tool_choice", "Input tag must be 'auto', 'any', 'tool' or 'none'")
    if not names:
        raise Refusal(400, "tool_choice may only be specified while providing tools")
    allowed = {"type"} | ({"disable_parallel_tool_use"} if kind != "none" else set())
    _no_more_than(choice, allowed | ({"name"} if kind == "tool" else set()), "tool_choice")
    if kind == "tool" and choice.get("name") not in names:
        raise Refusal(400, f"Tool '{choice.get('name')}' not found in provided tools")


def _check_thinking(body: JsonObject, card: ModelCard) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("adaptive", "enabled", "disabled"):
        raise _wrong("thinking", "Input tag must be 'adaptive', 'enabled' or 'disabled'")
    if kind == "enabled":
        if not card.takes_sampling:
            raise Refusal(400, "`thinking.type.enabled` is not supported for this model.")
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < THINKING_TOKENS_MIN:
            raise _wrong("thinking.enabled.budget_tokens", "should be 1024 or more")
        if budget >= body["max_tokens"]:
            raise Refusal(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    if kind == "adaptive" and not card.thinks_adaptively:
        raise Refusal(400, "adaptive thinking is not supported on this model")
    if kind == "disabled":
        return
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise Refusal(400, "Thinking may not be enabled when tool_choice forces tool use.")
    if any(body.get(name) not in (None, 1) for name in _SAMPLING):
        raise Refusal(400, "`temperature` may only be set to 1 when thinking is enabled.")


def _check_output(body: JsonObject) -> None:
    config = body.get("output_config")
    if config is None:
        return
    _no_more_than(config, {"effort", "format"}, "output_config")
    if config.get("effort") not in (None, "low", "medium", "high", "xhigh", "max"):
        raise _wrong("output_config.effort", "Input should be a known effort")
    form = config.get("format")
    if form is not None:
        _no_more_than(form, {"type", "schema"}, "output_config.format")
        if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            raise _wrong("output_config.format.schema", "Field required")
        _check_schema(form["schema"], "output_config.format.schema")


def _check_schema(schema: Json, where: str) -> None:
    """Raise a refusal for what the smaller language of schemas does not have."""
    if not isinstance(schema, dict):
        return
    for name in schema:
        if name not in _SCHEMA_WORDS:
            raise _wrong(
                where, f"For '{schema.get('type')}' type, property '{name}' is not supported"
            )
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise _wrong(
            where, "For 'object' type, 'additionalProperties' must be explicitly set to false"
        )
    for name in ("properties", "$defs", "definitions"):
        for key, member in (schema.get(name) or {}).items():
            _check_schema(member, f"{where}.{key}")
    for name in ("anyOf", "allOf"):
        for member in schema.get(name) or ():
            _check_schema(member, where)
    _check_schema(schema.get("items"), where)


def _check_small_fields(body: JsonObject) -> None:
    for stop in body.get("stop_sequences") or ():
        if not isinstance(stop, str) or not stop.strip():
            raise _wrong("stop_sequences", "each stop sequence must contain non-whitespace")
    if body.get("service_tier") not in (None, "auto", "standard_only"):
        raise _wrong("service_tier", "Input should be 'auto' or 'standard_only'")
    metadata = body.get("metadata") or {}
    _no_more_than(metadata, {"user_id"}, "metadata")
    if len(metadata.get("user_id") or "") > USER_ID_MAX:
        raise _wrong("metadata.user_id", "String should have at most 256 characters")


def _check_system(system: Json) -> None:
    if system is None or isinstance(system, str):
        return
    for place, block in enumerate(system):
        if block.get("type") != "text":
            raise _wrong(f"system.{place}.type", "Input should be 'text'")
        _check_block(block, f"system.{place}")


def _check_conversation(body: JsonObject, card: ModelCard) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "at least one message is required")
    turns = list(_turns(messages))
    seen: set[str] = set()
    open_calls: list[str] = []
    for place, (_, blocks) in enumerate(turns):
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if open_calls and set(open_calls) - set(results):
            missing = ", ".join(sorted(set(open_calls) - set(results)))
            says = "`tool_use` ids were found without `tool_result` blocks immediately after"
            raise Refusal(400, f"messages.{place}: {says}: {missing}.")
        if set(results) - set(open_calls):
            raise Refusal(400, f"messages.{place}: unexpected `tool_use_id` in `tool_result`")
        kinds = [block["type"] == "tool_result" for block in blocks]
        if kinds != sorted(kinds, reverse=True):
            raise Refusal(400, f"messages.{place}: `tool_result` blocks must come first")
        open_calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for one in open_calls:
            if one in seen or open_calls.count(one) > 1:
                raise Refusal(400, f"messages.{place}: `tool_use` ids must be unique")
            if not _CALL_ID.fullmatch(one):
                raise _wrong(f"messages.{place}.tool_use.id", "String should match pattern")
        seen.update(open_calls)
        if open_calls and place == len(turns) - 2:
            _check_thought(body, blocks, place)
    if turns[-1][0] == "assistant" and card.thinks_adaptively:
        raise Refusal(400, "This model does not support assistant message prefill.")


def _check_thought(body: JsonObject, blocks: list[JsonObject], place: int) -> None:
    """With a budget for thinking, the turn that called tools last must begin with its thought."""
    if (body.get("thinking") or {}).get("type") != "enabled" or "thinking" in blocks[0]["type"]:
        return
    found = blocks[0]["type"]
    raise Refusal(
        400, f"messages.{place}.content.0.type: Expected `thinking`, but found `{found}`."
    )


def _turns(messages: list[JsonObject]) -> Iterator[tuple[str, list[JsonObject]]]:
    """Return the turns, those of one role in a row as one, each checked block by block."""
    role: str | None = None
    blocks: list[JsonObject] = []
    for place, message in enumerate(messages):
        _no_more_than(message, {"role", "content"}, f"messages.{place}")
        said = message.get("role")
        if said not in _OF_ROLE:
            raise _wrong(f"messages.{place}.role", "Input should be 'user' or 'assistant'")
        if role is not None and said != role:
            yield role, blocks
            blocks = []
        role = said
        blocks += _blocks(message, f"messages.{place}")
    assert role is not None
    yield role, blocks


def _blocks(message: JsonObject, where: str) -> list[JsonObject]:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise Refusal(400, f"{where}: all messages must have non-empty content")
    for place, block in enumerate(content):
        kind = block.get("type")
        if kind not in _OF_ROLE[message["role"]]:
            raise _wrong(f"{where}.content.{place}", f"Input tag '{kind}' found")
        _check_block(block, f"{where}.content.{place}")
    return content


def _check_block(block: JsonObject, where: str) -> None:
    kind = block["type"]
    _no_more_than(block, _BLOCK_FIELDS[kind] | {"type"}, where)
    if kind == "text" and not str(block.get("text", "")).strip():
        raise Refusal(400, f"{where}: text content blocks must contain non-whitespace text")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        raise _wrong(f"{where}.tool_use.input", "Input should be a valid dictionary")
    if kind in ("image", "document"):
        _check_source(block, where)
    if kind == "thinking" and block.get("signature") != signature_of(block.get("thinking", "")):
        raise _wrong(where, "Invalid `signature` in `thinking` block")
    if kind == "tool_result" and isinstance(block.get("content"), list):
        for place, inner in enumerate(block["content"]):
            if inner.get("type") not in ("text", "image", "document"):
                raise _wrong(f"{where}.content.{place}", "unexpected block in a tool's result")
            _check_block(inner, f"{where}.content.{place}")


def _check_source(block: JsonObject, where: str) -> None:
    source = block.get("source") or {}
    kind = source.get("type")
    if kind not in _SOURCES:
        raise _wrong(f"{where}.source", f"Input tag '{kind}' found")
    _no_more_than(source, _SOURCES[kind] | {"type"}, f"{where}.source")
    if block["type"] == "image" and kind == "base64" and source["media_type"] not in _IMAGE_KINDS:
        raise _wrong(f"{where}.source.base64.media_type", "Input should be a known image type")


def _marks(body: JsonObject) -> Iterator[Json]:
    """Return every mark up to which the prompt is to be cached."""
    yield body.get("cache_control")
    for tool in body.get("tools") or ():
        yield tool.get("cache_control")
    contents = [body.get("system"), *(message.get("content") for message in body["messages"])]
    for content in contents:
        for block in content if isinstance(content, list) else ():
            yield block.get("cache_control")


def _no_more_than(said: Json, allowed: set[str] | frozenset[str], where: str) -> None:
    if not isinstance(said, dict):
        raise _wrong(where, "Input should be a valid dictionary")
    for name in said:
        if name not in allowed and name != "cache_control":
            raise _wrong(f"{where}.{name}", "Extra inputs are not permitted")


def _wrong(field: str, says: str) -> Refusal:
    return Refusal(400, f"{field}: {says}")
