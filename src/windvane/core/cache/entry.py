"""What is kept of an answer, and how it is written: a versioned head, a checksum of the key and the rest,
then MessagePack, compressed when that is worth it. What cannot be read as it was written is no entry."""

import zlib

import msgspec

from windvane.core.chat import Completion
from windvane.core.usage import Usage

COMPRESS_ABOVE_BYTES = 2_048
_LEVEL = 1
_PLAIN = b"WV4p"
_PACKED = b"WV4z"
_HEAD_BYTES = 4
_BODY_AT = 8
"""Behind the head, and four bytes of CRC-32: it finds every damage of up to 32 bits in a row. The key is
summed first: an entry that a tier gives for another's key is none."""
UNPACKED_BYTES_MAX = 64 * 1024 * 1024


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An answer, whole and good. Field order is the format: only append.

    It is kept in one of two forms: `rest` is the provider's own JSON, but for the id, and `completion`
    what was understood of an answer that came otherwise. Times are UTC microseconds: of two answers the
    one that was asked for later is the newer. `version` is the count of invalidations its maker knew of.
    `pieces` are the lengths, in characters, in which its text came when it was streamed.
    """

    completion: Completion | None
    rest: bytes | None = None
    usage: Usage
    provider: str
    model: str
    route: str | None
    tags: tuple[str, ...]
    created_at_us: int
    fresh_until_us: int
    version: int
    cost_nano_usd: int | None
    latency_us: int
    first_chunk_us: int | None = None
    pieces: tuple[int, ...] = ()
    asked_at_us: int = 0

    def age_s(self, now_us: int) -> int:
        """Whole seconds since the answer was made."""
        age_us = now_us - self.created_at_us
        return age_us // 1_000_000 if age_us > 0 else 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CacheEntry).decode


def pack(entry: CacheEntry, key: bytes) -> bytes:
    """The entry as bytes, to be kept under `key` and no other."""
    head, body = _PLAIN, _encode(entry)
    if len(body) > COMPRESS_ABOVE_BYTES:
        packed = zlib.compress(body, _LEVEL)
        if len(packed) < len(body):
            head, body = _PACKED, packed
    return head + _checksum(key, body) + body


def _checksum(key: bytes, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "big")


def unpack(data: bytes, key: bytes) -> CacheEntry | None:
    """The entry in these bytes; None when they are damaged, of another version, or of another key."""
    head, body = data[:_HEAD_BYTES], data[_BODY_AT:]
    if data[_HEAD_BYTES:_BODY_AT] != _checksum(key, body):
        return None
    try:
        if head == _PACKED:
            inflate = zlib.decompressobj()
            body = inflate.decompress(body, UNPACKED_BYTES_MAX)
            if not inflate.eof:
                return None
        elif head != _PLAIN:
            return None
        return _decode(body)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
