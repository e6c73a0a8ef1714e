"""Invalidations of one process, in the cache's own file: gone with the entries, or with none.

Laws: an invalidation counts here at once; when the file does not take it, a note beside it does, and it
is written again each second until it is there; the next who opens the file heeds the note before any entry
is read. So it is forgotten only where neither can be written, and that is told.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable

from windvane.core.cache.invalidation import Invalidations, Reach, after, merged
from windvane.stores.owed import Owed
from windvane.stores.sqlite.cache_file import CacheFile

AGAIN_S = 1.0

Job = Callable[[CacheFile | None], bool]
Do = Callable[[Job, bool], Awaitable[bool]]
"""Has a job done on the file's thread, with the file if it is open; else answers what is given."""

_log = logging.getLogger("windvane.cache")


class SqliteInvalidations:
    """Implements `InvalidationStore`."""

    def __init__(self, do: Do, owed: Owed) -> None:
        self._do = do
        self._lock = threading.Lock()  # of what the loop and the thread both change: the next two
        self.known = Invalidations()
        self._owed = owed
        self._again: asyncio.Task[None] | None = None

    @property
    def reach(self) -> Reach:
        """Nobody else has the file: what is noted beside it is as good as written."""
        return Reach.EVERYWHERE if self._owed.is_noted else Reach.HERE

    async def start(self) -> None:
        """Learn what an earlier process knew."""
        await self._do(lambda file: file is not None, False)

    def invalidate_now(self, tag: str) -> Invalidations:
        with self._lock:
            self.known = after(self.known, tag)
            self._owed.add(tag)
            return self.known

    async def spread(self) -> None:
        """What is known is on the disk when this returns, or `reach` says that it is not."""
        if not self._owed.tags or await self._do(self._save, False):
            return
        what = "noted beside it" if self._owed.is_noted else "known until this process ends"
        _log.error("the cache's file does not take an invalidation; it is %s", what)
        if self._again is None or self._again.done():
            self._again = asyncio.get_running_loop().create_task(self._save_again())

    async def invalidate(self, tag: str) -> Invalidations:
        self.invalidate_now(tag)
        await self.spread()
        return self.known

    async def aclose(self) -> None:
        """Write what is not yet written, before the file is closed."""
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait([self._again])
        if self._owed.tags:
            await self._do(self._save, False)

    async def _save_again(self) -> None:
        while self._owed.tags:
            await asyncio.sleep(AGAIN_S)
            await self._do(self._save, False)

    # on the thread

    def _save(self, file: CacheFile | None) -> bool:
        """Write what is known to the file, or else note beside it what it lacks."""
        with self._lock:
            known, owed = self.known, self._owed.tags
        try:
            if file is None:
                return False
            file.save(known)
            with self._lock:
                self._owed.paid(owed)
            return True
        finally:
            self._owed.note()

    def meet(self, file: CacheFile) -> None:
        """The file was opened: what it knows, what is known here, and what is owed to it become one,
        before any entry of it is read."""
        with self._lock:
            known, owed = self.known, self._owed.tags
        saved = file.invalidations()
        # The file may have entries with numbers that we had not heard of when we gave ours.
        late = [tag for tag in owed if known.by_tag.get(tag, 0) <= saved.version]
        known = _after_all(merged(known, saved), (*self._owed.left(), *late))
        if known != saved:
            file.save(known)
        with self._lock:
            self._owed.paid(owed)
            self.known = _after_all(merged(self.known, known), self._owed.tags)
        self._owed.note()


def _after_all(known: Invalidations, tags: Iterable[str]) -> Invalidations:
    """What is known after one more invalidation of each of these."""
    for tag in dict.fromkeys(tags):
        known = after(known, tag)
    return known
