"""The cache's file and the ledger share a disk: the cache is never why the ledger has no room."""

import asyncio
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.reliability.test_disk import KEY, Caller, fill

from windvane.config.schema import CacheConfig
from windvane.stores.sqlite import SqliteLedger
from windvane.stores.sqlite import cache as cache_module
from windvane.stores.sqlite.cache import SqliteCache
from windvane.stores.sqlite.cache_file import WAL_BYTES_MAX
from windvane.stores.sqlite.spare import FREE_BYTES_MIN, floor_bytes, spare_bytes

MIB = 1024 * 1024
WITHIN_S = 30.0
"""A second or two are usual."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many MiB of its own."""
    places: list[Path] = []

    def mount(mebibytes: int) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)]
        if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system needs root")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@asynccontextmanager
async def cache_in(folder: Path) -> AsyncIterator[SqliteCache]:
    cache = SqliteCache(
        folder / "cache.db",
        bytes_max=CacheConfig().disk_bytes_max,
        wall_us=lambda: time.time_ns() // 1000,
        monotonic_s=time.monotonic,
        read_deadline_s=5.0,
    )
    await cache.invalidations.start()
    try:
        yield cache
    finally:
        await cache.aclose()


async def keep(cache: SqliteCache, numbers: range, rng: random.Random) -> None:
    for number in numbers:
        data = rng.randbytes(220_000)
        await cache.put(b"%d" % number, data, tags=("t",), keep_s=600.0, worth=1.0)
        if number % 5 == 0:
            await cache.written()
    await cache.written()


def cache_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.glob("cache.db*"))


def free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


async def works_again(caller: Caller) -> None:
    async with asyncio.timeout(WITHIN_S):
        await caller.recovered()
        while True:
            try:
                await caller.ledger.put_key(KEY)
            except Exception as error:
                assert "ledger" in str(error)
                await asyncio.sleep(0.1)
            else:
                return


@pytest.mark.parametrize(("mebibytes", "entries"), [(32, 200), (40, 200), (200, 1_000)])
async def test_the_cache_leaves_the_ledger_its_room(
    disk: Callable[[int], Path], mebibytes: int, entries: int
) -> None:
    place, rng = disk(mebibytes), random.Random(1)
    floor = floor_bytes(mebibytes * MIB)
    ledger = SqliteLedger(place)
    caller, least = Caller(ledger), free(place)
    try:
        async with cache_in(place) as cache:
            for begin in range(0, entries, 20):
                await keep(cache, range(begin, begin + 20), rng)
                least = min(least, free(place))
                caller.work(20)  # never refused
            await caller.settled_is_kept()
            assert least >= floor - 2 * WAL_BYTES_MAX
            # The ledger's own files may be in the floor; of the cache there is nothing in it then.
            async with asyncio.timeout(WITHIN_S):
                while free(place) < floor - MIB and cache_bytes(place) > MIB:
                    await asyncio.sleep(0.1)
            taken = cache_bytes(place)
            if mebibytes > 100:
                assert taken > (mebibytes - 20) * MIB - floor - 8 * MIB, "the rest is used"
                latest = range(entries - 20, entries)
                assert any([await cache.get(b"%d" % number) for number in latest])
    finally:
        await ledger.aclose()


@pytest.mark.parametrize("is_open", [True, False], ids=["while it runs", "at a start"])
async def test_a_disk_that_others_filled_gets_what_the_cache_has(
    disk: Callable[[int], Path], caplog: pytest.LogCaptureFixture, is_open: bool
) -> None:
    place, rng = disk(128), random.Random(2)
    ledger = SqliteLedger(place)
    caller = Caller(ledger)
    try:
        async with cache_in(place) as cache:
            await keep(cache, range(150), rng)
            had = cache_bytes(place)
            assert had > 20 * MIB
            if is_open:
                fill(place)
                # Nobody asks the cache for anything.
                await works_again(caller)
                assert cache_bytes(place) < had / 10
                assert "the cache gives way" in caplog.text
        if not is_open:
            fill(place)
            async with cache_in(place):
                await works_again(caller)
                assert cache_bytes(place) < had / 10
    finally:
        await ledger.aclose()


async def test_an_older_answer_does_not_stand_where_a_newer_one_has_no_room(
    disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LOOK_S", 1_000.0)
    place = disk(64)
    async with cache_in(place) as cache:
        await cache.put(b"a", b"old", tags=(), keep_s=600.0, worth=1.0)
        await cache.written()
        assert await cache.get(b"a") == b"old"
        ballast = place / "ballast"
        ballast.write_bytes(bytes(40 * MIB))
        await cache.put(b"a", b"new", tags=(), keep_s=600.0, worth=1.0)
        await cache.written()
        assert await cache.get(b"a") is None
        ballast.unlink()
        await cache.put(b"a", b"new", tags=(), keep_s=600.0, worth=1.0)
        await cache.written()
        assert await cache.get(b"a") == b"new"


def test_what_is_left_free_is_a_half_of_a_small_disk(tmp_path: Path) -> None:
    assert floor_bytes(1 << 40) == floor_bytes(2 * FREE_BYTES_MIN) == FREE_BYTES_MIN
    assert floor_bytes(40 * MIB) == 20 * MIB
    assert spare_bytes(tmp_path / "none") > 1 << 60, "what is not known is no reason to give way"
