"""Where things lie: the repository, the harness, and the folder for what runs leave behind."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCE = ROOT / "src"
DATA = HERE / "data"
"""What others have published, and is measured with; its README says whose it is."""

BENCH = ROOT / ".bench"
"""Ignored by git: results, the compiled upstream, byte code, the peers' environments,
recorded traces."""

LAST = BENCH / "last.json"
PREVIOUS = BENCH / "previous.json"
PEERS = BENCH / "peers"
TRACES = BENCH / "traces"
BYTE_CODE = BENCH / "pycache"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
