"""Content in parts: what is more than thinking and text, and what pieces of it grow into."""

from typing import Any

import pytest

from windvane.wire.content_parts import grown, more_than_text, split_thinking


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def thinking(*said: str, **more: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [text(each) for each in said], **more}


REFERENCE = {"type": "reference", "reference_ids": [1]}


@pytest.mark.parametrize(
    ("parts", "is_more"),
    [
        ([], False),
        ([text("a"), text("b")], False),
        ([thinking("a", "b"), thinking("c"), text("d")], False),
        ([{"type": "thinking", "thinking": "a"}], False),
        ([thinking("a", signature=None, closed=None), text("b", annotations=None)], False),
        ([thinking("a", signature="s")], True),
        ([thinking("a", closed=True), text("b")], True),
        ([{"type": "thinking", "thinking": [REFERENCE]}], True),
        ([thinking("a"), text("b"), thinking("c")], True),
        ([text("a"), REFERENCE], True),
        ([text("a", annotations=[1])], True),
        ([{"type": "text"}], True),
        ([{}], True),
    ],
)
def test_what_is_more_than_thinking_and_text(parts: list[Any], is_more: bool) -> None:
    assert more_than_text(parts) == (parts if is_more else None)


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ([], []),
        (["a", "b", text("c")], [text("abc")]),
        ([thinking("a"), thinking("b", "c")], [thinking("abc")]),
        ([thinking("a"), thinking("b", signature="s")], [thinking("ab", signature="s")]),
        (
            [thinking("a", closed=True), thinking("b")],
            [thinking("a", closed=True), thinking("b")],
        ),
        (["a", REFERENCE, "b"], [text("a"), REFERENCE, text("b")]),
        ([REFERENCE, REFERENCE], [REFERENCE, REFERENCE]),
        ([{"type": "thinking", "thinking": "a"}, thinking("b")], [thinking("ab")]),
        ([thinking("a"), {"type": "thinking"}], [thinking("a")]),
    ],
)
def test_what_pieces_grow_into(pieces: list[Any], parts: list[Any]) -> None:
    assert grown(pieces) == parts
    assert grown(parts) == parts
    of_pieces = [split_thinking([text(one)] if isinstance(one, str) else [one]) for one in pieces]
    joined = tuple("".join(filter(None, said)) or None for said in zip(*of_pieces, strict=True))
    assert split_thinking(parts) == (joined or (None, None))
