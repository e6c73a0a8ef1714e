"""What an entry of the cache's memory costs beyond its bytes, as the process' resident memory has it.

Filled half and filled whole, each in a fresh interpreter: the difference of the two has neither the
interpreter in it nor anything else that is there once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks import contenders

TIMEOUT_S = 120

PROGRAM = """
import json, random, sys
from windvane.stores.memory.cache import MemoryCache

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

count, size = map(int, sys.argv[1:])
rng = random.Random(2)
cache = MemoryCache(1 << 36, monotonic_s=lambda: 0.0, rng=random.Random(1))
for number in range(count):
    data = bytes([number % 255 + 1]) * rng.randrange(size // 2, size * 3 // 2)
    tags = ("model:a", f"route:{number % 5}", "scope:team")
    cache.put_now(rng.randbytes(32), data, tags=tags, keep_s=3600.0, worth=1e6)
own = sum(map(len, cache._keys)) + sum(map(len, cache._data))
print(json.dumps([own, cache._bytes, resident()]))
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


def measure(shape: Shape) -> Overhead:
    """Fill a store half and whole, and compare."""
    half, whole = _filled(shape, shape.count // 2), _filled(shape, shape.count)
    own, counted, resident = (after - before for before, after in zip(half, whole, strict=True))
    entries = shape.count - shape.count // 2
    return Overhead((resident - own) / entries, (counted - own) / entries)


def _filled(shape: Shape, count: int) -> list[int]:
    printed = contenders.run_python(
        "-c", PROGRAM, str(count), str(shape.entry_bytes), timeout_s=TIMEOUT_S
    )
    found: list[int] = json.loads(printed)
    return found
