"""The circumstances of a run: the machine and the versions of what was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess

from benchmarks import layout, peers
from benchmarks.procfs import PROC

VERSION_TIMEOUT_S = 5
MEASURED_PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec")


def line() -> str:
    """Describe the machine in one line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({_processor()}), {memory_gb:.0f} GB, Linux {platform.release()}"


def load_average() -> str:
    """Return what else ran, as the one-minute load average."""
    return f"{os.getloadavg()[0]:.2f}"


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Name the versions of the contenders and of what the gateway stands on."""
    found = {"python": platform.python_version(), "windvane": _windvane()}
    found |= {name: _package(name) for name in MEASURED_PACKAGES}
    if "nginx" in names:
        found["nginx"] = _spoken(["nginx", "-v"])
    if "litellm" in names:
        found["litellm"] = peers.LITELLM.partition("==")[2]
        found |= dict(each.split("==") for each in peers.BY_HAND[:2])
    if "portkey" in names:
        found["portkey"] = peers.PORTKEY_VERSION
        found["node"] = _spoken(["node", "--version"])
    return found


def _windvane() -> str:
    """The repository's own version, read from its file: nothing is imported for it."""
    text = (layout.SOURCE / "windvane" / "_version.py").read_text()
    found = re.search(r"__version__[^\"']*[\"']([^\"']+)", text)
    return found[1] if found else "unknown"


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _spoken(argv: list[str]) -> str:
    """Ask a program for its version; nginx lives outside the PATH of most users."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except OSError:
        return "unknown"
    said = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return said[0] if said else "unknown"


def _processor() -> str:
    for row in (PROC / "cpuinfo").read_text().splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()
