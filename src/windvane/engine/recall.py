"""Bodies that come again word for word, and what was worked out of them.

A repeat that the cache answers costs more to read than to answer: its JSON, its analysis and its key are
the same as the last time. So the readings of bodies that were answered from the cache are remembered, by
the bytes themselves, the latest of them and within bounds. What depends on anything else (who asks, what
headers say, what is allowed today) is worked out anew, or checked.
"""

from collections import OrderedDict

import msgspec

from windvane.core.exchange import Reading

BODY_BYTES_MAX = 32 * 1024
"""Longer bodies are not remembered: to tell them apart would cost what is saved."""
BYTES_MAX = 24 * 1024 * 1024
"""All readings together, with the entries unpacked for them."""
READING_BYTES = ENTRY_BYTES = 3_500
"""What the smallest takes."""
PER_BYTE, PER_OBJECT, PER_ITEM = 4, 512, 64
"""What more a reading takes for each byte, brace and comma of its body, and an entry for each byte of its
JSON. A body of braces is twenty times as large once it is read, an entry may be packed to a fiftieth;
`tests/engine/test_recall.py` measures that this is enough."""

_encode = msgspec.json.Encoder().encode


class Recall:
    """The readings of an engine. The oldest make room, but for those that were used since they came, or
    since they were last spared for it."""

    __slots__ = ("_bytes", "_readings")

    def __init__(self) -> None:
        self._readings: OrderedDict[bytes, Reading] = OrderedDict()
        self._bytes = 0

    def find(self, body: bytes) -> Reading | None:
        """What is known of exactly these bytes."""
        if not self._readings or len(body) > BODY_BYTES_MAX:
            return None
        return self._readings.get(body)

    def keep(self, body: bytes, reading: Reading) -> None:
        """Remember a reading, or that it was used."""
        if reading.size and reading.sized is reading.kept:
            reading.is_used = True
            return
        if len(body) > BODY_BYTES_MAX:
            return
        readings = self._readings
        before = readings.get(body)
        self._bytes -= 0 if before is None else before.size
        reading.size, reading.sized = _size_of(body, reading), reading.kept
        self._bytes += reading.size
        readings[body] = reading
        while self._bytes > BYTES_MAX:
            body, oldest = readings.popitem(last=False)
            if oldest.is_used:
                oldest.is_used, readings[body] = False, oldest
            else:
                self._bytes -= oldest.size

    def forget(self) -> None:
        """Forget all of it."""
        self._readings.clear()
        self._bytes = 0


def _size_of(body: bytes, reading: Reading) -> int:
    """The bytes it takes in memory, at most."""
    size = READING_BYTES + PER_BYTE * len(body)
    size += PER_OBJECT * body.count(b"{") + PER_ITEM * body.count(b",")
    if reading.kept is not None:
        data, entry = reading.kept
        size += ENTRY_BYTES + len(data) + PER_BYTE * len(_encode(entry))
    return size
