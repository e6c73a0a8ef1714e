"""What a caller's `Cache-Control` means, and what an entry is good for."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.core.cache.entry import CacheEntry
from windvane.core.cache.freshness import (
    CLOCKS_APART_MAX_S,
    NO_CACHE,
    NO_WISH,
    US_PER_S,
    CachePolicy,
    Standing,
    Wish,
    standing_of,
    wish_of,
)
from windvane.core.chat import Completion
from windvane.core.usage import Usage

FRESH, REFRESH, STALE = Standing.FRESH, Standing.REFRESH, Standing.STALE
SPARE, USELESS = Standing.SPARE, Standing.USELESS


def entry(ttl_s: float = 100, latency_s: float = 1) -> CacheEntry:
    return CacheEntry(
        completion=Completion(id="", model="", created=0, choices=[]),
        usage=Usage(),
        provider="",
        model="",
        route=None,
        tags=(),
        created_at_us=0,
        fresh_until_us=int(ttl_s * US_PER_S),
        version=0,
        cost_nano_usd=0,
        latency_us=int(latency_s * US_PER_S),
    )


def standing(at_s: float, said: str = "", **policy: float) -> Standing:
    rules = CachePolicy(**{"ttl_s": 100, **policy})  # type: ignore[arg-type]
    return standing_of(entry(), rules, wish_of(said), int(at_s * US_PER_S), Random(0))


WISHES = {
    "": NO_WISH,
    "no-store": NO_CACHE,
    "no-cache": Wish(may_read=False),
    "no-cache, no-store": NO_CACHE,
    "only-if-cached": Wish(only_if_cached=True),
    "max-age=10": Wish(max_age_s=10),
    "MAX-AGE=10": Wish(max_age_s=10),
    'max-age="10"': Wish(max_age_s=10),
    "max-age = 10 ,min-fresh=5": Wish(max_age_s=10, min_fresh_s=5),
    "max-age=10, max-age=99": Wish(max_age_s=10),
    "max-stale": Wish(max_stale_s=2**31),
    # more than there can be is as much as there can be
    "max-age=99999999999999999999": Wish(max_age_s=2**31),
    "s-maxage=99999999999": Wish(ttl_s=2**31),
    "min-fresh=99999999999": Wish(min_fresh_s=2**31),
    "max-stale=99999999999": Wish(max_stale_s=2**31),
    "max-stale=5": Wish(max_stale_s=5),
    "s-maxage=60": Wish(ttl_s=60),
    "stale-if-error=5": Wish(stale_if_error_s=5),
    # nonsense counts as not said
    "max-age": NO_WISH,
    "max-age=": NO_WISH,
    "max-age=ten": NO_WISH,
    "max-age=-1": NO_WISH,
    "max-age=1.5": NO_WISH,
    "max-age=1e3": NO_WISH,
    "max-age=²": NO_WISH,
    "s-maxage=+5": NO_WISH,
    "nonsense, =, ,,;": NO_WISH,
    "private, no-transform, immutable": NO_WISH,
    "nonsense, no-cache": Wish(may_read=False),
    "x-no-store": NO_WISH,
}


@pytest.mark.parametrize("said", WISHES)
def test_what_a_caller_wishes(said: str) -> None:
    assert wish_of(said) == WISHES[said]


@given(st.text())
def test_whatever_is_said_is_a_wish(said: str) -> None:
    assert isinstance(wish_of(said), Wish)


CASES = [
    # at, what the caller says, what the route allows, what the entry is good for
    (0, "", {}, FRESH),
    (99.9, "", {}, FRESH),
    (100, "", {}, USELESS),
    (1_000, "", {}, USELESS),
    (10, "max-age=10", {}, FRESH),
    (10.1, "max-age=10", {}, USELESS),
    (0.1, "max-age=0", {}, USELESS),
    (90, "min-fresh=10", {}, FRESH),
    (90.1, "min-fresh=10", {}, USELESS),
    (0, "min-fresh=101", {}, USELESS),
    (100, "", {"stale_while_revalidate_s": 50}, STALE),
    (150, "", {"stale_while_revalidate_s": 50}, STALE),
    (150.1, "", {"stale_while_revalidate_s": 50}, USELESS),
    (120, "min-fresh=1", {"stale_while_revalidate_s": 50}, USELESS),
    (120, "max-age=119", {"stale_while_revalidate_s": 50}, USELESS),
    (100, "", {"stale_if_error_s": 50}, SPARE),
    (150, "", {"stale_if_error_s": 50}, SPARE),
    (150.1, "", {"stale_if_error_s": 50}, USELESS),
    (120, "stale-if-error=10", {"stale_if_error_s": 50}, USELESS),
    (110, "stale-if-error=10", {"stale_if_error_s": 50}, SPARE),
    (110, "stale-if-error=0", {"stale_if_error_s": 50}, USELESS),
    (120, "stale-if-error=500", {}, USELESS),
    (160, "stale-if-error=500", {"stale_if_error_s": 50}, USELESS),
    (50, "max-age=10", {"stale_if_error_s": 50}, SPARE),
    (120, "", {"stale_while_revalidate_s": 10, "stale_if_error_s": 50}, SPARE),
    (120, "max-stale=20", {"stale_if_error_s": 50}, FRESH),
    (120, "max-stale=19", {"stale_if_error_s": 50}, SPARE),
    (140, "max-stale", {"stale_if_error_s": 50}, FRESH),
    (160, "max-stale", {"stale_if_error_s": 50}, USELESS),
    (101, "max-stale", {}, USELESS),
    (120, "max-age=130", {"stale_while_revalidate_s": 50}, USELESS),
    (120, "max-age=130", {"stale_while_revalidate_s": 50, "stale_if_error_s": 50}, SPARE),
    (120, "max-age=130, max-stale=30", {"stale_while_revalidate_s": 50}, STALE),
    (120, "max-stale=0", {"stale_while_revalidate_s": 50}, USELESS),
    (120, "max-stale=19", {"stale_while_revalidate_s": 50}, USELESS),
    (120, "max-stale=20", {"stale_while_revalidate_s": 50}, STALE),
    (120, "max-stale=20, min-fresh=1", {"stale_while_revalidate_s": 50}, FRESH),
]


@pytest.mark.parametrize(("at_s", "said", "policy", "expected"), CASES)
def test_what_an_entry_is_good_for(
    at_s: float, said: str, policy: dict[str, float], expected: Standing
) -> None:
    assert standing(at_s, said, **policy) is expected


POLICY = st.fixed_dictionaries(
    {"ttl_s": st.just(100)},
    optional={
        "stale_while_revalidate_s": st.integers(0, 300),
        "stale_if_error_s": st.integers(0, 300),
        "early_refresh": st.floats(0, 10),
    },
)
DIRECTIVES = st.lists(
    st.builds(
        "{}={}".format,
        st.sampled_from(["max-age", "min-fresh", "max-stale", "stale-if-error"]),
        st.integers(0, 400),
    )
).map(", ".join)


@given(POLICY, DIRECTIVES, st.integers(-50, 1_000), st.integers(0, 9))
def test_nothing_is_served_beyond_its_life(
    policy: dict[str, float], said: str, at_s: int, seed: int
) -> None:
    rules = CachePolicy(**policy)  # type: ignore[arg-type]
    found = standing_of(entry(), rules, wish_of(said), at_s * US_PER_S, Random(seed))
    if at_s > rules.ttl_s + rules.stale_s or at_s < -CLOCKS_APART_MAX_S:
        assert found is USELESS
    if at_s > 100 and "max-stale" not in said:
        assert found not in (FRESH, REFRESH)
        if at_s > 100 + rules.stale_while_revalidate_s:
            assert found is not STALE
    wish = wish_of(said)
    if wish.max_age_s is not None and at_s > wish.max_age_s:
        assert found in (SPARE, USELESS)


@given(POLICY, st.integers(-50, 1_000), st.integers(0, 9))
def test_to_who_wishes_nothing_what_is_fresh_is_fresh(
    policy: dict[str, float], at_s: int, seed: int
) -> None:
    """Whoever knows the times of an entry need not ask further."""
    rules, now_us = CachePolicy(**policy), at_s * US_PER_S  # type: ignore[arg-type]
    is_fresh = entry().created_at_us <= now_us < rules.fresh_until_us(entry())
    found = standing_of(entry(), rules, NO_WISH, now_us, Random(seed))
    if is_fresh:
        assert found is FRESH or (rules.early_refresh and found is REFRESH)
    elif now_us >= 0:
        assert found not in (FRESH, REFRESH)


def test_an_entry_of_the_future_is_nobodys() -> None:
    """Some clock is wrong; how old the entry is, nobody knows."""
    assert standing(-CLOCKS_APART_MAX_S) is FRESH
    assert standing(-CLOCKS_APART_MAX_S - 0.1) is USELESS
    assert standing(-3_600, stale_if_error_s=9_999) is USELESS


def test_an_early_refresh_is_the_likelier_the_nearer_the_end() -> None:
    rules, rng = CachePolicy(ttl_s=100, early_refresh=1.0), Random(1)

    def share(at_s: float, latency_s: float = 1) -> float:
        made = entry(latency_s=latency_s)
        rolls = [standing_of(made, rules, NO_WISH, int(at_s * US_PER_S), rng) for _ in range(4_000)]
        assert set(rolls) <= {FRESH, REFRESH}
        return rolls.count(REFRESH) / len(rolls)

    # XFetch: exp(-left / (beta x latency))
    assert share(50) == 0
    assert share(97) == pytest.approx(0.0498, abs=0.015)
    assert share(99) == pytest.approx(0.3679, abs=0.03)
    assert share(99.9) == pytest.approx(0.9048, abs=0.02)
    assert share(97, latency_s=3) == pytest.approx(0.3679, abs=0.03)


def test_without_a_beta_nothing_is_refreshed_early() -> None:
    assert standing(99.999999) is FRESH
