"""However a stream is cut, and whichever line endings it has, its events are the same."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.wire.sse import EventReader

LINE = st.text(alphabet='ab:é\U0001f600 {}"', max_size=6)
FIELD = st.one_of(
    st.tuples(st.just("data"), LINE),
    st.tuples(st.just("event"), st.sampled_from(["x", "error"])),
    st.tuples(st.sampled_from(["id", "retry", "other"]), LINE),
    st.tuples(st.just(""), LINE),  # a comment
)
SPACED_FIELD = st.tuples(FIELD, st.sampled_from(["", " "]))
EVENT = st.tuples(st.lists(SPACED_FIELD, max_size=4), st.integers(0, 2))
STREAM = st.lists(EVENT, max_size=6)
Fields = list[tuple[tuple[str, str], str]]
Events = list[tuple[bytes | None, bytes]]


def written(stream: list[tuple[Fields, int]], ending: str, mark: bool) -> bytes:
    lines: list[str] = []
    for fields, blank_lines in stream:
        lines += [f"{name}:{space}{value}" for (name, value), space in fields]
        lines += [""] * (1 + blank_lines)
    return (b"\xef\xbb\xbf" if mark else b"") + "".join(line + ending for line in lines).encode()


def meant(stream: list[tuple[Fields, int]]) -> Events:
    """What the standard says the stream means, told by another road than the reader's."""
    events: Events = []
    for fields, _ in stream:
        values = [
            (name, value if space else value.removeprefix(" ")) for (name, value), space in fields
        ]
        data = [value for name, value in values if name == "data"]
        names = [value for name, value in values if name == "event"]
        if any(data):
            events.append((names[-1].encode() if names else None, "\n".join(data).encode()))
    return events


def read(pieces: list[bytes]) -> Events:
    reader = EventReader()
    return [(event.name, event.data) for piece in pieces for event in reader.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


@settings(deadline=None, max_examples=80)
@given(
    STREAM,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_every_cut_gives_the_events_that_were_meant(
    stream: list[tuple[Fields, int]], ending: str, mark: bool, places: list[int]
) -> None:
    data = written(stream, ending, mark)
    expected = meant(stream)
    assert read([data]) == expected
    assert read([data[n : n + 1] for n in range(len(data))]) == expected
    assert read(cut(data, places)) == expected
    for place in range(len(data)):
        assert read([data[:place], data[place:]]) == expected


@settings(deadline=None, max_examples=50)
@given(STREAM, st.sampled_from(["\n", "\r\n", "\r"]))
def test_an_events_own_bytes_are_that_event(stream: list[tuple[Fields, int]], ending: str) -> None:
    reader = EventReader()
    for event in reader.feed(written(stream, ending, mark=False)):
        assert read([event.raw]) == [(event.name, event.data)]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_read_without_accident(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])
