"""A stored answer as the chunks of a stream: the law of `wire.fold`, backwards.

They are made one by one, as they are asked for: of a long answer there are many.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from windvane.core.chat import Choice, Chunk, ChunkChoice, Completion, ReplyMessage, ToolCallDelta
from windvane.core.usage import Usage

PIECE_CHARS = 64
"""How long the pieces are of an answer that did not come as a stream."""
PIECES_MAX = 1_024
"""In so many pieces such a text comes at most: those of a longer one are longer."""


def chunks_of(completion: Completion, usage: Usage, pieces: Sequence[int] = ()) -> Iterator[Chunk]:
    """The chunks of `completion`: `fold` of them is the completion again.

    `pieces` are the lengths that the first choice's text came in.
    """
    numbered = _numbered(completion.choices)
    for index, choice in numbered:
        lengths = pieces if choice is completion.choices[0] else ()
        yield _chunk(completion, ChunkChoice(index=index, role="assistant", content=""))
        for piece in _pieces(choice.message, index, lengths):
            yield _chunk(completion, piece)
        end = _chunk(completion, ChunkChoice(index=index, finish_reason=choice.finish_reason))
        if choice is numbered[-1][1]:
            end.usage = usage
        yield end


def _chunk(completion: Completion, piece: ChunkChoice) -> Chunk:
    return Chunk(completion.id, completion.model, completion.created, [piece])


def _pieces(message: ReplyMessage, index: int, lengths: Sequence[int]) -> Iterator[ChunkChoice]:
    if message.parts is not None:
        yield ChunkChoice(
            index=index,
            content=message.content,
            reasoning=message.reasoning,
            parts=message.parts,
        )
    elif message.reasoning or message.thinking_blocks:
        yield ChunkChoice(
            index=index,
            reasoning=message.reasoning or "",
            thinking_blocks=message.thinking_blocks or None,
        )
    if message.content is not None and message.parts is None:
        for text in _cut(message.content, lengths):
            yield ChunkChoice(index=index, content=text)
    if message.refusal:
        yield ChunkChoice(index=index, refusal=message.refusal)
    if message.audio is not None:
        yield ChunkChoice(index=index, audio=message.audio)
    places = _places([call.index for call in message.tool_calls])
    for place, call in zip(places, message.tool_calls, strict=True):
        delta = ToolCallDelta(
            index=place,
            id=call.id,
            name=call.name,
            arguments=call.arguments,
            type=call.type or "function",
        )
        yield ChunkChoice(index=index, tool_calls=[delta])


def _numbered(choices: Sequence[Choice]) -> list[tuple[int, Choice]]:
    """The choices by their indexes, in that order; by their places, where some indexes are the same."""
    by_index = {choice.index: choice for choice in choices}
    if len(by_index) < len(choices):
        return list(enumerate(choices))
    return sorted(by_index.items())


def _places(indexes: Sequence[int | None]) -> Sequence[int]:
    """The indexes; or plain numbers, where some are missing or do not tell one from another."""
    said = [index for index in indexes if index is not None]
    is_ordered = len(said) == len(indexes) and all(a < b for a, b in pairwise(said))
    return said if is_ordered else range(len(indexes))


def _cut(text: str, lengths: Sequence[int]) -> Iterator[str]:
    """The text in pieces of these lengths, as far as they are known, and even ones for the rest."""
    start = 0
    for length in lengths:
        yield text[start : start + length]
        start += length
    even = max(PIECE_CHARS, -(-(len(text) - start) // PIECES_MAX))
    for at in range(start, len(text), even):
        yield text[at : at + even]
