"""What an entry is worth keeping for: the rule by which every tier of ours lets the least valuable go.

GreedyDual-Size-Frequency (Cherkasova 1998), value being uses x worth / size, with two changes that
`python -m benchmarks.eviction` asks for. The worth counts by its power of `WORTH_COUNTS`: the whole of it
lets so many cheap answers go to keep a few dear ones that fewer requests hit than by LRU, and without it
little money is saved. And uses count up to `USES_MAX`: what was very popular would outlive its time.
"""

WORTH_COUNTS = 0.4
USES_MAX = 8
WORTH_MAX = 1e18
"""A billion dollars: more is a mistake."""


def gain_of(worth: float, size: int) -> float:
    """The value of each use of an entry of so many bytes, whose hit saves so many nano-dollars.

    One nano-dollar more: among what is worth nothing, the smaller is worth more.
    """
    return float((min(max(0.0, worth), WORTH_MAX) + 1.0) ** WORTH_COUNTS) / max(size, 1)


def worth_of(gain: float, size: int) -> float:
    """The worth that has this gain."""
    return max(float((gain * max(size, 1)) ** (1.0 / WORTH_COUNTS)) - 1.0, 0.0)
