"""What processes share through Redis or Valkey: the cache's second tier, invalidations, flight leases.

The package `redis` is an extra, loaded only when one of these is opened; nothing else of Windvane
imports it. Redis holds no money and nothing that cannot be lost: when it is gone, callers see misses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from windvane.stores.owed import Owed

if TYPE_CHECKING:
    from windvane.stores.redis.cache import RedisCache
    from windvane.stores.redis.invalidations import RedisInvalidations
    from windvane.stores.redis.leases import RedisLeases
    from windvane.stores.redis.link import Link

SCHEMES = (
    "redis", "rediss", "valkey", "valkeys", "unix",
    "redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster",
)  # fmt: skip


class RedisStores(NamedTuple):
    """The stores of one server or cluster, on one link. `start` them in the loop that uses them."""

    link: Link
    cache: RedisCache
    invalidations: RedisInvalidations
    leases: RedisLeases

    async def start(self) -> None:
        """Learn what was invalidated so far, and keep learning; waits a moment at most."""
        await self.invalidations.start()

    async def aclose(self) -> None:
        await self.invalidations.aclose()
        await self.leases.aclose()
        await self.cache.aclose()


def check_address(url: str) -> None:
    """Raises ValueError for an address that is none, RuntimeError without the package."""
    open_redis(url, monotonic_s=lambda: 0.0, rng=Random(0))


def open_redis(
    url: str,
    *,
    namespace: str = "windvane",
    deadline_s: float | None = None,
    monotonic_s: Callable[[], float],
    rng: Random,
    owed_file: Path | None = None,
) -> RedisStores:
    """The stores at `url`; whether anybody answers there is found out at first use. What Redis could not be
    told is noted in `owed_file`.

    Raises ValueError for an address or a namespace that is none, RuntimeError without the package.
    """
    try:
        from windvane.stores.redis.cache import RedisCache  # noqa: PLC0415
        from windvane.stores.redis.invalidations import RedisInvalidations  # noqa: PLC0415
        from windvane.stores.redis.leases import RedisLeases  # noqa: PLC0415
        from windvane.stores.redis.link import Link  # noqa: PLC0415
        from windvane.stores.redis.node import DEADLINE_S  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise RuntimeError(
            "a Redis address is configured, but the package for it is not installed:"
            " pip install 'windvane[redis]'"
        ) from error
    link = Link(
        url,
        namespace=namespace,
        deadline_s=DEADLINE_S if deadline_s is None else deadline_s,
        monotonic_s=monotonic_s,
        rng=rng,
    )
    invalidations = RedisInvalidations(link, monotonic_s=monotonic_s, rng=rng, owed=Owed(owed_file))
    return RedisStores(
        link=link,
        cache=RedisCache(link, is_believed=lambda: invalidations.has_heard),
        invalidations=invalidations,
        leases=RedisLeases(link, monotonic_s=monotonic_s, rng=rng),
    )
