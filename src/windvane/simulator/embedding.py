"""Vectors for texts: the same text gives the same vector, similar texts similar ones.

Each word adds a fixed direction (eight signed places chosen by its hash), so that texts that share
words are near each other, which is what a demo of search or of a semantic cache needs. A small
part that depends on the whole text keeps different texts apart. Vectors have length one.
"""

import base64
import math
import re
import struct
from hashlib import blake2b, shake_128

PLACES_PER_WORD = 8
NOISE = 0.002
WORDS_MAX = 2000
"""Words of a text that count; later ones do not move its vector."""

_WORD = re.compile(r"\w+")


def vector_of(text: str, seed: int, dimensions: int) -> list[float]:
    """Return the unit vector of a text."""
    noise = shake_128(f"{seed} {text}".encode()).digest(dimensions)
    vector = [(byte - 127.5) * (NOISE / 127.5) for byte in noise]
    for word in _WORD.findall(text.lower())[:WORDS_MAX]:
        places = blake2b(f"{seed} {word}".encode(), digest_size=4 * PLACES_PER_WORD).digest()
        for (place,) in struct.iter_unpack("<I", places):
            vector[(place >> 1) % dimensions] += 1.0 if place & 1 else -1.0
    norm = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
    return [round(x / norm, 7) for x in vector]


def as_type(vector: list[float], dtype: str) -> list[float] | list[int]:
    """Return a vector in the number format asked for."""
    match dtype:
        case "int8":
            return [max(-128, min(127, round(x * 127))) for x in vector]
        case "uint8":
            return [max(0, min(255, round(x * 127) + 128)) for x in vector]
        case "binary":
            return [byte - 256 if byte > 127 else byte for byte in _bits(vector)]
        case "ubinary":
            return list(_bits(vector))
        case _:
            return vector


def as_base64(vector: list[float] | list[int], dtype: str) -> str:
    """Return a vector as base64 of little-endian float32, or of bytes for the small types."""
    if dtype == "float":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return base64.b64encode(bytes(int(x) & 0xFF for x in vector)).decode()


def _bits(vector: list[float]) -> bytes:
    bits = "".join("1" if x > 0 else "0" for x in vector)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
