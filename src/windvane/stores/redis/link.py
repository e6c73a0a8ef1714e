"""The way to the server that has a key: the only one there is, or the one of a cluster.

A cluster's map of slots is asked of any node that answers, again when a node has moved a slot or does not
answer. Without a map, and while a slot is on the move, there is no reply: a miss.

Keys are `wv:NAMESPACE:{NAME}:KIND`: what is about one name is in one slot.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from random import Random

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError

from windvane.stores.redis.address import Place, read_address, shown
from windvane.stores.redis.node import DEADLINE_S, Command, Node, Refused, Reply, Unavailable
from windvane.stores.redis.replies import Strange, number_of, parts_of

_log = logging.getLogger("windvane.redis")

NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
REFRESH_S = 1.0
"""A cluster's map is asked for at most so often."""
REFRESH_DEADLINE_S = 1.0


class Link:
    """Asks. Owns all connections."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "windvane",
        deadline_s: float = DEADLINE_S,
        monotonic_s: Callable[[], float],
        rng: Random,
    ) -> None:
        if not NAMESPACE.fullmatch(namespace):
            raise ValueError(
                f"the namespace {namespace!r} is not of 1 to 64 letters, digits, dots, dashes"
            )
        self._address = read_address(url)
        self.name = shown(url)
        self.prefix = f"wv:{namespace}:"
        self._deadline_s = deadline_s
        self._monotonic_s = monotonic_s
        self._rng = rng
        self._nodes: dict[Place, Node] = {}
        self._owners: list[tuple[int, int, Place]] = []
        self._moved: dict[int, Place] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at_s = float("-inf")
        self._is_said = False
        for place in self._address.places:
            self._node(place)

    def key(self, name: str, kind: str) -> str:
        """The key of what is kept about a name."""
        return f"{self.prefix}{{{name}}}:{kind}"

    @property
    def is_up(self) -> bool:
        """Whether all servers are asked."""
        return not any(node.is_open for node in self._nodes.values())

    async def ask(
        self, key: str, *commands: Command, deadline_s: float | None = None
    ) -> list[Reply]:
        """The replies to commands about one key, sent at once.

        Raises Unavailable when there are none, and Refused when one of them is a refusal.
        """
        node = self._node_of(key)
        replies = await node.ask(*commands, deadline_s=deadline_s)
        refusal = next((each for each in replies if isinstance(each, ResponseError)), None)
        if isinstance(refusal, MovedError):
            place = (refusal.host or self._address.places[0][0], int(refusal.port))
            self._moved[key_slot(key.encode())] = place
            self.refresh()
            replies = await self._node(place).ask(*commands, deadline_s=deadline_s)
            refusal = next((each for each in replies if isinstance(each, ResponseError)), None)
        if refusal is not None:
            if isinstance(refusal, MovedError | AskError) or "CLUSTERDOWN" in str(refusal):
                self.refresh()
            raise Refused(str(refusal)) from refusal
        return replies

    def servers(self) -> Sequence[Node]:
        """All servers that have keys of their own: one, or a cluster's primaries."""
        if not self._address.is_cluster:
            return list(self._nodes.values())
        self._want_map()
        return [self._node(place) for place in dict.fromkeys(place for *_, place in self._owners)]

    async def aclose(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for node in self._nodes.values():
            await node.aclose()

    # where a key is

    def _node(self, place: Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = Node(
                self._address.make(place),
                name=f"{place[0]}:{place[1]}",
                deadline_s=self._deadline_s,
                rng=self._rng,
                on_trouble=self.refresh,
            )
        return node

    def _node_of(self, key: str) -> Node:
        if not self._address.is_cluster:
            return self._node(self._address.places[0])
        slot = key_slot(key.encode())
        moved = self._moved.get(slot)
        if moved is not None:
            return self._node(moved)
        for first, last, place in self._owners:
            if first <= slot <= last:
                return self._node(place)
        self._want_map()
        raise Unavailable

    def _want_map(self) -> None:
        if not self._owners:
            self.refresh()

    def refresh(self) -> None:
        """Have the map of a cluster asked for, unless it just was."""
        is_soon = self._monotonic_s() - self._refreshed_at_s < REFRESH_S
        is_under_way = self._refreshing is not None and not self._refreshing.done()
        if not self._address.is_cluster or is_soon or is_under_way:
            return
        self._refreshed_at_s = self._monotonic_s()
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def mapped(self) -> None:
        """Wait until a cluster's map has been asked for once."""
        self._want_map()
        if self._refreshing is not None:
            await asyncio.wait([self._refreshing])

    async def _refresh(self) -> None:
        for place, node in list(self._nodes.items()):
            try:
                (slots,) = await node.ask(("CLUSTER", "SLOTS"), deadline_s=REFRESH_DEADLINE_S)
                if isinstance(slots, ResponseError):
                    self._say_that_it_is_none(node, slots)
                    continue
                owners = [_owner(row, place[0]) for row in parts_of(slots)]
            except Unavailable:
                continue
            if not owners:
                continue
            self._owners = owners
            self._moved = {}
            await self._forget_others({place for *_, place in self._owners})
            return

    def _say_that_it_is_none(self, node: Node, refusal: ResponseError) -> None:
        """Once, when a server has no map: nothing is kept there by such an address."""
        if not self._is_said:
            _log.warning("Redis at %s is asked as a cluster, and says: %s", node.name, refusal)
        self._is_said = True

    async def _forget_others(self, places: set[Place]) -> None:
        for place in [each for each in self._nodes if each not in places]:
            if place not in self._address.places:
                await self._nodes.pop(place).aclose()


def _owner(row: Reply, asked: str) -> tuple[int, int, Place]:
    """First slot, last slot, and where their primary is; a node without a name is the one asked. Raises
    Strange."""
    if len(parts_of(row)) < 3 or len(parts_of(row[2])) < 2:
        raise Strange(row)
    first, last, (host, port, *_), *_ = row
    name = host.decode("utf-8", "replace") if isinstance(host, bytes) else ""
    place = name if name and name != "?" else asked, number_of(port)
    return number_of(first), number_of(last), place
