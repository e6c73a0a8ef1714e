"""Server-sent events as the standard allows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.core.faults import APIConnectionError
from windvane.wire.sse import DONE, DONE_EVENT, EVENT_BYTES_MAX, EventReader, data_event


def events(*pieces: bytes) -> list[tuple[bytes | None, bytes]]:
    reader = EventReader()
    return [(event.name, event.data) for piece in pieces for event in reader.feed(piece)]


CASES = [
    ("one event", b"data: a\n\n", [(None, b"a")]),
    ("no space after the colon", b"data:a\n\n", [(None, b"a")]),
    ("only one space is taken off", b"data:  a\n\n", [(None, b" a")]),
    ("two events", b"data: a\n\ndata: b\n\n", [(None, b"a"), (None, b"b")]),
    ("several data lines are joined", b"data: a\ndata:\ndata: b\n\n", [(None, b"a\n\nb")]),
    ("a name", b"event: error\ndata: a\n\n", [(b"error", b"a")]),
    ("a comment alone is no event", b": keep-alive\n\n", []),
    ("a comment inside is skipped", b": hi\ndata: a\n: ho\n\n", [(None, b"a")]),
    ("other fields are skipped", b"id: 1\nretry: 5\ndata: a\nfoo\n\n", [(None, b"a")]),
    ("an event without data is none", b"event: ping\n\n", []),
    ("an event with empty data is none", b"data: \n\ndata:\n\ndata\n\ndata: a\n\n", [(None, b"a")]),
    (
        "blank lines more than needed",
        b"\n\n\ndata: a\n\n\n\ndata: b\n\n",
        [(None, b"a"), (None, b"b")],
    ),
    (
        "carriage return and line feed",
        b"data: a\r\n\r\ndata: b\r\n\r\n",
        [(None, b"a"), (None, b"b")],
    ),
    ("carriage return alone", b"data: a\r\rdata: b\r\r", [(None, b"a"), (None, b"b")]),
    ("a byte-order mark", b"\xef\xbb\xbfdata: a\n\n", [(None, b"a")]),
    ("an unfinished event is held", b"data: a\n\ndata: b\n", [(None, b"a")]),
    ("an event with empty data, alone", b"data: \n\n", []),
    ("a line that is cut off", b"data: a\nb", []),
    ("colons in data", b"data: a: b\n\n", [(None, b"a: b")]),
]


@pytest.mark.parametrize(("stream", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_stream_is_read_whole_byte_by_byte_and_with_empty_pieces(
    stream: bytes, expected: list[tuple[bytes | None, bytes]]
) -> None:
    single = [stream[n : n + 1] for n in range(len(stream))]
    assert events(stream) == expected
    assert events(*single) == expected
    assert events(*[piece for one in single for piece in (one, b"")]) == expected


BITS = st.sampled_from([b"data: ", b"data:", b"a", b"\n", b"\n\n", b"\r\n", b":", b"event: x"])


@given(st.lists(st.lists(BITS).map(b"".join)))
def test_an_event_is_the_same_in_whatever_pieces_it_comes(pieces: list[bytes]) -> None:
    whole, single = EventReader(), EventReader()
    said = [event for piece in pieces for event in whole.feed(piece)]
    bytewise = [event for byte in b"".join(pieces) for event in single.feed(bytes((byte,)))]
    assert said == bytewise


def test_an_event_keeps_its_own_bytes_for_the_relay() -> None:
    reader = EventReader()
    (plain,) = reader.feed(b"data: a\n\n")
    assert plain.raw == b"data: a\n\n"
    (odd,) = reader.feed(b"\n\nid: 1\ndata: a\ndata: b\r\n\r\n")
    assert events(odd.raw) == [(None, b"a\nb")]


def test_an_unfinished_event_is_told() -> None:
    reader = EventReader()
    reader.feed(b"data: a\n\n")
    assert not reader.is_mid_event
    reader.feed(b"data: b")
    assert reader.is_mid_event
    reader.feed(b"\n\n\n")
    assert not reader.is_mid_event


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    reader = EventReader()
    piece = b"x" * (1024 * 1024)
    for _ in range(EVENT_BYTES_MAX // len(piece)):
        reader.feed(piece)
    with pytest.raises(APIConnectionError, match="larger than") as caught:
        reader.feed(b"x")
    assert caught.value.fault.billed


def test_what_is_written_is_read_again() -> None:
    assert events(data_event(b'{"a":1}') + DONE_EVENT) == [(None, b'{"a":1}'), (None, DONE)]
