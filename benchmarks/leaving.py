"""Callers who leave: how long it takes until their provider knows that nobody listens any more.

The callers and the provider are both this process, so one clock tells both times; the gateway between
them is another. A call is left while its answer is thought about, before the first chunk of a stream,
at its first byte, or in its midst.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import cast

from benchmarks import payloads, probe
from benchmarks.event_loop import run
from benchmarks.load import percentile
from benchmarks.sampling import LoadFailedError, Target
from benchmarks.stage import Stage
from benchmarks.upstream import write_answers

CALLS = 200
LANES = 4
"""So many callers at once, who come and leave."""
CHUNK_S = 0.02
"""50 tokens a second, as a provider says them."""
PAUSE_S_MAX = 0.01
"""A caller leaves at any moment of this, once its call has come to the provider."""
PATIENCE_S = 20.0

_NUMBER = re.compile(rb"Entry (\d{%d})" % payloads.NUMBER_DIGITS)


@dataclass(frozen=True, slots=True)
class Phase:
    """When a call is left: after so many bytes of its answer, which may be none."""

    is_stream: bool
    begins: bool
    """Whether the provider begins to answer at all."""
    bytes_read: int = 0


PHASES = (
    Phase(is_stream=False, begins=False),
    Phase(is_stream=True, begins=False),
    Phase(is_stream=True, begins=True, bytes_read=1),
    Phase(is_stream=True, begins=True, bytes_read=1_500),
)


@dataclass(frozen=True, slots=True)
class Leaves:
    """In milliseconds, from a caller's leaving to its provider's noticing."""

    p50_ms: float
    p99_ms: float
    longest_ms: float


class _Call:
    """What the provider knows of a call: that it came, and when its connection ended."""

    def __init__(self, phase: Phase) -> None:
        loop = asyncio.get_running_loop()
        self.phase = phase
        self.came: asyncio.Future[None] = loop.create_future()
        self.ended_s: asyncio.Future[float] = loop.create_future()


class _Provider(asyncio.Protocol):
    """A connection of a provider that never comes to the end of an answer, but to calls nobody leaves."""

    answers = write_answers()

    def __init__(self, calls: dict[int, _Call]) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._call: _Call | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where the answer goes."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Find out which call it is, when its number has come: the last message says it."""
        self._received += data
        found = _NUMBER.search(self._received)
        if found is None:
            return
        self._received = b""
        call = self._call = self._calls.get(int(found[1]))
        if call is None:
            self._transport.write(self.answers.completion)
            return
        if call.phase.begins:
            self._transport.write(self.answers.stream_head)
            self._say_more()
        call.came.set_result(None)

    def _say_more(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self.answers.content_chunk)
            self._loop.call_later(CHUNK_S, self._say_more)

    def connection_lost(self, exc: Exception | None) -> None:
        """A caller's leaving has come to here."""
        if self._call is not None:
            self._call.ended_s.set_result(time.perf_counter())


def measure(stage: Stage, name: str) -> Leaves:
    """Call, and leave, `CALLS` times, with a contender between.

    Raises LoadFailedError when a leaving does not come to the provider, and what `Stage.started` does.
    """
    waits_ms = run(_measure(stage, name))
    return Leaves(percentile(waits_ms, 0.50), percentile(waits_ms, 0.99), max(waits_ms))


async def _measure(stage: Stage, name: str) -> list[float]:
    port, calls = probe.free_port(), dict[int, _Call]()
    before_us = replace(stage, upstream=replace(stage.upstream, port=port))
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: _Provider(calls), "127.0.0.1", port):
        with ExitStack() as stack:
            # It is waited for in a thread: it is ready when this loop has answered it.
            started = await asyncio.to_thread(stack.enter_context, before_us.started(name))
            return await _leave_all(started.target, calls)


async def _leave_all(target: Target, calls: dict[int, _Call]) -> list[float]:
    """Milliseconds, of each call."""
    phases = list(islice(cycle(PHASES), CALLS))
    random.Random("leaving").shuffle(phases)
    numbers = iter(enumerate(phases, start=payloads.first_number()))
    waits_ms: list[float] = []

    async def lane() -> None:
        for number, phase in numbers:
            call = calls[number] = _Call(phase)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    waits_ms.append(await _leave(target, call, number) * 1e3)
            except TimeoutError:
                raise LoadFailedError(f"a provider was not told: {phase}") from None

    await asyncio.gather(*(lane() for _ in range(LANES)))
    return waits_ms


async def _leave(target: Target, call: _Call, number: int) -> float:
    """Call, leave, and wait for the provider to notice: how long that took, in seconds."""
    phase = call.phase
    request = payloads.chat(
        body_bytes=payloads.SMALL_BYTES,
        is_stream=phase.is_stream,
        headers=target.headers,
        port=target.port,
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(request.numbered(number))
    await call.came
    if phase.bytes_read:
        await reader.readexactly(phase.bytes_read)
    else:
        await asyncio.sleep(random.Random(number).uniform(0.0, PAUSE_S_MAX))
    left_s = time.perf_counter()
    writer.close()
    return await call.ended_s - left_s
