"""A real Redis for the tests, started by them, and a proxy that spoils the way to it.

Where there is no `redis-server` the tests that need one are skipped, and say what to install; with
`CI_REQUIRES_REDIS=1` they fail instead.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

START_S = 60.0
BINARY = shutil.which("redis-server")
NEEDS_REDIS = pytest.mark.skipif(
    BINARY is None and os.environ.get("CI_REQUIRES_REDIS") != "1",
    reason="no redis-server on this machine: apt-get install redis-server",
)


class RedisServer:
    """One server on a free port of the loopback interface, and on a socket in a folder of its own."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.socket = folder / f"{self.port}.sock"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        if BINARY is None:
            pytest.fail("no redis-server on this machine: apt-get install redis-server")
        self.process = subprocess.Popen(
            [
                BINARY, "--bind", "127.0.0.1", "--port", str(self.port),
                "--unixsocket", str(self.socket), "--dir", str(self.folder),
                "--save", "", "--appendonly", "no", "--daemonize", "no", *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            assert self.process.poll() is None, "redis-server ended at once"
            time.sleep(0.02)
        raise TimeoutError("redis-server did not come up")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def client(self, **options: Any) -> redis.Redis:
        """Somebody else on the same server."""
        return redis.Redis(host="127.0.0.1", port=self.port, **options)


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="wv-redis-") as folder:
        server = RedisServer(Path(folder), *options)
        try:
            yield server.start()
        finally:
            server.kill()


@contextlib.contextmanager
def redis_pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary, and a replica that is up to date."""
    at_once = ("--repl-diskless-sync-delay", "0")
    with redis_server(*at_once) as primary, redis_server(*at_once) as replica:
        follow(replica, primary)
        yield primary, replica


def follow(replica: RedisServer, primary: RedisServer | None) -> None:
    """Make a server another's replica, and wait for its copy; or a primary of its own."""
    with replica.client() as client:
        if primary is None:
            client.replicaof("NO", "ONE")
            return
        client.replicaof("127.0.0.1", primary.port)
        deadline = time.monotonic() + START_S
        while client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline, "the replica did not connect"
            time.sleep(0.02)


@contextlib.contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[RedisServer]]:
    """A cluster of primaries that share all slots."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                redis_server("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            )
            for _ in range(nodes)
        ]
        ports = [server.port for server in servers]
        for number, server in enumerate(servers):
            with server.client() as client:
                first, last = 16384 * number // nodes, 16384 * (number + 1) // nodes - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                for port in ports:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        deadline = time.monotonic() + START_S
        while not all(_is_whole(server, nodes) for server in servers):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.05)
        yield servers


def _is_whole(server: RedisServer, nodes: int) -> bool:
    with server.client() as client:
        info = client.execute_command("CLUSTER", "INFO")
        said = (
            info
            if isinstance(info, dict)
            else dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        )
        slots = client.execute_command("CLUSTER", "SLOTS")
    return said["cluster_state"] == "ok" and len(slots) == nodes


def free_port() -> int:
    """A port that the kernel gives to no outgoing connection: one of these would take it while its
    server is away. The same is true of a cluster's bus, 10,000 above."""
    while True:
        port = 10_000 + secrets.randbelow(12_000)
        with socket.socket() as one, socket.socket() as bus, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


class FaultProxy:
    """Between a client and a server on TCP. What it does is set by its attributes, at any time.

    `is_refusing`: nobody listens. `is_resetting`: connections are reset, old ones at the next byte.
    `is_silent`: everything is taken, nothing passed on. `delay_s`: replies come so much later.
    `cut_after`: a reply is cut after so many bytes, and the connection reset.
    """

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.port = free_port()
        self.is_resetting = False
        self.is_silent = False
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.connections = 0
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """Stop listening, and reset what is connected."""
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._listener.wait_closed()
        self._listener = None

    async def aclose(self) -> None:
        if self._listener is not None:
            await self.refuse()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if not self.is_resetting:
                there = await asyncio.open_connection("127.0.0.1", self.server_port)
                with contextlib.closing(there[1]):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._pass_on(reader, there[1]))
                        group.create_task(self._pass_back(there[0], writer))
        except* (OSError, asyncio.CancelledError, _Cut):
            pass
        finally:
            _reset(writer)
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.is_resetting:
                raise _Cut
            if not self.is_silent:
                writer.write(data)
        raise _Cut

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.cut_after is not None:
                writer.write(data[: self.cut_after])
                await writer.drain()
                raise _Cut
            if not self.is_silent:
                writer.write(data)
        raise _Cut


class _Cut(Exception):
    """The connection is to end."""


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def strange_server(reply: bytes) -> AsyncIterator[str]:
    """The address of what answers every command with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
            while head := await reader.readline():
                for _ in range(int(head[1:])):
                    length = await reader.readline()
                    await reader.readexactly(int(length[1:]) + 2)
                writer.write(reply)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


@contextlib.asynccontextmanager
async def fault_proxy(port: int) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.aclose()
