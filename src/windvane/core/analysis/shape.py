"""The text of one message, looked at for code, mathematics, reasoning and language.

No regular expression runs over the prompt. Its words are looked up once, in all tables together; a sign
is looked for only when a character is there that it has and prose seldom has. So the cost is a few
microseconds a kilobyte, and linear.
"""

import msgspec

from windvane.core.analysis import lexicon
from windvane.core.analysis.lexicon import ALL_WORDS, Lexicon

EXAMINED_CHARS = 8_000
"""Only the beginning and the end of a longer text are looked at: what is asked stands there."""

_SEPARATORS = b".,;:!?()[]{}\"'`*<>/\\|=\n\t\r"
_ACCENTED_CAPITALS = range(0x80, 0x9F)
"""The second bytes of À to Þ in UTF-8; those of à to þ are 0x20 more, after the same first byte."""
_KELVIN_SIGN = "\u212a"
"""The one letter besides whose lower case, a plain k, is in a word of the tables."""


def _in_words(code: int) -> int:
    if code in _SEPARATORS:
        return ord(" ")
    if code in _ACCENTED_CAPITALS:
        return code + 0x20
    return ord(chr(code).lower()) if code < 128 else code


_WORDS_ONLY = bytes(map(_in_words, range(256)))
"""Each byte as it stands in a word: lower case, and a space for what separates words. This holds for
the letters that words of the tables are made of; others stay unlike them."""


class Shape(msgspec.Struct, frozen=True):
    """What one text looks like. Scores count distinct signs, so repetition does not inflate them."""

    has_code: bool = False
    has_math: bool = False
    reasoning_words: int = 0
    is_question: bool = False
    language: str | None = None
    script: str = "latin"


def shape_of(text: str, known: Lexicon = ALL_WORDS) -> Shape:
    """Look at `text`. Its language and script are told when `known` has words of languages."""
    if len(text) > EXAMINED_CHARS:
        half = EXAMINED_CHARS // 2
        text = f"{text[:half]}\n{text[-half:]}"
    script, language = "latin", None
    if text.isascii():
        encoded = text.encode()
    else:
        encoded = text.replace(_KELVIN_SIGN, "k").encode(errors="replace")
        if known.languages:
            script = _script(text[:SCRIPT_SAMPLE_CHARS])
    encoded = encoded.translate(_WORDS_ONLY)
    words = encoded.split()
    counts = known.counts(words)
    if known.languages:
        language = _language(counts, known.languages) if script == "latin" else script
    return Shape(
        _has_code(text, words, counts),
        _has_math(text, counts),
        _reasoning_words(encoded, counts),
        "?" in text or "\uff1f" in text or (bool(words) and words[0] in lexicon.QUESTION_WORDS),
        language,
        script,
    )


def _has_code(text: str, words: list[bytes], counts: bytes) -> bool:
    """Two different signs make code, and so does a fence, inline code, SQL, a strong word with a sign or
    another word of the field, such a word beside something in back quotes, or the name of a language to
    write in. Words that code is made of (`class`, `import`) stand in prose too: all together they are one
    sign."""
    has_back_quotes = "`" in text
    if has_back_quotes and ("```" in text or _has_inline_code(text)):
        return True
    if "F" in text and "FROM " in text and "SELECT " in text:
        return True
    signs = 1 if counts[lexicon.CODE_SIGN] else 0
    if "(" in text or "<" in text or "#" in text or ("=" in text and "=>" in text):
        for character, having_it in lexicon.CODE_SIGNS:
            if character in text:
                for sign in having_it:
                    signs += sign in text
    field_words, strong_words = counts[lexicon.CODE], counts[lexicon.CODE_STRONG]
    if signs >= 2 or (signs and strong_words):
        return True
    if not field_words:
        return False
    if (field_words >= 2 and strong_words) or (has_back_quotes and text.count("`") >= 2):
        return True
    return counts[lexicon.CODE_LANGUAGE] > 0 and _names_a_language(words, field_words >= 2)


_LANGUAGES = frozenset(map(str.encode, lexicon.CODE_LANGUAGES))
_PLACES_TOO = _LANGUAGES.union(map(str.encode, lexicon.CODE_LANGUAGES_TOO))
_CODES_OWN = frozenset("=()[]{}<>_/\\*$#|&;~+-")
"""Characters that tell several words of code from several words that are quoted."""


def _has_inline_code(text: str) -> bool:
    """Whether back quotes stand around something, as quotes do and apostrophes do not, that is one word or
    has a character of code's own. TeX begins its quotes with two and ends them with apostrophes."""
    pieces = text.split("`")
    return any(
        inside
        and "''" not in inside
        and not (before[-1:].isalnum() or after[:1].isalnum())
        and not (inside[0].isspace() or inside[-1].isspace() or "\n" in inside)
        and (" " not in inside or not _CODES_OWN.isdisjoint(inside))
        for before, inside, after in zip(pieces, pieces[1:], pieces[2:], strict=False)
    )


def _names_a_language(words: list[bytes], is_of_the_field: bool) -> bool:
    """Whether something is asked for in a language: `in Python`; and beside other words of the field
    `in Java`, where one may travel too."""
    names = (_PLACES_TOO if is_of_the_field else _LANGUAGES).intersection(words)
    spaced = b" %b " % b" ".join(words) if names else b""
    return any(b" %b %b " % (before, name) in spaced for name in names for before in lexicon.IN)


def _has_math(text: str, counts: bytes) -> bool:
    if counts[lexicon.MATH] >= 2:
        return True
    if "\\" in text or "^" in text or "$" in text:
        for sign in lexicon.MATH_SIGNS:
            if sign in text:
                return True
    if not text.isascii():
        for character in lexicon.MATH_CHARACTERS:
            if character in text:
                return True
    return False


def _reasoning_words(encoded: bytes, counts: bytes) -> int:
    found = counts[lexicon.REASONING]
    if counts[lexicon.PHRASE]:
        found += sum([phrase in encoded for phrase in lexicon.REASONING_PHRASES])
    return found


def _language(counts: bytes, languages: tuple[str, ...]) -> str | None:
    """The language with the most common words, when there are two at least."""
    hits = counts[lexicon.LANGUAGE :]
    most = max(hits)
    return languages[hits.index(most)] if most >= 2 else None


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
LATIN = "latin"
SCRIPTS = (LATIN, *(script for _, _, script in _SCRIPTS))
"""All that a text's script can be."""
_LATIN = "l"
_SCRIPT_OF = {str(place): script for place, (_, _, script) in enumerate(_SCRIPTS)}
"""Kinds of character: a Latin letter, and a letter of each of `_SCRIPTS`, by its place there."""
_LATIN_UNTIL = 0x0370


def _kinds() -> str:
    kinds = [" "] * (1 << 16)
    for point in range(_LATIN_UNTIL):
        if chr(point).isalpha():
            kinds[point] = _LATIN
    for kind, (first, last, _) in zip(_SCRIPT_OF, _SCRIPTS, strict=True):
        kinds[first : last + 1] = kind * (last + 1 - first)
    return "".join(kinds)


_KINDS = _kinds()
"""By code point; a space for what tells of no script. No character after them tells of one."""

_LEADS = bytes(range(0xCD, 0xE2)) + bytes(range(0xE3, 0xEE))
"""The first bytes, in UTF-8, of what is of another script; that of dashes and curly quotes is not here."""
_NO_LEADS = bytes(set(range(256)).difference(_LEADS))

SCRIPT_SAMPLE_CHARS = 256

LATIN_SHARE = 4
"""A text is of another script when its letters of it are at least a fourth of its Latin ones: more
than a Greek letter in a formula, and less than Chinese around names of functions."""


def _script(sample: str) -> str:
    if not sample.encode(errors="replace").translate(None, _NO_LEADS):
        return "latin"
    kinds = sample.translate(_KINDS)
    found = sorted((kind for kind in _SCRIPT_OF if kind in kinds), key=kinds.index)
    counts = {_SCRIPT_OF[kind]: kinds.count(kind) for kind in found}
    if sum(counts.values()) * LATIN_SHARE < max(kinds.count(_LATIN), 1):
        return "latin"
    if "japanese" in counts:
        return "japanese"
    return max(counts, key=lambda script: counts[script])
