"""What the cache's memory costs, as the process' resident memory has it: an entry beyond its bytes, and all
of it beside its room once others have replaced what came first.

An entry: filled half and filled whole, each in a fresh interpreter. The difference of the two has neither
the interpreter in it nor anything else that is there once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks import contenders

TIMEOUT_S = 120
ROOM_BYTES = 64 * 1024 * 1024
TURNOVERS = 8
TURNED_OVER_NAME = "memory store, 64 MiB of 200 B to 20 KB turned over eight times"
SMALLEST_BYTES, LARGEST_BYTES = 200, 20_000

_OPENING = """
import json, math, random, sys
from windvane.stores.memory.cache import MemoryCache

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

def put(number, size):
    data = bytes([number % 255 + 1]) * size
    tags = ("model:a", f"route:{number % 5}", "scope:team")
    cache.put_now(rng.randbytes(32), data, tags=tags, keep_s=3600.0, worth=1e6 * rng.random())

def own():
    entries = cache._entries
    return sum(entries.key_sizes[: entries.count]) + sum(entries.sizes[: entries.count])

rng = random.Random(2)
"""
FILLED = f"""{_OPENING}
count, size = map(int, sys.argv[1:])
cache = MemoryCache(1 << 36, monotonic_s=lambda: 0.0, rng=random.Random(1))
for number in range(count):
    put(number, rng.randrange(size // 2, size * 3 // 2))
print(json.dumps([own(), cache._entries.held_bytes, resident()]))
"""
TURNED_OVER = f"""{_OPENING}
room, turnovers, least, most = map(int, sys.argv[1:])
before = resident()
cache = MemoryCache(room, monotonic_s=lambda: 0.0, rng=random.Random(1))
sent = number = largest = 0
while sent < room * turnovers:
    size = int(math.exp(rng.uniform(math.log(least), math.log(most))))
    put(number, size)
    sent += size
    number += 1
    if number % 100 == 0:
        largest = max(largest, resident())
print(json.dumps([largest - before, own()]))
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """So many entries, from half to one and a half of a size."""

    name: str
    count: int
    entry_bytes: int


SHAPES = (Shape("1 M entries of 200 B", 1_000_000, 200), Shape("20 k of 16 KB", 20_000, 16_384))


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes of an entry beyond its key and its data: in truth, and as the budget counts them."""

    entry_bytes: float
    counted_bytes: float


@dataclass(frozen=True, slots=True)
class Turned:
    """By how many times its room the process had grown at most, and what share of the room was keys and
    data at the end."""

    room_x: float
    own_x: float


def measure(shape: Shape) -> Overhead:
    """Fill a store half and whole, and compare."""
    half, whole = _filled(shape, shape.count // 2), _filled(shape, shape.count)
    own, counted, resident = (after - before for before, after in zip(half, whole, strict=True))
    entries = shape.count - shape.count // 2
    return Overhead((resident - own) / entries, (counted - own) / entries)


def measure_turned_over() -> Turned:
    """Put so many times the room into a store, of sizes that differ a hundredfold."""
    grown, own = _run(TURNED_OVER, ROOM_BYTES, TURNOVERS, SMALLEST_BYTES, LARGEST_BYTES)
    return Turned(grown / ROOM_BYTES, own / ROOM_BYTES)


def _filled(shape: Shape, count: int) -> list[int]:
    return _run(FILLED, count, shape.entry_bytes)


def _run(program: str, *arguments: int) -> list[int]:
    printed = contenders.run_python("-c", program, *map(str, arguments), timeout_s=TIMEOUT_S)
    found: list[int] = json.loads(printed)
    return found
