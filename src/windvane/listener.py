"""Letting connections in: a crowd that comes at once is taken at once.

uvloop takes one connection each time round its loop. Where every round serves hundreds of callers, a
new one would wait for as many rounds as others stand before it: for seconds.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

AT_ONCE_MAX = 128
"""So many are taken in one round of the loop; then those who are in have their turn."""
BACKLOG = 4_096
"""Connections that may wait to be taken: a load test opens thousands at once."""
PAUSE_S = 0.25
"""How long none is taken when the process has no descriptor left for one."""
WARNED_S = 60
"""How often the log is told of that: it may last as long as its cause."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)


class Listener:
    """Takes the connections of a socket, until it is closed. `protocol` makes the protocol of each.

    The socket is the listener's from then on. It is made within a running loop, and has of an
    `asyncio.Server` what a server's owner needs: `sockets`, `close` and `wait_closed`.
    """

    def __init__(self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        listening.setblocking(False)
        self.sockets = (listening,)
        self._listening = listening
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._silent_until_s = 0.0
        self._resume()

    def close(self) -> None:
        """Take no more; those who are half in are turned away. To close again does nothing."""
        if self._is_closed():
            return
        if self._pause is None:
            self._loop.remove_reader(self._listening)
        else:
            self._pause.cancel()
        self._listening.close()

    async def wait_closed(self) -> None:
        """Wait until nobody is half in any more."""
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._take)

    def _take(self) -> None:
        for _ in range(AT_ONCE_MAX):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # it has left again
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._rest(error)
                return
            arrival = self._loop.create_task(self._let_in(connection))
            self._arriving.add(arrival)
            arrival.add_done_callback(self._arriving.discard)

    def _rest(self, reason: OSError) -> None:
        """Take none for a while; who waits is in the kernel's queue."""
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(PAUSE_S, self._resume)
        if self._loop.time() >= self._silent_until_s:
            self._silent_until_s = self._loop.time() + WARNED_S
            logger.warning("connections wait, as none can be taken: %s", reason)

    def _is_closed(self) -> bool:
        return self._listening.fileno() < 0

    async def _let_in(self, connection: socket.socket) -> None:
        if self._is_closed():
            connection.close()
            return
        connection.setblocking(False)
        try:
            transport, _ = await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as error:
            logger.debug("a connection was lost as it came: %s", error)
            connection.close()
        else:
            if self._is_closed():
                # Not canceled midway: uvloop would never tell the protocol that its connection is lost.
                transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol said: asyncio turns Nagle off only where it is sure that it is TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def address_of(listening: socket.socket) -> str:
    """The address that a socket listens at, as a URL without a path."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
