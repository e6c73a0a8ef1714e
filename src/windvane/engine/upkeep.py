"""What has to be done now and then: old attempts are forgotten; their sums stay."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from windvane.core.faults import WindvaneError
from windvane.ports.clock import Clock
from windvane.ports.stores import LedgerStore

EVERY_S = 3_600.0
US_PER_S = 1_000_000

_log = logging.getLogger("windvane.ledger")


class Retention:
    """Deletes single attempts older than so many days, at once and then every hour."""

    def __init__(self, ledger: LedgerStore, clock: Clock, days: int) -> None:
        self._ledger = ledger
        self._clock = clock
        self._days = days
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            today = datetime.fromtimestamp(self._clock.wall_us() // US_PER_S, UTC).date()
            try:
                count = await self._ledger.forget_before(today - timedelta(days=self._days))
            except WindvaneError as error:
                _log.warning("old attempts were not deleted this time: %s", error)
            else:
                if count:
                    _log.info("%d attempts older than %d days were deleted", count, self._days)
            await asyncio.sleep(EVERY_S)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
