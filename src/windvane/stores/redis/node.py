"""One Redis server: its connections, the deadline of a command, and the breaker.

Laws:
1. A reply is read by who asked for it, or by nobody: a connection on which a command was begun and whose
   replies were not all read is closed and never used again. Cancelling, a deadline and a fault are the same
   in this. (CVE-2023-28858: redis-py gave the reply to the next caller instead.)
2. A command takes `deadline_s` at most, connecting and waiting for a connection included.
3. After `FAILURES_TO_OPEN` failures in a row no command is tried, until a probe of our own has come
   through; one is made each second. Only then is it asked again.
4. A server that refuses to be written to is a replica now: its connections are closed, for the name may
   lead to its successor. Until it does, reads go on and writes are refused.
5. A command with a deadline of its own is background work, which may take longer: it is tried even then,
   and what becomes of it says nothing to the breaker. So a slow server still tells of invalidations.

It does not know what the commands mean.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from windvane.stores.redis.address import Make

DEADLINE_S = 0.02
"""Of a command. To notice that it is over takes a moment more: a caller waits for 25 ms at most."""
CONNECT_S = 1.0
"""Connecting may go on for so long after its caller has gone: a TLS handshake across a continent takes
longer than a caller is let wait, and the next one has the connection then."""
FAILURES_TO_OPEN = 3
PROBE_S = 1.0
CONNECTIONS_MAX = 16
"""Per process and server: one loop cannot keep more of them busy."""
WAITING_MAX = 1_024
"""Commands that may wait for a connection; what comes on top is a miss at once."""

# uvloop tells of a closed transport by a RuntimeError.
FAULTS = (RedisError, OSError, TimeoutError, RuntimeError, EOFError)
# What redis-py's reading of a reply raises where that is not as it expects: a MOVED to nowhere.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)

Command = tuple[bytes | str | int | float, ...]
Reply = Any

_log = logging.getLogger("windvane.redis")


class Unavailable(Exception):
    """There is no reply."""


class Unanswered(Unavailable):
    """The command may have been sent, and may be done yet; its reply will not be read."""


class Refused(Unavailable):
    """The server took the command and said no."""


class Node:
    """One server."""

    def __init__(
        self,
        make: Make,
        *,
        name: str,
        deadline_s: float,
        rng: Random,
        on_trouble: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_trouble` is called when the breaker opens, and with each probe until it closes."""
        self._make = make
        self.name = name
        self._deadline_s = deadline_s
        self._rng = rng
        self._on_trouble = on_trouble
        self._idle: list[AbstractConnection] = []
        self._opening: set[asyncio.Task[AbstractConnection]] = set()
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._waiting = 0
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None
        self._is_closed = False
        self.is_open = False
        """Whether the breaker is: nothing is asked then."""

    async def ask(self, *commands: Command, deadline_s: float | None = None) -> list[Reply]:
        """Send commands in one write, and read their replies; errors among them are ResponseErrors.

        Raises Unavailable.
        """
        counts = deadline_s is None
        if (self.is_open and counts) or self._is_closed or self._waiting >= WAITING_MAX:
            raise Unavailable
        has_begun = False
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline_s or self._deadline_s), self._places:
                has_begun = True
                replies = await self._exchange(commands)
        except FAULTS as error:
            if has_begun and counts:
                self._failed(error)
            raise (Unanswered if has_begun else Unavailable) from error
        finally:
            self._waiting -= 1
        if counts:
            self._failures = 0
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            await self._drop_idle()
        return replies

    async def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Law 1. A connection that was idle may have been closed by the server meanwhile: then once
        more, on a new one; commands are such that being done twice does no harm."""
        if self._idle:
            try:
                return await self._exchange_on(self._idle.pop(), commands)
            except (RedisError, OSError, RuntimeError, EOFError) as error:
                if isinstance(error, TimeoutError | RedisTimeoutError):
                    raise
                await self._drop_idle()
        return await self._exchange_on(await self._connected(), commands)

    async def _exchange_on(
        self, connection: AbstractConnection, commands: Sequence[Command]
    ) -> list[Reply]:
        is_clean = False
        try:
            packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed, check_health=False)
            replies = [await _reply(connection) for _ in commands]
            is_clean = True
        finally:
            if is_clean and not self._is_closed and len(self._idle) < CONNECTIONS_MAX:
                self._idle.append(connection)
            else:
                await _close(connection)
        return replies

    async def _connected(self) -> AbstractConnection:
        """A new connection. When its caller leaves, connecting goes on, for the next one; so many may be
        under way already that one of those is waited for."""
        while len(self._opening) >= CONNECTIONS_MAX:
            await asyncio.wait(self._opening, return_when=asyncio.FIRST_COMPLETED)
            if self._idle:
                return self._idle.pop()
        task = asyncio.get_running_loop().create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._keep)
            raise

    async def _connect(self) -> AbstractConnection:
        connection = self._make()
        is_up = False
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
            is_up = True
        except _UNREADABLE as error:
            raise InvalidResponse(f"no greeting of a Redis: {error}") from error
        finally:
            if not is_up:
                await _close(connection)
        return connection

    def _keep(self, task: asyncio.Task[AbstractConnection]) -> None:
        """What became of a connection that nobody waited for."""
        if task.cancelled() or task.exception() is not None:
            return
        if self._is_closed:
            _abandon(task.result())
        else:
            self._idle.append(task.result())

    # the breaker

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures < FAILURES_TO_OPEN or self.is_open or self._is_closed:
            return
        _log.warning("Redis at %s does not answer (%s); doing without it", self.name, _said(error))
        self.is_open = True
        self._probing = asyncio.get_running_loop().create_task(self._probe_until_up())

    async def _probe_until_up(self) -> None:
        await self._drop_idle()
        while True:
            self._on_trouble()
            await asyncio.sleep(PROBE_S * (0.8 + 0.4 * self._rng.random()))
            try:
                await self._probe()
            except FAULTS as error:
                _log.debug("Redis at %s: the probe failed: %s", self.name, _said(error))
            else:
                break
        _log.warning("Redis at %s answers again", self.name)
        self._failures = 0
        self.is_open = False

    async def _probe(self) -> None:
        """Connect, and be answered in time."""
        connection = self._idle.pop() if self._idle else await self._connect()
        async with asyncio.timeout(self._deadline_s):
            (reply,) = await self._exchange_on(connection, [("PING",)])
        if isinstance(reply, ResponseError):
            raise reply

    # the end

    async def _drop_idle(self) -> None:
        while self._idle:
            await _close(self._idle.pop())

    async def aclose(self) -> None:
        self._is_closed = True
        tasks = [*self._opening, *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._drop_idle()


async def _reply(connection: AbstractConnection) -> Reply:
    """The next reply; a refusal is one too, and leaves the connection in order."""
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
    except _UNREADABLE as error:
        raise InvalidResponse(f"a reply that cannot be read: {error}") from error


async def _close(connection: AbstractConnection) -> None:
    """Close it now, whatever is under way on it. Nobody has it any more, should even this fail."""
    try:
        await connection.disconnect(nowait=True)
    except FAULTS as error:
        _log.debug("closing a connection: %s", _said(error))


def _abandon(connection: AbstractConnection) -> None:
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.close()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
