"""Writing a chat stream for a client of the OpenAI family.

What both SDKs and LangChain accept, found by trying them:
1. A choice ends once, though some servers say an end with each piece. So its end is held until the
   stream's; and if more of the choice follows, that end was none, and its words are sent before.
2. A tool call comes whole, in one delta; so its pieces are held until the end of its choice. The
   finish reason follows in a chunk of its own: on the same chunk, OpenAI's stream helper never
   reports the last call as done. Signed thinking comes with the calls: the helper takes a list once.
3. Usage comes exactly once: on the last chunk with a choice, or, when the client asked by
   `stream_options.include_usage`, on one extra chunk without choices.
4. A plain piece of text is the provider's own bytes, unchanged and at once; any other is edited, with
   all else that the provider said beside it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from windvane.core.chat import Chunk, ChunkChoice, FinishReason, JsonObject
from windvane.core.usage import Usage
from windvane.wire.chat_answer import (
    NOTHING_SAID,
    as_said,
    envelope,
    piece_object,
    says_something,
    with_ids,
)
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import usage_object
from windvane.wire.sse import DONE_EVENT, data_event, data_of


class _End(NamedTuple):
    """The piece of a choice that ends it, if no more of it follows."""

    around: JsonObject
    piece: ChunkChoice
    said: JsonObject
    """The piece as the provider said it."""


class ChatStreamWriter:
    """Chunks in, bytes for the client out. `fold` is fed by the relay, before the writer."""

    def __init__(self, dialect: Dialect, fold: Fold, *, include_usage: bool) -> None:
        self._dialect = dialect
        self._fold = fold
        self._include_usage = include_usage
        self._ends: dict[int, _End] = {}
        self._last: Chunk | None = None
        self._usage: msgspec.Raw | None = None
        """The usage in the provider's own words."""

    def write(self, chunks: list[Chunk]) -> bytes:
        """The bytes that `chunks` let us send now; empty when all is held."""
        written = []
        for chunk in chunks:
            if chunk.is_plain and chunk.raw is not None and not self._ends:
                written.append(chunk.raw)
                self._last = chunk
            else:
                written.append(self._translate(chunk))
        return b"".join(written) if len(written) != 1 else written[0]

    def _translate(self, chunk: Chunk) -> bytes:
        self._last = chunk
        around, told = self._said_of(chunk)
        earlier, said = b"", list[JsonObject]()
        for place, piece in enumerate(chunk.choices):
            own = NOTHING_SAID if told is None else told[place]
            end = _End(around, _without_lists(piece), own)
            words = self._words_of(end)
            says_more = says_something(words)
            if (before := self._ends.get(piece.index)) is not None:
                if not says_more:
                    if piece.finish_reason is not None:  # some say it again on their usage chunk
                        self._ends[piece.index] = _ended_again(before, piece.finish_reason)
                    continue
                del self._ends[piece.index]
                if says_something(no_end := self._words_of(before)):
                    # In a chunk of its own: who reads only the first of a chunk's choices must not miss
                    # the other.
                    earlier += _event({**before.around, "choices": [no_end]})
            if piece.finish_reason is not None:
                self._ends[piece.index] = end
            elif says_more:
                said.append(words)
        return earlier + (_event({**around, "choices": said}) if said else b"")

    def _words_of(self, end: _End) -> JsonObject:
        """What a piece says but for its choice's end."""
        piece = end.piece
        if piece.finish_reason is not None:
            piece = msgspec.structs.replace(piece, finish_reason=None)
        return piece_object(piece, self._dialect, end.said)

    def _said_of(self, chunk: Chunk) -> tuple[JsonObject, list[JsonObject] | None]:
        """What is around the choices of a chunk, and the choices as the provider said them."""
        members, choices = (None, None) if chunk.raw is None else as_said(data_of(chunk.raw))
        if members is not None:
            usage = members.pop("usage", None)
            if chunk.usage is not None:
                self._usage = usage
        return _around(chunk, members), choices

    def end(self, usage: Usage, metadata: JsonObject | msgspec.Raw | None) -> bytes:
        """The choices' calls and ends, the usage in its one place, and the end-of-stream marker."""
        written = []
        last = len(self._ends) - 1
        for place, end in enumerate(self._ends.values()):
            before, told = self._end_of(end)
            if before is not None:
                written.append(_event(before))
            if place == last and not self._include_usage:
                self._add_usage(told, usage, metadata)
            written.append(_event(told))
        if (self._include_usage or not self._ends) and self._last is not None:
            extra = {**self._said_of(self._last)[0], "choices": []}
            self._add_usage(extra, usage, metadata)
            written.append(_event(extra))
        written.append(DONE_EVENT)
        return b"".join(written)

    def _end_of(self, end: _End) -> tuple[JsonObject | None, JsonObject]:
        """What goes before the end of a choice, if anything has to, and its end."""
        around, piece, said = end
        calls = with_ids(self._fold.calls_of(piece.index), str(around["id"]), piece.index)
        blocks = self._fold.thinking_blocks_of(piece.index)
        if not (calls or blocks):
            return None, {**around, "choices": [piece_object(piece, self._dialect, said)]}
        words = msgspec.structs.replace(piece, finish_reason=None, thinking_blocks=blocks or None)
        before = piece_object(words, self._dialect, said, calls)
        bare = ChunkChoice(index=piece.index, finish_reason=piece.finish_reason)
        ended = piece_object(bare, self._dialect, NOTHING_SAID)
        return {**around, "choices": [before]}, {**around, "choices": [ended]}

    def _add_usage(
        self, told: JsonObject, usage: Usage, metadata: JsonObject | msgspec.Raw | None
    ) -> None:
        is_theirs = self._usage is not None and usage == self._fold.final_usage
        told["usage"] = self._usage if is_theirs else usage_object(usage)
        if metadata is not None:
            told["router_metadata"] = metadata


def _around(chunk: Chunk, members: Mapping[str, msgspec.Raw] | None) -> JsonObject:
    return envelope(members, chunk.id, "chat.completion.chunk", chunk.created, chunk.model)


def _without_lists(piece: ChunkChoice) -> ChunkChoice:
    if not (piece.tool_calls or piece.thinking_blocks):
        return piece
    return msgspec.structs.replace(piece, tool_calls=None, thinking_blocks=None)


def _ended_again(end: _End, reason: FinishReason) -> _End:
    """The same end, said twice."""
    first = end.piece.finish_reason
    both = reason if first is None else first.then(reason)
    return end._replace(piece=msgspec.structs.replace(end.piece, finish_reason=both))


def _event(told: JsonObject) -> bytes:
    return data_event(msgspec.json.encode(told))
