"""Cuts tokens into the pieces of a stream of server-sent events."""

import msgspec

encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"


def grouped(pieces: list[str], size: int) -> list[tuple[bytes, int]]:
    """Return the tokens as JSON strings of up to `size` tokens each, with their counts."""
    if size == 1:
        return [(encode(piece), 1) for piece in pieces]
    groups = [pieces[i : i + size] for i in range(0, len(pieces), size)]
    return [(encode("".join(group)), len(group)) for group in groups]
