"""Writing a chat stream for a client of the OpenAI family.

What both SDKs and LangChain accept, found by trying them:
1. A tool call comes whole, in one delta; so its pieces are held until the choice finishes. The
   finish reason follows in a chunk of its own: on the same chunk, OpenAI's stream helper never
   reports the last call as done. Signed thinking comes with the calls: the helper takes a list once.
2. Usage comes exactly once: on the last chunk with a choice, or, when the client asked by
   `stream_options.include_usage`, on one extra chunk without choices. So the finishing chunk is held
   until the provider has said its usage or ended.
3. A plain piece of text is the provider's own bytes, unchanged and at once.
"""

import msgspec

from windvane.core.chat import Chunk, ChunkChoice, JsonObject
from windvane.core.usage import Usage
from windvane.wire.dialect import Dialect
from windvane.wire.fold import Fold
from windvane.wire.openai_chat import chunk_choice_object, chunk_object, usage_object
from windvane.wire.sse import DONE_EVENT, data_event


class ChatStreamWriter:
    """Chunks in, bytes for the client out. `fold` is fed by the relay, before the writer."""

    def __init__(self, dialect: Dialect, fold: Fold, *, include_usage: bool) -> None:
        self._dialect = dialect
        self._fold = fold
        self._include_usage = include_usage
        self._held: list[tuple[Chunk, list[JsonObject]]] = []
        self._last: Chunk | None = None
        self._finished: set[int] = set()

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
        said: list[JsonObject] = []
        finished: list[JsonObject] = []
        for piece in chunk.choices:
            plain = _without_lists(piece)
            if piece.finish_reason is None:
                if _says_more_than_lists(piece):
                    said.append(chunk_choice_object(plain, self._dialect, []))
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
                said.append(chunk_choice_object(before, self._dialect, calls))
                plain = ChunkChoice(index=piece.index, finish_reason=piece.finish_reason)
            finished.append(chunk_choice_object(plain, self._dialect, []))
        if finished:
            self._held.append((chunk, finished))
        return _event(chunk_object(chunk, said)) if said else b""

    def end(self, usage: Usage, metadata: JsonObject | msgspec.Raw | None) -> bytes:
        """The held chunks, the usage in its one place, and the end-of-stream marker."""
        written = []
        last = len(self._held) - 1
        for place, (chunk, choices) in enumerate(self._held):
            envelope = chunk_object(chunk, choices)
            if place == last and not self._include_usage:
                self._add_usage(envelope, usage, metadata)
            written.append(_event(envelope))
        if (self._include_usage or not self._held) and self._last is not None:
            extra = chunk_object(self._last, [])
            self._add_usage(extra, usage, metadata)
            written.append(_event(extra))
        written.append(DONE_EVENT)
        return b"".join(written)

    @staticmethod
    def _add_usage(
        envelope: JsonObject, usage: Usage, metadata: JsonObject | msgspec.Raw | None
    ) -> None:
        envelope["usage"] = usage_object(usage)
        if metadata is not None:
            envelope["router_metadata"] = metadata


def _says_more_than_lists(piece: ChunkChoice) -> bool:
    return bool(piece.content or piece.reasoning or piece.refusal or piece.role is not None)


def _without_lists(piece: ChunkChoice) -> ChunkChoice:
    if not (piece.tool_calls or piece.thinking_blocks):
        return piece
    return msgspec.structs.replace(piece, tool_calls=None, thinking_blocks=None)


def _event(envelope: JsonObject) -> bytes:
    return data_event(msgspec.json.encode(envelope))
