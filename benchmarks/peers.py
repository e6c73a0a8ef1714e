"""Install the peers, each into an environment of its own under ``.bench/peers``.

Versions are pinned, because a comparison names what it compared with. Portkey's server library is
held back by npm ``overrides``: with the newest ``@hono/node-server`` that its range allows, its
streaming answers HTTP 500 (``TypeError: immutable``), which would compare nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import layout

LITELLM = "litellm[proxy]==1.106.2"
PORTKEY_VERSION = "1.15.2"
PORTKEY_MANIFEST = {
    "name": "windvane-bench-portkey",
    "private": True,
    "dependencies": {"@portkey-ai/gateway": PORTKEY_VERSION},
    "overrides": {"@hono/node-server": "1.13.8", "hono": "4.9.7"},
}
BY_HAND = (
    "aiohttp==3.14.5",
    "orjson==3.13.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
)

INSTALL_TIMEOUT_S = 420
"""LiteLLM brings about 120 packages (0.7 GB); past seven minutes the network is the finding."""

COMPLETE_MARK = "installed"
"""Written last into an environment, so that an interrupted installation is begun again."""


class PeerNotInstalledError(Exception):
    """A peer cannot take part; the message says why."""


def litellm_command() -> Path:
    """Return LiteLLM's program, installing it when needed."""
    home = layout.PEERS / "litellm"
    _install_once(home, LITELLM, lambda home: _install_packages(home, (LITELLM,)))
    return home / "bin" / "litellm"


def by_hand_python() -> Path:
    """Return a Python with what the gateway written by hand needs, installing it when needed."""
    home = layout.PEERS / "by-hand"
    _install_once(home, " ".join(BY_HAND), lambda home: _install_packages(home, BY_HAND))
    return home / "bin" / "python"


def portkey_script() -> Path:
    """Return Portkey's server script, installing it when needed."""
    home = layout.PEERS / "portkey"
    _install_once(home, json.dumps(PORTKEY_MANIFEST), _install_portkey)
    return home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


def _install_once(home: Path, wanted: str, install: Callable[[Path], None]) -> None:
    mark = home / COMPLETE_MARK
    if mark.exists() and mark.read_text() == wanted:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    print(f"installing into {home} (at most {INSTALL_TIMEOUT_S} s)", file=sys.stderr)
    install(home)
    mark.write_text(wanted)


def _install_packages(home: Path, packages: Sequence[str]) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(home / "bin" / "pip"), "install", "--quiet", *packages])
        return
    _run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(home)])
    _run([uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *packages])


def _install_portkey(home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise PeerNotInstalledError("Portkey needs node and npm, which were not found")
    (home / "package.json").write_text(json.dumps(PORTKEY_MANIFEST))
    _run([npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--ignore-scripts"])


def _run(argv: Sequence[str]) -> None:
    """Run one step of an installation, bounded in time."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"{argv[0]} did not finish within {INSTALL_TIMEOUT_S} s"
        raise PeerNotInstalledError(message) from error
    if done.returncode:
        raise PeerNotInstalledError(f"{' '.join(argv)} failed: {done.stderr.strip()[-400:]}")
