"""Writes of one turn of the loop, done together at its end.

Who writes to a socket wakes the process that reads it, and to wake one that sleeps costs several times
what the write does. Those that are written right after each other find it awake: at 64 connections that
is a sixth of all that a request costs. Who is alone gains nothing, and would pay for the end of the turn;
so what is found to be alone is written at once, and only now and then is it asked whether it still is.

Laws:
1. What is written to a transport leaves in the order it was written in, and before the transport is closed.
2. No more than `LETTERS_MAX` writes of `LETTER_BYTES_MAX` wait, and none for longer than to the loop's
   next turn.
"""

import asyncio
from collections.abc import Callable
from typing import cast

LETTERS_MAX = 64
"""So many writes wait at most: whoever is about to write without pause must feel when it is not read."""
LETTER_BYTES_MAX = 16_384
"""What is longer takes so long itself that nothing would be gained."""
ALONE_TURNS = 2
"""After so many turns with one write each, writes are taken to be alone."""
ALONE_WRITES = 15
"""So many are written at once then, before one waits again for others."""

Letter = tuple["CorkedTransport", bytes]


def end_of_turn(end: Callable[[], None]) -> None:
    """Have `end` called when the running loop has done what is ready now."""
    asyncio.get_running_loop().call_soon(end)


class Cork:
    """Holds the writes of one loop's transports to the end of its turn."""

    __slots__ = ("_alone_turns", "_at_end", "_at_once", "_letters")

    def __init__(self, at_end: Callable[[Callable[[], None]], None] = end_of_turn) -> None:
        self._at_end = at_end
        self._letters: list[Letter] = []
        """In the order they were written in."""
        self._alone_turns = 0
        self._at_once = 0

    def post(self, transport: "CorkedTransport", data: bytes) -> None:
        """Write `data` to a transport, now or at the end of this turn."""
        if self._at_once:
            self._at_once -= 1
            transport.write_now(data)
            return
        letters = self._letters
        if len(data) > LETTER_BYTES_MAX:
            if letters:
                self.pull()
            transport.write_now(data)
            return
        letters.append((transport, data))
        transport.waiting_bytes += len(data)
        if len(letters) == 1:
            self._at_end(self._turn_ended)
        elif len(letters) >= LETTERS_MAX:
            self.pull()

    def _turn_ended(self) -> None:
        if len(self._letters) > 1:
            self._alone_turns = 0
        elif self._letters:
            self._alone_turns += 1
            if self._alone_turns >= ALONE_TURNS:
                self._at_once = ALONE_WRITES
        self.pull()

    def pull(self) -> None:
        """Write all that waits."""
        letters, self._letters = self._letters, []
        for transport, data in letters:
            transport.waiting_bytes = 0
            if not transport.is_closing():
                transport.write_now(data)


class CorkedTransport:
    """A transport of the loop whose writes wait for the end of the turn; in all else it is that one.

    Whoever closes it need not know: what waits leaves first.
    """

    __slots__ = (
        "_cork",
        "_transport",
        "get_extra_info",
        "get_protocol",
        "is_closing",
        "pause_reading",
        "resume_reading",
        "set_protocol",
        "waiting_bytes",
        "write_now",
    )

    def __init__(self, transport: asyncio.Transport, cork: Cork) -> None:
        self._transport = transport
        self._cork = cork
        self.waiting_bytes = 0
        # The loop's own methods, with nothing between.
        self.write_now = transport.write
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_protocol = transport.get_protocol
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        self._cork.post(self, data)

    def close(self) -> None:
        if self.waiting_bytes:
            self._cork.pull()
        self._transport.close()

    def abort(self) -> None:
        if self.waiting_bytes:
            self._cork.pull()
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes + self._transport.get_write_buffer_size()


def corked(transport: asyncio.BaseTransport, cork: Cork) -> asyncio.Transport:
    """A transport whose writes wait for the end of the turn.

    uvloop's transports have the methods of asyncio.Transport without being instances of it; so it is here.
    """
    return cast(asyncio.Transport, CorkedTransport(cast(asyncio.Transport, transport), cork))
