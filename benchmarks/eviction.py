"""What the memory tier's eviction saves beside LRU and FIFO: ``python -m benchmarks.eviction``.

The traces are synthetic, drawn from a seed. Recorded ones (Mooncake, Azure, ARC, web proxies) are not
shipped; what is imitated is their character: popularity by Zipf's law between 0.7 and 1.1, keys that come
once and never again, jobs that ask the same list every night, and popularity that moves on. An answer has
the lengths of the Azure conversation trace, roughly (a median of 1,020 tokens in and 129 out, with long
tails), and is made by one of two models whose prices are twenty to twenty-five times apart.

Each policy has the same room, counted in the same way: `MemoryCache`'s own.
"""

import argparse
import itertools
import random
from bisect import bisect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from windvane.stores.memory.cache import MemoryCache, entry_size

REQUESTS = 100_000
KEYS = 20_000
CAPACITIES = (0.005, 0.02, 0.1)
SEEDS = (1, 2, 3)
NANO_USD_PER_TOKEN = ((150, 600), (3_000, 15_000))
"""In and out, of the small model and of the large one."""
LARGE_SHARE = 0.3
_LARGEST = bytes(1 << 20)


class Answer(NamedTuple):
    """What a key's answer is worth, and its bytes."""

    key: bytes
    data: bytes
    worth: int


class Score(NamedTuple):
    """What one policy did with one trace: shares of what a cache without end would have done."""

    hits: float
    dollars: float


class Policy(Protocol):
    """A cache under test."""

    def get(self, answer: Answer) -> bool: ...

    def put(self, answer: Answer) -> None: ...


class Lru:
    """The baseline: least recently used goes."""

    is_moved_by_use = True

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._held: OrderedDict[bytes, int] = OrderedDict()

    def get(self, answer: Answer) -> bool:
        if answer.key not in self._held:
            return False
        if self.is_moved_by_use:
            self._held.move_to_end(answer.key)
        return True

    def put(self, answer: Answer) -> None:
        size = entry_size(answer.key, answer.data)
        if size > self._bytes_max:
            return
        self._held[answer.key] = size
        self._bytes += size
        while self._bytes > self._bytes_max:
            self._bytes -= self._held.popitem(last=False)[1]


class Fifo(Lru):
    """The plainest: what came first goes first."""

    is_moved_by_use = False


class Ours:
    """The real memory tier, with dice of its own."""

    def __init__(self, bytes_max: int) -> None:
        self._cache = MemoryCache(
            bytes_max,
            monotonic_s=lambda: 0.0,
            rng=random.Random(7),
            entry_bytes_max=bytes_max,
        )

    def get(self, answer: Answer) -> bool:
        return self._cache.get_now(answer.key) is not None

    def put(self, answer: Answer) -> None:
        self._cache.put_now(answer.key, answer.data, tags=(), keep_s=1e9, worth=float(answer.worth))


POLICIES: dict[str, Callable[[int], Policy]] = {"FIFO": Fifo, "LRU": Lru, "ours": Ours}


# traces: numbers of keys, in the order they are asked for


def zipf(rng: random.Random, alpha: float, requests: int = REQUESTS) -> Iterator[int]:
    """Popularity by rank, forever the same."""
    weights = list(itertools.accumulate(1 / rank**alpha for rank in range(1, KEYS + 1)))
    for _ in range(requests):
        yield bisect(weights, rng.random() * weights[-1])


def once_seen(rng: random.Random) -> Iterator[int]:
    """Half of all requests are for keys that never come again."""
    for number, key in enumerate(zipf(rng, 0.9)):
        yield KEYS + number if rng.random() < 0.5 else key


def nightly(rng: random.Random) -> Iterator[int]:
    """Between the usual requests a job goes through the same 4,000 keys, again and again."""
    job = itertools.cycle(range(KEYS, KEYS + 4_000))
    for number, key in enumerate(zipf(rng, 0.9)):
        is_night = number % 20_000 > 16_000
        yield next(job) if is_night else key


def moving(rng: random.Random) -> Iterator[int]:
    """What is popular changes: after each thousand requests, everything moves on by forty ranks."""
    for number, key in enumerate(zipf(rng, 1.0)):
        yield (key + number // 1_000 * 40) % KEYS


TRACES: dict[str, Callable[[random.Random], Iterable[int]]] = {
    "Zipf 0.7": lambda rng: zipf(rng, 0.7),
    "Zipf 0.9": lambda rng: zipf(rng, 0.9),
    "Zipf 1.1": lambda rng: zipf(rng, 1.1),
    "half seen once": once_seen,
    "nightly job": nightly,
    "moving on": moving,
}


def answer_of(number: int, seed: int) -> Answer:
    """The answer to a key: always the same."""
    rng = random.Random(number * 1_000_003 + seed)
    tokens_in = min(int(rng.lognormvariate(6.93, 0.9)) + 1, 32_000)
    tokens_out = min(int(rng.lognormvariate(4.86, 1.1)) + 1, 8_000)
    price_in, price_out = NANO_USD_PER_TOKEN[rng.random() < LARGE_SHARE]
    return Answer(
        key=rng.randbytes(32),
        data=_LARGEST[: 500 + 4 * tokens_out],
        worth=tokens_in * price_in + tokens_out * price_out,
    )


def trace_of(name: str, seed: int, requests: int = REQUESTS) -> list[Answer]:
    """The first requests of a trace, each with the answer it would have."""
    known: dict[int, Answer] = {}
    found = []
    for number in itertools.islice(TRACES[name](random.Random(seed)), requests):
        if number not in known:
            known[number] = answer_of(number, seed)
        found.append(known[number])
    return found


def score(policy: Policy, trace: list[Answer]) -> Score:
    """What `policy` did with a trace."""
    seen: set[bytes] = set()
    hits = dollars = hits_reachable = dollars_reachable = 0
    for answer in trace:
        if answer.key in seen:
            hits_reachable += 1
            dollars_reachable += answer.worth
        seen.add(answer.key)
        if policy.get(answer):
            hits += 1
            dollars += answer.worth
        else:
            policy.put(answer)
    return Score(hits / hits_reachable, dollars / dollars_reachable)


def scores_of(name: str, seed: int) -> dict[tuple[str, float], Score]:
    """All policies at all capacities, on one trace."""
    trace = trace_of(name, seed)
    whole = sum(entry_size(key, data) for key, data, _ in set(trace))
    return {
        (policy, share): score(make(int(whole * share)), trace)
        for policy, make in POLICIES.items()
        for share in CAPACITIES
    }


def table(scores: dict[tuple[str, float], dict[str, list[Score]]]) -> Iterator[str]:
    """The page's rows: hits and dollars at each capacity, mean of the seeds."""
    yield "| trace | policy | hits at 0.5 / 2 / 10 % | dollars at 0.5 / 2 / 10 % |"
    yield "|---|---|---|---|"
    for name in [*TRACES, "mean"]:
        for policy in POLICIES:
            cells = []
            for part in ("hits", "dollars"):
                means = []
                for share in CAPACITIES:
                    by_trace = scores[policy, share]
                    found = (
                        by_trace[name]
                        if name != "mean"
                        else list(itertools.chain(*by_trace.values()))
                    )
                    means.append(sum(getattr(each, part) for each in found) / len(found))
                cells.append(" / ".join(f"{100 * mean:.1f}" for mean in means))
            yield f"| {name} | {policy} | {cells[0]} | {cells[1]} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eviction", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    options = parser.parse_args()
    scores: dict[tuple[str, float], dict[str, list[Score]]] = {}
    for name, seed in itertools.product(TRACES, options.seeds):
        for place, found in scores_of(name, seed).items():
            scores.setdefault(place, {}).setdefault(name, []).append(found)
    print("\n".join(table(scores)))


if __name__ == "__main__":
    main()
