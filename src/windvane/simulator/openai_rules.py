"""What OpenAI accepts as a request body, and how it says no.

It is laxer than Mistral's rules but has teeth of its own: unknown arguments are refused, metadata are taken
for what is stored alone, and the reasoning models (gpt-5 and later) refuse `max_tokens`, penalties and any
temperature but 1, the first of them `stop` and probabilities too.
"""

from windvane.simulator import openai_shapes
from windvane.simulator.catalogue import ModelCard, Reasoning
from windvane.simulator.field_checks import (
    Check,
    anything,
    boolean,
    each,
    integer,
    mapping,
    members,
    number,
    one_of,
    sequence,
    text,
    text_or_mapping,
    texts,
)
from windvane.simulator.json_types import JsonObject
from windvane.simulator.refusal import Refusal

TOOLS_MAX = 128
STOPS_MAX = 4
INPUTS_MAX = 2048
"""Texts in one embeddings request."""
METADATA_PAIRS_MAX = 16
METADATA_NAME_CHARS_MAX = 64
METADATA_TEXT_CHARS_MAX = 512
NOT_TO_REASONING = ("presence_penalty", "frequency_penalty", "logit_bias")
NOT_TO_FIRST_REASONING = (*NOT_TO_REASONING, "stop", "logprobs", "top_logprobs")

_CHAT_CHECKS: dict[str, Check] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "n": integer(1, 128),
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "stream": boolean,
    "stream_options": mapping,
    "metadata": mapping,
    "user": text,
    "audio": openai_shapes.audio,
    "function_call": text_or_mapping,
    "functions": sequence(TOOLS_MAX),
    "logit_bias": members(integer(-100, 100)),
    "logprobs": boolean,
    "modalities": each(one_of("text", "audio")),
    "moderation": mapping,
    "parallel_tool_calls": boolean,
    "prediction": openai_shapes.prediction,
    "prompt_cache_key": text,
    "prompt_cache_options": openai_shapes.prompt_cache_options,
    "prompt_cache_retention": one_of("in_memory", "24h"),
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": openai_shapes.response_format,
    "safety_identifier": text,
    "seed": integer(-(2**63), 2**63 - 1),
    "service_tier": one_of("auto", "default", "flex", "scale", "priority", "fast"),
    "stop": texts,
    "store": boolean,
    "tool_choice": text_or_mapping,
    "tools": sequence(TOOLS_MAX),
    "top_logprobs": integer(0, 20),
    "verbosity": one_of("low", "medium", "high"),
    "web_search_options": openai_shapes.web_search_options,
}
_CHAT_ELSEWHERE = ("messages", "model")
"""Looked at by themselves."""
CHAT_FIELDS: dict[str, Check] = {**dict.fromkeys(_CHAT_ELSEWHERE, anything), **_CHAT_CHECKS}
EMBEDDING_FIELDS: dict[str, Check] = {
    "model": text,
    "input": anything,
    "dimensions": integer(1),
    "encoding_format": text,
    "user": text,
}


def check_chat(body: JsonObject, card: ModelCard) -> None:
    """Raise a refusal unless the chat body is one OpenAI takes for this model."""
    _check_fields(body, CHAT_FIELDS)
    _check_together(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "Missing required parameter: 'messages'.", param="messages")
    for index, message in enumerate(messages):
        _check_message(message, index)
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > STOPS_MAX:
        message = f"Invalid 'stop': array too long. Expected at most {STOPS_MAX} items."
        raise Refusal(400, message, param="stop", code="array_above_max_length")
    _check_metadata(body)
    _check_tools(body)
    if card.reasoning is not Reasoning.NEVER:
        _check_reasoning_model(body, card)
    _check_calls_answered(messages)


def check_embedding(body: JsonObject) -> None:
    """Raise a refusal unless the embeddings body is one OpenAI takes."""
    _check_fields(body, EMBEDDING_FIELDS)
    given = body.get("input")
    if given is None or given in ("", []):
        raise Refusal(400, "Missing required parameter: 'input'.", param="input")
    if isinstance(given, list) and len(given) > INPUTS_MAX:
        raise Refusal(400, f"'input' has more than {INPUTS_MAX} items.", param="input")


def _check_fields(body: JsonObject, checks: dict[str, Check]) -> None:
    for name, given in body.items():
        check = checks.get(name)
        if check is None:
            message = f"Unrecognized request argument supplied: {name}"
            raise Refusal(400, message, code="unknown_parameter", param=name)
        if (wrong := check(given)) is not None:
            message = f"Invalid value for '{name}': {wrong[1]}."
            raise Refusal(400, message, code="invalid_value", param=name)


def _check_together(body: JsonObject) -> None:
    """What one field asks of another."""
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
        raise Refusal(400, message, param="top_logprobs")
    if "audio" in (body.get("modalities") or ()) and body.get("audio") is None:
        message = "Missing required parameter: 'audio'."
        raise Refusal(400, message, param="audio", code="missing_required_parameter")


def _check_message(message: object, index: int) -> None:
    roles = {"system", "developer", "user", "assistant", "tool", "function"}
    role = message.get("role") if isinstance(message, dict) else None
    if role not in roles:
        param = f"messages[{index}].role"
        raise Refusal(400, f"Invalid value: '{role}' at '{param}'.", param=param)


def _check_metadata(body: JsonObject) -> None:
    metadata = body.get("metadata")
    if metadata is None:
        return
    if body.get("store") is not True:
        message = "The 'metadata' parameter is only allowed when 'store' is enabled."
        raise Refusal(400, message, param="metadata")
    if len(metadata) > METADATA_PAIRS_MAX:
        message = f"Invalid 'metadata': too many properties. Expected at most {METADATA_PAIRS_MAX}."
        raise Refusal(400, message, param="metadata", code="object_above_max_properties")
    for name, value in metadata.items():
        param = f"metadata.{name}"
        if not isinstance(value, str):
            message = f"Invalid type for '{param}': expected a string."
            raise Refusal(400, message, param=param, code="invalid_type")
        if len(name) > METADATA_NAME_CHARS_MAX or len(value) > METADATA_TEXT_CHARS_MAX:
            message = f"Invalid '{param}': string too long."
            raise Refusal(400, message, param=param, code="string_above_max_length")


def _check_tools(body: JsonObject) -> None:
    if body.get("tools") == []:
        message = "Invalid 'tools': empty array. Expected an array with minimum length 1."
        raise Refusal(400, message, param="tools", code="empty_array")
    for name in ("tool_choice", "parallel_tool_calls"):
        if body.get(name) is not None and not body.get("tools"):
            message = f"Invalid value for '{name}': only allowed when 'tools' are specified."
            raise Refusal(400, message, param=name)


def _check_reasoning_model(body: JsonObject, card: ModelCard) -> None:
    for name in NOT_TO_REASONING if card.takes_stop else NOT_TO_FIRST_REASONING:
        if body.get(name) is not None:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise Refusal(400, message, code="unsupported_parameter", param=name)
    if body.get("max_tokens") is not None:
        raise Refusal(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model."
            " Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        )
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            raise Refusal(
                400,
                f"Unsupported value: '{name}' does not support {body[name]} with this model."
                " Only the default (1) value is supported.",
                code="unsupported_value",
                param=name,
            )


def _check_calls_answered(messages: list[JsonObject]) -> None:
    asked: set[str] = set()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in asked:
                raise Refusal(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a"
                    " preceeding message with 'tool_calls'.",
                    param=f"messages[{index}].role",
                )
            asked.discard(message["tool_call_id"])
        elif asked:
            raise _unanswered(asked, index)
        for call in message.get("tool_calls") or ():
            asked.add(call.get("id"))
    if asked:
        raise _unanswered(asked, len(messages))


def _unanswered(asked: set[str], index: int) -> Refusal:
    return Refusal(
        400,
        "An assistant message with 'tool_calls' must be followed by tool messages responding to"
        " each 'tool_call_id'. The following tool_call_ids did not have response messages:"
        f" {', '.join(sorted(asked))}",
        param=f"messages[{index}].role",
    )
