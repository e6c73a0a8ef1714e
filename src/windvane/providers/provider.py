"""What a kind of provider is: an address, a way of asking, and a way of reading what it answers."""

from collections.abc import Callable, Mapping

import msgspec

from windvane.core.chat import ChatRequest
from windvane.core.deployment import Billing
from windvane.core.faults import Fault
from windvane.core.upstream_limits import UpstreamTerms
from windvane.wire.dialect import Dialect

Headers = Mapping[str, str]
"""Response headers, names in lower case."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of provider.

    `classify(status, headers, body, now_s)` turns an error answer into a fault. `serves_catalog` is
    the provider name in the catalog whose models this kind serves without being told. `tiers` are its
    plans with their limits; `shares_limits` says that all models of a key share one limit.
    """

    kind: str
    dialect: Dialect
    encode_chat: Callable[[ChatRequest, str], bytes]
    classify: Callable[[int, Headers, bytes, float], Fault]
    billing: Billing = Billing()
    api_base: str | None = None
    key_variable: str | None = None
    tier_variable: str | None = None
    tiers: Mapping[str, UpstreamTerms] = {}
    shares_limits: bool = False
    serves_catalog: str | None = None
    request_id_header: str = "x-request-id"
    chat_path: str = "/chat/completions"
