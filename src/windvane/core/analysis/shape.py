"""The text of one message, looked at for code, mathematics, reasoning and language.

No regular expression runs over the prompt. Its words are looked up once, against all tables together,
and each table is then counted over the few words that were found; signs that only make sense beside
certain characters are looked for only when those are there. So the cost is a few microseconds a
kilobyte, and linear.
"""

import msgspec

from windvane.core.analysis import lexicon
from windvane.core.analysis.lexicon import Meaning

EXAMINED_CHARS = 8_000
"""Only the beginning and the end of a longer text are looked at: what is asked stands there."""

_SEPARATORS = b".,;:!?()[]{}\"'`*<>/\\|=\n\t\r"
_WORDS_ONLY = bytes(
    ord(" ") if code in _SEPARATORS else ord(chr(code).lower()) if code < 128 else code
    for code in range(256)
)
"""Each byte as it stands in a word: lower case, and a space for what separates words."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What one text looks like. Scores count distinct signs, so repetition does not inflate them."""

    has_code: bool = False
    has_math: bool = False
    reasoning_words: int = 0
    is_question: bool = False
    language: str | None = None
    script: str = "latin"


def shape_of(text: str) -> Shape:
    """Look at `text`."""
    if len(text) > EXAMINED_CHARS:
        half = EXAMINED_CHARS // 2
        text = f"{text[:half]}\n{text[-half:]}"
    is_ascii = text.isascii()
    encoded = (text if is_ascii else text.lower()).encode(errors="replace").translate(_WORDS_ONLY)
    words = encoded.split()
    meanings = [lexicon.MEANINGS[word] for word in lexicon.WORDS.intersection(words)]
    opening = lexicon.MEANINGS.get(words[0], 0) if words else 0
    seen = 0
    for meaning in meanings:
        seen |= meaning
    script = "latin" if is_ascii else _script(text)
    return Shape(
        has_code=_has_code(text, meanings, seen),
        has_math=_has_math(text, meanings, seen),
        reasoning_words=_reasoning_words(encoded, meanings, seen),
        is_question=bool(opening & Meaning.QUESTION) or "?" in text or "\uff1f" in text,
        language=_language(meanings, seen) if script == "latin" else script,
        script=script,
    )


def _count(meanings: list[int], wanted: int) -> int:
    return sum([1 for meaning in meanings if meaning & wanted])


def _has_code(text: str, meanings: list[int], seen: int) -> bool:
    """Two different signs make code, and so does a fence, SQL, a strong word with a sign or another
    word of the field, or such a word beside something in back quotes. Words that code is made of
    (`class`, `import`) stand in prose too: all together they are one sign."""
    if "```" in text or ("SELECT " in text and "FROM " in text):
        return True
    signs = 1 if seen & Meaning.CODE_SIGN else 0
    if "(" in text or "<" in text or "#" in text or "=>" in text:
        signs += sum([sign in text for sign in lexicon.CODE_SIGNS])
    is_strong = bool(seen & Meaning.CODE_STRONG)
    if signs >= 2 or (signs and is_strong):
        return True
    if not seen & Meaning.CODE:
        return False
    return (is_strong and _count(meanings, Meaning.CODE) >= 2) or text.count("`") >= 2


def _has_math(text: str, meanings: list[int], seen: int) -> bool:
    if "\\" in text or "^" in text or "$$" in text or not text.isascii():
        for sign in lexicon.MATH_SIGNS:
            if sign in text:
                return True
    return bool(seen & Meaning.MATH) and _count(meanings, Meaning.MATH) >= 2


def _reasoning_words(encoded: bytes, meanings: list[int], seen: int) -> int:
    found = _count(meanings, Meaning.REASONING) if seen & Meaning.REASONING else 0
    if seen & Meaning.PHRASE:
        found += sum([phrase in encoded for phrase in lexicon.REASONING_PHRASES])
    return found


def _language(meanings: list[int], seen: int) -> str | None:
    """The language with the most common words, when there are two at least."""
    best, most = None, 1
    for language, bit in lexicon.LANGUAGE_BITS:
        if seen & bit:
            hits = _count(meanings, bit)
            if hits > most:
                best, most = language, hits
    return best


_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0E00, 0x0E7F, "thai"),
    (0x3040, 0x30FF, "japanese"),
    (0x4E00, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
)
SCRIPT_SAMPLE_CHARS = 256


LATIN_SHARE = 4
"""A text is of another script when its letters of it are at least a fourth of its Latin ones: more
than a Greek letter in a formula, and less than Chinese around names of functions."""


def _script(text: str) -> str:
    sample = text[:SCRIPT_SAMPLE_CHARS]
    if max(sample) < "\u0370":
        return "latin"
    counts: dict[str, int] = {}
    latin = 0
    for character in sample:
        point = ord(character)
        if point < 0x0370:
            latin += character.isalpha()
            continue
        for first, last, name in _SCRIPTS:
            if first <= point <= last:
                counts[name] = counts.get(name, 0) + 1
                break
    if sum(counts.values()) * LATIN_SHARE < max(latin, 1):
        return "latin"
    if "japanese" in counts:
        return "japanese"
    return max(counts, key=lambda name: counts[name])
