"""Invalidations that all processes on one Redis know of.

One hash has the number of the last invalidation, a nonce of whoever made it, and the last number of each
tag. Every process asks for number and nonce twice a second, and reads the rest when they are others than
it knows: so each knows of an invalidation within two seconds. One that has asked in vain for nearly so
long may not know of one, and says so (`has_heard`): what is kept is not given then.

Laws: numbers only rise, in the server's eyes and in ours; an invalidation counts here at once, and is
told to the server until it has heard, after a restart too; a process believes nothing that it finds
before it has heard what was taken back so far; when the server knows less than we do (it was flushed,
restored from an old copy, or failed over and lost the last), or has what cannot be read, everything is
invalid: which entries its loss brought back cannot be told.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from random import Random

from windvane.core.cache.invalidation import ALL, TAGS_MAX, Invalidations, Reach
from windvane.stores.owed import Owed
from windvane.stores.redis.link import Link
from windvane.stores.redis.node import Command, Refused, Reply, Unavailable
from windvane.stores.redis.replies import (
    DIGITS_MAX,
    Strange,
    number_of,
    parts_of,
    written_number,
)

POLL_S = 0.5
DEADLINE_S = 0.25
"""Nobody's request waits for it."""
BELIEVED_S = 1.9
"""For so long after it was last asked in time the server may have heard of nothing that we have not. Twice
it may be asked in vain meanwhile."""
TOLD_AT_ONCE = 500
"""Tags that the server is told of in one command. Each reads all that it has: to tell of many after an
outage, one by one, would keep it from everybody's requests."""

_INVALIDATE = f"""
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then redis.call('HDEL', KEYS[1], '') else redis.call('DEL', KEYS[1]) end
local known, is_all = tonumber(ARGV[1]), false
for at = 4, #ARGV do is_all = is_all or ARGV[at] == '{ALL}' end
local is_whole = kind == 'hash' or kind == 'none'
local said = redis.call('HGETALL', KEYS[1])
for at = 1, #said, 2 do
  if said[at] == '#v' or string.sub(said[at], 1, 2) == 't:' then
    if string.match(said[at + 1], '^%d+$') and #said[at + 1] <= {DIGITS_MAX} then
      known = math.max(known, tonumber(said[at + 1]))
    else is_whole = false end
  end
end
if not is_whole then known = math.max(known, redis.call('TIME')[1] * 1000) end
local version = known + 1
if is_all or not is_whole or #said / 2 > {TAGS_MAX} then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 't:{ALL}', version)
  said = {{}}
end
for at = 1, #said, 2 do
  if string.sub(said[at], 1, 2) == 't:' and tonumber(said[at + 1]) > tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], said[at], version)
  end
end
for at = 4, #ARGV do redis.call('HSET', KEYS[1], 't:' .. ARGV[at], version) end
redis.call('HSET', KEYS[1], '#v', version, '#n', ARGV[2])
return version
"""

"""The first line deletes nothing of ours. A server without room refuses a script's first write if that may
need some, and lets a script go on that has written before: so it takes invalidations when it is full, be it
Redis 6, Redis 7 or Valkey.

A number that cannot be read may have been any. The milliseconds of our time are more than all that were
ever given, so everything is invalid.

The last loop but one: until the server has heard of it, our own invalidation has a number that others may
have given to theirs. An entry made meanwhile bears that number, and would survive those it had not heard
of; so all that were made since we last read are made once more."""

_log = logging.getLogger("windvane.redis")


class RedisInvalidations:
    """Implements `InvalidationStore`."""

    def __init__(
        self, link: Link, *, monotonic_s: Callable[[], float], rng: Random, owed: Owed
    ) -> None:
        self._link = link
        self._monotonic_s = monotonic_s
        self._rng = rng
        self._key = link.key("invalidations", "i")
        self._known = Invalidations()
        self._told = Invalidations()
        """What the server knows, for all that we know."""
        self._heard = 0
        self._nonce: bytes | None = None
        self._owed = owed
        self._heard_at_s = float("inf")
        self._is_cut_off = False
        self._changing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def known(self) -> Invalidations:
        return self._known

    @property
    def has_heard(self) -> bool:
        """Whether we know all that was taken back, but for the last two seconds: once begun, and not before
        we have read."""
        return self._monotonic_s() - self._heard_at_s < BELIEVED_S

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
        left = self._owed.left()
        for tag in left:
            self._owed.add(tag)
        if left:
            self._known = _with(self._known, self._owed.tags, self._known.version + 1)
        self._heard_at_s = float("-inf")
        await self._link.mapped()
        await self._learn()
        self._task = asyncio.get_running_loop().create_task(self._poll())

    def invalidate_now(self, tag: str) -> Invalidations:
        self._owed.add(tag)
        owed = tag if tag in self._owed.tags else ALL  # there were too many to remember each
        self._known = _with(self._known, (owed,), self._known.version + 1)
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
        trouble: Unavailable | None = None
        async with self._changing:
            try:
                try:
                    await self._tell()
                except (Refused, Strange) as error:
                    trouble = error  # what others have told can be read all the same
                began_s = self._monotonic_s()
                await self._read()
                self._heard_at_s = began_s
            except Unavailable as error:
                trouble = error
            finally:
                self._owed.note()
        self._say_if_cut_off(trouble)
        return trouble

    def _say_if_cut_off(self, trouble: Unavailable | None) -> None:
        """Once when it begins, and once when it is over."""
        if trouble is None and self._is_cut_off:
            _log.warning("Redis tells again of what others take back")
        elif trouble is not None and not self._is_cut_off and not self.has_heard:
            _log.warning("Redis %s; what others take back is not heard of", _said(trouble))
        else:
            return
        self._is_cut_off = not self._is_cut_off

    async def _tell(self) -> None:
        while self._owed.tags:
            tags = dict(islice(self._owed.tags.items(), TOLD_AT_ONCE))
            await self._tell_of(*tags)
            self._owed.paid(tags)

    async def _tell_of(self, *tags: str) -> None:
        version = await self._raise(*tags)
        self._told = _with(self._told, tags, version)
        self._known = _with(self._known, tags, version)

    async def _raise(self, *tags: str) -> int:
        nonce = f"{self._rng.getrandbits(64):016x}"
        numbers = self._told.version, nonce, self._heard
        command: Command = ("EVAL", _INVALIDATE, 1, self._key, *numbers, *tags)
        (version,) = await self._link.ask(self._key, command, deadline_s=DEADLINE_S)
        return number_of(version)

    async def _read(self) -> None:
        theirs, nonce = await self._what_they_know()
        if theirs is self._told:
            return
        if theirs is None or _knows_less(theirs, self._told):
            what = "cannot be read" if theirs is None else "have been lost"
            _log.warning("invalidations in Redis %s; everything is invalid", what)
            await self._tell_of(ALL)
            self._nonce = None  # read once more, to see what others made of it
            return
        self._told, self._heard, self._nonce = theirs, theirs.version, nonce
        known, by_number = theirs, dict[int, list[str]]()
        for tag in self._owed.tags:  # made while we asked: above all that anybody has a number for
            ours = max(theirs.version + 1, self._known.by_tag.get(tag, 0))
            by_number.setdefault(ours, []).append(tag)
        for number in sorted(by_number):
            known = _with(known, by_number[number], number)
        self._known = known

    async def _what_they_know(self) -> tuple[Invalidations | None, bytes | None]:
        """What the server has, `_told` itself when that is all, None when it cannot be read; and the nonce
        of whoever wrote there last."""
        try:
            numbers = await self._ask("HMGET", self._key, "#v", "#n")
            version, nonce = parts_of(numbers, 2)
            if nonce == self._nonce and written_number(version or b"0") == self._told.version:
                return self._told, nonce
            return _as_invalidations(await self._ask("HGETALL", self._key)), nonce
        except Refused as refusal:
            if not str(refusal).startswith("WRONGTYPE"):
                raise
            return None, None

    async def _ask(self, *command: str) -> Reply:
        (reply,) = await self._link.ask(self._key, command, deadline_s=DEADLINE_S)
        return reply


def _with(known: Invalidations, tags: Iterable[str], version: int) -> Invalidations:
    """What is known after one more invalidation, of `tags`, that has a number already."""
    said = {tag: max(version, known.by_tag.get(tag, 0)) for tag in tags}
    by_tag = said if ALL in said else {**known.by_tag, **said}  # no other tag has a higher number
    return Invalidations(version=max(version, known.version), by_tag=by_tag)


def _said(trouble: Unavailable) -> str:
    if isinstance(trouble, Refused | Strange):
        return f"refuses it ({trouble})" if isinstance(trouble, Refused) else f"gives {trouble}"
    return "does not answer"


def _as_invalidations(flat: Reply) -> Invalidations | None:
    """What a hash says; None when something of ours in it cannot be read."""
    parts = parts_of(flat)
    said = dict(zip(parts[::2], parts[1::2], strict=False))
    version, by_tag = written_number(said.get(b"#v", b"0")), dict[str, int]()
    for name, value in said.items():
        if isinstance(name, bytes) and name.startswith(b"t:"):
            tag, number = _text(name[2:]), written_number(value)
            if tag is None or number is None:
                return None
            by_tag[tag] = number
    return None if version is None else Invalidations(version=version, by_tag=by_tag)


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _knows_less(theirs: Invalidations, ours: Invalidations) -> bool:
    """Whether they would believe an entry that we know to be void."""
    covered = theirs.by_tag.get(ALL, 0)
    return theirs.version < ours.version or any(
        max(theirs.by_tag.get(tag, 0), covered) < version for tag, version in ours.by_tag.items()
    )
