"""Failures as the two SDKs show them: the right class, with status, code and field."""

import openai
import pytest
from mistralai.client.errors import HTTPValidationError, SDKError

MODEL = "ministral-8b-latest"


def asked(text="Explain wind", model=MODEL, **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


# What is asked, and what OpenAI's client raises: class, status, code, field.
CASES = {
    "a field out of range": (
        asked(temperature=3),
        openai.BadRequestError,
        400,
        "invalid_request",
        "temperature",
    ),
    "a field of the wrong type": (
        asked(stop=7),
        openai.BadRequestError,
        400,
        "invalid_request",
        "stop",
    ),
    "a message without content": (
        {"model": MODEL, "messages": [{"role": "user"}]},
        openai.BadRequestError,
        400,
        "invalid_request",
        "messages[0].content",
    ),
    "a part of a message that lacks its text": (
        {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text"}]}]},
        openai.BadRequestError,
        400,
        "invalid_request",
        "messages[0].content[0].text",
    ),
    "a result no tool call asked for": (
        {
            "model": MODEL,
            "messages": [
                {"role": "assistant", "content": "Hello"},
                {"role": "tool", "content": "1", "tool_call_id": "abcdefghi"},
            ],
        },
        openai.BadRequestError,
        400,
        "invalid_request",
        "messages[1].tool_call_id",
    ),
    "a model that does not exist": (
        asked(model="mistral-enormous"),
        openai.NotFoundError,
        404,
        "model_not_found",
        "model",
    ),
    "the provider is not paid": (
        asked("Hi !error 402"),
        openai.APIStatusError,
        402,
        "payment_required",
        None,
    ),
    "the provider forbids": (asked("Hi !error 403"), openai.PermissionDeniedError, 403, None, None),
    "the provider refuses the gateway's key": (
        asked("Hi !error 401"),
        openai.InternalServerError,
        502,
        "upstream_credential_refused",
        None,
    ),
    "the provider finds a field wrong": (
        asked("Hi !error 422"),
        openai.UnprocessableEntityError,
        422,
        None,
        None,
    ),
    "too many requests": (
        asked("Hi !error 429 retry-after=7"),
        openai.RateLimitError,
        429,
        "1300",
        None,
    ),
    "the month is used up": (
        asked("Hi !error 429 shape=month"),
        openai.RateLimitError,
        429,
        "insufficient_quota",
        None,
    ),
    "the provider fails": (asked("Hi !error 500"), openai.InternalServerError, 502, None, None),
    "an edge proxy's page": (asked("Hi !html 502"), openai.InternalServerError, 502, None, None),
    "the provider is full": (
        asked("Hi !error 503"),
        openai.InternalServerError,
        503,
        "3505",
        None,
    ),
    "the answer is no JSON": (asked("Hi !garbage"), openai.InternalServerError, 502, None, None),
    "the connection breaks": (asked("Hi !reset"), openai.InternalServerError, 502, None, None),
}


PLACES = {"messages[1].tool_call_id": ("messages", 1, "tool_call_id")}
"""Fields that are not at the top, as the steps of a `loc`."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CASES)
async def test_openai_raises(openai_caller, case, stream):
    body, kind, status, code, param = CASES[case]
    with pytest.raises(kind) as raised:
        await openai_caller.create(**body, stream=stream)
    error = raised.value
    assert error.status_code == status
    assert error.param == param
    assert error.code == code if code else isinstance(error.code, str)
    assert error.type
    assert error.request_id
    assert error.request_id in error.message


NOT_SENT_BY_MISTRALS_CLIENT = {
    "a field of the wrong type",
    "a part of a message that lacks its text",
    "a message without content",
}
"""What the SDK's own types refuse or rewrite before anything is sent."""


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in NOT_SENT_BY_MISTRALS_CLIENT]
)
async def test_mistral_raises(mistral_caller, case, is_streamed):
    """A wrong field is 422 with its place, as Mistral's own API says it; all else keeps its
    status."""
    body, _, status, code, param = CASES[case]
    is_field = status == 422 or (status == 400 and param is not None)
    ask = mistral_caller.stream if is_streamed else mistral_caller.complete
    with pytest.raises(HTTPValidationError if is_field else SDKError) as raised:
        await ask(**body)
    error = raised.value
    assert error.status_code == (422 if is_field else status)
    if is_field:
        [detail] = error.data.detail
        assert detail.loc == ["body", *PLACES.get(param, (param,) if param else ())]
        assert detail.msg
    if code:
        assert f'"code":"{code}"' in error.body


async def test_a_wrong_key_is_the_callers_fault(openai_caller, surface):
    client = openai_caller.client.with_options(api_key="sk-not-one-of-ours")
    with pytest.raises(openai.AuthenticationError) as raised:
        made = client.chat.completions.create(**asked())
        await made if openai_caller.is_async else made
    assert (raised.value.status_code, raised.value.code) == (401, "invalid_api_key")
    assert "sk-not-one-of-ours" not in raised.value.message
    assert surface.sent() == []
