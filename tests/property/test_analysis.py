"""Analysis takes any text there is, and what it says stays within its bounds."""

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.analysis import EVERYTHING, analyze, lexicon
from windvane.core.analysis.analyze import LOOKED_FOR
from windvane.core.analysis.shape import EXAMINED_CHARS, Shape, shape_of
from windvane.core.analysis.tokens import SAMPLE_CHARS, estimate_tokens, tokens_upper_bound
from windvane.core.chat import ChatRequest, Message, Role, TextPart

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=300) | st.text(
    "aé你\ud800 \n`?1.{\U0001f600", max_size=300
)


def request(*texts: str, role: Role = Role.USER) -> ChatRequest:
    messages = [Message(role=role, content=text) for text in texts]
    return ChatRequest(model="m", messages=messages, body={})


@settings(deadline=None, max_examples=200)
@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.integers(1, 40))
def test_any_text_is_analyzed_within_bounds(texts: list[str], times: int) -> None:
    texts[-1] *= times
    found = analyze(request(*texts))
    assert 0 <= found.difficulty <= 1
    assert found.chars == len(texts[-1])
    assert found.input_chars == sum(map(len, texts))
    assert found.turns == found.messages == len(texts)
    body_bytes = sum(len(text.encode(errors="surrogatepass")) for text in texts) + 40 * len(texts)
    assert 0 < found.input_tokens <= tokens_upper_bound(body_bytes, len(texts), 0, 0)
    assert found.reasoning_words >= 0
    assert analyze(request(*texts)) == found


@settings(deadline=None, max_examples=100)
@given(ANY_TEXT)
def test_parts_say_the_same_as_a_string(text: str) -> None:
    parts = ChatRequest(
        model="m", messages=[Message(role=Role.USER, content=[TextPart(text)])], body={}
    )
    assert analyze(parts) == analyze(request(text))


@settings(deadline=None, max_examples=50)
@given(st.text("ab \n1你", min_size=1, max_size=50))
def test_the_estimate_of_a_long_even_text_grows_with_its_length(text: str) -> None:
    long = text * (2 * SAMPLE_CHARS // len(text) + 1)
    once, ten_times = estimate_tokens(long), estimate_tokens(long * 10)
    assert 9 * once <= ten_times <= 11 * once or once == ten_times == 0


@settings(deadline=None, max_examples=30)
@given(st.text("def c^2 why", max_size=40))
def test_only_the_ends_of_a_long_text_are_looked_at(middle: str) -> None:
    end = "x " * (EXAMINED_CHARS // 2)
    assert shape_of(end + middle + end) == shape_of(end + end)


SEPARATORS = ".,;:!?()[]{}\"'`*<>/\\|=\n\t\r"
ALL_WORDS = sorted({word for table in lexicon.TABLES for word in table})
SIGNS = [sign for _, signs in lexicon.CODE_SIGNS for sign in signs]
SCRIPTS = {
    "greek": (0x0370, 0x03FF),
    "cyrillic": (0x0400, 0x052F),
    "hebrew": (0x0590, 0x05FF),
    "arabic": (0x0600, 0x06FF),
    "devanagari": (0x0900, 0x097F),
    "thai": (0x0E00, 0x0E7F),
    "japanese": (0x3040, 0x30FF),
    "han": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7AF),
}


BETWEEN_BACK_QUOTES = re.compile(r"(?<![^\W_])`(?=([^`\n]+)`(?![^\W_]))")
INLINE_CODE = re.compile(r"(?!\s)(?:[^ ]+|(?=.*[=()\[\]{}<>_/\\*$#|&;~+-]).*)(?<!\s)\Z", re.DOTALL)


def plainly_script(text: str) -> str:
    sample = text[:256]
    latin = sum(letter.isalpha() for letter in sample if ord(letter) < 0x370)
    counts: dict[str, int] = {}
    for letter in sample:
        for script, (first, last) in SCRIPTS.items():
            if first <= ord(letter) <= last:
                counts[script] = counts.get(script, 0) + 1
    if not counts or sum(counts.values()) * 4 < latin:
        return "latin"
    return "japanese" if "japanese" in counts else max(counts, key=lambda name: counts[name])


def plainly_shaped(text: str) -> Shape:
    """What `shape_of` says of a short text, with each word and sign looked for by itself."""
    lowered = text.lower().encode(errors="replace").decode()
    spaced = lowered.translate(dict.fromkeys(map(ord, SEPARATORS), " "))
    words = spaced.replace("\x0b", " ").replace("\x0c", " ").split(" ")
    opening = next((word for word in words if word), "")
    hits = [len(table.intersection(words)) for table in lexicon.TABLES]
    reasoning, phrases, math, code, strong, sign_words, _, *languages = hits
    if phrases:
        reasoning += sum(phrase.decode() in spaced for phrase in lexicon.REASONING_PHRASES)
    signs, places_too = min(sign_words, 1), lexicon.CODE_LANGUAGES_TOO
    if any(opener in text for opener in ("(", "<", "#", "=>")):
        signs += sum(sign in text for sign in SIGNS)
    is_code = (
        "```" in text
        or ("SELECT " in text and "FROM " in text)
        or signs >= 2
        or (signs and strong)
        or (strong and code >= 2)
        or (code and text.count("`") >= 2)
        or any(map(INLINE_CODE.match, BETWEEN_BACK_QUOTES.findall(text)))
        or any(
            before.encode() in lexicon.IN
            and (name in lexicon.CODE_LANGUAGES or (name in places_too and code >= 2))
            for before, name in pairwise(word for word in words if word)
        )
    )
    script = plainly_script(text)
    language = lexicon.LANGUAGES[languages.index(max(languages))] if max(languages) > 1 else None
    return Shape(
        has_code=bool(is_code),
        has_math=math >= 2
        or any(sign in text for sign in (*lexicon.MATH_SIGNS, *lexicon.MATH_CHARACTERS)),
        reasoning_words=reasoning,
        is_question="?" in text or "\uff1f" in text or opening.encode() in lexicon.QUESTION_WORDS,
        language=language if script == "latin" else script,
        script=script,
    )


ODD = "\u212a\u0130\xdf\xd7\xf7\xff\u0178\u2019\u2026\U0001f600\ud800\x0b\x1c\x85\xa0\u3000\uff1f"
WORD = st.sampled_from(ALL_WORDS) | st.sampled_from(
    [phrase.decode() for phrase in lexicon.REASONING_PHRASES]
)
PIECE = st.one_of(
    WORD,
    WORD.map(str.upper),
    WORD.map(lambda word: word.capitalize().replace("k", "\u212a")),
    st.sampled_from([*SIGNS, *lexicon.MATH_SIGNS, "```", "`", "SELECT ", "FROM ", "=>"]),
    st.sampled_from([f" {before.decode()} " for before in lexicon.IN]),
    st.sampled_from([*SEPARATORS, *lexicon.MATH_CHARACTERS, *ODD]),
    st.sampled_from([chr(end) for ends in SCRIPTS.values() for end in ends]),
    st.text(max_size=5),
)
MADE_OF_PIECES = st.builds(
    lambda glue, pieces: glue.join(pieces), st.sampled_from(["", " "]), st.lists(PIECE, max_size=30)
)


@settings(deadline=None, max_examples=1_000)
@given(MADE_OF_PIECES | ANY_TEXT)
def test_a_text_is_seen_as_when_each_thing_is_looked_for_by_itself(text: str) -> None:
    assert shape_of(text) == plainly_shaped(text)


@settings(deadline=None, max_examples=1_000)
@given(MADE_OF_PIECES | ANY_TEXT, st.sets(st.sampled_from(sorted(EVERYTHING))))
def test_what_is_asked_is_the_same_whatever_else_is(text: str, asked: set[str]) -> None:
    some, all_of_it = analyze(request(text), frozenset(asked)), analyze(request(text))
    for field in asked | (EVERYTHING - LOOKED_FOR):
        assert getattr(some, field) == getattr(all_of_it, field), field


def test_a_capital_is_read_as_its_small_letter_in_every_word() -> None:
    """`shape_of` lowers only such capitals as the tables' letters have: these are all there are."""
    capitals: dict[str, list[str]] = {}
    for letter in map(chr, range(0x110000)):
        if letter.lower() != letter:
            capitals.setdefault(letter.lower(), []).append(letter)
    for word in ALL_WORDS:
        for small in set(word):
            for capital in capitals.get(small, ()):
                written = word.replace(small, capital)
                assert shape_of(f"{written} the") == plainly_shaped(f"{word} the"), written


def weighed(text: str) -> float:
    """`estimate_tokens` of a short text, byte by byte."""
    kinds = {"letter": 0, "digit": 0, "punctuation": 0, "cjk": 0, "other": 0}
    for byte in text.encode(errors="replace"):
        if byte >= 0x80:
            kind = None if byte < 0xC0 else "cjk" if 0xE3 <= byte < 0xEE else "other"
        elif chr(byte).isalpha() or chr(byte) in " \t\r\n":
            kind = "letter"
        else:
            kind = "digit" if chr(byte).isdigit() else "punctuation"
        if kind is not None:
            kinds[kind] += 1
    ascii_weight = kinds["letter"] * 0.2 + kinds["punctuation"] * 0.5 + kinds["digit"] * 1.0
    return ascii_weight + (kinds["cjk"] * 0.85 + kinds["other"] * 0.28)


@settings(deadline=None, max_examples=300)
@given(MADE_OF_PIECES | ANY_TEXT)
def test_an_estimate_is_the_sum_of_what_each_byte_weighs(text: str) -> None:
    if len(text) <= SAMPLE_CHARS:
        assert estimate_tokens(text) == weighed(text)
