"""Cancelling a coroutine at its k-th wait, for each k there is: SQLite's way of testing failures.

Random cancellation finds the wide windows; this finds all of them, in a row:

    for k in itertools.count(1):
        if not await cancelled_at(k, caller()):
            break  # it ended before it waited so often
        ...  # what must hold, however early or late the caller left
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from enum import StrEnum
from typing import Any


class Moment(StrEnum):
    """When, within its k-th wait, a coroutine is cancelled."""

    BEGIN = "begin"
    """As the wait begins."""
    END = "end"
    """As it ends: what was waited for has come, and the coroutine was about to be told."""


class _Counted:
    """A coroutine whose waits are counted, and whose task is cancelled at one of them."""

    def __init__(
        self,
        inner: Coroutine[Any, Any, Any],
        k: int,
        moment: Moment,
        before: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._left = k
        self._moment = moment
        self._before = before
        self.was_cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        waits = self._inner.__await__()
        task = asyncio.current_task()
        assert task is not None

        def cancel(_: object = None) -> None:
            self._before()
            task.cancel()

        thrown: BaseException | None = None
        while True:
            try:
                waited = waits.throw(thrown) if thrown is not None else next(waits)
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                self.was_cancelled = True
                if self._moment is Moment.END and isinstance(waited, asyncio.Future):
                    waited.add_done_callback(cancel)
                else:
                    cancel()
            thrown = None
            try:
                yield waited
            except BaseException as error:  # noqa: BLE001 - all of it is the inner one's to see
                thrown = error


async def cancelled_at(
    k: int,
    inner: Coroutine[Any, Any, Any],
    moment: Moment = Moment.BEGIN,
    before: Callable[[], None] = lambda: None,
) -> bool:
    """Run `inner` in a task that is cancelled at its k-th wait, right after a call of `before`; False when
    it has fewer.

    What `inner` raises but for the cancellation is raised.
    """
    counted = _Counted(inner, k, moment, before)

    async def run() -> None:
        await counted

    [outcome] = await asyncio.gather(
        asyncio.get_running_loop().create_task(run()), return_exceptions=True
    )
    if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
        raise outcome
    return counted.was_cancelled
