"""Child processes: each on its core, with its log, in a session of its own, and always stopped.

The core is given by setting this thread's affinity just around the fork, because the child
inherits it: no helper program stands between the spawn and the first instruction of the child,
which keeps cold starts honest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_GRACE_S = 3.0
"""How long a child may take to obey SIGTERM before it is killed."""

LOG_TAIL_BYTES = 1500
"""How much of a child's log is shown when it could not be started."""

DROPPED_VARIABLES = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONSTARTUP")
"""Settings of the developer's shell which would change what is measured."""

DROPPED_SUFFIXES = ("_API_KEY", "_API_KEYS", "_PROXY", "_proxy")
"""No child may see a real credential, nor a proxy that leads out of this machine."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves and which one drives; None when there is no second core to give."""

    proxy: int | None
    load: int | None

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Take the first two cores this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            return cls(proxy=None, load=None)
        return cls(proxy=usable[0], load=usable[1])


class Child:
    """One running process, its start time and its log."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path, started_s: float) -> None:
        self.popen = popen
        self.log = log
        self.started_s = started_s

    @property
    def pid(self) -> int:
        """The process, which is also the id of the session it leads."""
        return self.popen.pid

    def has_ended(self) -> bool:
        """Say whether the process is gone."""
        return self.popen.poll() is not None

    def log_tail(self) -> str:
        """Return the end of what the process wrote."""
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()

    def stop(self) -> None:
        """End the process and the session it leads: gently, then firmly."""
        for wanted in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, wanted)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_GRACE_S)


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], core: int | None, cwd: Path, log: Path
) -> Child:
    """Start a child on a core with a clean environment plus ``env``."""
    with log.open("wb") as output, on_core(core):
        started_s = time.perf_counter()
        popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**clean_environment(), **env},
            cwd=cwd,
            start_new_session=True,
        )
    return Child(popen, log, started_s)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Move this thread to a core for a while."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would change or endanger a run."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in DROPPED_VARIABLES and not name.endswith(DROPPED_SUFFIXES)
    }
