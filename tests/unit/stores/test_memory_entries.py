"""Entries outside of the heap: what was put is found, slots and places have no gaps, and all is counted."""

import errno
import mmap
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.stores.memory import slabs
from windvane.stores.memory.cache import MemoryCache
from windvane.stores.memory.entries import (
    BACK_BYTES,
    COPIED_AT_ONCE,
    NOWHERE,
    PLACE_BYTES,
    Entries,
)
from windvane.stores.memory.slabs import COUNTED_BYTES, PAGE_BYTES, Slabs, whole_pages

ROOMS = [1 << 18, 1 << 24, 1 << 26, 1 << 34]
SIZES = st.one_of(
    st.integers(0, 300), st.integers(0, 20_000), st.sampled_from([131_000, 131_072, 140_000])
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "get", "remove", "later", "clear", "retag"]),
        st.integers(0, 25),
        SIZES,
    ),
    max_size=120,
)


@pytest.fixture(params=[True, False], ids=["gives back", "copies out"])
def gives_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of a mapping, Linux takes a part back; other systems do not."""
    with patch.object(slabs, "GIVES_BACK", request.param and slabs.GIVES_BACK):
        yield


def slots_of(store: Slabs) -> dict[tuple[int, int], int]:
    """Where each slot lies that is taken, and how large it is, of those in mappings they share."""
    found = {}
    for slot_bytes, kind in store._kinds.items():
        for order, number in enumerate(kind.mappings):
            used = len(store.mappings[number]) // slot_bytes
            if order == len(kind.mappings) - 1:
                used = kind.used
            found.update({(number, at * slot_bytes): slot_bytes for at in range(used)})
    return found


def check(entries: Entries) -> None:
    """Slots without gaps, each the one of the place it names; chains with every place; bytes as counted."""
    store, taken = entries._slabs, {}
    for place in range(entries.count):
        number, start = entries.numbers[place], entries.starts[place]
        at = start - entries.key_sizes[place] - BACK_BYTES
        back = store.mappings[number][at : at + BACK_BYTES]
        assert int.from_bytes(back, "little") == place
        taken[number, at] = BACK_BYTES + entries.key_sizes[place] + entries.sizes[place]
    assert len(taken) == entries.count
    shared = slots_of(store)
    assert shared.keys() <= taken.keys()
    assert all(shared[where] == store.slot_bytes(taken[where]) for where in shared)
    own = taken.keys() - shared.keys()
    assert all(len(store.mappings[number]) == whole_pages(taken[number, at]) for number, at in own)
    opened = sum(not mapping.closed for mapping in store.mappings)
    assert opened == len(own) + sum(len(kind.mappings) for kind in store._kinds.values())
    check_chains(entries)
    check_count(entries, sum(whole_pages(taken[where]) for where in own), opened)


def check_chains(entries: Entries) -> None:
    chained = []
    for bucket in range(entries.buckets_count):
        place = entries.buckets[bucket]
        while place != NOWHERE:
            assert entries._bucket(entries.hashes[place]) == bucket
            chained.append(place)
            place = entries.nexts[place]
    assert sorted(chained) == list(range(entries.count))
    assert entries.buckets_count <= max(1, entries.count * 9 / 8 + 1)


def check_count(entries: Entries, own_bytes: int, opened: int) -> None:
    store = entries._slabs
    shared_bytes = 0
    for slot_bytes, kind in store._kinds.items():
        for number in kind.mappings[:-1]:
            shared_bytes += store._rounded(len(store.mappings[number]) // slot_bytes * slot_bytes)
        used_bytes = store._rounded(kind.used * slot_bytes)
        assert kind.touched_bytes == used_bytes or not slabs.GIVES_BACK
        assert used_bytes <= kind.touched_bytes <= 2 * used_bytes + 2 * PAGE_BYTES
        shared_bytes += kind.touched_bytes
    objects = COUNTED_BYTES * (opened + len(store._kinds)) if store.is_exact else 0
    assert store.held_bytes == own_bytes + shared_bytes + objects
    if entries.count:
        assert entries.held_bytes >= store.held_bytes + PLACE_BYTES * entries.count


@pytest.mark.usefixtures("gives_back")
@pytest.mark.parametrize("room", ROOMS)
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1 << 30))
def test_what_was_put_is_found_to_the_byte_or_not_at_all(
    room: int, steps: list[tuple[str, int, int]], seed: int
) -> None:
    now_s, rng = 0.0, Random(seed)
    cache = MemoryCache(
        room, monotonic_s=lambda: now_s, rng=rng, entry_bytes_max=room, entries_max=20
    )
    put: dict[bytes, tuple[bytes, float]] = {}
    for act, number, size in steps:
        key = bytes([number]) * (number + 1)  # each but one begins as the one before, or ends as it
        match act:
            case "put" | "retag":
                data, keep_s = rng.randbytes(size), float(rng.randrange(1, 20))
                tags = ("tag",) if act == "put" else (f"tag{number}", "other")
                if cache.put_now(key, data, tags=tags, keep_s=keep_s, worth=rng.random()):
                    put[key] = data, now_s + keep_s
                else:
                    put.pop(key, None)
            case "get":
                found = cache.get_now(key)
                data, end_s = put.get(key, (None, 0.0))
                assert found is None or (found == data and now_s < end_s)
            case "remove":
                put.pop(key, None)
                place = cache._entries.find(key)
                if place >= 0:
                    cache._drop(place)
            case "later":
                now_s += number / 5
            case "clear":
                cache.clear_now()
                put.clear()
        check(cache._entries)
        assert cache._entries.held_bytes + cache._tags.held_bytes <= room
    for key, (data, end_s) in put.items():
        assert cache.peek(key) in (None, data)
        assert cache.get_now(key) in ((None, data) if end_s > now_s else (None,))


@pytest.mark.usefixtures("gives_back")
@pytest.mark.parametrize("room", ROOMS)
def test_thousands_come_and_go_and_nothing_is_left(room: int) -> None:
    rng, entries, held = Random(room), Entries(room), {}
    for step in range(12_000):
        if rng.random() < (0.7 if step % 6_000 < 3_000 else 0.2):
            key, data = rng.randbytes(rng.choice([1, 32, 255])), rng.randbytes(rng.randrange(3_000))
            if key not in held:
                entries.add(key, data)
                held[key] = data
        elif held:
            key = rng.choice(list(held))
            entries.drop(entries.find(key))
            del held[key]
            assert entries.find(key) == NOWHERE
        if step % 500 == 0:
            check(entries)
            for each, data in held.items():
                place = entries.find(each)
                assert (entries.key(place), entries.data(place)) == (each, data)
    for key in held:
        entries.drop(entries.find(key))
    assert (entries.held_bytes, entries._slabs.held_bytes) == (0, 0)
    assert all(mapping.closed for mapping in entries.mappings)


class Locked(mmap.mmap):
    """Memory that cannot be given back, as after `mlockall`."""

    def madvise(self, option: int, *where: int) -> None:
        if option == mmap.MADV_DONTNEED:
            raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.skipif(not slabs.GIVES_BACK, reason="nothing is given back there")
@pytest.mark.parametrize("room", ROOMS)
def test_where_nothing_can_be_given_back_nothing_is_lost_and_it_stays_counted(room: int) -> None:
    now_s, rng, put = 0.0, Random(room), {}
    with patch.object(slabs.mmap, "mmap", Locked):
        cache = MemoryCache(room, monotonic_s=lambda: now_s, rng=Random(1), entry_bytes_max=room)
        for step in range(6_000):
            now_s += 0.01
            key, data = b"%d" % rng.randrange(2_000), rng.randbytes(8) * rng.randrange(600)
            if step > 4_000:
                key, data = b"%d" % step, b""  # columns grow and shrink
            if cache.put_now(key, data, tags=(), keep_s=rng.choice([1.0, 99.0]), worth=1.0):
                put[key] = data
            else:
                put.pop(key, None)
            assert cache._entries.held_bytes + cache._tags.held_bytes <= room
            asked = rng.choice(list(put))
            assert cache.get_now(asked) in (None, put[asked])
        check_chains(cache._entries)
        for place in range(cache._entries.count):
            key = cache._entries.key(place)
            assert cache._entries.find(key) == place and cache._entries.data(place) == put[key]


def test_columns_are_copied_a_piece_at_a_time_and_what_is_copied_goes_back() -> None:
    """Or a column of a million items would be in memory twice, beside a room that is full."""
    pieces: list[tuple[int, int]] = []

    def noted(mapping: mmap.mmap, begin: int, end: int) -> bool:
        pieces.append((begin, end))
        return slabs.give_back(mapping, begin, end)

    entries, keys = Entries(1 << 34), [b"%d" % number for number in range(30_000)]
    with patch("windvane.stores.memory.entries.give_back", noted):
        for key in keys:
            entries.add(key, key)
        assert len(pieces) > 200
        assert all(end - begin <= 8 * COPIED_AT_ONCE for begin, end in pieces)
        assert sum(end - begin for begin, end in pieces) > 2 * len(keys) * PLACE_BYTES
    assert all(entries.data(entries.find(key)) == key for key in keys)


def test_all_is_forgotten_also_where_there_is_no_memory_for_an_empty_one() -> None:
    cache = MemoryCache(1 << 20, monotonic_s=lambda: 0.0, rng=Random(1))
    for number in range(1_000):
        cache.put_now(b"%d" % number, b"x", tags=("tag",), keep_s=1.0, worth=1.0)
    with patch("windvane.stores.memory.entries.mapped", side_effect=OSError):
        assert cache.clear_now() == 1_000
    assert (cache.get_now(b"1"), cache._tags.held_bytes) == (None, 0)
    check(cache._entries)


def test_keys_of_one_hash_are_not_taken_for_each_other() -> None:
    entries = Entries(1 << 20)
    with patch("windvane.stores.memory.entries.HASH_MASK", 0):
        keys = [bytes([number]) * length for number in range(20) for length in (1, 2)]
        for key in keys:
            entries.add(key, b"of " + key)
        for key in keys[::3]:
            entries.drop(entries.find(key))
        for key in keys:
            place = entries.find(key)
            assert (place == NOWHERE) if key in keys[::3] else (entries.data(place) == b"of " + key)


@pytest.mark.parametrize("room", [1 << 10, *ROOMS, 1 << 40, 1 << 50])
def test_a_slot_is_little_larger_than_what_lies_in_it(room: int) -> None:
    store = Slabs(room)
    for size in [*range(1, 3_000), *range(3_000, 300_000, 97)]:
        slot = store.slot_bytes(size)
        assert (
            size
            <= slot
            <= max(size * 9 / 8 + 1, slabs.SIZE_MIN, size + PAGE_BYTES * (size > 1 << 17))
        )
        if store.is_exact and size <= 1 << 17:
            assert slot - size <= 256
        assert store.slot_bytes(slot) == slot
    assert store._slot_bytes_max * slabs.LONG < 1 << 32


@pytest.mark.parametrize("room", [1 << 26, 1 << 30, 1 << 34, 1 << 40])
def test_mappings_are_far_fewer_than_linux_allows(room: int) -> None:
    store = Slabs(room)
    own_bytes, sizes, size = store._slot_bytes_max, 0, 1
    while size < own_bytes:
        size = store.slot_bytes(size) + 1
        sizes += 1
    long_ones = room // (slabs.LONG * own_bytes) * 17 / 16
    assert room / own_bytes + sizes + long_ones <= 25_000


NO_MEMORY = """
import random, resource, sys
from windvane.stores.memory.cache import MemoryCache
cache = MemoryCache(1 << 30, monotonic_s=lambda: 0.0, rng=random.Random(1), entry_bytes_max=1 << 30)
put = lambda number, size: cache.put_now(
    number.to_bytes(32, "big"), bytes(size), tags=(), keep_s=60.0, worth=1.0)
assert put(0, 1_000)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), used + (96 << 20)))
assert put(1, 30 << 20)
assert not put(2, 60 << 20)
assert cache.get_now((0).to_bytes(32, "big")) == bytes(1_000)
assert cache._entries.count == 2
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_where_the_system_has_no_memory_left_an_answer_is_not_kept_and_nothing_fails() -> None:
    command = [sys.executable, "-c", NO_MEMORY]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
