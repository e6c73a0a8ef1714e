"""Who of a process' equal requests looks for an answer that is elsewhere: one, for all of them.

To look is to ask a store what it has, and whose turn it is to ask the provider, again and again while it is
another process'. What one request hears, all would; and a hundred that ask at once make a store too slow
that is well.

Laws:
1. Of those who wish the same of one flight one looks at a time.
2. Each waits for as long as it will: neither its end nor its leaving is another's.
3. Who ends looking, for whatever reason, tells all who wait: what it has found, or nothing. One of them
   looks next, if they need to go on.
"""

import asyncio

from windvane.core.cache.freshness import Wish
from windvane.engine.lookup import Found

Sought = tuple[bytes, Wish]
"""A flight, with what else is looked for, and what is wished of the answer: what is too old for one is good
for another."""


class Lookouts:
    """Those of a process who look, and those who wait for what they find."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Sought, list[asyncio.Future[Found | None]]] = {}

    def begin(self, sought: Sought) -> bool:
        """Look, until `end`; False when somebody does already."""
        if sought in self._waiting:
            return False
        self._waiting[sought] = []
        return True

    def end(self, sought: Sought, found: Found | None) -> None:
        """Look no more, and say what was found."""
        for future in self._waiting.pop(sought):
            if not future.done():
                future.set_result(found)

    def has(self, sought: Sought) -> bool:
        """Whether somebody looks."""
        return sought in self._waiting

    async def hear(self, sought: Sought, within_s: float) -> Found | None:
        """Wait for who looks to end, but no longer than `within_s`. What it has found; None when that is
        nothing."""
        future: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[sought]
        waiting.append(future)
        try:
            await asyncio.wait([future], timeout=within_s)
            return future.result() if future.done() else None
        finally:
            if not future.done():
                waiting.remove(future)
