"""The load of live streams: each connection reads one stream after another and counts its frames.

Streams begin spread over the length of one stream, as live ones do. At the end no new stream
begins and those under way run out, so that every chunk the proxy paid for is counted; the rate is
taken over the steady time between. ``stream_load PORT HEAD_FILE TAIL_FILE NUMBER CONNECTIONS S
CHUNKS CHUNK_MS HOW``; the report is one line of JSON. HOW is ``spread``, or ``together``: every
connection then asks for the same stream at the same moment, once.

A stream is an error unless it answers 200, carries at least CHUNKS frames, and ends with [DONE].
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
from benchmarks.load import DRAIN_S, percentile
from benchmarks.payloads import Request

FRAME = b"data: "
DONE = b"[DONE]"
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What all streams count together."""

    request: Request
    number: int
    chunks_expected: int
    is_together: bool
    is_over: bool = False
    streams: int = 0
    frames: int = 0
    errors: int = 0
    first_frames_s: list[float] = field(default_factory=list)


class Reader(asyncio.Protocol):
    """One connection: a stream at a time, until the load is over."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.finished = asyncio.get_running_loop().create_future()
        self.is_live = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the load to begin this stream."""
        self.transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        """Ask for a stream."""
        if self.tally.is_over or self.transport.is_closing():
            self._finish()
            return
        self.tally.number += not self.tally.is_together
        self.rest = b""
        self.frames = 0
        self.is_live, self.is_done, self.is_ok = True, False, False
        self.began_s = perf_counter()
        self.transport.write(self.tally.request.numbered(self.tally.number))

    def data_received(self, data: bytes) -> None:
        """Count frames; go on to the next stream when this one has ended."""
        if not self.frames:
            self._note_first(data)
            if not self.is_ok:
                self.transport.abort()
                return
        if self.rest:
            data = self.rest + data
        frames = data.count(FRAME)
        self.frames += frames
        self.tally.frames += frames
        # A frame's mark may be cut by the end of a read; one that ends in a newline has no cut.
        self.rest = b"" if data[-1] == 10 else data[-len(FRAME) + 1 :]
        self.is_done = self.is_done or DONE in data
        if self.is_done and data.endswith(LAST_CHUNK):
            self._end_stream()
            self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the stream that ended with its connection."""
        if self.is_live:
            self._end_stream()
        self._finish()

    def _note_first(self, data: bytes) -> None:
        self.is_ok = self.is_ok or data.startswith(b"HTTP/1.1 200")
        if FRAME in data:
            self.tally.first_frames_s.append(perf_counter() - self.began_s)

    def _end_stream(self) -> None:
        self.is_live = False
        is_good = self.is_ok and self.is_done and self.frames >= self.tally.chunks_expected
        self.tally.streams += 1
        self.tally.errors += not is_good

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


async def connect(tally: Tally, port: int, connections: int) -> list[Reader]:
    """Open every connection before the first stream begins."""
    loop = asyncio.get_running_loop()
    readers = []
    for _ in range(connections):
        _, reader = await loop.create_connection(lambda: Reader(tally), "127.0.0.1", port)
        readers.append(reader)
    return readers


async def drive(tally: Tally, readers: list[Reader], seconds: float, stream_s: float) -> float:
    """Run the load to its end and return the frames per second of its steady part."""
    loop = asyncio.get_running_loop()
    if tally.is_together:
        for reader in readers:
            reader.begin()
        tally.is_over = True
        before_s, seconds = stream_s / 4, stream_s * 3 / 4
    else:
        for index, reader in enumerate(readers):
            loop.call_later(stream_s * index / len(readers), reader.begin)
        before_s = stream_s
    await asyncio.sleep(before_s)
    frames, began_s = tally.frames, perf_counter()
    await asyncio.sleep(max(seconds - before_s, 0.1))
    frames_per_s = (tally.frames - frames) / (perf_counter() - began_s)
    tally.is_over = True
    _, unfinished = await asyncio.wait([r.finished for r in readers], timeout=stream_s + DRAIN_S)
    tally.errors += len(unfinished)
    for reader in readers:
        reader.is_live = False
        reader.transport.abort()
    return frames_per_s


async def measure(arguments: list[str]) -> dict[str, float]:
    """Run the load that the arguments describe."""
    port, head, tail, number, connections, seconds, chunks, chunk_ms, how = arguments
    request = Request(Path(head).read_bytes(), Path(tail).read_bytes())
    is_together = how == "together"
    tally = Tally(request, int(number), int(chunks), is_together)
    readers = await connect(tally, int(port), int(connections))
    began_s = perf_counter()
    stream_s = int(chunks) * int(chunk_ms) / 1000
    frames_per_s = await drive(tally, readers, float(seconds), stream_s)
    return {
        "requests": tally.streams,
        "units": tally.frames,
        "units_per_s": frames_per_s,
        "duration_s": perf_counter() - began_s,
        "p50_ms": percentile(tally.first_frames_s, 0.50) * 1e3,
        "p99_ms": percentile(tally.first_frames_s, 0.99) * 1e3,
        "errors": tally.errors,
    }


if __name__ == "__main__":
    print(json.dumps(run(measure(sys.argv[1:]))))
