"""Who of several processes asks the provider: a key that expires, with the token of whoever has it.

Each lease has a number, higher than those before it: what a late holder still writes can be told from what
its successor wrote. A lease is renewed and released only by its own token. While the server cannot be asked
a lease is granted to everyone, and one that was granted is believed until its time is over.
"""

from collections.abc import Callable
from random import Random

from windvane.ports.stores import FlightLease
from windvane.stores.redis.link import Link
from windvane.stores.redis.node import Unavailable

LEASE_S = 5.0
"""A holder that dies is succeeded after so long; holders renew several times as often."""
NUMBERS_KEPT_S = 3_600

_CLAIM = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
   or redis.call('GET', KEYS[1]) == ARGV[1] then
  local number = redis.call('INCR', KEYS[2])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  return number
end
return 0
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
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
        self._link = link
        self._monotonic_s = monotonic_s
        self._rng = rng
        self._lease_s = lease_s

    async def claim(self, key: bytes) -> FlightLease | None:
        held, numbers = self._link.key(key.hex(), "l"), self._link.key(key.hex(), "f")
        token = f"{self._rng.getrandbits(128):032x}"
        lease_ms = int(self._lease_s * 1_000)
        began_s = self._monotonic_s()
        command = ("EVAL", _CLAIM, 2, held, numbers, token, lease_ms, NUMBERS_KEPT_S)
        try:
            (number,) = await self._link.ask(held, command)
        except Unavailable:
            number = -1
        if number == 0:
            return None
        return RedisLease(
            self._link,
            held,
            token=token,
            number=max(int(number), 0),
            until_s=began_s + self._lease_s,
            lease_s=self._lease_s,
            monotonic_s=self._monotonic_s,
        )


class RedisLease:
    """Implements `FlightLease`."""

    def __init__(
        self,
        link: Link,
        held: str,
        *,
        token: str,
        number: int,
        until_s: float,
        lease_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self.number = number
        """Higher than that of any earlier lease of the key; 0 when the server could not be asked."""
        self._link = link
        self._held = held
        self._token = token
        self._until_s = until_s
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s

    async def renew(self) -> bool:
        if not self.number:
            return True  # everyone has it
        began_s = self._monotonic_s()
        lease_ms = int(self._lease_s * 1_000)
        command = ("EVAL", _RENEW, 1, self._held, self._token, lease_ms)
        try:
            (is_renewed,) = await self._link.ask(self._held, command)
        except Unavailable:
            return began_s < self._until_s
        if is_renewed:
            self._until_s = began_s + self._lease_s
        return bool(is_renewed)

    async def release(self) -> None:
        """Let somebody else have it. When the server does not hear, it expires."""
        if not self.number:
            return
        self._until_s = self._monotonic_s()
        try:
            await self._link.ask(self._held, ("EVAL", _RELEASE, 1, self._held, self._token))
        except Unavailable:
            return
