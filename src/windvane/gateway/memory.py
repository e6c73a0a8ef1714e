"""Memory: what lives for ever is not looked at again, and what a crowd has left is given back.

The C library keeps the pages of what was freed for what comes next, though that may never be as much
again: the largest crowd there was would be in the size of the process for as long as it lives.
"""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from windvane.ports.clock import Clock

REST = 500
"""Where there are many holes it takes a while to give them back: for so many times as long, none are."""
GROWTH_BYTES = 4 * 1024 * 1024
"""By so much the process must have grown since: of a large heap, a look alone takes milliseconds."""
_STATM = Path("/proc/self/statm")

Trim = Callable[[int], object]
"""Gives back all free pages but for so many bytes at the end."""


def settle_memory() -> None:
    """Call once started: what lives by now lives for ever, so the collector need not look again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class GiveBack:
    """Gives back what was freed, at the first quiet moment after a busy one in which the process grew."""

    def __init__(
        self,
        clock: Clock,
        trim: Trim | None = None,
        resident: Callable[[], int | None] | None = None,
    ) -> None:
        self._monotonic_s = clock.monotonic_s
        self._trim = trim or malloc_trim()
        self._resident = resident or resident_bytes
        self._was_busy = True
        self._rests_until_s = 0.0
        self._kept_bytes: int | None = None
        """How large the process was when it had last been given back what could be."""

    def look(self, *, is_busy: bool) -> None:
        """To be called several times a second."""
        self._was_busy = self._was_busy or is_busy
        if is_busy or not self._was_busy or (began_s := self._monotonic_s()) < self._rests_until_s:
            return
        self._was_busy = False
        if not self._has_grown():
            return
        self._trim(0)
        ended_s = self._monotonic_s()
        self._rests_until_s = ended_s + REST * (ended_s - began_s)
        self._kept_bytes = self._resident()

    def _has_grown(self) -> bool:
        """Also where nobody tells."""
        if self._kept_bytes is None or (size := self._resident()) is None:
            return True
        return size >= self._kept_bytes + GROWTH_BYTES


def resident_bytes() -> int | None:
    """The memory this process has, in bytes; None where it is not told, as outside of Linux."""
    try:
        pages = _STATM.read_text("ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def malloc_trim() -> Trim:
    """The C library's own; where it has none, as outside of glibc, one that does nothing."""
    try:
        return cast(Trim, ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError, TypeError):
        # It has no such function; or it cannot be had: of a static program, and on Windows.
        return lambda _: None
