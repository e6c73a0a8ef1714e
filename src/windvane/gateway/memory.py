"""Memory: what lives for ever is not looked at again, and what a crowd has left is given back.

The C library keeps the pages of what was freed for what comes next, though that may never be as much
again: the largest crowd there was would be in the size of the process for as long as it lives.
"""

import ctypes
import gc
from collections.abc import Callable
from typing import cast

from windvane.ports.clock import Clock

REST = 500
"""Where there are many holes it takes a while to give them back: for so many times as long, none are."""

Trim = Callable[[int], object]
"""Gives back all free pages but for so many bytes at the end."""


def settle_memory() -> None:
    """Call once started: what lives by now lives for ever, so the collector need not look again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class GiveBack:
    """Gives back what was freed, at the first quiet moment after a busy one."""

    def __init__(self, clock: Clock, trim: Trim | None = None) -> None:
        self._monotonic_s = clock.monotonic_s
        self._trim = trim or malloc_trim()
        self._was_busy = True
        self._rests_until_s = 0.0

    def look(self, *, is_busy: bool) -> None:
        """To be called several times a second."""
        if is_busy:
            self._was_busy = True
        elif self._was_busy and (began_s := self._monotonic_s()) >= self._rests_until_s:
            self._trim(0)
            self._was_busy = False
            ended_s = self._monotonic_s()
            self._rests_until_s = ended_s + REST * (ended_s - began_s)


def malloc_trim() -> Trim:
    """The C library's own; where it has none, as outside of glibc, one that does nothing."""
    try:
        return cast(Trim, ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError, TypeError):
        # It has no such function; or it cannot be had: of a static program, and on Windows.
        return lambda _: None
