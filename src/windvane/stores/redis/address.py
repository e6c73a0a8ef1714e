"""Where Redis is, as a URL says it, and how a connection there is made.

`redis://`, `valkey://` are TCP; `rediss://`, `valkeys://` TLS; `unix://` a socket; with `+cluster` the URL
names one or more nodes of a cluster, separated by commas, and the rest is found out from them.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    RedisSSLContext,
    SSLConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

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
_OPTIONS = {
    "db", "username", "password", "client_name", "socket_keepalive", "socket_read_size",
    "retry_on_timeout",
}  # fmt: skip
_TLS_OPTIONS = {
    "ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname",
    "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_min_version", "ssl_ciphers",
    "ssl_include_verify_flags", "ssl_exclude_verify_flags",
}  # fmt: skip
"""What may stand behind the question mark; and what is `_ALWAYS` the same, and not heeded."""


class Address(msgspec.Struct, frozen=True):
    """A server, or the nodes of a cluster that are known beforehand."""

    places: tuple[Place, ...]
    is_cluster: bool
    kind: type[AbstractConnection]
    arguments: dict[str, Any]
    tls: RedisSSLContext | None = None
    """The one of all connections: reading the certificates that are trusted takes a tenth of a second, and
    nothing else is done meanwhile."""

    def make(self, place: Place) -> Make:
        """What makes connections to one place."""
        kind, arguments = self.kind, dict(self.arguments)
        if "path" not in arguments:
            arguments["host"], arguments["port"] = place

        def connection() -> AbstractConnection:
            made = kind(**arguments, **_ALWAYS)
            if isinstance(made, SSLConnection) and self.tls is not None:
                made.ssl_context = self.tls
            return made

        return connection


def read_address(url: str) -> Address:
    """Read a URL, and the certificates that it names. Raises ValueError, without the URL: it may hold a
    password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(
            f"a Redis address begins with one of {', '.join(f'{each}://' for each in SCHEMES)}"
        )
    if "#" in rest:  # what is behind it would be dropped, or a password be told in an error
        raise ValueError("a # in a Redis address, as in a password, is written %23")
    base, _, cluster = scheme.partition("+")
    base = _AS_REDIS.get(base, base)
    login, at, hosts, tail = _parts(rest) if base != "unix" else ("", "", [rest], "")
    if len(hosts) > 1 and not cluster:
        raise ValueError(f"only an address of {scheme}+cluster:// names several hosts")
    for host in hosts if base != "unix" else ():
        _check_host(host)
    _check_tail(base, rest if base == "unix" else tail)
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
    tls = _tls_of(kind, arguments) if issubclass(kind, SSLConnection) else None
    return Address(places=places, is_cluster=bool(cluster), kind=kind, arguments=arguments, tls=tls)


def _tls_of(kind: type[SSLConnection], arguments: dict[str, Any]) -> RedisSSLContext:
    """What all connections share. Raises ValueError."""
    try:
        context = kind(**arguments, **_ALWAYS).ssl_context
        context.get()
    except (RedisError, OSError, ValueError) as error:
        raise ValueError(f"TLS cannot be had as the Redis address says: {error}") from error
    return context


def _check_tail(base: str, tail: str) -> None:
    """What follows the hosts. Raises ValueError: redis-py passes over a database that is no number, and
    fails at an option that it does not know only when it connects."""
    found = urlsplit(tail)
    number = found.path.strip("/")
    if base != "unix" and number and not (number.isascii() and number.isdigit()):
        raise ValueError("a Redis address ends with the number of a database, or with none")
    known = _OPTIONS | (_TLS_OPTIONS if base == "rediss" else set())
    if not parse_qs(found.query, keep_blank_values=True).keys() <= known | _ALWAYS.keys():
        raise ValueError(
            f"the Redis address has an option that there is none of; with {base}:// there are"
            f" {', '.join(sorted(known))}"
        )


def _check_host(host: str) -> None:
    try:
        port = urlsplit(f"//{host}").port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port of a Redis address is a number from 1 to 65535") from None


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
