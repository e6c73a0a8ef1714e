"""Wall-clock time: the only file of the simulator that asks the operating system for it.

Everything that waits uses the event loop's clock; this one only stamps what a client sees or a
person reads: `created`, `date`, correlation ids, and the day that selects a dated price.
"""

import time
from email.utils import formatdate
from functools import lru_cache

_SECONDS_PER_DAY = 86_400


def now_s() -> float:
    """Return seconds since 1970."""
    return time.time()


def today() -> str:
    """Return the current UTC day as an ISO date, which sorts as text."""
    return _day(int(time.time()) // _SECONDS_PER_DAY)


def http_date(at_s: float) -> str:
    """Return a moment as the HTTP `date` header wants it."""
    return _http_date(int(at_s))


@lru_cache(maxsize=2)
def _day(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * _SECONDS_PER_DAY))


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def uuid7(at_s: float, number: int) -> str:
    """Return an id of the UUIDv7 form: milliseconds first, then a counter instead of chance."""
    milliseconds = int(at_s * 1000)
    head = f"{milliseconds:012x}"
    tail = f"{number & 0xFFFFFFFFFFFFFFFFFF:018x}"
    return f"{head[:8]}-{head[8:]}-7{tail[:3]}-8{tail[3:6]}-{tail[6:]}"
