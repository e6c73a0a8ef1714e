"""Show a report: its tables, in the terminal with rich or plain, and in Markdown for the docs.

The rows are decided here once, as text; how they are drawn is the reader's end's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.goals import Held, held
from benchmarks.results import Cell, Figure, Report
from benchmarks.suite import PLAIN, TROUBLE, UNDER_LOAD

REASON_CHARS_MAX = 200
"""A refused row says why in a line; the whole log is not the table's business."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a note on how to read it, and rows of text."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report, before: Report | None) -> list[Table]:
    """Lay out a report, with the change against the run before where there was one."""
    earlier = {cell.key: cell for cell in before.cells} if before else {}
    laid = [
        _goals(report),
        _under_load(report, earlier),
        _start_and_size(report, earlier),
        _in_trouble(report, earlier),
        _refused(report),
    ]
    return [table for table in laid if table.rows]


def _goals(report: Report) -> Table:
    return Table(
        "Goals",
        "What the figures below are meant to be at most. Microseconds are another thing on another "
        "machine: goals of CPU time were set where nginx took 11.4 of them to relay a call, and 11.5 for "
        "a chunk of a stream. The pace is how many times as long it takes here, in turns with what is "
        "measured; accounting and key take that of calls at 64 connections. A goal that is met at this "
        "pace and not to the letter is told as such.",
        ("what", "of", "at most", "here", "pace", "at most at this pace", ""),
        tuple(_goal_row(each) for each in held(report.cells)),
    )


def _goal_row(each: Held) -> tuple[str, ...]:
    goal, pace = each.goal, each.pace
    return (
        f"{goal.workload}: {FIGURES[goal.figure]}",
        goal.contender,
        _number(goal.at_most),
        "" if each.here is None else _number(each.here),
        "" if pace is None else f"{pace:.2f}",
        "" if pace is None else _number(goal.at_most * pace),
        each.verdict,
    )


def _under_load(report: Report, earlier: dict[str, Cell]) -> Table:
    good = [cell for cell in report.cells if cell.group in UNDER_LOAD and not cell.refused]
    return Table(
        "Under load",
        "CPU is that of the proxy's whole process tree, per request or per stream chunk. "
        "Rate is requests/s or chunks/s on one core. For streams p50 and p99 are the time to the "
        "first chunk. windvane-limits is windvane with the key under a daily and a monthly budget of "
        "its own, of its team's and of the gateway's, and under rates of requests, tokens and "
        "concurrency. by-hand is what one writes in an afternoon with uvicorn, orjson and aiohttp: it "
        "reads a call, sends it on, and prices the answer (benchmarks/by_hand.py). "
        "What is asked again comes from the cache, and joiners share one call; a plain "
        "proxy asks the upstream each time. (±) is (max - min) / median over the runs. Change is that "
        "of CPU, or of p50 where no proxy is measured, against the previous run.",
        (
            "workload",
            "through",
            "CPU µs",
            "to plain",
            "rate /s",
            "p50 ms",
            "p99 ms",
            "core",
            "change",
            "notes",
        ),
        tuple(_load_row(cell, good, earlier.get(cell.key)) for cell in good),
    )


def _load_row(cell: Cell, cells: Sequence[Cell], before: Cell | None) -> tuple[str, ...]:
    figures = cell.figures
    compared = "cpu_us" if "cpu_us" in figures else "p50_ms"
    return (
        cell.workload,
        cell.contender,
        _spread(figures.get("cpu_us")),
        _times_plain(cell, cells),
        _spread(figures["rate_per_s"]),
        _number(figures["p50_ms"].median),
        _number(figures["p99_ms"].median),
        _percent(figures.get("proxy_core_busy")),
        _change(cell, before, compared),
        "; ".join((*_added_latency(cell, cells), *cell.notes)),
    )


def _start_and_size(report: Report, earlier: dict[str, Cell]) -> Table:
    elsewhere = (*UNDER_LOAD, TROUBLE)
    return Table(
        "Start and size",
        "Cold start is from the spawn to the first 200, byte code warm. Memory is resident "
        "(VmRSS), summed over the process tree of a fresh process. What an entry costs is the slope "
        "between half as many and all of them. Accounting is measured without a network, in one process "
        "that has the gateway twice: whole, and without auth, limits, holds, journal and settling. Both "
        "answer the same calls in turn, and what they differ by, each at its best, is what that adds to "
        "the thread that serves; another writes the ledger. Processes differ in where their memory lies: "
        "it is measured in many.",
        _FIGURE_COLUMNS,
        _figure_rows([cell for cell in report.cells if cell.group not in elsewhere], earlier),
    )


def _in_trouble(report: Report, earlier: dict[str, Cell]) -> Table:
    return Table(
        "In trouble",
        "A caller who leaves does so while its answer is thought about, before a stream's first chunk, at "
        "its first byte or in its midst, four at a time; the time is until the connection to the provider "
        "is closed. A disk that is full has not a byte left, in a file system of its own; the time is "
        "until new work is refused. A Redis that hangs is stopped with its connections open; what that "
        "adds is the slowest of the first ten calls, and the middle one of those later, less the usual "
        "call with a Redis that is well.",
        _FIGURE_COLUMNS,
        _figure_rows([cell for cell in report.cells if cell.group == TROUBLE], earlier),
    )


_FIGURE_COLUMNS = ("what", "of", "value", "change", "notes")


def _figure_rows(cells: Sequence[Cell], earlier: dict[str, Cell]) -> tuple[tuple[str, ...], ...]:
    """A row for each figure of these cells."""
    return tuple(
        (
            f"{cell.workload}: {FIGURES[name]}",
            cell.contender,
            _spread(figure) if figure.spread else _number(figure.median),
            _change(cell, earlier.get(cell.key), name),
            "; ".join(cell.notes),
        )
        for cell in cells
        for name, figure in cell.figures.items()
    )


FIGURES = {
    "cpu_us": "CPU µs",
    "live_ms": "first 200 on the live path, ms",
    "chat_ms": "first 200 on a chat call, ms",
    "idle_mib": "idle, MiB",
    "json_mib": "under 1 KB JSON, MiB",
    "large_mib": "under 100 KB JSON, MiB",
    "stream_mib": "under live streams, MiB",
    "cpu_ms": "CPU ms",
    "modules": "modules loaded",
    "whole_us": "CPU µs of a request",
    "added_us": "of that auth, limits, hold, journal and settling, µs",
    "ledger_us": "beside it, in groups, its row in the ledger, µs",
    "entry_bytes": "bytes of an entry beyond its own",
    "counted_bytes": "bytes counted for that",
    "room_x": "times its room that the process had grown by, at most",
    "own_x": "of its room that were keys and data",
    "key_us": "CPU µs of the cache's key",
    "noticed_p50_ms": "its provider knows, p50 ms",
    "noticed_p99_ms": "its provider knows, p99 ms",
    "refused_ms": "new work is refused, ms",
    "first_ms": "added to the slowest of the first calls, ms",
    "later_ms": "added to calls later, ms",
}


def _refused(report: Report) -> Table:
    return Table(
        "Refused",
        "Rows whose answers were wrong, or which could not be measured: no figure is shown.",
        ("workload", "through", "why"),
        tuple(
            (cell.workload, cell.contender, " ".join(cell.refused.split())[:REASON_CHARS_MAX])
            for cell in report.cells
            if cell.refused
        ),
    )


def _beside(cell: Cell, cells: Sequence[Cell], names: Sequence[str]) -> Cell | None:
    """Find the same workload through one of the named contenders."""
    same = (c for c in cells if c.workload == cell.workload and c.contender in names)
    return next(same, None)


def _times_plain(cell: Cell, cells: Sequence[Cell]) -> str:
    plain = _beside(cell, cells, PLAIN)
    ours, theirs = cell.value("cpu_us"), plain.value("cpu_us") if plain else None
    if cell is plain or not ours or not theirs:
        return ""
    return f"{ours / theirs:,.1f} x"


def _added_latency(cell: Cell, cells: Sequence[Cell]) -> list[str]:
    direct = _beside(cell, cells, ("direct",))
    if direct is None or direct is cell:
        return []
    added_ms = cell.figures["p50_ms"].median - direct.figures["p50_ms"].median
    return [f"adds {_number(added_ms)} ms at p50"]


def _change(cell: Cell, before: Cell | None, figure: str) -> str:
    now, then = cell.value(figure), before.value(figure) if before else None
    if not now or not then:
        return ""
    return f"{(now / then - 1) * 100:+.0f} %"


def _number(value: float) -> str:
    """Write a number with the digits it deserves."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(figure: Figure | None) -> str:
    return f"{_number(figure.median)} (±{figure.spread * 100:.0f} %)" if figure else ""


def _percent(figure: Figure | None) -> str:
    return f"{figure.median * 100:.0f} %" if figure else ""


def as_markdown(report: Report, before: Report | None) -> str:
    """Render a report for the documentation."""
    parts = ["# Benchmarks\n", *(f"* {line}" for line in head_lines(report, before)), ""]
    for table in tables(report, before):
        parts += [f"## {table.title}\n", table.note, "", _markdown_row(table.columns)]
        parts += [_markdown_row(["---"] * len(table.columns)), *map(_markdown_row, table.rows), ""]
    return "\n".join(parts)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def head_lines(report: Report, before: Report | None) -> list[str]:
    """List the circumstances of a run, one a line."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"Taken {report.taken_at}, {report.mode} run" + f" ({report.label})" * bool(report.label)
    ]
    lines += [f"Machine: {report.machine}; load average before the run {report.neighbours}"]
    lines += [f"Versions: {versions}", *report.placement]
    if before:
        label = f" ({before.label})" if before.label else ""
        lines.append(f"Change is against {before.taken_at}, {before.mode} run{label}")
    return lines


def show(report: Report, before: Report | None) -> None:
    """Print a report: with rich where it is installed, else as Markdown."""
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
    except ImportError:
        print(as_markdown(report, before))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    for line in head_lines(report, before):
        console.print(line, style="dim", markup=False, highlight=False)
    for table in tables(report, before):
        drawn = RichTable(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
