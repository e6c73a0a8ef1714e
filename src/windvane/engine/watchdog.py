"""Deadlines that cost next to nothing.

A stream has a deadline for every token; setting and cancelling a timer for each would cost more than
relaying it. So one timer stands behind all exchanges of an engine. It is set for the earliest deadline
there was, and left alone when that is met; when it fires, whoever is still waiting and overdue is
cancelled, and it is set again if anybody waits.

A process that ends cancels whoever is still served. So here is also known whether a cancellation means
that, or that the caller has left. And whoever waits can be called off before its time, as when its key is
revoked: that is a deadline which has come, with a fault of its own.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from windvane.core.exchange import Exchange
from windvane.core.faults import Fault, FaultKind, Retry, Source, WindvaneError, error_of

T = TypeVar("T")

LATENESS_MAX_S = 0.02
"""Deadlines this close together are looked at together."""
STANDING_BY = 1e12
"""When who keeps a deadline of its own must be done: no timer is ever set for it."""

SHUTTING_DOWN = Fault(
    kind=FaultKind.SHUTTING_DOWN,
    source=Source.GATEWAY,
    message="the gateway is shutting down, and could not wait for the end of this request",
    status=503,
    billed=True,
)
"""Why a request is broken off whose caller is still there."""
KEY_REVOKED = Fault(
    kind=FaultKind.UNAUTHENTICATED,
    source=Source.CLIENT,
    message="the key was revoked, or replaced by another, while this request was under way",
    status=401,
    code="key_revoked",
    billed=True,
)
"""The same, of a caller who may be served no more."""


class Watch:
    """The one timer behind the watchdogs of an engine."""

    __slots__ = ("_loop", "_timer", "dogs", "due_s", "is_called_off")

    def __init__(self) -> None:
        self.dogs: dict[Watchdog, None] = {}
        """Those that have not been stopped, the oldest first."""
        self.due_s = math.inf
        """When the timer fires; never, when it is not set."""
        self.is_called_off = False
        """Whether the process is about to end: from then on that is what a cancellation means."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, total_s: float, exchange: Exchange | None = None) -> "Watchdog":
        """A watchdog for an exchange that must end within `total_s`. It must be stopped. Without the
        `exchange`, it cannot be called off for its caller's sake: others wait for it as well."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Another loop than before (a client used from a second `asyncio.run`): start afresh.
            self._loop, self._timer, self.due_s, self.dogs = loop, None, math.inf, {}
        dog = Watchdog(self, loop, total_s, loop.time() + total_s, exchange)
        self.dogs[dog] = None
        return dog

    def call_off(self, fault: Fault, is_meant: Callable[[Exchange], bool]) -> None:
        """End those exchanges that are meant, for this fault."""
        for dog in list(self.dogs):
            if dog.exchange is not None and is_meant(dog.exchange):
                dog.call_off(fault)

    def fault_of_cancellation(self) -> WindvaneError | None:
        """Called on CancelledError: what is to be told, when it means that the process ends.

        None when it means that the caller has left: then it must go on.
        """
        if not self.is_called_off:
            return None
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return error_of(SHUTTING_DOWN)

    def be_there(self, due_s: float) -> None:
        """Let the timer fire at `due_s`, which is before it would have."""
        if self._timer is not None:
            self._timer.cancel()
        self._set(due_s)

    def _set(self, due_s: float) -> None:
        assert self._loop is not None
        self.due_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        assert self._loop is not None
        self._timer, self.due_s = None, math.inf
        now_s = self._loop.time()
        next_s = math.inf
        for dog in list(self.dogs):
            if dog.due_s <= now_s:
                dog.bite()
            elif dog.due_s < next_s:
                next_s = dog.due_s
        if next_s < STANDING_BY:
            self._set(max(next_s, now_s + LATENESS_MAX_S))


@dataclass(slots=True, eq=False)
class Watchdog:
    """Cancels the task that waits, when what it waits for does not come in time."""

    _watch: Watch
    _loop: asyncio.AbstractEventLoop
    _total_s: float
    _ends_s: float
    exchange: Exchange | None = None
    """Whose it is, if that may be called off."""
    due_s: float = math.inf
    """When what is waited for must have come."""
    _what: str = ""
    _task: asyncio.Task[object] | None = None
    _cancelled_before: int = 0
    _expired: bool = False
    _is_out_of_time: bool = False
    """Whether it was the exchange's own end that came."""
    _called_off: Fault | None = None
    """Why it has ended before its time."""

    @property
    def remaining_s(self) -> float:
        return self._ends_s - self._loop.time()

    def expect(self, what: str, within_s: float = math.inf) -> None:
        """From now, `what` must come within `within_s`, and before the exchange's own end. Raises why that
        has come already, where it was called off."""
        task = asyncio.current_task(self._loop)
        if task is not self._task and task is not None:
            # Cancellations it has outlived (it is cleaning up after one) are nothing to us.
            self._task = task
            self._cancelled_before = task.cancelling()
        self._what = what
        due_s = self._ends_s
        if within_s < math.inf and (soon_s := self._loop.time() + within_s) < due_s:
            due_s = soon_s
        self.due_s = due_s
        if due_s < self._watch.due_s:
            if self._called_off is not None:
                self.rest()
                raise error_of(self._called_off)
            self._watch.be_there(due_s)

    def stand_by(self) -> None:
        """From now, what is waited for keeps a deadline of its own, and is broken off here only when it is
        called off."""
        self.expect("the end")
        if self._called_off is None:
            self.due_s = STANDING_BY

    async def beside(self, waiting: Coroutine[object, object, T]) -> T:
        """What is waited for, and keeps a deadline of its own; unless it is called off."""
        try:
            self.stand_by()
            return await waiting
        except asyncio.CancelledError as cancelled:
            if (told := self.fault_of_cancellation()) is not None:
                raise told from cancelled
            raise
        finally:
            self.rest()
            waiting.close()

    def call_off(self, fault: Fault) -> None:
        """End the exchange now, or as soon as it waits for anything."""
        self._called_off, self._ends_s = fault, self._loop.time()
        if self.due_s < math.inf:
            self.bite()

    def rest(self) -> None:
        """Nothing is waited for."""
        self.due_s = math.inf

    def stop(self) -> None:
        """Nothing will be waited for any more."""
        self.due_s = math.inf
        if not self._expired:
            # How the task ends may remember frames that have this watchdog.
            self._task = None
        self._watch.dogs.pop(self, None)

    def bite(self) -> None:
        """The deadline has passed: cancel the waiting task."""
        self._expired = True
        self._is_out_of_time = self.due_s >= self._ends_s
        self.due_s = math.inf
        assert self._task is not None
        self._task.cancel()

    def fault_of_cancellation(self) -> WindvaneError | None:
        """Called on CancelledError: the timeout, when the cancellation is this watchdog's; and what is to
        be told when the process ends.

        None when somebody else cancelled the task, or did so as well: that cancellation must go on.
        """
        if not self._expired or self._task is None:
            return self._watch.fault_of_cancellation()
        self._expired = False
        self.rest()
        if self._task.uncancel() > self._cancelled_before:
            return self._watch.fault_of_cancellation()
        if self._called_off is not None:
            return error_of(self._called_off)
        message = f"timed out waiting for {self._what}"
        if self._is_out_of_time:
            # Words may have come all the while: that the next of them did not is not what is wrong.
            message = (
                f"the answer was not whole within {self._total_s:g} s, all that its request has"
            )
        return error_of(
            Fault(
                kind=FaultKind.TIMEOUT,
                source=Source.UPSTREAM,
                message=message,
                status=504,
                retry=Retry.OTHER,
                billed=True,
            )
        )
