"""The memory tier: a budget that is real, an order of eviction that is worth its name, and its price."""

import asyncio
import json
import subprocess
import sys
import time
import timeit
from random import Random

import pytest

from windvane.core.cache.invalidation import ALL
from windvane.stores.memory.cache import ENTRY_OVERHEAD_BYTES, MemoryCache, entry_size


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened(bytes_max: int, clock: Time | None = None, **options: int) -> MemoryCache:
    return MemoryCache(bytes_max, monotonic_s=clock or Time(), rng=Random(5), **options)


def put(
    cache: MemoryCache, key: bytes, data: bytes, *, worth: float = 1.0, **options: object
) -> None:
    cache.put_now(key, data, **{"tags": (), "keep_s": 60.0, "worth": worth, **options})


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def counted(cache: MemoryCache) -> int:
    """What the budget should count: every entry, and each set of tags once."""
    from windvane.stores.memory.cache import _tag_set_size

    entries = sum(map(entry_size, cache._keys, cache._data))
    return entries + sum(map(_tag_set_size, set(cache._tags)))


async def test_it_never_holds_more_than_its_budget_and_counts_it_right() -> None:
    rng, clock = Random(1), Time()
    cache = opened(200_000, clock)
    for _ in range(5_000):
        tags = tuple(rng.sample("abcd", rng.randrange(3)))
        name, size = key(rng.randrange(500)), rng.choice([0, 10, 1_000, 20_000])
        put(cache, name, bytes(size), tags=tags, keep_s=rng.choice([1.0, 100.0]))
        clock.now_s += rng.random() * 0.1
        if rng.random() < 0.1:
            await cache.remove(key(rng.randrange(500)))
        if rng.random() < 0.1:
            cache.get_now(key(rng.randrange(500)))
        assert cache._bytes <= 200_000
    assert cache._bytes == counted(cache)
    assert [cache._places[each] for each in cache._keys] == list(range(len(cache._keys)))
    stats = await cache.stats()
    assert stats.evicted > 100
    assert stats.expired > 100
    await cache.remove_tagged(ALL)
    assert (cache._bytes, len(cache._places), len(cache._tag_sets)) == (0, 0, 0)


@pytest.mark.parametrize("most", [1, 5, 100])
async def test_it_never_holds_more_entries_than_it_may(most: int) -> None:
    cache = opened(1 << 20, entries_max=most)
    for number in range(3 * most):
        put(cache, key(number), b"answer", worth=1e6 if number < most // 3 else 1e3)
        assert len(cache._keys) <= most
    assert cache._bytes == counted(cache)
    stats = await cache.stats()
    assert (stats.entries, stats.entries_max, stats.evicted) == (most, most, 2 * most)
    assert survivors(cache, range(most // 3)) == most // 3, "the least valuable goes"


async def test_what_is_larger_than_an_entry_may_be_is_not_kept_nor_what_it_replaces() -> None:
    cache = opened(100_000, entry_bytes_max=2_000)
    put(cache, b"a", b"small")
    put(cache, b"a", bytes(5_000))
    assert cache.get_now(b"a") is None
    put(cache, b"b", bytes(1_000))
    assert cache.get_now(b"b") is not None


def test_the_largest_is_as_large_as_is_said_and_what_is_not_kept_is_said() -> None:
    """Not less what it takes beside: an answer as large as that was said to be kept, and never was."""
    cache = opened(1_000_000, entry_bytes_max=200_000)
    kept = {"tags": (), "keep_s": 60.0, "worth": 1.0}
    for size in (0, 199_999, 200_000):
        assert cache.put_now(b"a", bytes(size), **kept)
        assert cache.get_now(b"a") == bytes(size)
    assert not cache.put_now(b"a", bytes(200_001), **kept)
    assert not cache.put_now(b"a", b"over", **{**kept, "keep_s": 0.0})
    assert not opened(1, entry_bytes_max=1_000).put_now(b"a", b"no room", **kept)


def survivors(cache: MemoryCache, numbers: range) -> int:
    return sum(cache.holds(key(number)) for number in numbers)


def test_what_is_worth_much_outlives_what_is_worth_little() -> None:
    cache = opened(100 * (1_000 + 400))
    for number in range(40):
        put(cache, key(number), bytes(1_000), worth=1e6)
    for number in range(100, 1_000):
        put(cache, key(number), bytes(1_000), worth=1e3)
    assert survivors(cache, range(40)) == 40


def test_what_is_small_outlives_what_is_large_at_the_same_worth() -> None:
    cache = opened(300_000)
    for number in range(100):
        put(cache, key(number), bytes(100), worth=1e6)
    for number in range(100, 400):
        put(cache, key(number), bytes(10_000), worth=1e6)
    assert survivors(cache, range(100)) > 75


def test_what_is_asked_for_outlives_what_is_not() -> None:
    cache = opened(100 * (1_000 + 400))
    for number in range(1_000):
        put(cache, key(number), bytes(1_000))
        for often in range(10):
            cache.get_now(key(often))
    assert survivors(cache, range(10)) == 10


def test_what_was_once_popular_grows_old() -> None:
    cache = opened(100 * (1_000 + 400))
    for number in range(50):
        put(cache, key(number), bytes(1_000))
        for _ in range(5):
            cache.get_now(key(number))
    for number in range(100, 5_000):
        put(cache, key(number), bytes(1_000))
        cache.get_now(key(number))
    assert survivors(cache, range(50)) == 0


def test_what_comes_back_is_not_taken_for_a_newcomer() -> None:
    cache = opened(100 * (1_000 + 400))
    for number in range(20):
        put(cache, key(number), bytes(1_000))
        for _ in range(10):
            cache.get_now(key(number))
    uses = cache._uses[cache._places[key(0)]]
    for number in range(100, 5_000):
        put(cache, key(number), bytes(1_000), worth=1e6)
    assert not cache.holds(key(0))
    put(cache, key(0), bytes(1_000))
    assert cache._uses[cache._places[key(0)]] > uses / 2


async def test_what_is_over_makes_room_first_and_is_found_without_being_asked_for() -> None:
    clock = Time()
    cache = opened(100 * (1_000 + 400), clock)
    for number in range(90):
        put(cache, key(number), bytes(1_000), keep_s=10.0 if number % 2 else 1_000.0)
    clock.now_s = 11.0
    for number in range(100, 150):
        put(cache, key(number), bytes(1_000))
    stats = await cache.stats()
    assert (stats.evicted, stats.expired) == (0, 45)


async def test_a_removal_lets_others_in_between_and_keeps_what_they_put() -> None:
    cache = opened(64_000_000)
    for number in range(20_000):
        put(cache, key(number), b"x", tags=("even",) if number % 2 == 0 else ("odd",))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while turns < 1_000_000:
            turns += 1
            put(cache, key(100_000 + turns), b"new", tags=("new",))
            await cache.remove(key(turns))
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    removed = await cache.remove_tagged("even")
    task.cancel()
    assert turns >= 3
    assert 9_900 < removed <= 10_000
    assert not any("even" in tags for tags in cache._tags)
    assert all(cache.holds(key(100_000 + turn)) for turn in range(1, turns))


def test_the_same_dice_evict_the_same() -> None:
    held = []
    for _ in range(2):
        cache = opened(50_000)
        for number in range(500):
            put(cache, key(number * 7 % 200), bytes(number), worth=float(number % 13))
        held.append(sorted(cache._places))
    assert held[0] == held[1]


def test_a_look_up_takes_a_microsecond() -> None:
    """As long as it calls this little; how long it takes depends on the machine too, and is printed."""
    cache = MemoryCache(1 << 26, monotonic_s=time.monotonic, rng=Random(1))
    keys = [key(number) for number in range(1_000)]
    for each in keys:
        put(cache, each, bytes(500))
    get = cache.get_now

    def look_up() -> None:
        for each in keys:
            get(each)

    best_us = min(timeit.repeat(look_up, number=1, repeat=200)) * 1_000
    print(f"a hit in memory: {best_us:.2f} us")
    events: list[str] = []
    sys.setprofile(lambda _frame, event, _of: events.append(event))
    look_up()
    sys.setprofile(None)
    calls = events.count("call") + events.count("c_call")
    assert calls <= 4 * len(keys), "itself, the dictionary and the clock"


MEASURE = """
import json, random, sys, time
from windvane.stores.memory.cache import MemoryCache

def resident():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("VmRSS"))

count, size, room, turns = map(int, sys.argv[1:])
rng = random.Random(2)
before = resident()
cache = MemoryCache(room, monotonic_s=time.monotonic, rng=random.Random(1), entry_bytes_max=room)
for number in range(count * turns):
    data = bytes([number % 255 + 1]) * rng.randrange(size // 2, size * 3 // 2)
    tags = ("model:a", f"route:{number % 5}", "scope:team")
    cache.put_now(rng.randbytes(32), data, tags=tags, keep_s=3600.0, worth=1e6)
own = sum(map(len, cache._keys)) + sum(map(len, cache._data))
print(json.dumps([len(cache._keys), own, cache._bytes, resident() - before]))
"""


def measured(count: int, size: int, *, room: int = 1 << 40, turns: int = 1) -> list[int]:
    command = [sys.executable, "-c", MEASURE, str(count), str(size), str(room), str(turns)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout)
    entries, own, said, resident = found
    print(
        f"{entries} entries of {size} bytes: {(resident - own) / entries:.0f} bytes each beyond their"
        f" own, {(said - own) / entries:.0f} counted"
    )
    return found


SIZES = [
    pytest.param(100_000, 200, id="100 k small"),
    pytest.param(2_000, 32_000, id="2 k large"),
    pytest.param(1_000_000, 200, id="1 M small", marks=pytest.mark.slow),
    pytest.param(1_400_000, 100, id="1.4 M small", marks=pytest.mark.slow),
    pytest.param(10_000, 64_000, id="10 k large", marks=pytest.mark.slow),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("count", "size"), SIZES)
def test_an_entry_costs_little_more_than_its_bytes_and_no_more_than_is_counted(
    count: int, size: int
) -> None:
    entries, own, said, resident = measured(count, size)
    assert entries == count
    fixed = 4 * 1024 * 1024  # modules and arenas that are there once
    assert resident - own <= 300 * entries + fixed
    assert resident <= said + fixed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_after_much_coming_and_going_memory_is_still_what_is_counted() -> None:
    room = 48 * 1024 * 1024
    _, _, said, resident = measured(20_000, 3_000, room=room, turns=5)
    assert room * 0.95 < said <= room
    assert resident < room * 1.15


def test_the_overhead_is_said_where_it_is_measured() -> None:
    assert entry_size(b"k" * 32, b"v") - 33 < 300
    assert ENTRY_OVERHEAD_BYTES < 300
