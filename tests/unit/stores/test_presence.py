"""What may be in the cache's file: a key that is there is never taken for one that is not."""

import os
import sqlite3
from pathlib import Path
from random import Random

import pytest

from windvane.stores.sqlite.cache import SqliteCache
from windvane.stores.sqlite.presence import SLOTS_MIN, SLOTS_PER_KEY, Presence

ROOM = 32 * 1024 * 1024


def test_every_key_that_was_added_may_be_there_and_few_others() -> None:
    presence = Presence(20_000)
    keys = [os.urandom(32) for _ in range(20_000)]
    for key in keys:
        presence.add(key)
    presence.is_complete = True
    assert all(presence.may_hold(key) for key in keys)
    strangers = sum(presence.may_hold(os.urandom(32)) for _ in range(20_000))
    assert strangers < 20_000 // 15
    assert not presence.is_full


def test_until_it_is_complete_everything_may_be_there() -> None:
    presence = Presence()
    assert presence.may_hold(b"anything")
    presence.is_complete = True
    assert not presence.may_hold(b"anything")


def test_it_is_full_when_it_could_not_tell_keys_apart_any_more() -> None:
    presence = Presence()
    for number in range(SLOTS_MIN // SLOTS_PER_KEY):
        assert not presence.is_full
        presence.add(b"%d" % number)
    assert presence.is_full


def opened(folder: Path, now_us: int = 1) -> SqliteCache:
    return SqliteCache(
        folder / "cache.db",
        bytes_max=ROOM,
        wall_us=lambda: now_us,
        monotonic_s=lambda: 1.0,
        read_deadline_s=5.0,
    )


async def test_no_entry_is_lost_while_it_is_made_anew_and_over_restarts(tmp_path: Path) -> None:
    """Far more keys than one has room for, found at all times: gathered, on their way, and written."""
    dice = Random(1)
    count = 3 * SLOTS_MIN // SLOTS_PER_KEY
    cache = opened(tmp_path)
    await cache.written()  # the thread has opened the file, and knows what is in it
    first = cache._presence
    for number in range(count):
        await cache.put(b"%d" % number, b"%d" % number, tags=(), keep_s=100.0, worth=1.0)
        if not number % 500:
            for _ in range(20):
                known = dice.randrange(number + 1)
                assert await cache.get(b"%d" % known) == b"%d" % known
    await cache.written()
    assert cache._presence is not first
    await cache.aclose()
    cache = opened(tmp_path)
    for number in dice.sample(range(count), 2_000):
        assert await cache.get(b"%d" % number) == b"%d" % number
    await cache.aclose()


async def test_the_thread_is_not_asked_for_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path)
    await cache.put(b"there", b"data", tags=(), keep_s=100.0, worth=1.0)
    await cache.written()
    questions = []
    ask = cache.ask

    async def counted(question: object, *rest: object) -> object:
        questions.append(question)
        return await ask(question, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "ask", counted)
    assert await cache.get(b"there") == b"data"
    assert len(questions) == 1
    assert [await cache.get(b"not %d" % number) for number in range(100)] == [None] * 100
    assert len(questions) == 1
    stats = await cache.stats()
    assert (stats.hits, stats.misses) == (1, 100)
    await cache.aclose()


async def test_a_file_whose_keys_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    """Opening it looks at another page: the damage shows when the keys are learnt."""
    cache = opened(tmp_path)
    for number in range(2_000):
        await cache.put(b"%d" % number, b"data", tags=(), keep_s=100.0, worth=1.0)
    await cache.invalidations.invalidate("news")
    await cache.aclose()
    file = sqlite3.connect(tmp_path / "cache.db")
    (page,) = file.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_entry_1'"
    ).fetchone()
    file.close()
    with (tmp_path / "cache.db").open("r+b") as raw:
        raw.seek((page - 1) * 4_096)
        raw.write(b"\xff" * 4_096)
    cache = opened(tmp_path)
    await cache.written()
    await cache.put(b"new", b"data", tags=(), keep_s=100.0, worth=1.0)
    await cache.written()
    assert (await cache.stats()).is_up
    assert await cache.get(b"new") == b"data"
    assert await cache.get(b"1") is None
    assert cache.invalidations.known.by_tag == {"news": 1}
    await cache.aclose()


async def test_what_is_over_or_removed_or_another_process_has_is_a_miss(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    await cache.put(b"removed", b"data", tags=(), keep_s=100.0, worth=1.0)
    await cache.put(b"short", b"data", tags=(), keep_s=1.0, worth=1.0)
    await cache.put(b"long", b"data", tags=(), keep_s=100.0, worth=1.0)
    await cache.remove(b"removed")
    other = opened(tmp_path)
    assert await other.get(b"long") is None  # the file is the first one's
    await other.put(b"long", b"other", tags=(), keep_s=100.0, worth=1.0)
    await other.written()
    assert await other.get(b"long") is None
    await other.aclose()
    assert await cache.get(b"long") == b"data"
    await cache.aclose()
    cache = opened(tmp_path, now_us=2_000_000)
    found = [await cache.get(key) for key in (b"removed", b"short", b"long")]
    assert found == [None, None, b"data"]
    await cache.put(b"removed", b"again", tags=(), keep_s=100.0, worth=1.0)
    await cache.written()
    assert await cache.get(b"removed") == b"again"
    await cache.aclose()
