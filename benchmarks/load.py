"""The JSON load without wrk: a closed loop over keep-alive connections, on the raw protocol.

Every connection has one request under way; the next is sent when the answer is whole. Latency is
kept per request, so percentiles are exact. ``load PORT HEAD_FILE TAIL_FILE NUMBER CONNECTIONS S
QUESTIONS``: after so many numbers the first comes again, unless it is 0. The report is one line of
JSON, as wrk.lua's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import cast

from benchmarks.event_loop import run
from benchmarks.payloads import Request

HEAD_END = b"\r\n\r\n"
LENGTH_MARK = b"\r\ncontent-length:"
DRAIN_S = 10.0
"""How long answers under way at the end are waited for."""


@dataclass(slots=True)
class Tally:
    """What all connections count together."""

    request: Request
    first: int
    number: int
    questions: int
    ends_s: float
    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0

    def next_request(self) -> bytes | None:
        """Return the next request, or None when the time is over."""
        if perf_counter() >= self.ends_s:
            return None
        self.number += 1
        if self.number == self.first + self.questions:
            self.number = self.first
        return self.request.numbered(self.number)


class Caller(asyncio.Protocol):
    """One connection of the load."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.buffer = b""
        self.sent_s = 0.0
        self.is_waiting = False
        self.finished = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count the answer when it is whole, and go on."""
        self.buffer += data
        if not is_whole(self.buffer):
            return
        self.tally.latencies_s.append(perf_counter() - self.sent_s)
        self.tally.errors += not self.buffer.startswith(b"HTTP/1.1 200")
        self.buffer = b""
        self.is_waiting = False
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that was closed under a request."""
        self.tally.errors += self.is_waiting
        self._finish()

    def _send(self) -> None:
        request = self.tally.next_request()
        if request is None:
            self._finish()
            return
        self.is_waiting = True
        self.sent_s = perf_counter()
        self.transport.write(request)

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


def is_whole(answer: bytes) -> bool:
    """Say whether an answer has arrived to its end."""
    head_end = answer.find(HEAD_END)
    if head_end < 0:
        return False
    head = answer[:head_end].lower()
    _, found, rest = head.partition(LENGTH_MARK)
    if not found:
        return answer.endswith(b"0" + HEAD_END)
    return len(answer) - head_end - len(HEAD_END) >= int(rest.split(b"\r\n", 1)[0])


def percentile(values: list[float], share: float) -> float:
    """Return the nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def drive(port: int, connections: int, seconds: float, tally: Tally) -> Tally:
    """Run the load to its end."""
    loop = asyncio.get_running_loop()
    tally.ends_s = perf_counter() + seconds
    callers = []
    for _ in range(connections):
        _, caller = await loop.create_connection(lambda: Caller(tally), "127.0.0.1", port)
        callers.append(caller)
    _, unfinished = await asyncio.wait([c.finished for c in callers], timeout=seconds + DRAIN_S)
    tally.errors += len(unfinished)
    for caller in callers:
        caller.transport.abort()
    return tally


def main() -> None:
    """Read the arguments, run, report."""
    port, head, tail, number, connections, seconds, questions = sys.argv[1:]
    request = Request(Path(head).read_bytes(), Path(tail).read_bytes())
    began_s = perf_counter()
    tally = Tally(request, int(number), int(number), int(questions), ends_s=0.0)
    run(drive(int(port), int(connections), float(seconds), tally))
    report = {
        "requests": len(tally.latencies_s),
        "duration_s": perf_counter() - began_s,
        "p50_ms": percentile(tally.latencies_s, 0.50) * 1e3,
        "p99_ms": percentile(tally.latencies_s, 0.99) * 1e3,
        "errors": tally.errors,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
