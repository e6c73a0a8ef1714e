"""Hits, joins, misses and bypasses are all requests, by whoever counts them.

That the ledger, the metrics and the client's own statistics count the same is looked into at the end of
every scene (`Scene.close`); here is the traffic that has all there is.
"""

import asyncio
from pathlib import Path
from typing import Any

from tests.engine.scene import COST, HEAD_S, Scene, fails, plays

from windvane.core.ledger import LedgerEntry, Totals
from windvane.core.usage_report import UsageQuery
from windvane.stores.sqlite import SqliteLedger
from windvane.testing import run_virtual

EVERY_WAY = [
    {"stream": stream, "dialect": dialect}
    for stream in (False, True)
    for dialect in ("openai", "mistral")
]
OLD_ONES = {"ttl_s": 10, "stale_while_revalidate_s": 20, "stale_if_error_s": 200}


async def mixed(scene: Scene, **way: Any) -> None:
    """A miss, joins of all kinds, hits, an old answer, failures that are told, and what keeps out."""
    name = f"{way}"
    first, joined = scene.start(name, "small", **way), scene.start(name, "small", **way)
    leaves = scene.start(name, "small", **way)
    await asyncio.sleep(HEAD_S + 0.2 if way["stream"] else HEAD_S / 2)
    leaves.cancel()
    await asyncio.gather(first, joined, leaves, return_exceptions=True)
    await scene.ask(name, "small", **way)
    assert (await scene.ask("nowhere", says="only-if-cached", **way)).fault.code == "not_cached"
    await scene.ask(name, "small", says="no-store", **way)
    await scene.rest(15)
    await scene.ask(name, "small", **way)  # an old one, while it is fetched anew
    await scene.rest(60)
    scene.scripts = [fails(503)] * 9
    await scene.ask(name, "small", **way)  # an old one, after a failure
    scene.scripts = []
    await scene.rest(600)
    scene.scripts = [fails(400)]
    told = [scene.start(f"fails {name}", "small", **way) for _ in range(3)]
    await asyncio.gather(*told)
    scene.scripts = []
    await scene.rest(600)


@plays(**OLD_ONES)
async def test_mixed_traffic_adds_up(scene: Scene) -> None:
    for way in EVERY_WAY:
        await mixed(scene, **way)
    (whole,) = await scene.stage.ledger.usage(UsageQuery())
    sums, ways = whole.totals, len(EVERY_WAY)
    assert (sums.cache_hits, sums.cache_joins) == (2 * ways, 4 * ways)
    # The first, the one of which nothing is stored, the one that got an old answer after a failure, and
    # the first of those that failed.
    assert (sums.cache_misses, sums.cache_bypasses) == (4 * ways, ways)
    assert sums.requests == len(scene.asked) == 11 * ways
    joins = [entry for entry in scene.entries if entry.cache == "joined"]
    assert sum(entry.outcome == "joined" for entry in joins) == ways
    assert sum(entry.outcome == "cancelled" for entry in joins) == ways
    assert {entry.cost_nano_usd for entry in joins} == {0}
    assert sums.saved_nano_usd == 4 * ways * COST
    assert sums.saved_tokens == 4 * ways * 11


@plays()
async def test_a_joiner_that_left_or_was_told_a_failure_can_be_found(scene: Scene) -> None:
    scene.scripts = [fails(400)]
    leads, told, leaves = (scene.start("why", "small") for _ in range(3))
    await asyncio.sleep(0.1)
    leaves.cancel()
    await asyncio.gather(leads, told, leaves, return_exceptions=True)
    found = [await scene.stage.ledger.entries_of(each.id) for each in scene.asked]
    (led,), (joined,), (left,) = found
    assert (led.provider, led.outcome, led.cache) == ("one", "invalid_request", "miss")
    assert (joined.provider, joined.outcome, joined.cache) == ("", "invalid_request", "joined")
    assert (left.provider, left.outcome, left.cache) == ("", "cancelled", "joined")
    assert not joined.is_attempt and joined.requested_model == "small"
    assert [entry.cost_nano_usd for entry in (joined, left)] == [0, 0]


@plays()
async def test_time_is_saved_as_far_as_nobody_waited(scene: Scene) -> None:
    first = scene.start("why", "small")
    await asyncio.sleep(HEAD_S / 4)
    await scene.ask("why", "small")
    await first
    await scene.ask("why", "small")
    saved = [entry.saved_us for entry in scene.entries if not entry.is_attempt]
    assert saved == [HEAD_S * 1e6 / 4, HEAD_S * 1e6]


@plays(scope=None)
async def test_without_a_cache_all_pass_it_by(scene: Scene) -> None:
    for way in EVERY_WAY:
        await scene.ask("why", "small", **way)
        assert (await scene.ask("why", says="only-if-cached", **way)).fault.code == "not_cached"
    (whole,) = await scene.stage.ledger.usage(UsageQuery())
    assert whole.totals.cache_bypasses == whole.totals.requests == 2 * len(EVERY_WAY)


def test_a_file_has_the_same_sums(tmp_path: Path) -> None:
    async def played() -> tuple[list[LedgerEntry], Totals]:
        scene = Scene(**OLD_ONES)
        for way in EVERY_WAY:
            await mixed(scene, **way)
        (whole,) = await scene.stage.ledger.usage(UsageQuery())
        await scene.close()
        return scene.entries, whole.totals

    async def filed(entries: list[LedgerEntry]) -> Totals:
        ledger = SqliteLedger(tmp_path)
        for entry in entries:
            ledger.journal.settle(entry)
        assert not await ledger.verify()
        (whole,) = await ledger.usage(UsageQuery())
        await ledger.rebuild()
        assert (await ledger.usage(UsageQuery()))[0].totals == whole.totals
        await ledger.aclose()
        return whole.totals

    entries, sums = run_virtual(played())
    assert asyncio.run(filed(entries)) == sums
