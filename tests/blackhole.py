"""An address that nobody can connect to, and nobody is refused at: connecting to it takes for ever."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SYN_SENT = "02"
"""As the kernel writes the state of a socket that has knocked and was not let in."""


@contextmanager
def blackhole() -> Iterator[int]:
    """A port of 127.0.0.1 whose backlog is full: the kernel drops what comes."""
    with ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # more than the backlog
            each = sockets.enter_context(socket.socket())
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(full.getsockname())
        yield full.getsockname()[1]


def connecting_to(port: int) -> int:
    """How many sockets of this machine are being connected to `port`, those that fill it among them."""
    knocking = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        knocking += state == SYN_SENT and int(remote.rpartition(":")[2], 16) == port
    return knocking
