"""When something fails beside the gateway: how soon that is noticed, and what it costs a caller.

A caller who leaves (benchmarks/leaving.py), a file system without a byte left, and a Redis that hangs. The
gateway is the real one, in a process of its own, and so are they: a small file system in memory, which
takes root to mount, and a Redis server.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import leaving, payloads, probe
from benchmarks.children import Child, spawn
from benchmarks.contenders import CannotTakePartError
from benchmarks.probe import NotReadyError
from benchmarks.sampling import LoadFailedError, Target
from benchmarks.stage import Stage

DISK_MIB = 64
PAUSE_S = 0.005
"""Between two calls: a trickle, as a gateway has it."""
PATIENCE_S = 30.0
CALLS_BEFORE = 200
CALLS_AT_FIRST = 10
"""After Redis begins to hang: among them are those that find it out."""
CALLS_LATER = 200
OK, UNAVAILABLE = 200, 503
MS_PER_S = 1e3


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system with little room. Raises CannotTakePartError where none can be mounted."""
    place = Path(tempfile.mkdtemp(prefix="disk-", dir=folder))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise CannotTakePartError("a small disk: to mount one takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def redis(folder: Path, core: int | None) -> Iterator[tuple[Child, int]]:
    """A Redis server, and its port. Raises CannotTakePartError where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        raise CannotTakePartError("Redis: there is no redis-server")
    port = probe.free_port()
    argv = (program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    child = spawn(argv, env={}, core=core, cwd=folder, log=folder / "redis.log")
    try:
        yield child, port
    finally:
        child.popen.send_signal(signal.SIGCONT)
        child.stop()


class Asker:
    """One caller after another question, on a connection that is kept."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE_S)
        self._number = payloads.first_number()

    def ask(self) -> tuple[int, float]:
        """Ask something new: the answer's status, and the seconds it took."""
        self._number += 1
        request = payloads.chat(
            body_bytes=payloads.SMALL_BYTES, is_stream=False, headers={}, port=self._target.port
        )
        _, _, body = request.numbered(self._number).partition(b"\r\n\r\n")
        headers = {"content-type": "application/json", **self._target.headers}
        began_s = time.perf_counter()
        self._connection.request("POST", payloads.PATH, body, headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - began_s

    def took_ms(self, count: int) -> list[float]:
        """Ask so often. Raises LoadFailedError when an answer is not good."""
        taken = []
        for _ in range(count):
            status, took_s = self.ask()
            if status != OK:
                raise LoadFailedError(f"a call was answered with {status}")
            taken.append(took_s * MS_PER_S)
            time.sleep(PAUSE_S)
        return taken


def full_disk_s(target: Target, disk: Path) -> float:
    """How long new work is taken on after the last byte of `disk` is used, in seconds.

    Raises LoadFailedError when it is never refused, or with something else than 503.
    """
    asker = Asker(target)
    asker.took_ms(CALLS_BEFORE)
    _fill(disk / "ballast")
    full_s = time.perf_counter()
    while time.perf_counter() - full_s < PATIENCE_S:
        status, _ = asker.ask()
        if status == UNAVAILABLE:
            return time.perf_counter() - full_s
        if status != OK:
            raise LoadFailedError(f"a full disk was answered with {status}")
        time.sleep(PAUSE_S)
    raise LoadFailedError(f"a full disk is not noticed in {PATIENCE_S:.0f} s")


def _fill(ballast: Path) -> None:
    """Leave no byte free beside `ballast`."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def hanging_redis_ms(target: Target, server: Child) -> tuple[float, float]:
    """Stop a Redis in its tracks, its connections open: what that adds to the slowest of the first calls,
    and to the middle one of those later, in milliseconds.

    Raises LoadFailedError when a call fails.
    """
    asker = Asker(target)
    usual_ms = median(asker.took_ms(CALLS_BEFORE))
    server.popen.send_signal(signal.SIGSTOP)
    try:
        first_ms = max(asker.took_ms(CALLS_AT_FIRST))
        later_ms = median(asker.took_ms(CALLS_LATER))
    finally:
        server.popen.send_signal(signal.SIGCONT)
    return first_ms - usual_ms, later_ms - usual_ms


def _left(stage: Stage) -> dict[str, float]:
    waited = leaving.measure(stage, "windvane")
    return {"noticed_p50_ms": waited.p50_ms, "noticed_p99_ms": waited.p99_ms}


def _full_disk(stage: Stage) -> dict[str, float]:
    with (
        small_disk(stage.folder) as disk,
        replace(stage, folder=disk).started("windvane") as started,
    ):
        return {"refused_ms": full_disk_s(started.target, disk) * MS_PER_S}


def _hanging_redis(stage: Stage) -> dict[str, float]:
    with redis(stage.folder, stage.cores.load) as (server, port):
        told = {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}
        with stage.started("windvane-cache", told) as started:
            first_ms, later_ms = hanging_redis_ms(started.target, server)
    return {"first_ms": first_ms, "later_ms": later_ms}


TROUBLES: Mapping[str, Callable[[Stage], dict[str, float]]] = {
    "a caller leaves": _left,
    "the disk is full": _full_disk,
    "Redis hangs": _hanging_redis,
}
"""What goes wrong, and its figures by name. They raise CannotTakePartError where this machine has not what
it takes, and one of `COULD_NOT_BE`."""
COULD_NOT_BE = (LoadFailedError, NotReadyError, OSError, http.client.HTTPException)
"""What ends a measurement without a figure."""
