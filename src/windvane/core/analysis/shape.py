"""The text of one message, looked at for code, mathematics, reasoning and language.

Every look is a set operation or a substring search: no regular expression runs over the prompt,
so the cost is a few microseconds a kilobyte and linear.
"""

import msgspec

from windvane.core.analysis import lexicon

EXAMINED_CHARS = 8_000
"""Only the beginning and the end of a longer text are looked at: what is asked stands there."""

_PUNCTUATION = str.maketrans(dict.fromkeys(".,;:!?()[]{}\"'`*<>/\\|=\n\t\r", " "))


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
    lowered = text.lower()
    words = set(lowered.translate(_PUNCTUATION).split())
    script = _script(text)
    return Shape(
        has_code=_has_code(text, words),
        has_math=_has_math(text, words),
        reasoning_words=_reasoning_words(lowered, words),
        is_question="?" in text or "\uff1f" in text or not words.isdisjoint(lexicon.QUESTION_WORDS),
        language=_language(words) if script == "latin" else script,
        script=script,
    )


def _has_code(text: str, words: set[str]) -> bool:
    if "```" in text:
        return True
    signs = 0
    for sign in lexicon.CODE_SIGNS:
        if sign in text:
            signs += 1
    has_strong_word = not words.isdisjoint(lexicon.CODE_WORDS_STRONG)
    if signs >= 2 or (signs and has_strong_word):
        return True
    named = len(words & lexicon.CODE_WORDS)
    return (has_strong_word and named >= 2) or (named >= 1 and text.count("`") >= 2)


def _has_math(text: str, words: set[str]) -> bool:
    if any(sign in text for sign in lexicon.MATH_SIGNS):
        return True
    return len(words & lexicon.MATH_WORDS) >= 2


def _reasoning_words(lowered: str, words: set[str]) -> int:
    found = len(words & lexicon.REASONING_WORDS)
    for phrase in lexicon.REASONING_PHRASES:
        if phrase in lowered:
            found += 1
    return found


def _language(words: set[str]) -> str | None:
    best, most = None, 1
    for language, common in lexicon.LANGUAGE_WORDS:
        hits = len(words & common)
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


def _script(text: str) -> str:
    if text.isascii():
        return "latin"
    counts: dict[str, int] = {}
    for character in text[:SCRIPT_SAMPLE_CHARS]:
        point = ord(character)
        if point < 0x0370:
            continue
        for first, last, name in _SCRIPTS:
            if first <= point <= last:
                counts[name] = counts.get(name, 0) + 1
                break
    if not counts:
        return "latin"
    if "japanese" in counts:
        return "japanese"
    return max(counts, key=lambda name: counts[name])
