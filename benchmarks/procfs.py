"""What /proc knows of a process tree: who belongs to it, its CPU time, its resident memory.

CPU time is read from ``/proc/PID/task/*/schedstat`` (nanoseconds on the CPU), because the clock
ticks of ``/proc/PID/stat`` are 10 ms wide: too coarse for a run of half a second. A thread that
ends between two readings takes its time with it; the servers measured here keep their threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def is_available() -> bool:
    """Say whether this machine has what the measurements need."""
    return (PROC / "self" / "schedstat").exists()


def tree(root_pid: int) -> list[int]:
    """List a process and all its living descendants."""
    pids, waiting = [], [root_pid]
    while waiting:
        pid = waiting.pop()
        pids.append(pid)
        waiting.extend(_children(pid))
    return pids


def cpu_ns(root_pid: int) -> int:
    """Sum the time on the CPU of every thread of the tree, in nanoseconds."""
    return sum(_thread_cpu_ns(task) for pid in tree(root_pid) for task in _tasks(pid))


def resident_bytes(root_pid: int) -> int:
    """Sum VmRSS over the tree. Pages shared between its processes count once for each."""
    return sum(_vm_rss(pid) for pid in tree(root_pid))


def _tasks(pid: int) -> Iterator[Path]:
    try:
        yield from (PROC / str(pid) / "task").iterdir()
    except OSError:
        return


def _children(pid: int) -> Iterator[int]:
    for task in _tasks(pid):
        yield from (int(child) for child in _read(task / "children").split())


def _thread_cpu_ns(task: Path) -> int:
    fields = _read(task / "schedstat").split()
    return int(fields[0]) if fields else 0


def _vm_rss(pid: int) -> int:
    for line in _read(PROC / str(pid) / "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    """Read a file of /proc; one that vanished meanwhile reads as empty."""
    try:
        return path.read_text()
    except OSError:
        return ""
