"""A bare byte relay: the plain proxy of machines without nginx.

It looks at nothing: each client connection gets one upstream connection, and bytes go both ways.
That is the least an asyncio proxy can cost, not a gateway. ``relay PORT UPSTREAM_PORT``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from benchmarks.event_loop import run


class End(asyncio.Protocol):
    """One end of a pair: what it receives, the other end sends."""

    def __init__(self) -> None:
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where bytes for this end go."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, or keep them until the other end is there."""
        if self.other is None or self.other.transport is None:
            self.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end too."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Front(End):
    """The client's end, which opens the upstream's."""

    def __init__(self, upstream_port: int, opening: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self.upstream_port = upstream_port
        self.opening = opening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the upstream connection beside."""
        super().connection_made(transport)
        task = asyncio.get_running_loop().create_task(self._open())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def _open(self) -> None:
        back = End()
        back.other = self
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: back, "127.0.0.1", self.upstream_port)
        self.other = back
        transport.write(self.early)


async def serve(port: int, upstream_port: int) -> None:
    """Relay until stopped."""
    opening: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Front(upstream_port, opening), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    run(serve(int(sys.argv[1]), int(sys.argv[2])))
