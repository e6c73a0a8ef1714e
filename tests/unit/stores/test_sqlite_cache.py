"""The cache's file: it survives a restart, keeps to its bytes, and whatever befalls it is a miss."""

import asyncio
import fcntl
import os
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

import pytest

from windvane.core.cache.invalidation import ALL, Reach
from windvane.stores.sqlite import cache as sqlite_cache
from windvane.stores.sqlite import invalidations as sqlite_invalidations
from windvane.stores.sqlite.cache import BYTES_MIN, SqliteCache
from windvane.stores.sqlite.cache_file import CacheFile, Put

ROOM = 32 * 1024 * 1024


class Time:
    now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        return int(self.now_s * 1_000_000)


@asynccontextmanager
async def opened(
    folder: Path,
    clock: Time | None = None,
    *,
    bytes_max: int = ROOM,
    entries_max: int | None = None,
    read_deadline_s: float = 5.0,
) -> AsyncIterator[SqliteCache]:
    clock = clock or Time()
    cache = SqliteCache(
        folder / "cache.db",
        bytes_max=bytes_max,
        entries_max=entries_max,
        wall_us=clock.wall_us,
        monotonic_s=clock.monotonic_s,
        read_deadline_s=read_deadline_s,
    )
    try:
        yield cache
    finally:
        await cache.aclose()


async def put(cache: SqliteCache, key: bytes, data: bytes, **options: object) -> None:
    await cache.put(key, data, **{"tags": ("t",), "keep_s": 600.0, "worth": 1.0, **options})
    await cache.written()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("cache.db*"))


async def test_it_survives_a_restart_with_ends_and_tags(tmp_path: Path) -> None:
    clock = Time()
    async with opened(tmp_path, clock) as cache:
        await cache.put(b"a", b"one", tags=("x", "y"), keep_s=100.0, worth=7.0)
        await cache.put(b"b", b"two", tags=(), keep_s=10.0, worth=7.0)
        await cache.invalidations.invalidate("x")
    clock.now_s += 50
    async with opened(tmp_path, clock) as cache:
        await cache.invalidations.start()
        assert cache.invalidations.known.voids(("x",), 0)
        kept = await cache.find(b"a")
        assert kept is not None
        assert (kept.data, kept.tags, kept.worth) == (b"one", ("x", "y"), 7.0)
        assert kept.left_s == pytest.approx(50.0)
        assert await cache.get(b"b") is None


async def test_what_is_known_is_known_before_any_entry_is_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        await cache.invalidations.invalidate("t")
    async with opened(tmp_path) as cache:
        assert await cache.get(b"a") == b"one"
        assert cache.invalidations.known.voids(("t",), 0)


@pytest.mark.parametrize("megabytes", [4, 8, pytest.param(64, marks=pytest.mark.slow)])
async def test_the_files_never_take_more_than_their_bytes(tmp_path: Path, megabytes: int) -> None:
    rng, room, most = Random(1), megabytes * 1024 * 1024, 0
    count = megabytes * 500
    async with opened(tmp_path, bytes_max=room) as cache:
        for number in range(count):
            size = rng.choice([10, 300, 1_500, 5_000, 60_000 if number % 10 == 0 else 900])
            await cache.put(
                rng.randbytes(32), rng.randbytes(size), tags=(f"t{number % 7}",), keep_s=600.0,
                worth=rng.random() * 1e6,
            )  # fmt: skip
            if number % 50 == 0:
                await cache.written()
                most = max(most, size_of(tmp_path))
        await cache.written()
        stats = await cache.stats()
        assert stats.evicted > 100
        assert most <= room
        assert most > room / 2, "the room is used"
    # With half the room the file itself becomes smaller.
    async with opened(tmp_path, bytes_max=max(room // 2, BYTES_MIN)) as cache:
        await cache.written()
    assert size_of(tmp_path) <= max(room // 2, BYTES_MIN)


async def test_the_file_never_has_more_entries_than_it_may(tmp_path: Path) -> None:
    async with opened(tmp_path, entries_max=300) as cache:
        for number in range(1_000):
            worth = 1e6 if number < 100 else 1e3
            await cache.put(b"%d" % number, b"answer", tags=("t",), keep_s=600.0, worth=worth)
            if number % 100 == 99:
                await cache.written()
                assert (await cache.stats()).entries <= 300
        stats = await cache.stats()
        assert (stats.entries, stats.entries_max, stats.evicted) == (300, 300, 700)
        found = [await cache.get(b"%d" % number) for number in range(100)]
        assert found == [b"answer"] * 100, "the least valuable goes"
    async with opened(tmp_path, entries_max=50) as cache:
        # What is written waits for the file to be open; its thread may not have begun yet.
        await cache.put(b"one more", b"answer", tags=("t",), keep_s=600.0, worth=1e6)
        await cache.written()
        assert (await cache.stats()).entries == 50


ALL_SIZES = (100, 1_000, 3_000, 20_000, 60_000, 150_000)


@pytest.mark.parametrize(
    ("megabytes", "sizes"),
    [
        (4, ALL_SIZES),
        (8, ALL_SIZES),
        (4, (10, 300)),
        (4, (262_144,)),
        pytest.param(32, ALL_SIZES, marks=pytest.mark.slow),
        pytest.param(128, ALL_SIZES, marks=pytest.mark.slow),
    ],
)
def test_no_statement_takes_the_files_beyond_their_bytes(
    tmp_path: Path, megabytes: int, sizes: tuple[int, ...]
) -> None:
    """Looked at before each: whatever is written, used, evicted or taken back."""
    rng, room, most = Random(1), megabytes * 1024 * 1024, 0

    def look(_: str) -> None:
        nonlocal most
        most = max(most, size_of(tmp_path))

    file = CacheFile(tmp_path / "cache.db", bytes_max=room, wall_us=Time().wall_us)
    file._connection.set_trace_callback(look)
    written = 0
    keys: list[bytes] = []
    while written < room * 2:
        group: dict[bytes, Put] = {}
        group_bytes = 0
        while group_bytes < room // 64 and len(group) < 100:
            data = rng.randbytes(min(rng.choice(sizes), room // 16))
            put = Put(data, (f"t{len(keys) % 7}",), 10**12, rng.random() * 1e6)
            keys.append(rng.randbytes(32))
            group[keys[-1]] = put
            group_bytes += len(data)
        written += group_bytes
        file.write(group.items())
        for key in rng.sample(keys[-500:], min(40, len(keys))):
            file.find(key)
    is_all = False
    while not is_all:
        _, is_all = file.remove_some_tagged("t3")
    while not file.give_back_some():
        pass
    file.close()
    assert room * 0.6 < most <= room


@pytest.mark.parametrize("megabytes", [4, 16, 128])
async def test_the_largest_answers_outlive_a_restart_and_keep_to_the_bytes(
    tmp_path: Path, megabytes: int
) -> None:
    rng, room, most = Random(1), megabytes * 1024 * 1024, 0
    async with opened(tmp_path, bytes_max=room) as cache:
        size = cache.entry_bytes_max
        assert size >= 256 * 1024, "what an answer may have unless it is said"
        for number in range(40):
            large, small = rng.randbytes(size - number % 3), rng.randbytes(9_000)
            await cache.put(b"large%d" % number, large, tags=("t",), keep_s=600.0, worth=1.0)
            await cache.put(b"small%d" % number, small, tags=("t",), keep_s=600.0, worth=0.0)
            if number % 2 == 1:
                await cache.written()
                most = max(most, size_of(tmp_path))
        assert (await cache.stats()).faults == 0
        await cache.put(b"more", bytes(size + 1), tags=("t",), keep_s=600.0, worth=1.0)
        assert (await cache.stats()).faults == 1
    assert max(most, size_of(tmp_path)) <= room
    async with opened(tmp_path, bytes_max=room) as cache:
        found = [await cache.get(b"large%d" % number) for number in range(40)]
        assert sum(data is not None for data in found) >= 5
        assert all(data is None or len(data) >= size - 2 for data in found)


async def test_what_is_over_goes_first_then_what_is_worth_least(tmp_path: Path) -> None:
    clock = Time()
    async with opened(tmp_path, clock, bytes_max=BYTES_MIN) as cache:
        precious = [bytes([number]) * 8 for number in range(20)]
        for key in precious:
            await put(cache, key, bytes(1_000), worth=1e9)
        for number in range(300):
            await cache.put(b"short%d" % number, bytes(5_000), tags=(), keep_s=5.0, worth=1e12)
        await cache.written()
        clock.now_s += 10
        for number in range(3_000):
            await cache.put(b"cheap%d" % number, bytes(3_000), tags=(), keep_s=600.0, worth=1.0)
            if number % 100 == 0:
                await cache.written()
        await cache.written()
        stats = await cache.stats()
        assert stats.expired == 300
        assert stats.evicted > 1_000
        assert [await cache.get(key) for key in precious] == [bytes(1_000)] * 20


async def test_what_is_used_outlives_what_is_not(tmp_path: Path) -> None:
    async with opened(tmp_path, bytes_max=BYTES_MIN) as cache:
        used = [bytes([number]) * 8 for number in range(20)]
        for key in used:
            await put(cache, key, bytes(3_000))
        for number in range(2_000):
            await cache.put(b"other%d" % number, bytes(3_000), tags=(), keep_s=600.0, worth=1.0)
            if number % 50 == 0:
                await cache.written()
                for key in used:
                    await cache.get(key)
        assert sum([await cache.get(key) is not None for key in used]) == 20


@pytest.mark.parametrize(
    "end", [b"", b"SQLite format 3\x00" + b"\xff" * 4_000, b"not a database" * 99]
)
async def test_a_file_that_is_none_is_moved_aside(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "cache.db").write_bytes(end)
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        assert await cache.get(b"a") == b"one"
        assert (await cache.stats()).is_up
    assert not end or (tmp_path / "cache.db.aside").read_bytes() == end


async def test_our_own_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    """What is in it is no longer found, or is worth something else: it would only take room."""
    async with opened(tmp_path) as cache:
        await put(cache, b"k", b"old")
    ours = sqlite3.connect(tmp_path / "cache.db")
    ours.execute("PRAGMA user_version = 1")
    ours.close()
    async with opened(tmp_path) as cache:
        assert await cache.get(b"k") is None
        await put(cache, b"k", b"new")
        assert await cache.get(b"k") == b"new"
    assert not [*tmp_path.glob("*.aside")]


async def test_a_database_of_somebody_else_is_moved_aside_whole(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cache.db") as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("INSERT INTO theirs VALUES (42)")
    other.close()
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        assert await cache.get(b"a") == b"one"
    with sqlite3.connect(tmp_path / "cache.db.aside") as other:
        assert other.execute("SELECT x FROM theirs").fetchone() == (42,)
    other.close()


async def test_damage_in_the_middle_is_a_miss_and_then_a_new_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        for number in range(300):
            await cache.put(b"%d" % number, bytes(2_000), tags=("t",), keep_s=600.0, worth=1.0)
        await cache.invalidations.invalidate("x")
    path = tmp_path / "cache.db"
    whole = bytearray(path.read_bytes())
    whole[8_192:] = Random(1).randbytes(len(whole) - 8_192)
    path.write_bytes(whole)
    async with opened(tmp_path) as cache:
        for number in range(300):
            assert await cache.get(b"%d" % number) in (None, bytes(2_000))
        await cache.remove_tagged("t")
        for number in range(20):
            await put(cache, b"new%d" % number, b"fresh")
        assert await cache.get(b"new19") == b"fresh"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Somebody at a terminal is writing to the file."""
    other = sqlite3.connect(folder / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_what_the_file_did_not_take_is_heeded_by_the_next_who_opens_it(
    tmp_path: Path,
) -> None:
    note = tmp_path / "cache.db.owed"
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        version = (await cache.invalidations.invalidate("other")).version
    with locked(tmp_path):
        async with opened(tmp_path) as cache:
            # It is not even open: so nothing of it is found, and what is known of it is unknown.
            await cache.invalidations.invalidate("t")
            assert cache.invalidations.reach is Reach.EVERYWHERE
            assert note.exists()
    async with opened(tmp_path) as cache:
        assert await cache.get(b"a") == b"one"
        assert cache.invalidations.known.voids(("t",), version)
        assert not cache.invalidations.known.voids(("u",), version)
        assert not note.exists()
    async with opened(tmp_path) as cache:
        await cache.invalidations.start()
        assert cache.invalidations.known.voids(("t",), version)


async def test_what_the_file_did_not_take_is_written_to_it_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_invalidations, "AGAIN_S", 0.01)
    note = tmp_path / "cache.db.owed"
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        with locked(tmp_path):
            await cache.invalidations.invalidate("t")
            assert cache.invalidations.known.voids(("t",), 0), "here, at once"
            assert cache.invalidations.reach is Reach.EVERYWHERE
            assert note.exists()
        async with asyncio.timeout(60):
            while note.exists():
                await asyncio.sleep(0.01)
        with sqlite3.connect(tmp_path / "cache.db") as other:
            assert other.execute("SELECT * FROM invalidation").fetchall() == [("t", 1)]
        other.close()


async def test_what_could_be_written_nowhere_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        (tmp_path / "cache.db.owed" / "full").mkdir(parents=True)
        with locked(tmp_path):
            await cache.invalidations.invalidate("t")
            assert cache.invalidations.reach is Reach.HERE
        await cache.invalidations.spread()
        assert cache.invalidations.reach is Reach.EVERYWHERE


async def test_one_made_before_the_file_was_known_is_above_what_is_in_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        for _ in range(5):
            version = (await cache.invalidations.invalidate("other")).version
        await put(cache, b"a", b"one")
    async with opened(tmp_path) as cache:
        cache.invalidations.invalidate_now("t")  # its number is 1
        assert await cache.get(b"a") == b"one"
        assert cache.invalidations.known.voids(("t",), version)


async def test_room_is_given_back_when_answers_are_taken_back(tmp_path: Path) -> None:
    rng = Random(1)
    async with opened(tmp_path) as cache:
        for number in range(2_000):
            await cache.put(
                b"%d" % number, rng.randbytes(1_500), tags=(("a", "b")[number // 1_000],),
                keep_s=600.0, worth=1.0,
            )  # fmt: skip
        await cache.written()
        full = size_of(tmp_path)
        await cache.remove_tagged("a")
        assert size_of(tmp_path) < full * 0.6
        assert await cache.get(b"1999") is not None
        await cache.remove_tagged(ALL)
        assert size_of(tmp_path) < 200_000
        await put(cache, b"k", b"v")
        assert await cache.get(b"k") == b"v"


def told(folder: Path, *commands: str) -> None:
    """Somebody at a terminal has changed the file."""
    with sqlite3.connect(folder / "cache.db") as other:
        for command in commands:
            other.execute(command)
    other.close()


ODD_ENTRIES = [
    "UPDATE entry SET data = 'hello'",
    "UPDATE entry SET data = 42",
    "UPDATE entry SET ends_at_us = 'soon'",
    "UPDATE entry SET worth = 'much'",
    "UPDATE entry SET key = 'text', rank = 'high' WHERE key = x'62'",
    "UPDATE entry SET rank = 'high'",
    "UPDATE tag_set SET tags = 'no json'",
    "UPDATE tag_set SET tags = '[1, 2]'",
    "UPDATE tag_set SET tags = CAST(x'ff' AS TEXT)",
]
ODD_FILES = [
    "INSERT OR REPLACE INTO fact VALUES ('age', 'old')",
    "UPDATE invalidation SET version = 'last'",
    "UPDATE invalidation SET tag = x'00'",
    "UPDATE invalidation SET tag = CAST(x'ff' AS TEXT)",
    "DROP TABLE fact",
    "DROP TABLE entry",
    "DROP TABLE tag_set",
    "DROP TABLE invalidation",
    "ALTER TABLE entry RENAME COLUMN worth TO value",
]


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("command", ODD_ENTRIES + ODD_FILES)
async def test_what_is_not_as_it_was_written_is_a_miss_and_begun_anew(
    tmp_path: Path, command: str, is_open: bool
) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        await put(cache, b"b", b"two")
        await cache.invalidations.invalidate("x")
        if is_open:
            told(tmp_path, command)
            assert await cache.get(b"a") in (None, b"one")
    if not is_open:
        told(tmp_path, command)
    for _ in range(2):
        async with opened(tmp_path) as cache:
            await cache.invalidations.start()
            for key in (b"a", b"b"):
                kept = await cache.find(key)
                assert kept is None or isinstance(kept.data, bytes)
            for number in range(30):
                await put(cache, b"%d" % number, bytes(200_000), tags=("y",))
            await cache.remove_tagged("t")
            await cache.invalidations.invalidate("y")
            assert cache.invalidations.reach is Reach.EVERYWHERE
            assert cache.invalidations.known.voids(("y",), 0)
            await put(cache, b"a", b"new")
            assert await cache.get(b"a") == b"new"
            assert (await cache.stats()).is_up
    async with opened(tmp_path) as cache:
        assert await cache.get(b"a") == b"new"


async def test_an_entry_that_is_not_as_it_was_written_takes_no_other_with_it(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        await put(cache, b"b", b"two")
    told(tmp_path, "UPDATE entry SET data = 42 WHERE key = x'61'")
    async with opened(tmp_path) as cache:
        assert await cache.get(b"a") is None
        assert await cache.get(b"b") == b"two"
        await cache.written()
        stats = await cache.stats()
        assert (stats.faults, stats.entries, stats.is_up) == (1, 1, True)


async def test_what_this_process_knows_goes_into_the_new_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        known = await cache.invalidations.invalidate("x")
        cache._thread.do(_corrupt)
        assert await cache.get(b"a") is None
        await put(cache, b"b", b"two")
    async with opened(tmp_path) as cache:
        await cache.invalidations.start()
        assert await cache.get(b"b") == b"two"
        assert cache.invalidations.known == known


def _corrupt(_: object) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    raise error


async def test_another_process_has_it_is_misses_until_it_has_gone(tmp_path: Path) -> None:
    clock = Time()
    held = os.open(tmp_path / "cache.db.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    async with opened(tmp_path, clock) as cache:
        await put(cache, b"a", b"one")
        assert await cache.get(b"a") is None
        assert not (await cache.stats()).is_up
        os.close(held)
        clock.now_s += sqlite_cache.REOPEN_S + 1
        await put(cache, b"a", b"one")
        assert await cache.get(b"a") == b"one"
        assert (await cache.stats()).is_up


async def test_locked_by_somebody_at_a_terminal_is_a_fault_and_no_harm(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await put(cache, b"b", b"two")
        assert await cache.get(b"a") == b"one"
        assert await cache.get(b"b") is None
        assert (await cache.stats()).faults > 0
        other.execute("ROLLBACK")
        other.close()
        await put(cache, b"b", b"two")
        assert await cache.get(b"b") == b"two"


@contextmanager
def full_disk(limit: int):
    """No file may grow beyond `limit`, as when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_misses_and_no_harm(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one")
        with full_disk(200_000):
            for number in range(200):
                await cache.put(b"%d" % number, bytes(5_000), tags=(), keep_s=600.0, worth=1.0)
                if number % 20 == 0:
                    await cache.written()
            await cache.written()
            assert await cache.get(b"a") == b"one"
        assert (await cache.stats()).faults > 0
        await put(cache, b"b", b"two")
        assert await cache.get(b"b") == b"two"
    with sqlite3.connect(tmp_path / "cache.db") as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


async def test_its_files_are_its_owners_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for _ in range(2):
        async with opened(tmp_path) as cache:
            await put(cache, b"k", b"data")
            files = list(tmp_path.glob("cache.db*"))
            assert any(path.name == "cache.db-wal" for path in files)
            assert [path.name for path in files if path.stat().st_mode & 0o077] == []


async def test_a_folder_that_cannot_be_made_is_misses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with opened(tmp_path / "file") as cache:
        await put(cache, b"a", b"one")
        assert await cache.get(b"a") is None
        assert await cache.remove_tagged(ALL) == 0
        await cache.invalidations.invalidate("x")
        assert cache.invalidations.known.voids(("x",), 0)


async def test_while_the_thread_is_busy_a_look_up_is_a_miss_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path, read_deadline_s=0.025) as cache:
        await put(cache, b"a", b"one")
        let_go = threading.Event()
        cache._thread.do(lambda _: let_go.wait(30) and None)
        looking = [asyncio.ensure_future(cache.get(b"a")) for _ in range(400)]
        await asyncio.sleep(0)
        # This timer begins when all of theirs have begun, and rings after them, however busy it is.
        await asyncio.sleep(0.025)
        for _ in range(20):
            await asyncio.sleep(0)
        assert all(each.done() for each in looking), "they wait side by side"
        let_go.set()
        assert await asyncio.gather(*looking) == [None] * 400
        assert (await cache.stats()).faults == 400
        await cache.written()
        cache._read_deadline_s = 5.0
        assert await cache.get(b"a") == b"one"


async def test_what_was_put_is_found_before_it_is_written_and_gone_once_removed(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as cache:
        let_go = threading.Event()
        cache._thread.do(lambda _: let_go.wait(30) and None)
        options = {"tags": ("t",), "keep_s": 60.0, "worth": 1.0}
        await cache.put(b"a", b"one", **options)
        assert await cache.get(b"a") == b"one"
        cache._flush()
        assert await cache.get(b"a") == b"one"
        removing = asyncio.create_task(cache.remove(b"a"))
        await asyncio.sleep(0)
        looking = asyncio.create_task(cache.get(b"a"))
        await asyncio.sleep(0)
        let_go.set()
        assert await removing == 1
        assert await looking is None
        await cache.put(b"b", b"two", **options)
        assert await cache.remove_tagged("t") == 1
        assert await cache.get(b"b") is None


async def test_more_than_may_wait_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_cache, "UNWRITTEN_BYTES_MAX", 100_000)
    async with opened(tmp_path) as cache:
        let_go = threading.Event()
        cache._thread.do(lambda _: let_go.wait(30) and None)
        for number in range(30):
            await cache.put(b"%d" % number, bytes(10_000), tags=(), keep_s=60.0, worth=1.0)
        let_go.set()
        await cache.written()
        stats = await cache.stats()
        assert (stats.entries, stats.faults) == (9, 21)
        await put(cache, b"more", bytes(10_000))
        assert await cache.get(b"more") is not None


async def test_tags_that_nobody_has_any_more_leave_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        for number in range(500):
            await cache.put(b"%d" % number, b"x", tags=(f"own:{number}",), keep_s=60.0, worth=1.0)
        assert await cache.remove_tagged("own:7") == 1
        assert await cache.remove_tagged(ALL) == 499
    with sqlite3.connect(tmp_path / "cache.db") as other:
        assert other.execute("SELECT count(*) FROM tag_set").fetchone() == (0,)
    other.close()


async def test_a_tag_that_is_no_text_spoils_its_own_group_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await put(cache, b"a", b"one", tags=("\ud800",))
        await put(cache, b"b", b"two")
        assert await cache.get(b"b") == b"two"


def test_too_little_room_is_said() -> None:
    with pytest.raises(ValueError, match="at least"):
        SqliteCache(Path("nowhere"), bytes_max=1_000, wall_us=lambda: 0, monotonic_s=lambda: 0.0)
