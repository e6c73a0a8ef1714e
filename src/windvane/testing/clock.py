"""Virtual clocks and readable ids."""

import asyncio
from datetime import UTC, datetime
from random import Random

MICROSECONDS = 1_000_000
START = datetime(2026, 11, 20, 12, tzinfo=UTC)


class VirtualClock:
    """Implements `Clock` from the running loop. The wall clock may jump; the other never does."""

    def __init__(self, start: datetime = START) -> None:
        self._start_us = int(start.timestamp()) * MICROSECONDS
        self._skew_us = 0

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_us(self) -> int:
        return self._start_us + self._skew_us + int(self.monotonic_s() * MICROSECONDS)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back, as an operator or NTP does."""
        self._skew_us += int(seconds * MICROSECONDS)


class SeededIds:
    """Implements `Ids`. Numbered, so that none is made twice; the dice tell runs apart."""

    def __init__(self, rng: Random) -> None:
        self._run = f"{rng.getrandbits(32):08x}"
        self._made = 0

    def request_id(self, wall_us: int) -> str:
        self._made += 1
        return f"req_{self._run}_{self._made:06d}"
