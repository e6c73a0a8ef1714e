"""All tiers as one: what lower ones have comes up for the rest of its time; what was removed stays so."""

import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from windvane.core.cache.invalidation import ALL
from windvane.ports.stores import CacheStats, Kept
from windvane.stores import tiers
from windvane.stores.memory.cache import MemoryCache
from windvane.stores.tiers import TieredCache


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """Implements `LowerTier`, from a dictionary; waits where it is told to."""

    name = "scripted"
    entry_bytes_max = 100_000

    def __init__(self) -> None:
        self.held: dict[bytes, Kept] = {}
        self.asked = 0
        self.may_find = asyncio.Event()
        self.may_put = asyncio.Event()
        self.may_find.set()
        self.may_put.set()
        self.is_closed = False

    async def find(self, key: bytes) -> Kept | None:
        self.asked += 1
        found = self.held.get(key)
        await self.may_find.wait()
        return found

    async def get(self, key: bytes) -> bytes | None:
        found = await self.find(key)
        return found.data if found else None

    async def put(
        self,
        key: bytes,
        data: bytes,
        *,
        tags: Sequence[str],
        keep_s: float,
        worth: float,
        fence: int = 0,
    ) -> None:
        await self.may_put.wait()
        self.held[key] = Kept(data=data, tags=tuple(tags), left_s=keep_s, worth=worth, fence=fence)

    async def remove(self, key: bytes) -> int:
        return int(self.held.pop(key, None) is not None)

    async def remove_tagged(self, tag: str) -> int:
        gone = [key for key, kept in self.held.items() if tag == ALL or tag in kept.tags]
        for key in gone:
            del self.held[key]
        return len(gone)

    async def stats(self) -> CacheStats:
        return CacheStats(tier=self.name, entries=len(self.held), bytes=0)

    async def aclose(self) -> None:
        self.is_closed = True


async def rounds(count: int = 20) -> None:
    """Let everything go on that can: nothing here waits for a clock or a thread."""
    for _ in range(count):
        await asyncio.sleep(0)


KEPT = Kept(data=b"data", tags=("t",), left_s=10.0, worth=5.0)
OPTIONS = {"tags": ("t",), "keep_s": 10.0, "worth": 5.0}


def opened(*lower: Scripted, clock: Time | None = None, bytes_max: int = 1 << 20) -> TieredCache:
    memory = MemoryCache(bytes_max, monotonic_s=clock or Time(), rng=Random(1))
    return TieredCache(memory, lower)


async def test_what_a_lower_tier_has_comes_up_for_the_rest_of_its_time() -> None:
    clock, first, second = Time(), Scripted(), Scripted()
    cache = opened(first, second, clock=clock)
    second.held[b"k"] = KEPT
    assert cache.get_now(b"k") is None
    assert await cache.get(b"k") == b"data"
    assert cache.get_now(b"k") == b"data"
    assert (first.asked, second.asked) == (1, 1)
    clock.now_s = 9.9
    assert cache.get_now(b"k") == b"data"
    clock.now_s = 10.0
    assert cache.get_now(b"k") is None


async def test_what_is_put_is_in_memory_at_once_and_below_soon() -> None:
    first, second = Scripted(), Scripted()
    cache = opened(first, second)
    first.may_put.clear()
    await cache.put(b"k", b"data", **OPTIONS)
    assert cache.get_now(b"k") == b"data"
    await rounds()
    assert b"k" in second.held, "one that waits does not keep back another"
    assert b"k" not in first.held
    first.may_put.set()
    await cache.written()
    assert first.held[b"k"] == KEPT


async def test_what_no_tier_takes_is_not_said_to_be_kept_nor_what_it_replaces() -> None:
    tier = Scripted()
    cache = opened(tier, bytes_max=8 * 10_000)
    assert await cache.put(b"k", bytes(100), **OPTIONS)
    assert await cache.put(b"k", bytes(50_000), **OPTIONS), "below, and not in memory"
    assert await cache.get(b"k") == bytes(50_000)
    await cache.written()
    assert tier.held[b"k"].data == bytes(50_000)
    assert not await cache.put(b"k", bytes(100_001), **OPTIONS)
    assert await cache.get(b"k") is None, "what is there is older"
    await cache.written()
    assert tier.held[b"k"].left_s <= 0
    assert not await opened(bytes_max=1).put(b"k", b"data", **OPTIONS)


def anything(_: bytes) -> bool:
    return True


NEWER = Kept(data=b"newer", tags=("t",), left_s=7.0, worth=5.0)


async def aged(*lower: Scripted, clock: Time | None = None) -> TieredCache:
    """Memory has an entry, and the last tier a newer one, of another process."""
    cache = opened(*lower, clock=clock)
    await cache.put(b"k", b"data", **OPTIONS)
    await cache.written()
    lower[-1].held[b"k"] = NEWER
    return cache


async def test_what_lies_behind_takes_memorys_place_if_it_is_wanted() -> None:
    clock = Time()
    cache = await aged(Scripted(), clock=clock)
    assert await cache.get(b"k") == b"data"
    assert await cache.get_behind(b"k", lambda data: data == b"other") is None
    assert cache.get_now(b"k") == b"data"
    assert await cache.get_behind(b"k", lambda data: data == b"newer") == b"newer"
    assert cache.get_now(b"k") == b"newer"
    clock.now_s = 7.0
    assert cache.get_now(b"k") is None


async def test_of_two_tiers_behind_the_first_that_has_what_is_wanted_is_taken() -> None:
    cache = await aged(Scripted(), Scripted())
    assert await cache.get_behind(b"k", lambda data: data == b"newer") == b"newer"
    assert await cache.get_behind(b"unheard of", anything) is None
    assert await opened().get_behind(b"k", anything) is None


async def test_while_what_was_made_here_is_on_its_way_nothing_behind_is_newer() -> None:
    lower = Scripted()
    cache = await aged(lower)
    lower.may_put.clear()
    await cache.put(b"k", b"ours", **OPTIONS)
    assert await cache.get_behind(b"k", anything) is None
    await rounds()
    assert await cache.get_behind(b"k", anything) is None
    lower.may_put.set()
    await cache.written()


@pytest.mark.parametrize("meanwhile", ["put", "removed"])
async def test_what_happened_meanwhile_stands(meanwhile: str) -> None:
    lower = Scripted()
    cache = await aged(lower)
    lower.may_find.clear()
    looking = asyncio.create_task(cache.get_behind(b"k", anything))
    await rounds()
    if meanwhile == "put":
        await cache.put(b"k", b"ours", **OPTIONS)
    else:
        await cache.remove(b"k")
    lower.may_find.set()
    assert await looking == b"newer"
    assert cache.get_now(b"k") == (b"ours" if meanwhile == "put" else None)
    await cache.written()


async def test_what_waited_is_kept_below_for_no_longer_than_it_was_meant_to() -> None:
    clock, lower = Time(), Scripted()
    cache = opened(lower, clock=clock)
    lower.may_put.clear()
    await cache.put(b"first", b"data", **OPTIONS)
    await rounds(2)
    await cache.put(b"k", b"data", **OPTIONS)
    clock.now_s = 4.0
    lower.may_put.set()
    await cache.written()
    assert lower.held[b"k"].left_s == 6.0


@pytest.mark.parametrize("by_tag", [False, True])
async def test_what_was_removed_does_not_come_back_from_a_queue(by_tag: bool) -> None:
    lower = Scripted()
    cache = opened(lower)
    lower.may_put.clear()
    for number in range(20):
        await cache.put(b"%d" % number, b"data", **OPTIONS)
    await rounds()  # the first are on their way, the others wait
    removals = (
        [cache.remove_tagged("t")] if by_tag else [cache.remove(b"%d" % n) for n in range(20)]
    )
    removing = asyncio.gather(*removals)
    await rounds()
    lower.may_put.set()
    await removing
    await cache.written()
    assert lower.held == {}
    assert [await cache.get(b"%d" % number) for number in range(20)] == [None] * 20


@pytest.mark.parametrize("by_tag", [False, True])
async def test_what_was_removed_does_not_come_back_from_a_look_up(by_tag: bool) -> None:
    lower = Scripted()
    cache = opened(lower)
    lower.held[b"k"] = KEPT
    lower.may_find.clear()
    looking = asyncio.create_task(cache.get(b"k"))
    await asyncio.sleep(0)
    assert await (cache.remove_tagged("t") if by_tag else cache.remove(b"k")) == 1
    lower.may_find.set()
    await looking
    assert cache.get_now(b"k") is None


async def test_an_older_answer_from_below_does_not_replace_a_newer_one() -> None:
    lower = Scripted()
    cache = opened(lower)
    lower.held[b"k"] = KEPT
    lower.may_find.clear()
    looking = asyncio.create_task(cache.get(b"k"))
    await asyncio.sleep(0)
    await cache.put(b"k", b"newer", **OPTIONS)
    lower.may_find.set()
    await looking
    assert cache.get_now(b"k") == b"newer"


async def test_a_queue_that_is_full_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "UNWRITTEN_MAX", 10)
    lower = Scripted()
    cache = opened(lower)
    lower.may_put.clear()
    for number in range(30):
        await cache.put(b"%d" % number, b"data", **OPTIONS)
    stats = {each.tier: each for each in await cache.stats()}
    assert stats["scripted"].faults == 20
    assert stats["memory"].entries == 30
    lower.may_put.set()
    await cache.written()
    assert len(lower.held) == 10
    await cache.put(b"more", b"data", **OPTIONS)
    await cache.written()
    assert b"more" in lower.held


async def test_so_is_one_with_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "UNWRITTEN_BYTES_MAX", 1_000)
    lower = Scripted()
    cache = opened(lower)
    lower.may_put.clear()
    for number in range(10):
        await cache.put(b"%d" % number, bytes(300), **OPTIONS)
    lower.may_put.set()
    await cache.written()
    assert len(lower.held) == 3


async def test_of_one_key_only_the_newest_is_written() -> None:
    lower = Scripted()
    cache = opened(lower)
    for number in range(5):
        await cache.put(b"k", b"%d" % number, **OPTIONS)
    await cache.written()
    assert lower.held[b"k"].data == b"4"


async def test_closing_writes_what_waits_and_closes_all() -> None:
    lower = Scripted()
    cache = opened(lower)
    await cache.put(b"k", b"data", **OPTIONS)
    await cache.aclose()
    assert lower.is_closed
    assert b"k" in lower.held


async def test_closing_does_not_wait_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "CLOSING_S", 0.05)
    lower = Scripted()
    cache = opened(lower)
    lower.may_put.clear()
    await cache.put(b"k", b"data", **OPTIONS)
    async with asyncio.timeout(30):
        await cache.aclose()
    assert lower.is_closed


async def test_a_lower_tier_is_told_the_lease_that_an_answer_was_asked_for_with() -> None:
    tier = Scripted()
    cache = opened(tier)
    await cache.put(b"k", b"data", **OPTIONS, fence=7)
    await cache.written()
    assert tier.held[b"k"].fence == 7


async def test_what_was_made_while_a_lower_tier_was_asked_is_found() -> None:
    tier = Scripted()
    cache = opened(tier)
    tier.may_find.clear()
    looking = asyncio.ensure_future(cache.get(b"k"))
    await rounds()
    await cache.put(b"k", b"data", **OPTIONS)
    tier.may_find.set()
    assert await looking == b"data"


async def test_what_was_put_under_one_key_can_be_waited_for() -> None:
    time, tier = Time(), Scripted()
    cache = TieredCache(MemoryCache(1_000_000, monotonic_s=time, rng=Random(1)), (tier,))
    tier.may_put.clear()
    await cache.put(b"k", b"data", tags=(), keep_s=60, worth=1)
    waiting = asyncio.create_task(cache.written(b"k"))
    await cache.written(b"other")
    await asyncio.sleep(0.005)
    assert not waiting.done()
    tier.may_put.set()
    await waiting
    assert b"k" in tier.held
    await cache.aclose()
