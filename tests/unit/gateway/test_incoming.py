"""What the head of a request says, read once."""

import pytest

from windvane.gateway.data_plane.incoming import Incoming


@pytest.mark.parametrize(
    "name",
    [b"cache-control", b"windvane-cache-control", b"x-windvane-cache-tags", b"x-windvane-tags"],
)
def test_several_lines_of_a_list_are_one_list(name: bytes) -> None:
    said = [(b"host", b"a"), (name, b"no-store"), (b"accept", b"*/*"), (name, b"max-age=100")]
    assert Incoming(said).headers[name] == b"no-store, max-age=100"
    assert Incoming(said[:3]).headers[name] == b"no-store"


def test_of_other_headers_the_last_line_counts() -> None:
    said = [(b"host", b"a"), (b"x-windvane-user", b"one"), (b"x-windvane-user", b"two")]
    assert Incoming(said).headers[b"x-windvane-user"] == b"two"
