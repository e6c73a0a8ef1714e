"""What a run finds: figures, cells, reports; and where they are kept for the next comparison."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import layout

ERROR_SHARE_MAX = 0.001
"""A row with more errors than this is refused."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of several runs, and (max - min) / median."""

    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise the values of several runs."""
        middle = median(values)
        return cls(middle, (max(values) - min(values)) / middle if middle else 0.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload through one contender: figures by name, or why there are none."""

    group: str
    workload: str
    contender: str
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: str | None = None

    @property
    def key(self) -> str:
        """What names the same cell in another run."""
        return f"{self.group}/{self.workload}/{self.contender}"

    def value(self, figure: str) -> float | None:
        """Return a median, or None where there is none."""
        return self.figures[figure].median if figure in self.figures else None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run: its circumstances and its cells."""

    taken_at: str
    label: str
    mode: str
    machine: str
    versions: dict[str, str]
    placement: tuple[str, ...]
    neighbours: str
    cells: tuple[Cell, ...]


def keep(report: Report) -> None:
    """Write the run where the next one will find it; the one before it steps back."""
    layout.BENCH.mkdir(exist_ok=True)
    if layout.LAST.exists():
        shutil.copyfile(layout.LAST, layout.PREVIOUS)
    layout.LAST.write_text(as_json(report))


def as_json(report: Report) -> str:
    """Render a report for machines."""
    return json.dumps(asdict(report), indent=1) + "\n"


def load(path: Path) -> Report | None:
    """Read a kept report; None when there is none, or it is of another shape."""
    try:
        raw = json.loads(path.read_text())
        cells = tuple(_cell(cell) for cell in raw.pop("cells"))
        return Report(**{**raw, "placement": tuple(raw["placement"])}, cells=cells)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def comparable(before: Report | None, now: Report) -> Report | None:
    """Return the run before if it was made the same way on the same machine, else None."""
    if before is None or before.machine != now.machine or before.placement != now.placement:
        return None
    return before


def _cell(raw: dict[str, object]) -> Cell:
    figures = raw.pop("figures")
    if not isinstance(figures, dict):
        raise TypeError("figures are kept as an object")
    read = {name: Figure(**value) for name, value in figures.items()}
    return Cell(**raw, figures=read)  # type: ignore[arg-type]
