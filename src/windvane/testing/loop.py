"""An event loop on virtual time: it does no I/O, and time passes only when everyone waits.

Laws:
1. `time()` begins at 0 and moves to the next timer as soon as nothing is ready to run.
2. Nothing ready and no timer, while the main coroutine still waits, is a deadlock and raises.
3. The same program runs in the same order: no threads, no sockets, no wall clock.
4. What a callback raised, or a task raised and nobody asked for, fails the run.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Everybody waits, and nothing will ever happen."""


class _Selector(selectors.SelectSelector):
    """Asked to wait, it moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is ready to run, and no timer is set")
        self.now_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with its clock in our hands. `failures` are those nobody caught."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.failures: list[BaseException] = []
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        return self._virtual.now_s

    def _keep(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or RuntimeError(context["message"]))


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a loop of its own, in no time.

    Raises Deadlock, and what any callback or abandoned task raised.
    """
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main)
    if loop.failures:
        raise loop.failures[0]
    return result
