"""Deadlines that cost next to nothing.

A stream has a deadline for every token; arming and disarming a timer for each would cost more than
relaying it. So one timer stands behind each exchange: when it fires and something has happened
meanwhile, it is set again for what is left.
"""

import asyncio
import math

from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of


class Watchdog:
    """Cancels the task that waits, when what it waits for does not come in time."""

    __slots__ = ("_due_s", "_ends_s", "_expired", "_loop", "_task", "_timer", "_what")

    def __init__(self, total_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends_s = self._loop.time() + total_s
        self._due_s = math.inf
        self._what = ""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._expired = False

    @property
    def remaining_s(self) -> float:
        return self._ends_s - self._loop.time()

    def expect(self, what: str, within_s: float) -> None:
        """From now, `what` must come within `within_s`, and before the exchange's own end."""
        self._task = asyncio.current_task()
        self._what = what
        self._due_s = min(self._loop.time() + within_s, self._ends_s)
        if self._timer is None:
            self._timer = self._loop.call_at(self._due_s, self._on_timer)
        elif self._timer.when() > self._due_s:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._due_s, self._on_timer)

    def rest(self) -> None:
        """Nothing is waited for."""
        self._due_s = math.inf

    def stop(self) -> None:
        self._due_s = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self._due_s is math.inf:
            return
        if self._loop.time() < self._due_s:
            self._timer = self._loop.call_at(self._due_s, self._on_timer)
            return
        self._expired = True
        assert self._task is not None
        self._task.cancel()

    def fault_of_cancellation(self) -> WindvaneError | None:
        """Called on CancelledError: the timeout, when the cancellation is this watchdog's.

        None when somebody else cancelled the task as well: that cancellation must go on.
        """
        if not self._expired or self._task is None:
            return None
        self._expired = False
        self.rest()
        if self._task.uncancel() > 0:
            return None
        return error_of(
            Fault(
                kind=FaultKind.TIMEOUT,
                source=Source.UPSTREAM,
                message=f"timed out waiting for {self._what}",
                status=504,
                retry=Retry.OTHER,
                billed=True,
            )
        )
