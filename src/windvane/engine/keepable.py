"""What may be kept: requests that could be given the same answer again, and good answers.

Who asks again should be given no answer that it would have thrown away: where there is doubt, the model is
asked anew.
"""

import msgspec

from windvane.core.cache.freshness import CachePolicy
from windvane.core.chat import (
    ChatRequest,
    Choice,
    Completion,
    FinishReason,
    ImagePart,
    ReplyMessage,
    ToolCall,
)

_GOOD_ENDS = frozenset((FinishReason.STOP, FinishReason.TOOL_CALLS, FinishReason.FUNCTION_CALL))
_NOT_KEPT = (
    "logprobs",
    "top_logprobs",
    "web_search_options",
    "audio",
    "modalities",
    "guardrails",
    "store",
)
"""Fields that ask for more than an entry keeps, or for what is not the same the next time."""
_SAID_NO = (None, False)
_OURS = (None, "function")
"""Types of tools that the caller runs."""
_CALLING_ENDS = frozenset((FinishReason.TOOL_CALLS, FinishReason.FUNCTION_CALL))


def may_be_kept(request: ChatRequest, policy: CachePolicy) -> bool:
    """Whether the same request could be given the same answer another time."""
    body = request.body
    if any(body.get(name) not in _SAID_NO for name in _NOT_KEPT):
        return False  # an empty object asks for a web search already
    if policy.deterministic_only and body.get("temperature") != 0:
        return False
    if any(tool.function is None or tool.type not in _OURS for tool in request.tools):
        return False  # tools that the provider runs look at the world
    for message in request.messages:
        if not isinstance(message.content, list):
            continue
        for part in message.content:
            if isinstance(part, ImagePart):
                image = part.image_url if isinstance(part.image_url, str) else part.image_url.url
                if not image.startswith("data:"):
                    return False  # what is behind an address may change
            elif part.__struct_config__.tag not in ("text", "thinking", "refusal", "reference"):
                return False
    return True


def is_good(completion: Completion, request: ChatRequest) -> bool:
    """Whether an answer has all the choices that were asked for, and each is a good one."""
    return len(completion.choices) >= max(request.n, 1) and all(
        _is_good_choice(choice, request) for choice in completion.choices
    )


def _is_good_choice(choice: Choice, request: ChatRequest) -> bool:
    """Whether a choice came to its end, was not filtered, says something, and does what was asked."""
    message, end = choice.message, choice.finish_reason
    if end not in _GOOD_ENDS or message.refusal or message.is_empty:
        return False
    if end in _CALLING_ENDS and not message.tool_calls:
        return False
    if not all(_is_good_call(call) for call in message.tool_calls):
        return False
    return bool(message.tool_calls) or _is_in_form(message, request)


def _is_good_call(call: ToolCall) -> bool:
    """Whether a call names what is called, and a function's arguments, if there are any, are an object:
    models fail at that now and then."""
    if not call.name:
        return False
    if call.function is None or not call.arguments:
        return True
    return isinstance(_json_of(call.arguments), dict)


def _is_in_form(message: ReplyMessage, request: ChatRequest) -> bool:
    """Whether a text is JSON where that was asked for; an object, where no schema says what else."""
    form = request.response_format
    if form is None or not form.is_json or not message.content:
        return True
    said = _json_of(message.content)
    return said is not _NO_JSON and (form.type != "json_object" or isinstance(said, dict))


_NO_JSON = object()


def _json_of(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _NO_JSON
