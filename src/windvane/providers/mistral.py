"""Mistral: `api.mistral.ai` and its regional hosts.

Quirks: it refuses unknown fields (wire/mistral_chat.py translates), says a key's zero allowance and
an exhausted month in its rate headers alone, and both are final. What a guardrail blocks answers 403
like a missing permission, but is the caller's: another provider must not be asked to say it.
"""

import msgspec

from windvane.core.analysis.tokens import IMAGE_TOKENS_MAX
from windvane.core.catalog.prices import PERMILLE
from windvane.core.deployment import Billing
from windvane.core.faults import Fault, FaultKind, Retry, Source
from windvane.core.upstream_limits import MISTRAL_TIERS
from windvane.providers import fault_map
from windvane.providers.provider import Headers, Provider
from windvane.wire import chat_reply, mistral_chat


def classify(status: int, headers: Headers, body: bytes, now_s: float) -> Fault:
    """The shared table, blocks by a guardrail, and the two 429s that no wait mends."""
    fault = fault_map.classify(status, headers, body, now_s)
    if status == 403 and b"guardrail" in body:
        return msgspec.structs.replace(
            fault, kind=FaultKind.CONTENT_FILTERED, source=Source.CLIENT, retry=Retry.NEVER
        )
    if fault.kind is not FaultKind.RATE_LIMITED:
        return fault
    final = None
    if headers.get("x-ratelimit-limit-req-minute") == "0":
        final = "this key has no allowance for the model"
    elif headers.get("x-ratelimit-remaining-tokens-month") == "0":
        final = "this month's tokens are used up"
    if final is None:
        return fault
    return msgspec.structs.replace(
        fault,
        retry=Retry.OTHER,
        message=f"{fault.message} ({final})",
        code="insufficient_quota",
        retry_after_s=None,
    )


BILLING = Billing(
    # Mistral's price list: the priority tier at 1.75 times, regional hosts at 1.1 times, batches at half;
    # an image is at most about 3,025 tokens. Asked for "auto", it may serve in either tier.
    tiers_permille={"priority": 1750, "auto": 1750, "fast": 1750},
    untold_tier_permille=PERMILLE,
    priced_apart=frozenset(("audio",)),
    batch_permille=500,
    image_tokens_max=IMAGE_TOKENS_MAX,
    hosts_permille={"api.eu.mistral.ai": 1100, "api.us.mistral.ai": 1100},
)

PROVIDER = Provider(
    kind="mistral",
    billing=BILLING,
    encode_chat=mistral_chat.encode_chat,
    decode_chat=chat_reply.decode_completion,
    read_stream=chat_reply.ChatStreamReader,
    classify=classify,
    api_base="https://api.mistral.ai/v1",
    key_variable="MISTRAL_API_KEY",
    tier_variable="MISTRAL_TIER",
    tiers=MISTRAL_TIERS,
    shares_limits=True,
    serves_catalog="mistral",
    request_id_header="mistral-correlation-id",
)
