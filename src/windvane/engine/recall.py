"""Bodies that come again word for word, and what was worked out of them.

A repeat that the cache answers costs more to read than to answer: its JSON, its analysis and its key are
the same as the last time. So the readings of bodies that were answered from the cache are remembered, by
the bytes themselves, the latest of them and within bounds. What depends on anything else (who asks, what
headers say, what is allowed today) is worked out anew, or checked.
"""

from windvane.core.exchange import Reading

BODY_BYTES_MAX = 32 * 1024
"""Longer bodies are not remembered: to tell them apart would cost what is saved."""
BYTES_MAX = 2 * 1024 * 1024
"""All bodies together. What is made of a body takes about four times as much."""


class Recall:
    """The readings of an engine, the one used last at the end."""

    __slots__ = ("_bytes", "_readings")

    def __init__(self) -> None:
        self._readings: dict[bytes, Reading] = {}
        self._bytes = 0

    def find(self, body: bytes) -> Reading | None:
        """What is known of exactly these bytes."""
        if not self._readings or len(body) > BODY_BYTES_MAX:
            return None
        return self._readings.get(body)

    def keep(self, body: bytes, reading: Reading) -> None:
        """Remember a reading, or that it was used; the longest unused make room."""
        if len(body) > BODY_BYTES_MAX:
            return
        if self._readings.pop(body, None) is None:
            self._bytes += len(body)
        self._readings[body] = reading
        while self._bytes > BYTES_MAX:
            oldest = next(iter(self._readings))
            del self._readings[oldest]
            self._bytes -= len(oldest)

    def forget(self) -> None:
        """Forget all of it."""
        self._readings.clear()
        self._bytes = 0
