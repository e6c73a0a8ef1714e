"""Time, dice and names."""

from typing import Protocol


class Clock(Protocol):
    """Reads time. `monotonic_s` is for durations and deadlines, `wall_us` for records (UTC)."""

    def monotonic_s(self) -> float: ...

    def wall_us(self) -> int: ...


class Ids(Protocol):
    """Makes names that are never made twice."""

    def request_id(self, wall_us: int) -> str: ...
