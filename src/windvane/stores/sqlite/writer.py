"""The one thread that owns the one connection: groups of entries in order, and questions between them.

SQLite before 3.51.3 can corrupt a file that two connections write and checkpoint at once, and
distributions still ship older ones; hence one connection.

Laws: a group is written before what came after it; a group that cannot be written is kept and tried again
until it is; a question is answered when all that came before it is written, or refused, and never waits
for a disk. While a group cannot be written, `trouble` says why.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of

RETRY_S = 0.5
"""After a failed write (a full disk) the group is tried again this often."""
QUESTIONS_MAX = 64
"""Questions that may wait: a crowd of them must not keep entries from the ledger."""
LAST_TRIES = 10
"""A disk that refuses gets so many more chances at the end: the journal has what is left then."""

_log = logging.getLogger("windvane.ledger")

T = TypeVar("T")
Question = Callable[[sqlite3.Connection], T]
G = TypeVar("G")
Write = Callable[[sqlite3.Connection, G], None]
"""Writes a group for good, or raises sqlite3.Error or OSError and has written nothing."""


def unavailable(reason: str) -> WindvaneError:
    """What a caller hears while the ledger cannot be asked."""
    fault = Fault(
        kind=FaultKind.INTERNAL,
        source=Source.GATEWAY,
        message=f"the ledger is not available ({reason})",
        status=503,
        code="ledger_unavailable",
        retry_after_s=1.0,
    )
    return error_of(fault)


def busy() -> WindvaneError:
    """What a caller hears when too many ask."""
    fault = Fault(
        kind=FaultKind.OVERLOADED,
        source=Source.GATEWAY,
        message=f"{QUESTIONS_MAX} questions are waiting for the ledger; ask again in a moment",
        status=503,
        code="ledger_busy",
        retry_after_s=1.0,
    )
    return error_of(fault)


class _Asked(Generic[T]):
    """A question, and where its answer goes: to the loop that asked, if it is still there."""

    def __init__(self, question: Question[T]) -> None:
        self._question = question
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self._loop.create_future()

    def settle(self, connection: sqlite3.Connection) -> None:
        """Answer it, on the thread."""
        if self.answer.cancelled():
            return
        try:
            value = self._question(connection)
        except (sqlite3.Error, OSError) as error:
            self.refuse(unavailable(str(error)))
        except (ValueError, OverflowError) as error:
            self.refuse(error)
        else:
            self._tell(lambda: self.answer.set_result(value))

    def refuse(self, error: Exception) -> None:
        self._tell(lambda: self.answer.set_exception(error))

    def _tell(self, outcome: Callable[[], None]) -> None:
        def unless_done() -> None:
            if not self.answer.done():
                outcome()

        try:
            self._loop.call_soon_threadsafe(unless_done)
        except RuntimeError:
            _log.debug("a question's loop is gone; nobody waits for the answer")


class Writer(Generic[G]):
    """Writes groups and answers questions, in the order they come."""

    def __init__(self, connection: sqlite3.Connection, write: Write[G]) -> None:
        self.trouble: str | None = None
        self._connection = connection
        self._write = write
        self._work: queue.SimpleQueue[G | _Asked[object] | None] = queue.SimpleQueue()
        self._unwritten: deque[G] = deque()
        self._is_closed = False
        self._asked = 0
        self._answered = 0
        self._thread = threading.Thread(target=self._run, name="windvane-ledger", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Whether something is to be written still: at the end, what the disk refused to the last."""
        return bool(self._unwritten)

    def put(self, group: G) -> None:
        """Have a group written, after all that was put or asked before."""
        self._work.put(group)

    async def ask(self, question: Question[T]) -> T:
        """Put a question; it is in the queue when this first waits.

        Raises InternalServerError (503) when too many wait, or the ledger is in trouble.
        """
        if self.trouble is not None:
            raise unavailable(self.trouble)
        if self._asked - self._answered >= QUESTIONS_MAX:
            raise busy()
        asked = _Asked(question)
        self._asked += 1
        self._work.put(asked)  # type: ignore[arg-type]
        if self._is_closed:
            # The thread ended in between, and may have looked for the last time.
            self._refuse_rest()
        return await asked.answer

    async def aclose(self) -> None:
        """End when all that was put is written, or the disk has refused to the last."""
        self._work.put(None)
        while self._thread.is_alive():
            self._thread.join(0.01)
            await asyncio.sleep(0)

    def _run(self) -> None:
        """The thread: works until it is told to stop."""
        try:
            while self._take():
                pass
            pause = threading.Event()
            for _ in range(LAST_TRIES):
                if not self._unwritten:
                    break
                pause.wait(RETRY_S)
                self._write_all()
        finally:
            # Also when this thread ends by a fault of ours: nothing may be sent without a ledger.
            self.trouble = self.trouble or "it is closed"
            self._is_closed = True
            self._refuse_rest()
            self._connection.close()

    def _take(self) -> bool:
        """Wait for work, and take it; False when there is to be no more."""
        try:
            work = self._work.get(timeout=RETRY_S if self._unwritten else None)
        except queue.Empty:
            self._write_all()
            return True
        if work is None:
            return False
        if not isinstance(work, _Asked):
            self._unwritten.append(work)
            self._write_all()
            return True
        self._answered += 1
        if self.trouble is None:
            work.settle(self._connection)
        else:
            work.refuse(unavailable(self.trouble))
        return True

    def _write_all(self) -> None:
        while self._unwritten:
            try:
                self._write(self._connection, self._unwritten[0])
            except (sqlite3.Error, OSError) as error:
                if str(error) != self.trouble:
                    _log.error("the ledger cannot be written; trying again: %s", error)
                self.trouble = str(error)
                return
            self._unwritten.popleft()
        if self.trouble is not None:
            _log.warning("the ledger is written again")
            self.trouble = None

    def _refuse_rest(self) -> None:
        while True:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                return
            if isinstance(work, _Asked):
                work.refuse(unavailable("it is closed"))
