"""What a kind of provider is: an address, a way of asking, and a way of reading what it answers."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from windvane.core.chat import ChatRequest, Chunk, Completion
from windvane.core.deployment import Billing
from windvane.core.faults import Fault, WindvaneError
from windvane.core.upstream_limits import UpstreamTerms

Headers = Mapping[str, str]
"""Response headers, names in lower case."""


class StreamReader(Protocol):
    """One answer's event stream in, chunks out.

    `is_done`: the end-of-stream marker has come. `failure` is what is wrong behind the chunks that
    `feed` returned last: the stream ends with them.
    """

    is_done: bool
    failure: WindvaneError | None

    @property
    def unread_bytes(self) -> int:
        """How much has come that is in no chunk."""
        ...

    def feed(self, piece: bytes) -> list[Chunk]:
        """Take the next bytes; return the chunks they complete. Raises the error that comes first."""
        ...


def bearer(key: str) -> tuple[str, str]:
    """The header, name and value, that most providers want a key in."""
    return "authorization", f"Bearer {key}"


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of provider, and the dialect it speaks: four verbs.

    `encode_chat(request, model)` writes a request's body. `decode_chat(body, now_s)` reads a whole
    answer, and `read_stream(now_s)` makes the reader of one that streams. `classify(status, headers,
    body, now_s)` turns an error answer into a fault.

    `authorize(key)` is the header a key goes in, `headers` are sent with every request. `serves_catalog`
    is the provider name in the catalog whose models this kind serves without being told. `tiers` are
    its plans with their limits; `shares_limits` says that all models of a key share one limit.
    """

    kind: str
    encode_chat: Callable[[ChatRequest, str], bytes]
    decode_chat: Callable[[bytes, int], Completion]
    read_stream: Callable[[int], StreamReader]
    classify: Callable[[int, Headers, bytes, float], Fault]
    authorize: Callable[[str], tuple[str, str]] = bearer
    headers: tuple[tuple[str, str], ...] = ()
    billing: Billing = Billing()
    api_base: str | None = None
    key_variable: str | None = None
    tier_variable: str | None = None
    tiers: Mapping[str, UpstreamTerms] = {}
    shares_limits: bool = False
    serves_catalog: str | None = None
    request_id_header: str = "x-request-id"
    chat_path: str = "/chat/completions"
