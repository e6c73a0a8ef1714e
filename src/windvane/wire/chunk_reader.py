"""A provider's event stream in, chunks out: what is the same in every dialect."""

from abc import ABC, abstractmethod

from windvane.core.chat import Chunk
from windvane.core.faults import WindvaneError
from windvane.wire.sse import Event, EventReader


class ChunkReader(ABC):
    """Reads one answer. A dialect says what an event means, in `_chunk`."""

    def __init__(self, now_s: int) -> None:
        self._events = EventReader()
        self._now_s = now_s
        self.is_done = False
        """Whether the stream's own end has come."""
        self.failure: WindvaneError | None = None
        """What is wrong behind the chunks that `feed` returned last: the stream ends with them."""
        self._dropped_bytes = 0

    @property
    def unread_bytes(self) -> int:
        """How much has come that is in no chunk: of an event that is not whole, or, when one cannot be
        read, of that and all behind it."""
        return self._dropped_bytes + self._events.pending_bytes

    def feed(self, piece: bytes) -> list[Chunk]:
        """Take the next bytes; return the chunks they complete.

        Raises the provider's own error when it says one mid-stream, and APIConnectionError when an
        event cannot be read. What came before it in the same bytes is returned first, and the error
        left in `failure`.
        """
        chunks: list[Chunk] = []
        events = self._events.feed(piece)
        for event in events:
            if self.is_done:
                break
            try:
                chunk = self._chunk(event)
            except WindvaneError as error:
                self._dropped_bytes = sum(len(each.raw) for each in events[events.index(event) :])
                if not chunks:
                    raise
                self.failure = error
                break
            if chunk is not None:
                chunks.append(chunk)
        return chunks

    @abstractmethod
    def _chunk(self, event: Event) -> Chunk | None:
        """What an event says; None when that is nothing of the answer. Sets `is_done` at its end."""
