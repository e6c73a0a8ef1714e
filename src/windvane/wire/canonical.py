"""A chat request as the cache sees it: one form for all spellings of the same question.

`DENIED` is the whole list of what is not in the key, each with its reason. Everything else is in it,
fields nobody has heard of included.
"""

from collections.abc import Mapping

from windvane.core.chat import ChatRequest, JsonObject

DENIED: Mapping[str, str] = {
    "model": "the model that would be asked is in the key under its resolved id",
    "stream": "one entry serves both kinds of answer",
    "stream_options": "how usage is told, not what is said",
    "user": "who asks; whose answers are shared is the scope's to say",
    "safety_identifier": "as `user`",
    "metadata": "for the caller's own records",
    "store": "whether the provider keeps a copy",
    "service_tier": "how fast and dear, not what is said",
    "prompt_cache_key": "where the provider keeps its prefix cache",
    "prompt_cache_retention": "for how long it does",
    "prompt_cache_options": "as above",
}
"""Field of a request -> why it cannot change the answer."""

_RENAMED: Mapping[str, str] = {
    "random_seed": "seed",
    "max_completion_tokens": "max_tokens",
}
"""Two dialects' names of one thing; of two limits the newer name's is the one that counts."""


def canonical(request: ChatRequest, output_tokens_max: int | None = None) -> JsonObject:
    """The request without what is denied, in one spelling. The caller's body is left as it is.

    `output_tokens_max` is how long an answer its caller may have: a limit as its own.
    """
    written: JsonObject = {}
    body = request.body
    for name, value in body.items():
        if name not in DENIED:
            other = _RENAMED.get(name, name)
            # Who says both names may mean either, by the provider's taste: that is a question apart.
            written[name if other in body else other] = _value(value)
    limit = request.output_tokens_max
    if output_tokens_max is not None and (not limit or limit > output_tokens_max):
        limit = output_tokens_max
    if limit is not None:
        written.pop("max_completion_tokens", None)
        written["max_tokens"] = limit
    if written.get("tool_choice") == "any":
        written["tool_choice"] = "required"
    if isinstance(stop := written.get("stop"), str):
        written["stop"] = [stop]
    messages = body["messages"]
    assert isinstance(messages, list)
    written["messages"] = [_message(message) for message in messages]
    return written


def _message(message: JsonObject) -> JsonObject:
    """A message without its members that are null, which answers carry back into conversations, and
    without the `prefix` of Mistral's client, who denies it in every message."""
    if len(message) == 2 and type(message.get("content")) is str:
        return message  # its role is the other
    written: JsonObject = {}
    for name, value in message.items():
        if type(value) is str:
            written[name] = value
        elif name == "content" and isinstance(value, list):
            written[name] = _content(value)
        elif value is not None and not (name == "prefix" and value is False):
            written[name] = _value(value)
    return written


def _content(parts: list[object]) -> object:
    """A single plain piece of text is the same as the text."""
    if len(parts) == 1:
        only = parts[0]
        if isinstance(only, dict) and only.get("type") == "text" and len(only) == 2:
            return only.get("text")
    return [_value(part) for part in parts]


def _value(value: object) -> object:
    """The same value, however its numbers were spelled. A null stays: a schema may ask for one."""
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return value
    if kind is float:
        assert isinstance(value, float)
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: _value(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_value(member) for member in value]
    return value
