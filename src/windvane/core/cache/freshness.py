"""What a caller asks of the cache, what a route allows, and whether an entry will do (RFC 9111, 5861).

All times are UTC microseconds or whole seconds, as HTTP has them.
"""

import math
from enum import StrEnum
from random import Random

import msgspec

from windvane.core.cache.entry import CacheEntry

US_PER_S = 1_000_000
CLOCKS_APART_MAX_S = 10
"""How far the clocks of processes that share a cache may be apart. An entry from further in the future was
made by a clock that was wrong then, or is wrong now: how old it is, nobody knows.
"""


SECONDS_MAX = 2**31
"""What more seconds count as (RFC 9111, 1.2.2); a limit that is not said, too."""
_DIGITS_MAX = 10


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How answers of a route are kept. Seconds.

    Beyond `ttl_s` an entry is stale: it is still served for `stale_while_revalidate_s` while a fresh
    answer is fetched, and for `stale_if_error_s` when none can be had.
    """

    ttl_s: int = 3_600
    ttl_max_s: int | None = None
    """How long a caller may have an answer kept; `ttl_s`, if not said or if that is more."""
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0
    early_refresh: float = 0.0
    """The beta of XFetch: 1 refreshes a much-used entry shortly before its end; 0 never does."""
    deterministic_only: bool = False
    entry_bytes_max: int = 256 * 1024
    is_paced: bool = False
    """Whether a stored stream is replayed as slowly as it came."""

    @property
    def longest_s(self) -> int:
        """How long an answer may be fresh at most."""
        return self.ttl_s if self.ttl_max_s is None else max(self.ttl_s, self.ttl_max_s)

    @property
    def stale_s(self) -> int:
        """How long it may be of any use after that."""
        return max(self.stale_while_revalidate_s, self.stale_if_error_s)

    def ttl_of(self, wish: "Wish") -> int:
        """How long the answer to a request with this wish stays fresh."""
        return self.ttl_s if wish.ttl_s is None else min(wish.ttl_s, self.longest_s)

    def fresh_until_us(self, entry: CacheEntry) -> int:
        """Until when an entry is fresh here: another route may have kept it for longer, or this one,
        before it was told otherwise."""
        until_us = entry.created_at_us + self.longest_s * US_PER_S
        if until_us < entry.fresh_until_us:
            return until_us
        return entry.fresh_until_us


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller's `Cache-Control` says."""

    may_read: bool = True
    may_store: bool = True
    only_if_cached: bool = False
    max_age_s: int | None = None
    min_fresh_s: int = 0
    max_stale_s: int | None = None
    stale_if_error_s: int | None = None
    ttl_s: int | None = None
    """How long the answer to this request is to be kept (`s-maxage`)."""


NO_WISH = Wish()
NO_CACHE = Wish(may_read=False, may_store=False)


def wish_of(cache_control: str) -> Wish:
    """Read a request's `Cache-Control`. What is not understood counts as not said, as in RFC 9111."""
    said: dict[str, str] = {}
    for directive in cache_control.lower().split(","):
        name, _, value = directive.strip().partition("=")
        said.setdefault(name.strip(), value.strip().strip('"'))
    no_store = "no-store" in said
    return Wish(
        may_read=not (no_store or "no-cache" in said),
        may_store=not no_store,
        only_if_cached="only-if-cached" in said,
        max_age_s=_seconds(said.get("max-age")),
        min_fresh_s=_seconds(said.get("min-fresh")) or 0,
        max_stale_s=_max_stale(said),
        stale_if_error_s=_seconds(said.get("stale-if-error")),
        ttl_s=_seconds(said.get("s-maxage")),
    )


def _seconds(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return int(text) if len(text) < _DIGITS_MAX else SECONDS_MAX


def _max_stale(said: dict[str, str]) -> int | None:
    if "max-stale" not in said:
        return None
    seconds = _seconds(said["max-stale"])
    return SECONDS_MAX if seconds is None else seconds


class Standing(StrEnum):
    """What an entry is good for now."""

    FRESH = "fresh"
    REFRESH = "refresh"
    """It is fresh, and so near its end that the next one should be fetched already."""
    STALE = "stale"
    """It may be served, while a fresh answer is fetched."""
    SPARE = "spare"
    """It may be served if no other answer can be had."""
    USELESS = "useless"


FRESH, STALE = Standing.FRESH, Standing.STALE
SPARE, USELESS = Standing.SPARE, Standing.USELESS
"""For those who ask with every hit: to look for a member by its name takes as long as a call."""


def standing_of(
    entry: CacheEntry, policy: CachePolicy, wish: Wish, now_us: int, rng: Random
) -> Standing:
    """What `entry` is good for to a caller with this wish."""
    age_s = (now_us - entry.created_at_us) / US_PER_S
    left_s = (policy.fresh_until_us(entry) - now_us) / US_PER_S
    if age_s < -CLOCKS_APART_MAX_S:
        return Standing.USELESS
    error_s = policy.stale_if_error_s
    if wish.stale_if_error_s is not None:
        error_s = min(wish.stale_if_error_s, policy.stale_if_error_s)
    spare = Standing.SPARE if -left_s <= error_s and error_s else Standing.USELESS
    if wish.max_age_s is not None and age_s > wish.max_age_s:
        return spare
    if left_s >= max(wish.min_fresh_s, 1e-9):
        return _early(entry, policy, left_s, rng)
    if left_s > 0 or not _takes_stale(wish, -left_s):
        return spare
    stale_s = policy.stale_while_revalidate_s
    if not wish.min_fresh_s and stale_s and -left_s <= stale_s:
        return Standing.STALE
    if wish.max_stale_s is not None and -left_s <= policy.stale_s:
        return Standing.FRESH
    return spare


def _takes_stale(wish: Wish, stale_s: float) -> bool:
    """Whether a caller takes what has been stale for so long: not, when it speaks of `max-age` alone
    (RFC 9111, 5.2.1.1)."""
    if wish.max_stale_s is None:
        return wish.max_age_s is None
    return stale_s <= wish.max_stale_s


def _early(entry: CacheEntry, policy: CachePolicy, left_s: float, rng: Random) -> Standing:
    """XFetch (Vattani, Chierichetti, Lowenstein 2015): each reader decides by dice, the likelier the
    nearer the end and the longer an answer takes to make, so that one of them refreshes in time."""
    if not policy.early_refresh:
        return Standing.FRESH
    latency_s = entry.latency_us / US_PER_S
    ahead_s = -policy.early_refresh * latency_s * math.log(1.0 - rng.random())
    return Standing.REFRESH if ahead_s >= left_s else Standing.FRESH
