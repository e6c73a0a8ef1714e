"""Writes of one turn of the loop, done together at its end.

Who writes to a socket wakes the process that reads it, and to wake one that sleeps costs several times
what the write does. Those that are written right after each other find it awake: at 64 connections that
is a sixth of all that a request costs. Who is alone gains nothing, and would pay for the end of the turn;
so what is found to be alone is written at once, and only now and then is it asked whether it still is.

Laws:
1. What is written to a transport leaves in the order it was written in, and before the transport is closed.
   At the other side's end the loop closes it itself: a protocol that has answered pulls when it is told.
2. No more than `HELD_MAX` wait, with no more than `WAITING_BYTES_MAX` each, and for no longer than to the
   loop's next turn.
"""

import asyncio
from collections.abc import Callable
from typing import cast

WAITING_BYTES_MAX = 16_384
"""What is longer takes so long itself that nothing would be gained; and whoever writes without pause must
feel when it is not read."""
HELD_MAX = 32
"""So many transports wait at most: of what more would gain, this has nearly all, and the first should not
wait for a crowd."""
ALONE_TURNS = 2
"""After so many turns with one write each, writes are taken to be alone."""
ALONE_WRITES = 15
"""So many are written at once then, before one waits again for others."""


def end_of_turn(end: Callable[[], None]) -> None:
    """Have `end` called when the running loop has done what is ready now."""
    asyncio.get_running_loop().call_soon(end)


class Cork:
    """What the transports of one loop wait for: the end of its turn."""

    __slots__ = ("_alone_turns", "at_end", "at_once", "held")

    def __init__(self, at_end: Callable[[Callable[[], None]], None] = end_of_turn) -> None:
        self.at_end = at_end
        self.at_once = 0
        """So many writes do not wait."""
        self.held: list[CorkedTransport] = []
        """Those with something to write."""
        self._alone_turns = 0

    def turn_ended(self) -> None:
        """Write what waits, and learn from how many there were."""
        if len(self.held) > 1:
            self._alone_turns = 0
        elif self.held:
            self._alone_turns += 1
            if self._alone_turns >= ALONE_TURNS:
                self.at_once = ALONE_WRITES
        self.pull()

    def pull(self) -> None:
        """Write all that waits."""
        held, self.held = self.held, []
        for transport in held:
            data = transport.waiting
            if data:
                transport.waiting = b""
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
        "waiting",
        "write_now",
    )

    def __init__(self, transport: asyncio.Transport, cork: Cork) -> None:
        self._transport = transport
        self._cork = cork
        self.waiting = b""
        # The loop's own methods, with nothing between.
        self.write_now = transport.write
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_protocol = transport.get_protocol
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        cork = self._cork
        if cork.at_once:
            cork.at_once -= 1
            self.write_now(data)
        elif self.waiting or len(data) > WAITING_BYTES_MAX:
            self._write_more(data)
        else:
            self.waiting = data
            held = cork.held
            held.append(self)
            if len(held) == 1:
                cork.at_end(cork.turn_ended)
            elif len(held) == HELD_MAX:
                cork.pull()

    def _write_more(self, data: bytes) -> None:
        """Let it wait with what does, or write both when that is too much."""
        data = self.waiting + data
        if len(data) > WAITING_BYTES_MAX:
            self.waiting = b""
            self.write_now(data)
        else:
            self.waiting = data

    def close(self) -> None:
        if self.waiting:
            self._cork.pull()
        self._transport.close()

    def abort(self) -> None:
        if self.waiting:
            self._cork.pull()
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return len(self.waiting) + self._transport.get_write_buffer_size()


def corked(transport: asyncio.BaseTransport, cork: Cork) -> asyncio.Transport:
    """A transport whose writes wait for the end of the turn.

    uvloop's transports have the methods of asyncio.Transport without being instances of it; so it is here.
    """
    return cast(asyncio.Transport, CorkedTransport(cast(asyncio.Transport, transport), cork))
