"""Whose turn it is to ask, among the processes that share a cache.

A turn is one request's. It claims the lease of its answer: after the look-up has found nothing; or beside
it, when that takes a while. So a caller waits for one round trip to a store that is far away, and not for
two, one after the other: what both may add to a request is the deadline of a command and `BESIDE_S`.
Of equal requests of one process one at a time does so (`lookouts`); the others wait for what comes of it.

Whoever has the lease keeps it for as long as the flight lasts, and says at its end whether there is
anything for those who wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from windvane.engine.flights import Flight
from windvane.engine.lookouts import Lookouts, Sought
from windvane.engine.lookup import Found
from windvane.ports.stores import FlightLease, FlightLeases

POLL_S = 0.05
"""How often an answer that another process is fetching is looked for."""
BESIDE_S = 0.002
"""A look-up that takes longer than this is not waited for with the claim. A store nearby answers sooner,
and then a hit claims nothing."""
RENEW_S = 1.5


class Turn:
    """One request's claims. It must be closed; a claim that was not needed is given back then, and those
    who wait for what this one looks for are told what it has `found`."""

    __slots__ = (
        "_claiming",
        "_is_looking",
        "_is_wanted",
        "_key",
        "_leases",
        "_lookouts",
        "_sought",
        "_timer",
        "found",
    )

    def __init__(
        self,
        leases: FlightLeases,
        lookouts: Lookouts,
        key: bytes,
        sought: Sought,
        is_wanted: Callable[[], bool],
    ) -> None:
        """`is_wanted` is asked before a claim is made beside the look-up."""
        self._leases = leases
        self._lookouts = lookouts
        self._key = key
        self._sought = sought
        self._is_wanted = is_wanted
        self._is_looking = False
        self._timer: asyncio.TimerHandle | None = None
        self._claiming: asyncio.Task[FlightLease | None] | None = None
        self.found: Found | None = None

    @property
    def is_anothers(self) -> bool:
        """Whether an equal request of this process looks already."""
        return not self._is_looking and self._lookouts.has(self._sought)

    def look(self) -> bool:
        """Look for all equal requests; False when another does."""
        self._is_looking = self._is_looking or self._lookouts.begin(self._sought)
        return self._is_looking

    async def hear(self, within_s: float) -> Found | None:
        """What the one who looks has found, when it ends, within so many seconds."""
        return await self._lookouts.hear(self._sought, within_s)

    def claim_soon(self) -> None:
        """Claim while the look-up is under way, unless it is over before, or another does."""
        if self.look():
            self._timer = asyncio.get_running_loop().call_later(BESIDE_S, self._begin)

    def _begin(self) -> None:
        if self._is_wanted():
            loop = asyncio.get_running_loop()
            self._claiming = loop.create_task(self._leases.claim(self._key))

    async def claim(self) -> FlightLease | None:
        """The lease; None when another process has it."""
        self._stop()
        if self._claiming is None:
            return await self._leases.claim(self._key)
        lease = await asyncio.shield(self._claiming)
        self._claiming = None
        return lease

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        self._stop()
        if self._claiming is not None:
            self._claiming.add_done_callback(_give_back)
            self._claiming.cancel()
            self._claiming = None
        if self._is_looking:
            self._is_looking = False
            self._lookouts.end(self._sought, self.found)


def _give_back(claiming: "asyncio.Future[FlightLease | None]") -> None:
    if not claiming.cancelled() and (lease := claiming.result()) is not None:
        lease.release()


@asynccontextmanager
async def holding(flight: Flight, lease: FlightLease | None) -> AsyncIterator[None]:
    """Keep the lease, if there is one, for as long as this lasts, and give it back whatever happens."""
    if lease is None:
        yield
        return
    flight.fence = lease.number
    keeping = asyncio.get_running_loop().create_task(_keep(lease))
    try:
        yield
    finally:
        if flight.is_in_vain:
            lease.dismiss()
        else:
            lease.release()
        keeping.cancel()
        await asyncio.wait([keeping])


async def _keep(lease: FlightLease) -> None:
    while await lease.renew():
        await asyncio.sleep(RENEW_S)
