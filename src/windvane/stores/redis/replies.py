"""What a reply must be like for us to take it apart: what answers may be no Redis, or one that is broken.

A reply that is none is as good as no reply: who asked meets an `Unavailable` like any other.
"""

from windvane.stores.redis.node import Reply, Unavailable

DIGITS_MAX = 15
"""Of a number that is kept as text: with more of them a script in the server no longer counts exactly."""


class Strange(Unavailable):
    """A reply that the command does not have."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"a reply that is none: {str(reply)[:80]}")


def number_of(reply: Reply) -> int:
    """A reply that is a number. Raises Strange."""
    if not isinstance(reply, int):
        raise Strange(reply)
    return reply


def parts_of(reply: Reply, count: int | None = None) -> list[Reply]:
    """A reply that is a list, of so many parts if that is said. Raises Strange."""
    if not isinstance(reply, list) or (count is not None and len(reply) != count):
        raise Strange(reply)
    return reply


def written_number(text: Reply) -> int | None:
    """A number that somebody has written down as text; None when it is none."""
    is_one = isinstance(text, bytes) and text.isdigit() and len(text) <= DIGITS_MAX
    return int(text) if is_one else None
