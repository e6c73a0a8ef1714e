"""Invalidations that all processes on one Redis know of.

One hash has the number of the last invalidation, a nonce of whoever made it, and the last number of each
tag. Every process asks for number and nonce each second, and reads the rest when they are others than it
knows: so each knows of an invalidation within two seconds.

Laws: numbers only rise, in the server's eyes and in ours; an invalidation counts here at once, and is
told to the server until it has heard, after a restart too; a process believes nothing that it finds
before it has heard what was taken back so far; when the server knows less than we do (it was flushed,
restored from an old copy, or failed over and lost the last), everything is invalid: which entries its
loss brought back cannot be told.
"""

import asyncio
import logging
from random import Random

from windvane.core.cache.invalidation import ALL, TAGS_MAX, Invalidations, Reach
from windvane.stores.owed import Owed
from windvane.stores.redis.link import Link
from windvane.stores.redis.node import Refused, Reply, Unavailable

POLL_S = 1.0
DEADLINE_S = 0.25
"""Nobody's request waits for it."""

_INVALIDATE = f"""
redis.call('HDEL', KEYS[1], '')
local known = tonumber(redis.call('HGET', KEYS[1], '#v') or '0')
local version = math.max(known, tonumber(ARGV[2])) + 1
local tag = ARGV[1]
if redis.call('HLEN', KEYS[1]) > {TAGS_MAX} then
  redis.call('DEL', KEYS[1])
  tag = '{ALL}'
end
local said = redis.call('HGETALL', KEYS[1])
for at = 1, #said, 2 do
  if string.sub(said[at], 1, 2) == 't:' and tonumber(said[at + 1]) > tonumber(ARGV[4]) then
    redis.call('HSET', KEYS[1], said[at], version)
  end
end
redis.call('HSET', KEYS[1], '#v', version, '#n', ARGV[3], 't:' .. tag, version)
return version
"""

"""The first line deletes nothing. A server without room refuses a script's first write if that may need
some, and lets a script go on that has written before: so it takes invalidations when it is full, be it
Redis 6, Redis 7 or Valkey.

The last loop: until the server has heard of it, our own invalidation has a number that others may have
given to theirs. An entry made meanwhile bears that number, and would survive those it had not heard of; so
all that were made since we last read are made once more."""

_log = logging.getLogger("windvane.redis")


class RedisInvalidations:
    """Implements `InvalidationStore`."""

    def __init__(self, link: Link, *, rng: Random, owed: Owed) -> None:
        self._link = link
        self._rng = rng
        self._key = link.key("invalidations", "i")
        self._known = Invalidations()
        self._told = Invalidations()
        """What the server knows, for all that we know."""
        self._heard = 0
        self._nonce: bytes | None = None
        self._owed = owed
        self.has_heard = True
        """Whether we know what was taken back before we began: once begun, and not before we have read."""
        self._changing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def known(self) -> Invalidations:
        return self._known

    @property
    def untold(self) -> int:
        """Invalidations that count here, and that the server has not heard of yet."""
        return len(self._owed.tags)

    @property
    def reach(self) -> Reach:
        if not self._owed.tags:
            return Reach.EVERYWHERE
        return Reach.LATER if self._owed.is_noted else Reach.HERE

    async def start(self) -> None:
        """Learn what there is, and go on learning."""
        for tag in self._owed.left():
            self.invalidate_now(tag)
        self.has_heard = False
        await self._link.mapped()
        await self._learn()
        self._task = asyncio.get_running_loop().create_task(self._poll())

    def invalidate_now(self, tag: str) -> Invalidations:
        self._owed.add(tag)
        self._known = _with(self._known, tag, self._known.version + 1)
        return self._known

    async def spread(self) -> None:
        """Other processes know within two seconds, or, when the server is away, two seconds after it has
        come back."""
        if self._owed.tags:
            trouble = await self._learn()
            if trouble is not None and self._owed.tags:
                _log.warning(
                    "Redis %s; other processes hear of an invalidation later", _said(trouble)
                )

    async def invalidate(self, tag: str) -> Invalidations:
        self.invalidate_now(tag)
        await self.spread()
        return self._known

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._learn()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S * (0.8 + 0.4 * self._rng.random()))
            await self._learn()

    async def _learn(self) -> Unavailable | None:
        """Tell what is untold, and read what is new; what stood in the way, if anything did."""
        async with self._changing:
            try:
                await self._tell()
                await self._read()
            except Unavailable as error:
                _log.debug("invalidations: %s", error)
                return error
            else:
                self.has_heard = True
                return None
            finally:
                self._owed.note()

    async def _tell(self) -> None:
        while self._owed.tags:
            tag, number = next(iter(self._owed.tags.items()))
            await self._tell_of(tag)
            self._owed.paid({tag: number})

    async def _tell_of(self, tag: str) -> None:
        version = await self._raise(tag)
        self._told = _with(self._told, tag, version)
        self._known = _with(self._known, tag, version)

    async def _raise(self, tag: str) -> int:
        nonce = f"{self._rng.getrandbits(64):016x}"
        command = ("EVAL", _INVALIDATE, 1, self._key, tag, self._told.version, nonce, self._heard)
        (version,) = await self._link.ask(self._key, command, deadline_s=DEADLINE_S)
        return int(version)

    async def _read(self) -> None:
        (found,) = await self._link.ask(
            self._key, ("HMGET", self._key, "#v", "#n"), deadline_s=DEADLINE_S
        )
        version, nonce = int(found[0] or 0), found[1]
        if version == self._told.version and nonce == self._nonce:
            return
        (flat,) = await self._link.ask(self._key, ("HGETALL", self._key), deadline_s=DEADLINE_S)
        theirs = _as_invalidations(flat)
        if _knows_less(theirs, self._told):
            _log.warning("Redis has lost invalidations; everything is invalid")
            await self._tell_of(ALL)
            self._nonce = None  # read once more, to see what others made of it
            return
        self._told, self._heard, self._nonce = theirs, theirs.version, nonce
        known = theirs
        for tag in self._owed.tags:  # made while we asked: above all that anybody has a number for
            ours = max(theirs.version + 1, self._known.by_tag.get(tag, 0))
            known = _with(known, tag, ours)
        self._known = known


def _with(known: Invalidations, tag: str, version: int) -> Invalidations:
    """What is known after one more invalidation, of `tag`, that has a number already."""
    by_tag = {**known.by_tag, tag: max(version, known.by_tag.get(tag, 0))}
    if tag == ALL:
        by_tag = {ALL: by_tag[ALL]}  # no other tag has a higher number
    return Invalidations(version=max(version, known.version), by_tag=by_tag)


def _said(trouble: Unavailable) -> str:
    return f"refuses it ({trouble})" if isinstance(trouble, Refused) else "does not answer"


def _as_invalidations(flat: Reply) -> Invalidations:
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    said = {name.decode(): value for name, value in pairs}
    return Invalidations(
        version=int(said.get("#v", 0)),
        by_tag={name[2:]: int(value) for name, value in said.items() if name.startswith("t:")},
    )


def _knows_less(theirs: Invalidations, ours: Invalidations) -> bool:
    """Whether they would believe an entry that we know to be void."""
    covered = theirs.by_tag.get(ALL, 0)
    return theirs.version < ours.version or any(
        max(theirs.by_tag.get(tag, 0), covered) < version for tag, version in ours.by_tag.items()
    )
