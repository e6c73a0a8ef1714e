"""Server-sent events, read incrementally and written.

The reader accepts what the WHATWG standard allows (LF, CRLF or CR, comments, several `data:` lines,
a byte-order mark, bytes cut anywhere) and keeps each event's own bytes, so that an event can be
relayed unchanged.
"""

import msgspec

from windvane.core.faults import Fault, FaultKind, Retry, Source, error_of

EVENT_BYTES_MAX = 4 * 1024 * 1024
"""An event larger than this is a broken upstream; peers stop between 1 and 10 MiB."""

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
"""Nothing, said aloud: readers of events skip it, and whatever stands between sees that we live."""


_DATA = b"data: "
_LINE_FEED, _CARRIAGE_RETURN = b"\n\r"
"""Numbers: `in` looks for bytes in bytes only after an error has told it that they are no number."""


class Event(msgspec.Struct, gc=False):
    """One event: its data, its own bytes with the closing blank line, and its name if it has one."""

    data: bytes
    raw: bytes
    name: bytes | None = None


class EventReader:
    """Bytes in, events out."""

    def __init__(self) -> None:
        self._pending = b""
        self._started = False
        self._skip_line_feed = False

    def feed(self, piece: bytes) -> list[Event]:
        """Take the next bytes; return the events they complete.

        Raises APIConnectionError when one event grows beyond `EVENT_BYTES_MAX`.
        """
        if not piece:
            return []
        if _CARRIAGE_RETURN in piece or self._skip_line_feed:
            piece = self._normalize(piece)
        data = self._pending + piece if self._pending else piece
        if not self._started and data:
            data = self._strip_mark(data)
        end = data.find(_LINE_FEED)
        if end == len(data) - 2 and data[-1] == _LINE_FEED and data[:6] == _DATA and end > 6:
            # As most come: one event of one line, and no more.
            self._pending = b""
            return [Event(data[6:end], data)]
        frames = data.split(b"\n\n")
        self._pending = frames.pop()
        if len(self._pending) > EVENT_BYTES_MAX:
            raise error_of(_too_large())
        events = []
        for frame in frames:
            if frame[:6] == _DATA and _LINE_FEED not in frame and len(frame) > 6:
                events.append(Event(frame[6:], frame + b"\n\n"))
            elif event := _parse(frame):
                events.append(event)
        return events

    @property
    def pending_bytes(self) -> int:
        """How much has come of an unfinished event."""
        return len(self._pending)

    @property
    def is_mid_event(self) -> bool:
        """Whether bytes of an unfinished event are waiting."""
        return bool(self._pending.strip(b"\n"))

    def _normalize(self, piece: bytes) -> bytes:
        """Write CRLF and CR as LF; a CR at the end may be half a CRLF."""
        if self._skip_line_feed and piece.startswith(b"\n"):
            piece = piece[1:]
        self._skip_line_feed = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _strip_mark(self, data: bytes) -> bytes:
        mark = b"\xef\xbb\xbf"
        if mark.startswith(data):
            return data
        self._started = True
        return data.removeprefix(mark)


def _parse(frame: bytes) -> Event | None:
    """Read a frame line by line; None when it has no data (comments, blank or empty lines)."""
    lines: list[bytes] = []
    name = None
    for line in frame.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    if not any(lines):
        return None
    return Event(b"\n".join(lines), frame.strip(b"\n") + b"\n\n", name)


def data_of(event: bytes) -> bytes:
    """The data of one event's own bytes."""
    read = _parse(event.rstrip(b"\n"))
    return b"" if read is None else read.data


def data_event(data: bytes) -> bytes:
    """Write one event that has only data; `data` must hold no line break."""
    return b"data: " + data + b"\n\n"


def _too_large() -> Fault:
    return Fault(
        kind=FaultKind.STREAM_BROKEN,
        source=Source.UPSTREAM,
        message=f"a stream event is larger than {EVENT_BYTES_MAX} bytes",
        status=502,
        retry=Retry.OTHER,
        billed=True,
    )
