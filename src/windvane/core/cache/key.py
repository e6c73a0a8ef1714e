"""The key of a request: what must be the same for one answer to serve for another.

SHA-256 over the scope, the schema's version, who would be asked and where, for which model, and the whole
request but for the fields of `wire.canonical.DENIED`. A field nobody has heard of is in the key, so that
a dialect may grow without an answer being given to a question that was not asked.
"""

import hashlib
from urllib.parse import urlsplit

import msgspec

from windvane.core.chat import JsonObject

SCHEMA_VERSION = b"2"
"""Raised when keys or entries change their meaning: what was stored before is not found any more."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_encode_wide = msgspec.json.Encoder(order="deterministic").encode
"""For whole numbers of more than 64 bits, which MessagePack has not. It is eight times as slow."""

_PORTS = {"http": 80, "https": 443}


def origin_of(name: str, kind: str, url: str) -> str:
    """Who serves, in one spelling: a provider's name, its kind, and the address it is asked at.

    The name alone does not do: two gateways that share a Redis may mean two servers by it, and one
    gateway another server than last week. Nor does the address: two names for one server may be two
    accounts with models of their own. Neither kinds nor addresses have spaces; a name may.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or _PORTS.get(parts.scheme, 0)
    rest = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
    return f"{kind} {parts.scheme}://{host}:{port}{rest} {name}"


def cache_key(scope: str, origin: str, model: str, canonical: JsonObject) -> bytes:
    """The 32 bytes that an answer is found by.

    `scope` is whose answers may be shared, `origin` who would be asked, `model` what is asked there,
    `canonical` the request as `wire.canonical` writes it. Each part is preceded by its length, so that
    none runs into the next.
    """
    digest = hashlib.sha256()
    for part in (SCHEMA_VERSION, scope.encode(), origin.encode(), model.encode()):
        digest.update(b"%d:%b" % (len(part), part))
    try:
        said = _encode(canonical)
    except OverflowError:
        said = _encode_wide(canonical)
    digest.update(said)
    return digest.digest()
