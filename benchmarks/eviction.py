"""What the memory tier's eviction saves beside LRU and FIFO: ``python -m benchmarks.eviction``.

Without more, on synthetic traces, drawn from a seed. What is imitated is a character: popularity by Zipf's
law between 0.7 and 1.1, keys that come once and never again, jobs that ask the same list every night, and
popularity that moves on; and, against us, what LRU is best at. With ``--recorded``, on the trace in
``data`` and on those that a package on the registry carries (81 MB, fetched once); with ``--trace PATH
...``, on files of yours (`benchmarks.traces` says which it can read).

An answer has the lengths of the Azure conversation trace, roughly (a median of 1,020 tokens in and 129 out,
with long tails), and is made by one of two models whose prices are twenty to twenty-five times apart.
Recorded traces are also run with answers that all cost and weigh the same.
"""

import argparse
import itertools
import random
import sys
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import traces
from benchmarks.policies import POLICIES, RIVALS, Answer, Policy
from windvane.stores.memory.cache import entry_size

REQUESTS = 100_000
KEYS = 20_000
CAPACITIES = (0.005, 0.02, 0.1)
SEEDS = (1, 2, 3)
NANO_USD_PER_TOKEN = ((150, 600), (3_000, 15_000))
"""In and out, of the small model and of the large one."""
LARGE_SHARE = 0.3
RECORDED_REQUESTS = 400_000
"""Of a recorded trace; the rest is left."""
ALIKE_BYTES, ALIKE_WORTH = 2_000, 1_000_000
"""Of an answer where all are alike: a thousandth of a dollar."""
_LARGEST = bytes(1 << 20)


class Score(NamedTuple):
    """What one policy did with one trace: shares of what a cache without end would have done."""

    hits: float
    dollars: float


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


def by_recency(rng: random.Random) -> Iterator[int]:
    """How long ago a key was asked for decides whether it comes again, and nothing else: LRU's own law."""
    lately: list[int] = []
    unasked = itertools.count()
    for _ in range(REQUESTS):
        ago = int(rng.paretovariate(0.2))
        key = lately.pop(-ago) if ago <= len(lately) else next(unasked)
        lately.append(key)
        del lately[:-KEYS]
        yield key


TRACES: dict[str, Callable[[random.Random], Iterable[int]]] = {
    "Zipf 0.7": lambda rng: zipf(rng, 0.7),
    "Zipf 0.9": lambda rng: zipf(rng, 0.9),
    "Zipf 1.1": lambda rng: zipf(rng, 1.1),
    "half seen once": once_seen,
    "nightly job": nightly,
    "moving on": moving,
}
OPPOSED: dict[str, Callable[[random.Random], Iterable[int]]] = {"last asked for": by_recency}
"""What no policy hits more often on than LRU: told beside the others, and left out of their mean."""


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


def alike(number: int, seed: int) -> Answer:
    """The answer to a key where all are of one size and price."""
    key = random.Random(number * 1_000_003 + seed).randbytes(32)
    return Answer(key=key, data=_LARGEST[:ALIKE_BYTES], worth=ALIKE_WORTH)


def answered(
    numbers: Iterable[int], seed: int, make: Callable[[int, int], Answer] = answer_of
) -> list[Answer]:
    """A trace: for each request the answer it would have."""
    known: dict[int, Answer] = {}
    found = []
    for number in numbers:
        if number not in known:
            known[number] = make(number, seed)
        found.append(known[number])
    return found


def trace_of(name: str, seed: int, requests: int = REQUESTS) -> list[Answer]:
    """The first requests of a synthetic trace."""
    return answered(
        itertools.islice({**TRACES, **OPPOSED}[name](random.Random(seed)), requests), seed
    )


def ceiling(trace: list[Answer]) -> float:
    """The share of requests that a cache without end would have hit."""
    return 1 - len(set(trace)) / len(trace)


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


def scores_of(
    trace: list[Answer], policies: Mapping[str, Callable[[int], Policy]] = POLICIES
) -> dict[tuple[str, float], Score]:
    """All policies at all capacities, on one trace."""
    whole = sum(entry_size(key, data) for key, data, _ in set(trace))
    return {
        (policy, share): score(make(int(whole * share)), trace)
        for policy, make in policies.items()
        for share in CAPACITIES
    }


def table(scores: dict[tuple[str, float], dict[str, list[Score]]]) -> Iterator[str]:
    """The rows for synthetic traces: hits and dollars at each capacity, mean of the seeds."""
    yield "| trace | policy | hits at 0.5 / 2 / 10 % | dollars at 0.5 / 2 / 10 % |"
    yield "|---|---|---|---|"
    for name in [*TRACES, "mean", *OPPOSED]:
        parts = [*TRACES] if name == "mean" else [name]
        for policy in POLICIES:
            found = {
                share: [each for part in parts for each in scores[policy, share][part]]
                for share in CAPACITIES
            }
            yield f"| {name} | {policy} | {cell(found, 'hits')} | {cell(found, 'dollars')} |"


def cell(found: Mapping[float, list[Score]], part: str, of: float = 1.0) -> str:
    """The mean of a part of the scores at each capacity, in percent."""
    means = (
        sum(getattr(each, part) for each in found[share]) / len(found[share]) for share in found
    )
    return " / ".join(f"{100 * of * mean:.1f}" for mean in means)


def recorded_rows(name: str, numbers: list[int], seeds: Iterable[int]) -> Iterator[str]:
    """The rows for a recorded trace: hits of all requests where answers are alike; hits and dollars, as
    shares of what can be had, where they are drawn, mean of the seeds."""
    same = answered(numbers, 0, alike)
    top = ceiling(same)
    whole = scores_of(same, RIVALS)
    drawn = [scores_of(answered(numbers, seed), RIVALS) for seed in seeds]
    for policy in RIVALS:
        hits = cell({share: [whole[policy, share]] for share in CAPACITIES}, "hits", of=top)
        found = {share: [each[policy, share] for each in drawn] for share in CAPACITIES}
        cells = (hits, cell(found, "hits"), cell(found, "dollars"))
        yield f"| {name} ({100 * top:.1f}) | {policy} | {' | '.join(cells)} |"


def run_recorded(paths: Iterable[tuple[str, Path]], kind: str | None, seeds: Iterable[int]) -> None:
    """Print the table of recorded traces, row by row."""
    print("| trace (ceiling) | policy | alike: hits | drawn: hits | drawn: dollars |")
    print("|---|---|---|---|---|")
    for name, path in paths:
        numbers = traces.read(path, requests=RECORDED_REQUESTS, kind=kind)
        for row in recorded_rows(name, numbers, seeds):
            print(row, flush=True)


def run_synthetic(seeds: Iterable[int]) -> None:
    """Print the table of synthetic traces."""
    scores: dict[tuple[str, float], dict[str, list[Score]]] = {}
    for name, seed in itertools.product([*TRACES, *OPPOSED], seeds):
        for place, found in scores_of(trace_of(name, seed)).items():
            scores.setdefault(place, {}).setdefault(name, []).append(found)
    print("\n".join(table(scores)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eviction", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--trace", type=Path, nargs="+", default=[], metavar="PATH")
    parser.add_argument(
        "--format", choices=traces.FORMATS, help="of those traces, if no name tells"
    )
    parser.add_argument(
        "--recorded", action="store_true", help="what is here, and what a package has"
    )
    options = parser.parse_args()
    try:
        if options.recorded:
            run_recorded(traces.recorded(), None, options.seeds)
        if options.trace:
            paths = [(path.name, path) for path in options.trace]
            run_recorded(paths, options.format, options.seeds)
    except traces.TraceError as error:
        sys.exit(str(error))
    if not options.recorded and not options.trace:
        run_synthetic(options.seeds)


if __name__ == "__main__":
    main()
