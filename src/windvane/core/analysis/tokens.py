"""Estimating tokens, and bounding them.

The estimate counts four kinds of byte in the text's UTF-8 form, with weights fitted to the Tekken
vocabulary on twenty samples (prose in nine languages, code, JSON, digits): letters are cheap,
punctuation dear, each digit is a token, and a CJK character is most of one. It serves routing and
rate limits. It is never billed: usage comes from the provider.

The bound is not fitted: byte-level vocabularies never make more tokens than there are bytes.
"""

SAMPLE_CHARS = 2_048
"""A longer text is judged by its beginning, middle and end: cost must not grow with the prompt."""

_DIGITS = b"0123456789"
_LETTERS = bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
_SPACES = b" \t\r\n"
_LETTERS_AND_SPACES = _LETTERS + _SPACES
_CONTINUATION = bytes(range(0x80, 0xC0))
_CJK_LEAD = bytes(range(0xE3, 0xEE))
_ASCII = bytes(range(0x80))

_PER_LETTER = 0.2
_PER_PUNCTUATION = 0.5
_PER_DIGIT = 1.0
_PER_CJK = 0.85
_PER_OTHER = 0.28

MESSAGE_OVERHEAD_TOKENS = 4
REPLY_OVERHEAD_TOKENS = 3
IMAGE_TOKENS = 1_100
"""A middling image; Mistral charges about (width x height) / 784, at most about 3,025."""
IMAGE_TOKENS_MAX = 3_100


def estimate_tokens(text: str) -> float:
    """About how many tokens `text` is."""
    if len(text) <= SAMPLE_CHARS:
        return _weigh(text)
    third = SAMPLE_CHARS // 3
    middle = (len(text) - third) // 2
    sample = text[:third] + text[middle : middle + third] + text[-third:]
    return _weigh(sample) * (len(text) / len(sample))


def _weigh(text: str) -> float:
    if text.isascii():
        return _weigh_ascii(text.encode())
    encoded = text.encode(errors="replace")
    wide = encoded.translate(None, _ASCII + _CONTINUATION)
    other = len(wide.translate(None, _CJK_LEAD))
    cjk = len(wide) - other
    return _weigh_ascii(encoded.translate(None, bytes(range(0x80, 0x100)))) + (
        cjk * _PER_CJK + other * _PER_OTHER
    )


def _weigh_ascii(encoded: bytes) -> float:
    rest = encoded.translate(None, _LETTERS_AND_SPACES)
    punctuation = len(rest.translate(None, _DIGITS))
    digits = len(rest) - punctuation
    return (
        (len(encoded) - len(rest)) * _PER_LETTER
        + punctuation * _PER_PUNCTUATION
        + digits * _PER_DIGIT
    )


def tokens_upper_bound(
    body_bytes: int,
    messages: int,
    images: int,
    tools: int,
    image_tokens_max: int = IMAGE_TOKENS_MAX,
) -> int:
    """No request of this size is more tokens than this, unless it names documents by reference.

    Every token of a byte-level vocabulary stands for at least one byte of the JSON body (keys and
    quotes are counted too, which only makes the bound looser); a template adds a few control tokens
    a message and a tool. An image's bytes may be elsewhere, so each counts at its maximum.
    """
    return body_bytes + 16 * (messages + tools + 1) + image_tokens_max * images
