"""Revocations on their way to where keys are kept. A key that was revoked must not come back.

Laws: what the store cannot take is owed: noted where it outlives the process, told in the log, and tried
again until the store has it. Only where it cannot be noted either is the caller told that it is not kept.
"""

import asyncio
import logging
from collections.abc import Mapping

from windvane.core.faults import Fault, FaultKind, Source, WindvaneError, error_of
from windvane.core.keys import VirtualKey
from windvane.ports.stores import KeyStore, RevocationNote

AGAIN_S = 0.5
REMINDER_TRIES = 120
"""What is still owed is told of again after so many tries: a minute."""

_log = logging.getLogger("windvane.keys")


class Revocations:
    """Keys that are revoked, until their store has it."""

    def __init__(self, store: KeyStore, note: RevocationNote | None = None) -> None:
        self._store = store
        self._note = note
        self._owed: dict[str, VirtualKey] = {}
        self._noted: set[str] = set(note.left) if note is not None else set()
        self._turn = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None

    @property
    def left(self) -> Mapping[str, int]:
        """What was noted and not yet written: when each key was revoked, by its id."""
        return self._note.left if self._note is not None else {}

    def owe(self, key: VirtualKey) -> None:
        """This one has to be written still."""
        self._owed[key.id] = key

    async def resume(self) -> None:
        """Write what an earlier process has left."""
        async with self._turn:
            await self._pay()
            self._try_again()

    async def keep(self, key: VirtualKey) -> None:
        """Keep a revoked key; for good when this returns.

        Raises InternalServerError (503) when nothing has taken it: it is tried again all the same.
        """
        async with self._turn:
            self.owe(key)
            failed = None
            try:
                failed = await self._pay()
                if failed is not None and not await self._is_noted(key):
                    raise _not_kept(key, failed)
            finally:
                self._try_again()

    async def aclose(self) -> None:
        """Try once more, and tell what is not kept."""
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait([self._again])
        async with self._turn:
            failed = await self._pay()
        lost = [key.id for key in self._owed.values() if key.id not in self._noted]
        if lost:
            _log.critical(
                "revoked, and not written down (%s): %s. After the next start they work again: revoke them"
                " once more then",
                failed.fault.message if failed is not None else "it was given up",
                ", ".join(lost),
            )

    async def _pay(self) -> WindvaneError | None:
        """Write what is owed; what was in the way of it, if anything was."""
        for key in list(self._owed.values()):
            try:
                await self._store.put_key(key)
            except WindvaneError as error:
                return error
            del self._owed[key.id]
            if self._again is not None:
                _log.warning("the ledger has it now that %s is revoked", key.id)
        if self._note is not None and self._noted:
            try:
                await self._note.clear()
            except OSError as error:
                _log.warning("the note of revoked keys cannot be cleared: %s", error)
            else:
                self._noted.clear()
        return None

    async def _is_noted(self, key: VirtualKey) -> bool:
        """Whether it is noted that the key is revoked; it is, if that can be done."""
        if self._note is None:
            return False
        if key.id not in self._noted:
            try:
                await self._note.add(key.id, key.revoked_at_us or 0)
            except OSError as error:
                _log.error("that %s is revoked cannot be noted: %s", key.id, error)
                return False
            self._noted.add(key.id)
        return True

    def _try_again(self) -> None:
        """See to it that what is owed is tried again."""
        if self._owed and (self._again is None or self._again.done()):
            self._tell()
            self._again = asyncio.get_running_loop().create_task(self._pay_at_last())

    def _tell(self) -> None:
        for key_id in self._owed:
            what = "a note has it, and a restart heeds that"
            if key_id not in self._noted:
                what = "nothing has it yet, and a restart would let the key in again"
            _log.warning(
                "%s is revoked and refused, but the ledger cannot be told; trying again: %s",
                key_id,
                what,
            )

    async def _pay_at_last(self) -> None:
        tries = 0
        while self._owed:
            await asyncio.sleep(AGAIN_S)
            tries += 1
            async with self._turn:
                if await self._pay() is not None:
                    for key in list(self._owed.values()):
                        await self._is_noted(key)
                    if tries % REMINDER_TRIES == 0:
                        self._tell()


def _not_kept(key: VirtualKey, failed: WindvaneError) -> WindvaneError:
    fault = Fault(
        kind=FaultKind.INTERNAL,
        source=Source.GATEWAY,
        message=(
            f"the key {key.id} is refused from now on, but that is not written down yet"
            f" ({failed.fault.message}): it is tried again for as long as this process lives, and the log"
            " says when it is written; a restart before then lets the key in again"
        ),
        status=503,
        code="ledger_unavailable",
        retry_after_s=1.0,
    )
    return error_of(fault)
