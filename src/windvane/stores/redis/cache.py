"""The cache's tier that processes share.

An entry is one string, `wv:NAMESPACE:{KEY IN HEX}:c`, that expires by itself: a head (whose key it is,
what it is worth, its tags) and the data. The key in the head is compared at each look-up: should a reply
ever go astray, it is a miss.

Tags are in no index. An index would cost every entry a member in three or four sorted sets, which outlive
what they point to, are lost whole when the server makes room, and lie in one slot of a cluster each; and
an invalidated entry is void already, by the number it bears. Taking entries out is for room alone, and
seldom: it goes through the namespace by SCAN, reads the heads, and counts what it unlinks. Nothing here
empties a database, or lists all keys at once.

An entry that was asked for under a lease (`leases.py`) is stored under that lease's number, and not where
one of a later lease was: a process that was stopped, and wakes up late, does not put its answer over a
newer one. The number is kept beside the leases' own, so that both are lost together. An entry without a
lease is stored as it comes.

Room is the server's own business: `maxmemory` with `allkeys-lfu` or `volatile-lfu`. When it has none, puts
are refused, and counted as faults.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from redis.exceptions import ResponseError

from windvane.core.cache.invalidation import ALL
from windvane.ports.stores import CacheStats, Kept
from windvane.stores.redis.leases import NUMBERS, NUMBERS_KEPT_S
from windvane.stores.redis.link import Link
from windvane.stores.redis.node import Command, Node, Reply, Unavailable
from windvane.stores.redis.replies import number_of, parts_of, written_number

KIND = "c"
KEEP_S_MAX = 10 * 365 * 86_400.0
SCANNED_AT_ONCE = 500
HEAD_BYTES_READ = 2_048
"""As much as is read of an entry to know its tags; longer heads are taken to have the tag."""
REMOVE_DEADLINE_S = 1.0
"""For each command of a removal: nobody's request waits for it."""
REMOVE_S_MAX = 60.0

_PUT_UNDER_LEASE = """
local granted = tonumber(redis.call('HGET', KEYS[2], 'granted') or '0')
local stored = redis.call('HGET', KEYS[2], 'stored')
local is_of_lost = tonumber(ARGV[1]) > granted
if stored and (is_of_lost or tonumber(stored) > tonumber(ARGV[1])) then return 0 end
if ARGV[2] == '0' then redis.call('UNLINK', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2]) end
if is_of_lost then return 1 end
redis.call('HSET', KEYS[2], 'stored', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
"""
"""A number that was not granted is of a count that was lost meanwhile. It is not kept: each lease of the
new count has a lower one, and none could replace the entry."""

_MAGIC = b"WVr1"
_LENGTH_BYTES = 4
_HEAD_AT = len(_MAGIC) + _LENGTH_BYTES


class _Head(msgspec.Struct, frozen=True, array_like=True):
    key: bytes
    worth: float
    tags: tuple[str, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Head).decode


class RedisCache:
    """Implements `LowerTier`."""

    name = "redis"
    entry_bytes_max = 256 * 1024 * 1024
    """Half of what a string may be there."""

    def __init__(self, link: Link, *, is_believed: Callable[[], bool] = lambda: True) -> None:
        """Owns the link: closing this closes it. While it is not believed, nothing is found: what was
        taken back is not known yet."""
        self._link = link
        self._is_believed = is_believed
        self._hits = self._misses = self._stored = self._faults = 0

    async def get(self, key: bytes) -> bytes | None:
        kept = await self.find(key)
        return kept.data if kept is not None else None

    async def find(self, key: bytes) -> Kept | None:
        if not self._is_believed():
            self._misses += 1
            return None
        name = self._link.key(key.hex(), KIND)
        try:
            value, left = await self._link.ask(name, ("GET", name), ("PTTL", name))
            left_ms = number_of(left)
        except Unavailable:
            self._faults += 1
            self._misses += 1
            return None
        found = _unpacked(value) if value is not None else None
        # Without an end it is not ours as it stands, and without a while left it is over.
        if found is None or found[0].key != key or left_ms <= 0:
            self._faults += value is not None and (found is None or found[0].key != key)
            self._misses += 1
            return None
        self._hits += 1
        head, data = found
        return Kept(data=data, tags=head.tags, left_s=left_ms / 1_000, worth=head.worth)

    async def put(
        self,
        key: bytes,
        data: bytes,
        *,
        tags: Sequence[str],
        keep_s: float,
        worth: float,
        fence: int = 0,
    ) -> None:
        if keep_s <= 0 and not fence:
            await self.remove(key)
            return
        name = self._link.key(key.hex(), KIND)
        left_ms = max(int(min(keep_s, KEEP_S_MAX) * 1_000), 1) if keep_s > 0 else 0
        value = _packed(_Head(key, worth, tuple(tags)), data)
        command: Command = ("SET", name, value, "PX", left_ms)
        if fence:
            names = (name, self._link.key(key.hex(), NUMBERS))
            command = ("EVAL", _PUT_UNDER_LEASE, 2, *names, fence, left_ms, value, NUMBERS_KEPT_S)
        try:
            (is_stored,) = await self._link.ask(name, command)
        except Unavailable:
            self._faults += 1
        else:
            self._stored += bool(is_stored) and left_ms > 0

    async def remove(self, key: bytes) -> int:
        name = self._link.key(key.hex(), KIND)
        try:
            (removed,) = await self._link.ask(name, ("UNLINK", name))
            return number_of(removed)
        except Unavailable:
            self._faults += 1
            return 0

    async def remove_tagged(self, tag: str) -> int:
        """Goes through the whole namespace, a piece at a time; what it could not reach stays, void."""
        removed = 0
        try:
            async with asyncio.timeout(REMOVE_S_MAX):
                for node in self._link.servers():
                    async for names in self._names(node):
                        removed += await _unlink(node, await _tagged(node, names, tag))
        except (Unavailable, TimeoutError):
            self._faults += 1
        return removed

    async def _names(self, node: Node) -> AsyncIterator[list[bytes]]:
        """The names of all entries on a server, a piece at a time; some may come twice."""
        cursor: Reply = b"0"
        pattern = self._link.key("*", KIND)
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_AT_ONCE)
            (reply,) = await node.ask(command, deadline_s=REMOVE_DEADLINE_S)
            if isinstance(reply, ResponseError):
                raise Unavailable from reply
            cursor, names = parts_of(reply, 2)
            if parts_of(names):
                yield names
            if written_number(cursor) == 0:
                return

    async def stats(self) -> CacheStats:
        """What this process did, and how full the servers are: all keys there, and all their memory,
        whoever put them."""
        entries = used = most = 0
        for node in self._link.servers():
            try:
                count, memory = await node.ask(("DBSIZE",), ("INFO", "memory"))
            except Unavailable:
                continue
            entries += count if isinstance(count, int) else 0
            used += _said(memory, b"used_memory:")
            most += _said(memory, b"maxmemory:")
        return CacheStats(
            tier=self.name,
            entries=entries,
            bytes=used,
            bytes_max=most or None,
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            faults=self._faults,
            is_up=self._link.is_up and self._is_believed(),
        )

    async def aclose(self) -> None:
        await self._link.aclose()


async def _tagged(node: Node, names: list[bytes], tag: str) -> list[bytes]:
    """Which of these entries have a tag."""
    if tag == ALL:
        return names
    reads = [("GETRANGE", name, 0, HEAD_BYTES_READ - 1) for name in names]
    beginnings = await node.ask(*reads, deadline_s=REMOVE_DEADLINE_S)
    return [
        name for name, beginning in zip(names, beginnings, strict=True) if _has_tag(beginning, tag)
    ]


async def _unlink(node: Node, names: list[bytes]) -> int:
    """One command each: in a cluster they are in different slots."""
    if not names:
        return 0
    replies = await node.ask(*(("UNLINK", name) for name in names), deadline_s=REMOVE_DEADLINE_S)
    return sum(reply for reply in replies if isinstance(reply, int))


def _packed(head: _Head, data: bytes) -> bytes:
    encoded = _encode(head)
    return b"".join((_MAGIC, len(encoded).to_bytes(_LENGTH_BYTES, "big"), encoded, data))


def _unpacked(value: Reply) -> tuple[_Head, bytes] | None:
    """Head and data; None when it is nothing that we wrote."""
    if not isinstance(value, bytes) or value[: len(_MAGIC)] != _MAGIC:
        return None
    end = _HEAD_AT + int.from_bytes(value[len(_MAGIC) : _HEAD_AT], "big")
    try:
        return _decode(value[_HEAD_AT:end]), value[end:]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _has_tag(beginning: Reply, tag: str) -> bool:
    if not isinstance(beginning, bytes) or not beginning:
        return False
    found = _unpacked(beginning)
    if found is None:
        return beginning[: len(_MAGIC)] == _MAGIC and len(beginning) == HEAD_BYTES_READ
    return tag in found[0].tags


def _said(info: Reply, name: bytes) -> int:
    for line in info.splitlines() if isinstance(info, bytes) else ():
        if line.startswith(name):
            return written_number(line.removeprefix(name)) or 0
    return 0
