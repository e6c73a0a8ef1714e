"""The event loop of the harness's own servers and loads: uvloop where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

try:
    import uvloop
except ImportError:
    loop_factory = asyncio.new_event_loop
else:
    loop_factory = uvloop.new_event_loop

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end on the fastest loop at hand."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)
