"""Seeded worlds: whatever happens in them, the auditor finds nothing."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter

import pytest

from windvane.testing import World

MUSEUM = {
    4: "an empty stream, kept while a stronger model failed, was read after its connection was gone",
    6: "words that came in one read with a broken event were neither given nor counted",
}
"""Seeds that once went wrong, and how. Their worlds have changed since; the reasons stay."""


def test_a_world_goes_well(seed: int) -> None:
    World(seed).run()


@pytest.mark.parametrize("old", MUSEUM)
def test_an_old_seed_goes_well(old: int) -> None:
    World(old).run()
    World(old, has_faulty_disk=False).run()


def test_the_same_seed_gives_the_same_trace_under_any_hash_seed() -> None:
    program = "from windvane.testing import World; print(World(1).run())"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert hashes == {World(1).run()}
    assert World(2).run() not in hashes


def test_the_worlds_are_stormy_enough_to_prove_something() -> None:
    counts: Counter[str] = Counter()
    for seed in range(12):
        world = World(1_000 + seed)
        world.run()
        counts.update(world.counts)
    for kind in (
        "settled exact ok",
        "settled estimated ok",
        "settled exact low_quality",
        "settled exact rate_limited",
        "settled assumed timeout",
        "settled estimated cancelled",
        "settled assumed cancelled",
        "settled exact cancelled",
        "settled estimated stream_broken",
        "settled exact connect_failed",
        "ended 200 None",
        "ended 200 stream_broken",
        "ended 499 None",
        "ended 503 internal",
        "ended 504 timeout",
        "ended 429 budget_exceeded",
        "ended 429 rate_limited",
        "ended 403 forbidden",
    ):
        assert counts[kind] >= 5, kind


def run_many(first: int) -> int:
    """How many requests were made in fifty worlds."""
    requests = 0
    for seed in range(first, first + 50):
        world = World(seed)
        world.run()
        requests += len(world.stage.auditor.ended)
    return requests


@pytest.mark.slow
def test_many_worlds() -> None:
    began = perf_counter()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        requests = sum(processes.map(run_many, range(10_000, 11_000, 50)))
    print(f"\n{requests} requests, {requests / (perf_counter() - began):.0f} a second")
    assert requests >= 100_000
