"""Estimating tokens, and bounding them.

The estimate counts four kinds of byte in the text's UTF-8 form, with weights fitted to the Tekken
vocabulary on twenty samples (prose in nine languages, code, JSON, digits): letters are cheap,
punctuation dear, each digit is a token, and a CJK character is most of one. It serves routing and
rate limits. It is never billed: usage comes from the provider.

The bounds are not fitted: byte-level vocabularies never make more tokens than there are bytes.
"""

SAMPLE_CHARS = 2_048
"""A longer text is judged by its beginning, middle and end: cost must not grow with the prompt."""

_CONTINUATION = range(0x80, 0xC0)
_LETTERS_AND_SPACES = bytes(
    code for code in range(0x80) if chr(code).isalpha() or chr(code) in " \t\r\n"
)
_NOT_COUNTED = _LETTERS_AND_SPACES + bytes(_CONTINUATION)
"""Letters and spaces are what the rest leaves; a continuation byte is part of the character before it."""
_DIGIT, _CJK, _OTHER, _PUNCTUATION = b"0", b"c", b"o", b"."


def _kind(code: int) -> bytes:
    if code in range(0xE3, 0xEE):
        return _CJK
    if code >= 0x80:
        return _OTHER
    return _DIGIT if chr(code).isdigit() else _PUNCTUATION


_KINDS = b"".join(map(_kind, range(256)))
"""Each byte that is counted, as the kind it is counted with."""

_PER_LETTER = 0.2
_PER_PUNCTUATION = 0.5
_PER_DIGIT = 1.0
_PER_CJK = 0.85
_PER_OTHER = 0.28

MESSAGE_OVERHEAD_TOKENS = 4
REPLY_OVERHEAD_TOKENS = 3
IMAGE_TOKENS = 1_100
"""A middling image; Mistral charges about (width x height) / 784, at most about 3,025."""
TEMPLATE_TOKENS_MAX = 16
"""What a template adds to a message, to a tool, and to the request."""
IMAGE_TOKENS_MAX = 3_100


def estimate_tokens(text: str) -> float:
    """About how many tokens `text` is."""
    if len(text) > SAMPLE_CHARS:
        third = SAMPLE_CHARS // 3
        middle = (len(text) - third) // 2
        sample = text[:third] + text[middle : middle + third] + text[-third:]
        return estimate_tokens(sample) * (len(text) / len(sample))
    is_ascii = text.isascii()
    encoded = text.encode() if is_ascii else text.encode(errors="replace")
    counted = encoded.translate(_KINDS, _NOT_COUNTED)
    digits = counted.count(_DIGIT)
    letters, punctuation = len(text) - len(counted), len(counted) - digits
    wide = 0.0
    if not is_ascii:
        cjk, other = counted.count(_CJK), counted.count(_OTHER)
        punctuation -= cjk + other
        wide = cjk * _PER_CJK + other * _PER_OTHER
    return letters * _PER_LETTER + punctuation * _PER_PUNCTUATION + digits * _PER_DIGIT + wide


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
    return body_bytes + TEMPLATE_TOKENS_MAX * (messages + tools + 1) + image_tokens_max * images


def bytes_of(text: str) -> int:
    """How long `text` is in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
