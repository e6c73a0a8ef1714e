"""The types of what OpenAI documents and nobody else here reads.

They are looked at when one of them is said to OpenAI itself: other servers of the dialect have other
types (llama.cpp takes `logit_bias` as a list). Values that may become more, as the words of `verbosity`,
are left to OpenAI.
"""

from typing import Literal

import msgspec

from windvane.core.chat import JsonObject, TextPart
from windvane.wire.cannot_say import cannot_say
from windvane.wire.chat_request import place_and_problem


class _Prediction(msgspec.Struct, frozen=True):
    type: Literal["content"]
    content: str | list[TextPart]


class _Schema(msgspec.Struct, frozen=True):
    name: str


class _ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _Documented(msgspec.Struct, frozen=True, kw_only=True):
    audio: JsonObject | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    moderation: JsonObject | None = None
    prediction: _Prediction | None = None
    prompt_cache_options: JsonObject | None = None
    prompt_cache_retention: str | None = None
    response_format: _ResponseFormat | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    top_logprobs: int | None = None
    verbosity: str | None = None
    web_search_options: JsonObject | None = None


DOCUMENTED = frozenset(_Documented.__struct_fields__)


def check_types(body: JsonObject) -> None:
    """Raise BadRequestError, naming the field, for what OpenAI would refuse whatever the model."""
    said = {name: body[name] for name in DOCUMENTED.intersection(body)}
    try:
        form = msgspec.convert(said, _Documented).response_format
    except msgspec.ValidationError as error:
        raise cannot_say(*place_and_problem(error)) from error
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        raise cannot_say("response_format.json_schema", "this field is required")
