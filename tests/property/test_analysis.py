"""Analysis takes any text there is, and what it says stays within its bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.analysis import analyze
from windvane.core.analysis.shape import EXAMINED_CHARS, shape_of
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
