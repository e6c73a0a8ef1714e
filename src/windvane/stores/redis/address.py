"""Where Redis is, as a URL says it, and how a connection there is made.

`redis://`, `valkey://` are TCP; `rediss://`, `valkeys://` TLS; `unix://` a socket; with `+cluster` the URL
names one or more nodes of a cluster, separated by commas, and the rest is found out from them.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from windvane.stores.redis import SCHEMES

PORT = 6379
Place = tuple[str, int]
"""Host and port; a socket's path and 0."""
Make = Callable[[], AbstractConnection]

_AS_REDIS = {"valkey": "redis", "valkeys": "rediss"}
_ALWAYS: dict[str, Any] = {
    # Our own deadline is around every exchange; whoever tries again within it knows whether it may.
    "socket_timeout": None,
    "socket_connect_timeout": None,
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
    # One round trip less at each connecting; and what answers is bytes in either protocol.
    "driver_info": None,
    "protocol": 2,
    "decode_responses": False,
}


class Address(msgspec.Struct, frozen=True):
    """A server, or the nodes of a cluster that are known beforehand."""

    places: tuple[Place, ...]
    is_cluster: bool
    kind: type[AbstractConnection]
    arguments: dict[str, Any]

    def make(self, place: Place) -> Make:
        """What makes connections to one place."""
        kind, arguments = self.kind, dict(self.arguments)
        if "path" not in arguments:
            arguments["host"], arguments["port"] = place
        return lambda: kind(**arguments, **_ALWAYS)


def read_address(url: str) -> Address:
    """Read a URL. Raises ValueError, without the URL: it may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(
            f"a Redis address begins with one of {', '.join(f'{each}://' for each in SCHEMES)}"
        )
    base, _, cluster = scheme.partition("+")
    base = _AS_REDIS.get(base, base)
    login, at, hosts, tail = _parts(rest) if base != "unix" else ("", "", [rest], "")
    if len(hosts) > 1 and not cluster:
        raise ValueError(f"only an address of {scheme}+cluster:// names several hosts")
    found = [parse_url(f"{base}://{login}{at}{host}{tail}") for host in hosts]
    arguments: dict[str, Any] = dict(found[0])
    kind = arguments.pop("connection_class", Connection)
    if base == "unix" and "path" not in arguments:
        raise ValueError("a unix:// address names a socket: unix:///run/redis.sock")
    for name in _ALWAYS:
        arguments.pop(name, None)
    if cluster and int(arguments.pop("db", 0) or 0):
        raise ValueError("a Redis Cluster has one database: leave the number out of the address")
    places = tuple(
        (str(each.get("host", each.get("path", "localhost"))), _port(each, base)) for each in found
    )
    return Address(places=places, is_cluster=bool(cluster), kind=kind, arguments=arguments)


def _parts(rest: str) -> tuple[str, str, list[str], str]:
    """Login, "@" when there is one, hosts, and from the path on."""
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    login, at, hosts = rest[:end].rpartition("@")
    return login, at, hosts.split(","), rest[end:]


def _port(arguments: Any, base: str) -> int:
    return 0 if base == "unix" else int(arguments.get("port", PORT))


def shown(url: str) -> str:
    """The address without its password, for people."""
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc.rpartition('@')[2]}{found.path}"
