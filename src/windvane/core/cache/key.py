"""The key of a request: what must be the same for one answer to serve for another.

SHA-256 over the scope, the schema's version, the model that would be asked, and the whole request but
for the fields of `wire.canonical.DENIED`. A field nobody has heard of is in the key, so that a dialect
may grow without an answer being given to a question that was not asked.
"""

import hashlib

import msgspec

from windvane.core.chat import JsonObject

SCHEMA_VERSION = b"1"
"""Raised when keys or entries change their meaning: what was stored before is not found any more."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_encode_wide = msgspec.json.Encoder(order="deterministic").encode
"""For whole numbers of more than 64 bits, which MessagePack has not. It is eight times as slow."""


def cache_key(scope: str, provider: str, model: str, canonical: JsonObject) -> bytes:
    """The 32 bytes that an answer is found by.

    `scope` is whose answers may be shared, `model` what is asked there, `canonical` the request as
    `wire.canonical` writes it. Each part is preceded by its length, so that none runs into the next.
    """
    digest = hashlib.sha256()
    for part in (SCHEMA_VERSION, scope.encode(), provider.encode(), model.encode()):
        digest.update(b"%d:%b" % (len(part), part))
    try:
        said = _encode(canonical)
    except OverflowError:
        said = _encode_wide(canonical)
    digest.update(said)
    return digest.digest()
