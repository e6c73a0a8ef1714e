"""Entries as bytes: what was written is read again, and what is not as it was written is no entry."""

import zlib
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.core.cache import entry as module
from windvane.core.cache.entry import COMPRESS_ABOVE_BYTES, CacheEntry, pack, unpack
from windvane.core.chat import (
    Choice,
    Completion,
    FinishReason,
    FunctionCall,
    ReplyMessage,
    ToolCall,
)
from windvane.core.usage import Usage

TEXT = st.text(max_size=20)
CALL = st.builds(
    ToolCall,
    id=st.none() | TEXT,
    index=st.none() | st.integers(0, 9),
    function=st.builds(FunctionCall, name=TEXT, arguments=TEXT),
)
MESSAGE = st.builds(
    ReplyMessage,
    content=st.none() | TEXT | st.text(min_size=3_000, max_size=3_010),
    tool_calls=st.lists(CALL, max_size=2),
    reasoning=st.none() | TEXT,
    refusal=st.none() | TEXT,
)
CHOICE = st.builds(
    Choice,
    message=MESSAGE,
    index=st.integers(0, 9),
    finish_reason=st.none() | st.sampled_from(FinishReason),
)
COUNT = st.integers(0, 2**40)
USAGE = st.builds(Usage, input_tokens=COUNT, output_tokens=COUNT, service_tier=st.none() | TEXT)
ENTRY = st.builds(
    CacheEntry,
    rest=st.none() | st.binary(max_size=99),
    completion=st.none()
    | st.builds(
        Completion,
        id=TEXT,
        model=TEXT,
        created=COUNT,
        choices=st.lists(CHOICE, max_size=3),
        usage=st.none() | USAGE,
        raw=st.none(),
    ),
    usage=USAGE,
    provider=TEXT,
    model=TEXT,
    route=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    created_at_us=st.integers(-(2**62), 2**62),
    fresh_until_us=st.integers(-(2**62), 2**62),
    version=COUNT,
    cost_nano_usd=st.none() | COUNT,
    latency_us=COUNT,
    first_chunk_us=st.none() | COUNT,
    pieces=st.lists(st.integers(0, 99), max_size=9).map(tuple),
    asked_at_us=COUNT,
)


KEY = b"the key that it is kept under"


def packed(said: CacheEntry) -> bytes:
    return pack(said, KEY)


def unpacked(data: bytes) -> CacheEntry | None:
    return unpack(data, KEY)


def entry(text: str = "hello", **more: object) -> CacheEntry:
    message = ReplyMessage(content=text)
    choice = Choice(message=message, finish_reason=FinishReason.STOP)
    usage = Usage(input_tokens=9, output_tokens=2)
    made = CacheEntry(
        completion=Completion(id="c", model="m", created=7, choices=[choice], usage=usage),
        usage=usage,
        provider="one",
        model="small",
        route="auto",
        tags=("scope:key:a", "tag:x"),
        created_at_us=1_000_000,
        fresh_until_us=9_000_000,
        version=3,
        cost_nano_usd=1_950,
        latency_us=500,
    )
    return msgspec.structs.replace(made, **more)


@settings(max_examples=80, deadline=None)
@given(ENTRY)
def test_what_is_packed_is_unpacked(said: CacheEntry) -> None:
    assert unpacked(packed(said)) == said


def test_a_long_answer_is_compressed_and_a_short_one_is_not() -> None:
    long = entry("once more " * 2_000)
    assert len(packed(long)) < 2_000 < 20_000 < len(msgspec.msgpack.encode(long))
    assert unpacked(packed(long)) == long
    short = packed(entry("x" * 100))
    assert b"x" * 100 in short
    noise = "".join(chr(Random(1).randrange(32, 0x800)) for _ in range(COMPRESS_ABOVE_BYTES))
    assert unpacked(packed(entry(noise))) == entry(noise)


SAMPLES = {"plain": packed(entry()), "compressed": packed(entry("once more " * 400))}


@pytest.mark.parametrize("sample", SAMPLES)
def test_any_flipped_byte_is_a_miss(sample: str) -> None:
    """Not another answer: also where the damaged bytes would still read as an entry."""
    data = SAMPLES[sample]
    for place in range(len(data)):
        for flip in (0x01, 0x0A, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            assert unpacked(bytes(damaged)) is None, (place, flip)


@pytest.mark.parametrize("sample", SAMPLES)
def test_any_truncation_and_anything_behind_is_a_miss(sample: str) -> None:
    data = SAMPLES[sample]
    for length in range(len(data)):
        assert unpacked(data[:length]) is None
    assert unpacked(data + b"\0") is None
    assert unpacked(data + data) is None


@pytest.mark.parametrize("sample", SAMPLES)
def test_an_entry_of_another_key_is_a_miss(sample: str) -> None:
    """A row of a file, or a reply, that holds another's bytes answers another question."""
    assert unpack(SAMPLES[sample], KEY) is not None
    assert unpack(SAMPLES[sample], KEY[::-1]) is None
    assert unpack(SAMPLES[sample], b"") is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([b"", b"WV4p", b"WV4z"]))
def test_noise_is_a_miss(noise: bytes, head: bytes) -> None:
    assert unpacked(head + noise) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([b"WV4p", b"WV4z"]))
def test_noise_with_a_good_checksum_is_a_miss(noise: bytes, head: bytes) -> None:
    body = zlib.compress(noise) if head == b"WV4z" else noise
    assert unpacked(head + module._checksum(KEY, body) + body) is None


def signed(head: bytes, body: bytes) -> bytes:
    return head + module._checksum(KEY, body) + body


def test_another_version_is_a_miss() -> None:
    data = packed(entry())
    body = data[module._BODY_AT :]
    assert unpacked(signed(b"WV4p", body)) == entry()
    for head in (b"WV0p", b"WV3p", b"WV3z", b"WV1p", b"WV1z", b"WV2p", b"WV2z", b"XX4p", b"WV4q"):
        assert unpacked(signed(head, body)) is None


def test_fields_to_come_do_not_disturb_readers_of_today() -> None:
    """Fields are only appended; a rolling upgrade must not empty the cache."""
    body = msgspec.msgpack.encode([*msgspec.msgpack.decode(packed(entry())[module._BODY_AT :]), 1])
    assert unpacked(signed(b"WV4p", body)) == entry()


def test_a_bomb_is_a_miss_and_takes_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNPACKED_BYTES_MAX", 100_000)
    bomb = zlib.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    assert unpacked(signed(b"WV4z", bomb)) is None
    long = entry("x" * 99_000)
    assert unpacked(packed(long)) == long
    assert unpacked(packed(entry("x" * 101_000))) is None


def test_depth_is_a_miss() -> None:
    deep = b"\x91" * 200_000 + b"\xc0"
    assert unpacked(signed(b"WV4p", deep)) is None
    call = ToolCall(function=FunctionCall(name="f", arguments={}))
    choice = Choice(message=ReplyMessage(tool_calls=[call]))
    body = msgspec.msgpack.encode(
        entry(completion=Completion(id="", model="", created=0, choices=[choice]))
    )
    empty = b"\xa9arguments\x80"
    assert body.count(empty) == 1
    nested = body.replace(empty, b"\xa9arguments" + b"\x81\xa1a" * 100_000 + b"\x80")
    assert unpacked(signed(b"WV4p", nested)) is None


def test_age_is_in_whole_seconds_and_never_below_zero() -> None:
    assert entry().age_s(2_999_999) == 1
    assert entry().age_s(0) == 0
