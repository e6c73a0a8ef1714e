"""A stored answer as the chunks of a stream: the law of `wire.fold`, backwards."""

from collections.abc import Sequence
from itertools import pairwise

from windvane.core.chat import Chunk, ChunkChoice, Completion, ReplyMessage, ToolCallDelta
from windvane.core.usage import Usage

PIECE_CHARS = 64
"""How long the pieces are of an answer that did not come as a stream."""


def chunks_of(completion: Completion, usage: Usage, pieces: Sequence[int] = ()) -> list[Chunk]:
    """The chunks of `completion`: `fold` of them is the completion again.

    `pieces` are the lengths that the first choice's text came in.
    """
    chunks: list[Chunk] = []

    def say(piece: ChunkChoice, said: Usage | None = None) -> None:
        chunks.append(
            Chunk(
                id=completion.id,
                model=completion.model,
                created=completion.created,
                choices=[piece],
                usage=said,
            )
        )

    last = len(completion.choices) - 1
    indexes = _places([choice.index for choice in completion.choices])
    for place, choice in enumerate(completion.choices):
        index = indexes[place]
        say(ChunkChoice(index=index, role="assistant", content=""))
        for piece in _pieces(choice.message, index, pieces if place == 0 else ()):
            say(piece)
        end = ChunkChoice(index=index, finish_reason=choice.finish_reason)
        say(end, usage if place == last else None)
    return chunks


def _pieces(message: ReplyMessage, index: int, lengths: Sequence[int]) -> list[ChunkChoice]:
    said = []
    if message.parts is not None:
        said.append(
            ChunkChoice(
                index=index,
                content=message.content,
                reasoning=message.reasoning,
                parts=message.parts,
            )
        )
    elif message.reasoning or message.thinking_blocks:
        said.append(
            ChunkChoice(
                index=index,
                reasoning=message.reasoning or "",
                thinking_blocks=message.thinking_blocks or None,
            )
        )
    if message.content is not None and message.parts is None:
        cut = _cut(message.content, lengths)
        said += [ChunkChoice(index=index, content=text) for text in cut]
    if message.refusal:
        said.append(ChunkChoice(index=index, refusal=message.refusal))
    if message.audio is not None:
        said.append(ChunkChoice(index=index, audio=message.audio))
    places = _places([call.index for call in message.tool_calls])
    for place, call in zip(places, message.tool_calls, strict=True):
        delta = ToolCallDelta(
            index=place,
            id=call.id,
            name=call.name,
            arguments=call.arguments,
            type=call.type or "function",
        )
        said.append(ChunkChoice(index=index, tool_calls=[delta]))
    return said


def _places(indexes: Sequence[int | None]) -> Sequence[int]:
    """The indexes; or plain numbers, where some are missing or do not tell one from another."""
    said = [index for index in indexes if index is not None]
    is_ordered = len(said) == len(indexes) and all(a < b for a, b in pairwise(said))
    return said if is_ordered else range(len(indexes))


def _cut(text: str, lengths: Sequence[int]) -> list[str]:
    """The text in pieces of these lengths, as far as they are known, and even ones for the rest."""
    cut, start = [], 0
    for length in lengths:
        cut.append(text[start : start + length])
        start += length
    cut += [text[at : at + PIECE_CHARS] for at in range(start, len(text), PIECE_CHARS)]
    return cut
