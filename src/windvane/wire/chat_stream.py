"""Writing a chat stream for a client of the OpenAI family.

What both SDKs and LangChain accept, found by trying them:
1. A tool call comes whole, in one delta; so its pieces are held until the choice finishes. The
   finish reason follows in a chunk of its own: on the same chunk, OpenAI's stream helper never
   reports the last call as done. Signed thinking comes with the calls: the helper takes a list once.
2. Usage comes exactly once: on the last chunk with a choice, or, when the client asked by
   `stream_options.include_usage`, on one extra chunk without choices. So the finishing chunk is held
   until the provider has said its usage or ended.
3. A plain piece of text is the provider's own bytes, unchanged and at once; any other is edited, with
   all else that the provider said beside it.
"""

from collections.abc import Mapping

import msgspec

from windvane.core.chat import Chunk, ChunkChoice, JsonObject
from windvane.core.usage import Usage
from windvane.wire.chat_answer import (
    NOTHING_SAID,
    as_said,
    envelope,
    piece_object,
    says_something,
)
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import usage_object
from windvane.wire.sse import DONE_EVENT, data_event, data_of


class ChatStreamWriter:
    """Chunks in, bytes for the client out. `fold` is fed by the relay, before the writer."""

    def __init__(self, dialect: Dialect, fold: Fold, *, include_usage: bool) -> None:
        self._dialect = dialect
        self._fold = fold
        self._include_usage = include_usage
        self._held: list[tuple[JsonObject, list[JsonObject]]] = []
        self._last: Chunk | None = None
        self._finished: set[int] = set()
        self._usage: msgspec.Raw | None = None
        """The usage in the provider's own words."""

    def write(self, chunks: list[Chunk]) -> bytes:
        """The bytes that `chunks` let us send now; empty when all is held."""
        written = []
        for chunk in chunks:
            if chunk.is_plain and chunk.raw is not None and not self._held:
                written.append(chunk.raw)
                self._last = chunk
            else:
                written.append(self._translate(chunk))
        return b"".join(written) if len(written) != 1 else written[0]

    def _translate(self, chunk: Chunk) -> bytes:
        self._last = chunk
        around, told = self._said_of(chunk)
        said: list[JsonObject] = []
        finished: list[JsonObject] = []
        for place, piece in enumerate(chunk.choices):
            own = NOTHING_SAID if told is None else told[place]
            plain = _without_lists(piece)
            if piece.finish_reason is None:
                written = piece_object(plain, self._dialect, own)
                if says_something(written):
                    said.append(written)
                continue
            if piece.index in self._finished:
                continue  # some servers finish again on their usage chunk
            self._finished.add(piece.index)
            calls = self._fold.calls_of(piece.index)
            blocks = self._fold.thinking_blocks_of(piece.index)
            if calls or blocks:
                before = msgspec.structs.replace(
                    plain, finish_reason=None, thinking_blocks=blocks or None
                )
                said.append(piece_object(before, self._dialect, own, calls))
                plain = ChunkChoice(index=piece.index, finish_reason=piece.finish_reason)
                own = NOTHING_SAID
            finished.append(piece_object(plain, self._dialect, own))
        if finished:
            self._held.append((around, finished))
        return _event({**around, "choices": said}) if said else b""

    def _said_of(self, chunk: Chunk) -> tuple[JsonObject, list[JsonObject] | None]:
        """What is around the choices of a chunk, and the choices as the provider said them."""
        members, choices = (None, None) if chunk.raw is None else as_said(data_of(chunk.raw))
        if members is not None:
            usage = members.pop("usage", None)
            if chunk.usage is not None:
                self._usage = usage
        return _around(chunk, members), choices

    def end(self, usage: Usage, metadata: JsonObject | msgspec.Raw | None) -> bytes:
        """The held chunks, the usage in its one place, and the end-of-stream marker."""
        written = []
        last = len(self._held) - 1
        for place, (around, choices) in enumerate(self._held):
            told = {**around, "choices": choices}
            if place == last and not self._include_usage:
                self._add_usage(told, usage, metadata)
            written.append(_event(told))
        if (self._include_usage or not self._held) and self._last is not None:
            extra = {**self._said_of(self._last)[0], "choices": []}
            self._add_usage(extra, usage, metadata)
            written.append(_event(extra))
        written.append(DONE_EVENT)
        return b"".join(written)

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


def _event(told: JsonObject) -> bytes:
    return data_event(msgspec.json.encode(told))
