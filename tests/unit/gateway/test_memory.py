"""What a crowd has left is given back at the first quiet moment, and not more often than is worth it."""

import ctypes
import platform
from pathlib import Path

import pytest

from windvane.gateway import memory
from windvane.gateway.memory import (
    GROWTH_BYTES,
    REST,
    GiveBack,
    malloc_trim,
    resident_bytes,
)
from windvane.system import SystemClock

MIB = 1024 * 1024


class Trim:
    """A clock, a trim that takes its time by it, and what the process has."""

    def __init__(self, takes_s: float, grows_bytes: int = GROWTH_BYTES) -> None:
        self.takes_s = takes_s
        self.grows_bytes = grows_bytes
        self.now_s = 100.0
        self.count = 0
        self.size = 0

    def resident(self) -> int:
        return self.size

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        raise AssertionError("how long it took is no matter of the wall clock")

    def __call__(self, left: int) -> None:
        assert left == 0
        self.count += 1
        self.now_s += self.takes_s


def looked(trim: Trim, *busy: bool) -> list[int]:
    """How often it had been called after each look, a tenth of a second apart."""
    give_back, counts = GiveBack(trim, trim, trim.resident), []
    for is_busy in busy:
        trim.size += trim.grows_bytes * is_busy
        give_back.look(is_busy=is_busy)
        counts.append(trim.count)
        trim.now_s += 0.1
    return counts


def test_once_started_and_once_after_each_busy_time() -> None:
    looks = [False, False, True, False, False, True, False]
    assert looked(Trim(takes_s=0.0001), *looks) == [1, 1, 1, 2, 2, 2, 3]


def test_where_no_moment_is_quiet_it_waits_for_one() -> None:
    assert looked(Trim(takes_s=0.0001), False, *[True] * 6, False) == [1, 1, 1, 1, 1, 1, 1, 2]


def test_what_takes_long_is_not_done_again_soon() -> None:
    trim = Trim(takes_s=0.001)
    quiet_looks = int(REST * trim.takes_s / 0.1)
    counts = looked(trim, *[True, False] * quiet_looks)
    assert counts[1] == 1  # at the first quiet moment
    assert counts.index(2) - 1 == pytest.approx(quiet_looks, abs=2)


def test_where_nothing_has_grown_nothing_is_looked_for() -> None:
    looks = [False, True, False, True, False, True, False]
    assert looked(Trim(0.0001, GROWTH_BYTES // 2), *looks) == [1, 1, 1, 1, 2, 2, 2]


def test_where_nobody_tells_how_large_it_is_it_is_looked_for_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_STATM", tmp_path / "nothing")
    trim = Trim(0.0001)
    give_back = GiveBack(trim, trim)
    for is_busy in (False, True, False):
        give_back.look(is_busy=is_busy)
        trim.now_s += 0.1
    assert trim.count == 2


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps and gives back pages"
)
def test_pages_below_what_lives_are_given_back() -> None:
    held = [bytes(16_000) for _ in range(64 * MIB // 16_000)]
    del held[:-1]  # the last one lies above them all
    before = resident_bytes()
    GiveBack(SystemClock(), malloc_trim()).look(is_busy=False)
    after = resident_bytes()
    assert before is not None and after is not None
    assert after < before - 32 * MIB
    assert held


@pytest.mark.parametrize(
    "error",
    [AttributeError("undefined symbol"), OSError("not a dynamic program"), TypeError("no name")],
    ids=["another C library", "a static program", "Windows"],
)
def test_where_nothing_can_be_given_back_nothing_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __init__(self, name: None) -> None:
            if not isinstance(error, AttributeError):
                raise error

        def __getattr__(self, name: str) -> object:
            raise error

    monkeypatch.setattr(ctypes, "CDLL", Library)
    GiveBack(SystemClock()).look(is_busy=False)
