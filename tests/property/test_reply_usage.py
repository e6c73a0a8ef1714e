"""A usage says the same within an answer as alone, and one that cannot be read spoils no answer."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.chat import Chunk
from windvane.wire.chat_reply import TOKENS_MAX, ChatStreamReader, decode_completion, read_usage

COUNT = (
    st.integers(-1, 12)
    | st.sampled_from([TOKENS_MAX, TOKENS_MAX + 1, 2**64, 1.0, 1.5])
    | st.none()
    | st.booleans()
    | st.text(max_size=2)
)
DETAILS = COUNT | st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens"]),
    COUNT,
)
USAGE = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": st.integers(0, 12) | COUNT,
        "completion_tokens": st.integers(0, 12) | COUNT,
        "total_tokens": COUNT,
        "num_cached_tokens": COUNT,
        "prompt_tokens_details": DETAILS,
        "prompt_token_details": DETAILS,
        "completion_tokens_details": DETAILS,
        "service_tier": st.sampled_from(["flex", "", None, 1]),
        "unheard_of": DETAILS,
    },
)
WHOLE = b'{"id":"c1","choices":[{"message":{"content":"x"}}],"usage":%b}'


def chunk_of(data: bytes) -> Chunk:
    (chunk,) = ChatStreamReader(7).feed(b"data: %b\n\n" % data)
    return chunk


@settings(deadline=None)
@given(USAGE.map(msgspec.json.encode) | COUNT.map(msgspec.json.encode))
def test_a_usage_is_read_within_an_answer_as_alone(raw: bytes) -> None:
    answer = decode_completion(WHOLE % raw, 7)
    assert answer.usage == read_usage(raw) == chunk_of(WHOLE % raw).usage
    assert answer.choices[0].message.content == "x"


@pytest.mark.parametrize(
    "raw", [b"[]", b'{"prompt_tokens":1,"completion_tokens":1,"service_tier":"\xff"}']
)
def test_an_unreadable_usage_spoils_no_answer(raw: bytes) -> None:
    answer = decode_completion(WHOLE % raw, 7)
    assert (answer.id, answer.usage, answer.is_everybodys) == ("c1", None, False)
    chunk = chunk_of(WHOLE % raw)
    assert (chunk.id, chunk.usage, chunk.is_plain) == ("c1", None, False)
