"""The stage of a run: one upstream, contenders started in front of it, and all of them stopped.

Cores, folders and ports are handed out here. Whatever happens, leaving the stage ends every child
by the pid it was started with.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contenders, layout, payloads, probe, upstream_process
from benchmarks.children import Child, Cores, on_core, spawn
from benchmarks.contenders import Contender
from benchmarks.sampling import Target
from benchmarks.upstream_process import Upstream

NO_ENVIRONMENT: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Started:
    """A contender that answers chat calls, and the seconds it took to come to that."""

    target: Target
    contender: Contender
    live_s: float | None
    chat_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Where contenders are started."""

    cores: Cores
    folder: Path
    upstream: Upstream

    @contextlib.contextmanager
    def started(self, name: str, env: Mapping[str, str] = NO_ENVIRONMENT) -> Iterator[Started]:
        """Start a contender afresh, told by `env` besides what its recipe says, and stop it at the end.

        Raises CannotTakePartError, PeerNotInstalledError or NotReadyError when it cannot be.
        """
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        contender = contenders.RECIPES[name](folder, self.upstream.port)
        child = spawn(
            contender.argv,
            env={**contender.env, **env},
            core=self.cores.proxy,
            cwd=folder,
            log=folder / "log",
        )
        try:
            yield _wait(contender, child)
        finally:
            child.stop()

    @contextlib.contextmanager
    def with_long_streams(self) -> Iterator[Stage]:
        """The same stage before another upstream, whose streams are long."""
        chunks, chunk_ms = upstream_process.LONG_CHUNKS, upstream_process.LONG_CHUNK_MS
        upstream = upstream_process.start(self.folder, self.cores.load, chunks, chunk_ms)
        try:
            yield Stage(self.cores, self.folder, upstream)
        finally:
            upstream.child.stop()

    def direct(self) -> Target:
        """Return the upstream itself: what there is without any proxy."""
        return Target("direct", self.upstream.port, {}, child=None)


@contextlib.contextmanager
def opened() -> Iterator[Stage]:
    """Start the upstream on the load core, where this driver goes too."""
    cores = Cores.of_this_machine()
    layout.BENCH.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=layout.BENCH))
    # nginx started by root serves as "nobody", who must reach its folder.
    folder.chmod(0o755)
    try:
        with on_core(cores.load):
            upstream = upstream_process.start(folder, cores.load)
            try:
                yield Stage(cores, folder, upstream)
            finally:
                upstream.child.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(contender: Contender, child: Child) -> Started:
    """Wait for the first 200 on the live path, the ready path, and a real call, in that order."""
    live_s = None
    timeout_s = contender.start_timeout_s
    if contender.live_path:
        live_s = probe.wait_for_path(child, contender.port, contender.live_path, timeout_s)
    if contender.ready_path:
        probe.wait_for_path(child, contender.port, contender.ready_path, timeout_s)
    request = payloads.chat(
        body_bytes=payloads.SMALL_BYTES,
        is_stream=False,
        headers={**contender.headers, "Connection": "close"},
        port=contender.port,
    )
    number = payloads.first_number()
    chat_s = probe.wait_for_chat(child, contender.port, request, number, timeout_s)
    target = Target(
        contender.name, contender.port, contender.headers, child, contender.keeps_answers
    )
    return Started(target, contender, live_s, chat_s)
