"""Who of several processes asks the provider: a key that expires, with the token of whoever has it.

Each lease has a number, higher than those before it, and what is stored under a lease bears that number:
what a late holder still writes can be told from what its successor wrote, and does not replace it
(`cache.py`). A lease is renewed and released only by its own token. While the server cannot be asked a
lease of no number is granted to everyone, and one that was granted is believed until its time is over.

Laws:
1. No claim leaves a lease behind that nobody has. A caller who goes does not interrupt its claim, and what
   that brings is given back; where no reply came in time, the token is taken back in the background.
2. A lease that has brought nothing to share is dismissed: for a moment, longer than those who wait for it
   let pass between two looks, it is everyone's. So they all ask at once, and not one after another.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from windvane.ports.stores import FlightLease
from windvane.stores.redis.link import Link
from windvane.stores.redis.node import Unanswered, Unavailable
from windvane.stores.redis.replies import number_of

LEASE_S = 5.0
"""A holder that dies is succeeded after so long; holders renew several times as often."""
NUMBERS_KEPT_S = 3_600
DISMISSED_S = 0.5
"""How long a dismissed lease is everyone's: several looks of who waits for it."""
TAKE_BACK_AFTER_S = (0.0, 0.1, 0.4, 1.0, 2.0)
"""When a token is taken back whose claim was not answered, each after the one before. More than once, for
the claim itself may come later than that, as to a server that was stopped; until the lease is over."""
TAKE_BACK_DEADLINE_S = 0.2
CLOSING_S = 1.0
"""How long closing waits for what is being given back."""

NUMBERS = "n"
"""The kind of the key, a hash, that has the number of the last lease `granted` for a name, and of that
under which its answer was `stored`."""

_CLAIM = """
local held = redis.call('GET', KEYS[1])
if held == '' then return -1 end
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local number = redis.call('HINCRBY', KEYS[2], 'granted', 1)
redis.call('EXPIRE', KEYS[2], ARGV[3])
return number
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
_DISMISS = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
return 1
"""


class RedisLeases:
    """Implements `FlightLeases`."""

    def __init__(
        self,
        link: Link,
        *,
        monotonic_s: Callable[[], float],
        rng: Random,
        lease_s: float = LEASE_S,
    ) -> None:
        self.link = link
        self.monotonic_s = monotonic_s
        self.lease_s = lease_s
        self._rng = rng
        self._under_way: set[asyncio.Task[Any]] = set()

    async def claim(self, key: bytes) -> FlightLease | None:
        claiming = self.start(self._claim(key))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(_give_back)
            raise

    async def _claim(self, key: bytes) -> "RedisLease | None":
        held, numbers = self.link.key(key.hex(), "l"), self.link.key(key.hex(), NUMBERS)
        token = f"{self._rng.getrandbits(128):032x}"
        lease_ms = int(self.lease_s * 1_000)
        began_s = self.monotonic_s()
        command = ("EVAL", _CLAIM, 2, held, numbers, token, lease_ms, NUMBERS_KEPT_S)
        try:
            (reply,) = await self.link.ask(held, command)
            number = number_of(reply)
        except Unanswered:
            self.start(self._take_back(held, token))
            number = -1
        except Unavailable:
            number = -1
        if number == 0:
            return None
        until_s = began_s + self.lease_s
        return RedisLease(self, held, token=token, number=max(number, 0), until_s=until_s)

    async def _take_back(self, held: str, token: str) -> None:
        """Law 1, where nobody knows what became of a claim."""
        for pause_s in TAKE_BACK_AFTER_S:
            await asyncio.sleep(pause_s)
            command = ("EVAL", _RELEASE, 1, held, token)
            try:
                (is_released,) = await self.link.ask(held, command, deadline_s=TAKE_BACK_DEADLINE_S)
            except Unavailable:
                continue
            if is_released:
                return

    def start(self, doing: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Have something done that goes on when its caller has gone."""
        task = asyncio.get_running_loop().create_task(doing)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def given_back(self) -> None:
        """Wait until all that was claimed or given back has come to its end."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def aclose(self) -> None:
        """Give back what can be in a short while."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=CLOSING_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


class RedisLease:
    """Implements `FlightLease`."""

    def __init__(
        self, leases: RedisLeases, held: str, *, token: str, number: int, until_s: float
    ) -> None:
        self.number = number
        """Higher than that of any earlier lease of the key; 0 where everyone has one."""
        self._leases = leases
        self._held = held
        self._token = token
        self._until_s = until_s

    async def renew(self) -> bool:
        if not self.number:
            return True  # everyone has it
        began_s = self._leases.monotonic_s()
        lease_ms = int(self._leases.lease_s * 1_000)
        command = ("EVAL", _RENEW, 1, self._held, self._token, lease_ms)
        try:
            (is_renewed,) = await self._leases.link.ask(self._held, command)
        except Unavailable:
            return began_s < self._until_s
        if is_renewed:
            self._until_s = began_s + self._leases.lease_s
        return bool(is_renewed)

    def release(self) -> None:
        self._end("EVAL", _RELEASE, 1, self._held, self._token)

    def dismiss(self) -> None:
        """Law 2."""
        self._end("EVAL", _DISMISS, 1, self._held, self._token, int(DISMISSED_S * 1_000))

    def _end(self, *command: str | int) -> None:
        """When the server does not hear, the lease expires."""
        if self.number:
            self._until_s = self._leases.monotonic_s()
            self._leases.start(self._tell(command))

    async def _tell(self, command: tuple[str | int, ...]) -> None:
        try:
            await self._leases.link.ask(self._held, command)
        except Unavailable:
            return


def _give_back(claiming: "asyncio.Future[RedisLease | None]") -> None:
    """What was granted to somebody who had gone."""
    if not claiming.cancelled() and (lease := claiming.result()) is not None:
        lease.release()
