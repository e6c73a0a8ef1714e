"""Anthropic: `api.anthropic.com`.

Quirks: a dialect of its own (wire/anthropic_chat.py, wire/anthropic_reply.py), pinned to the version of
2023-06-01, for the next one refuses temperatures that older models still take; the key in `x-api-key`;
429 also for a month's spending, which no wait mends; and 400 for a prompt that is too long.
"""

import msgspec

from windvane.core.catalog.prices import PERMILLE
from windvane.core.deployment import Billing
from windvane.core.faults import Fault, FaultKind, Retry, Source
from windvane.providers import fault_map
from windvane.providers.provider import Headers, Provider
from windvane.wire import anthropic_chat, anthropic_reply

VERSION = "2023-06-01"

_SPENT = frozenset(("enforced_spend_limit_reached", "contract_spend_limit_reached"))
"""Codes of 429 that say that the month's money is spent."""
_TOO_LONG = "prompt is too long"
_NO_CREDIT = "credit balance is too low"


class _Details(msgspec.Struct, frozen=True):
    error_code: str | None = None


class _Inner(msgspec.Struct, frozen=True):
    details: _Details | None = None


class _Error(msgspec.Struct, frozen=True):
    error: _Inner | None = None


_error_decoder = msgspec.json.Decoder(_Error)


def classify(status: int, headers: Headers, body: bytes, now_s: float) -> Fault:
    """The shared table, and what Anthropic says in words or in a code of its own."""
    fault = fault_map.classify(status, headers, body, now_s)
    if status == 400 and _TOO_LONG in fault.message:
        return msgspec.structs.replace(
            fault, kind=FaultKind.CONTEXT_TOO_LONG, source=Source.CLIENT, retry=Retry.OTHER
        )
    if status == 400 and _NO_CREDIT in fault.message:
        return msgspec.structs.replace(
            fault,
            kind=FaultKind.PAYMENT_REQUIRED,
            source=Source.UPSTREAM,
            retry=Retry.OTHER,
            status=402,
        )
    if status == 429 and _error_code(body) in _SPENT:
        return msgspec.structs.replace(
            fault, retry=Retry.OTHER, code="insufficient_quota", retry_after_s=None
        )
    return fault


def _error_code(body: bytes) -> str | None:
    try:
        said = _error_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    details = said.error.details if said.error else None
    return details.error_code if details else None


def _authorize(key: str) -> tuple[str, str]:
    return "x-api-key", key


BILLING = Billing(
    # Anthropic's price list; what its priority tier costs is each customer's contract. It is told of no
    # other: what else is asked for is sent as the standard one.
    tiers_permille={"auto": None, "priority": None, "fast": None},
    untold_tier_permille=PERMILLE,
    priced_apart=frozenset(("audio", "web_search_options")),
    batch_permille=500,
    # An image is made smaller than 2,576 pixels a side, and a token is 750 of its pixels.
    image_tokens_max=10_000,
    hides_reasoning=True,
    # Published are 159 to 804 tokens for tools, by model; a schema for the answer adds a prompt as well.
    prompt_tokens_max=2_048,
    output_tokens_default=anthropic_chat.MAX_TOKENS_DEFAULT,
    cache_write_permille=1_250,
    cache_write_1h_permille=2_000,
)

PROVIDER = Provider(
    kind="anthropic",
    billing=BILLING,
    encode_chat=anthropic_chat.encode_chat,
    decode_chat=anthropic_reply.decode_message,
    read_stream=anthropic_reply.MessageStreamReader,
    classify=classify,
    authorize=_authorize,
    headers=(("anthropic-version", VERSION),),
    api_base="https://api.anthropic.com/v1",
    key_variable="ANTHROPIC_API_KEY",
    serves_catalog="anthropic",
    request_id_header="request-id",
    chat_path="/messages",
)
