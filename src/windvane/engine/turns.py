"""Whose turn it is to ask, among the processes that share a cache.

A turn is one request's. It claims the lease of its answer: after the look-up has found nothing; or beside
it, when that takes a while. So a caller waits for one round trip to a store that is far away, and not for
two, one after the other: what both may add to a request is the deadline of a command and `BESIDE_S`.

Whoever has the lease keeps it for as long as the flight lasts, and says at its end whether there is
anything for those who wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from windvane.engine.flights import Flight
from windvane.ports.stores import FlightLease, FlightLeases

POLL_S = 0.05
"""How often an answer that another process is fetching is looked for."""
BESIDE_S = 0.002
"""A look-up that takes longer than this is not waited for with the claim. A store nearby answers sooner,
and then a hit claims nothing."""
RENEW_S = 1.5


class Turn:
    """One request's claims. It must be closed; a claim that was not needed is given back then."""

    __slots__ = ("_claiming", "_is_wanted", "_key", "_leases", "_timer")

    def __init__(self, leases: FlightLeases, key: bytes, is_wanted: Callable[[], bool]) -> None:
        """`is_wanted` is asked before a claim is made beside the look-up."""
        self._leases = leases
        self._key = key
        self._is_wanted = is_wanted
        self._timer: asyncio.TimerHandle | None = None
        self._claiming: asyncio.Task[FlightLease | None] | None = None

    def claim_soon(self) -> None:
        """Claim while the look-up is under way, unless it is over before."""
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
