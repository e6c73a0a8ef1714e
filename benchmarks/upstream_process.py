"""Start the upstream: the C server when there is a compiler, else the Python one."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contenders, layout, probe
from benchmarks.children import Child, spawn

CHUNKS = 20
CHUNK_MS = 10
"""A live stream: twenty content chunks, one every 10 ms, then the usage and [DONE]."""

LONG_CHUNKS = 200
LONG_CHUNK_MS = 20
"""One that many follow together: four seconds, so that their coming weighs little."""

COMPILE_TIMEOUT_S = 60
READY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """The running upstream."""

    child: Child
    port: int
    kind: str
    chunks: int
    chunk_ms: int


def start(
    folder: Path, core: int | None, chunks: int = CHUNKS, chunk_ms: int = CHUNK_MS
) -> Upstream:
    """Start the fastest upstream this machine can have."""
    port = probe.free_port()
    program = _compiled()
    python = (sys.executable, "-m", "benchmarks.upstream")
    argv = (str(program),) if program else python
    child = spawn(
        (*argv, str(port), str(chunks), str(chunk_ms)),
        env=contenders.python_environment(),
        core=core,
        cwd=folder,
        log=folder / f"upstream-{port}.log",
    )
    try:
        probe.wait_for_path(child, port, "/__count", READY_TIMEOUT_S)
    except BaseException:
        child.stop()
        raise
    return Upstream(child, port, "C, epoll" if program else "Python", chunks, chunk_ms)


def _compiled() -> Path | None:
    """Compile upstream.c once per content of it; None without a working compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    source = layout.HERE / "upstream.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = layout.BENCH / f"upstream-{digest}"
    if not program.exists():
        layout.BENCH.mkdir(exist_ok=True)
        command = [compiler, "-O2", "-o", str(program), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)
        except (subprocess.SubprocessError, OSError):
            return None
    return program
