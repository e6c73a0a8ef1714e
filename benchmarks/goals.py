"""What the figures are meant to be: each goal beside what was measured, and whether it is met.

Microseconds mean something on one machine alone. The goals of CPU time were set on one where nginx, as a
plain proxy, took 11.4 of them for a call of 1 KB and 11.5 for a chunk of a stream. So they are held
twice: to the letter, and at the pace of this machine, which is what the plain proxy takes that was measured
in turns with the gateway (docs/adr/0025-goals-and-a-machines-pace.md). All other goals are held to
the letter alone; so is what is measured without a network, which is most of what nginx does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.results import Cell
from benchmarks.store_size import TURNED_OVER_NAME

NGINX_CALL_US = 11.4
NGINX_CHUNK_US = 11.5
"""CPU of nginx where the goals were set: of a call of 1 KB at 64 connections, of a chunk at 512 streams."""

MET, MET_AT_PACE, MISSED, UNKNOWN = "met", "met at this pace", "NOT met", "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of a cell, and what it should be at most.

    `plain_us` is what nginx took where the goal was set, if it is one of CPU time; `plain_workload` is
    where to look for what it takes here.
    """

    group: str
    workload: str
    contender: str
    figure: str
    at_most: float
    plain_us: float | None = None
    plain_workload: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A goal, held to a report. `pace` is how many times as long as there the plain proxy takes here."""

    goal: Goal
    here: float | None
    pace: float | None

    @property
    def verdict(self) -> str:
        """Whether it is met, and by which measure."""
        if self.here is None:
            return UNKNOWN
        if self.here <= self.goal.at_most:
            return MET
        if self.pace is not None and self.here <= self.goal.at_most * self.pace:
            return MET_AT_PACE
        return MISSED


def _call(workload: str, contender: str, at_most: float, group: str = "json") -> Goal:
    return Goal(group, workload, contender, "cpu_us", at_most, NGINX_CALL_US, workload)


def _memory(figure: str) -> Goal:
    return Goal("memory", "memory", "windvane", figure, 75e6 / 2**20)


CALLS_64, CALLS_8 = "1 KB JSON, 64 conn", "1 KB JSON, 8 conn"
GOALS = (
    _call(CALLS_64, "windvane", 130.0),
    _call(CALLS_64, "windvane-limits", 130.0),
    _call(CALLS_8, "windvane", 130.0),
    _call(CALLS_8, "windvane-limits", 130.0),
    _call("1 KB JSON asked again, 64 conn", "windvane-cache", 60.0, "hit"),
    _call("1 KB JSON asked again, 8 conn", "windvane-cache", 60.0, "hit"),
    Goal("accounting", "1 KB JSON in process", "windvane-limits", "added_us", 25.0),
    Goal("key", "100 KB in process", "windvane", "key_us", 400.0),
    Goal(
        "stream",
        "512 live streams",
        "windvane",
        "cpu_us",
        50.0,
        NGINX_CHUNK_US,
        "512 live streams",
    ),
    Goal(
        "joined",
        "512 joiners of one stream",
        "windvane-cache",
        "cpu_us",
        25.0,
        NGINX_CHUNK_US,
        "512 joiners of one stream",
    ),
    Goal("cold", "cold start", "windvane", "chat_ms", 600.0),
    Goal("import", "import windvane", "windvane", "cpu_ms", 120.0),
    _memory("json_mib"),
    _memory("large_mib"),
    _memory("stream_mib"),
    Goal("store", "memory store, 1 M entries of 200 B", "windvane", "entry_bytes", 300.0),
    Goal("store", "memory store, 20 k of 16 KB", "windvane", "entry_bytes", 300.0),
    Goal("store", TURNED_OVER_NAME, "windvane", "room_x", 1.0),
    Goal("trouble", "a caller leaves", "windvane", "noticed_p99_ms", 50.0),
    Goal("trouble", "the disk is full", "windvane", "refused_ms", 1_000.0),
    Goal("trouble", "Redis hangs", "windvane", "first_ms", 25.0),
    Goal("trouble", "Redis hangs", "windvane", "later_ms", 1.0),
)


def held(cells: Sequence[Cell]) -> Iterator[Held]:
    """Hold the goals of those groups that were measured."""
    measured = {cell.group for cell in cells}
    for goal in GOALS:
        if goal.group in measured:
            cell = _find(cells, goal.workload, goal.contender)
            yield Held(goal, cell.value(goal.figure) if cell else None, _pace(goal, cells))


def _pace(goal: Goal, cells: Sequence[Cell]) -> float | None:
    """None for a goal that is no matter of pace, and where no nginx was measured."""
    if goal.plain_us is None or goal.plain_workload is None:
        return None
    plain = _find(cells, goal.plain_workload, "nginx")
    here_us = plain.value("cpu_us") if plain else None
    return None if here_us is None else here_us / goal.plain_us


def _find(cells: Sequence[Cell], workload: str, contender: str) -> Cell | None:
    """The cell of a workload through a contender, if it has figures."""
    named = (
        cell
        for cell in cells
        if cell.workload == workload and cell.contender == contender and not cell.refused
    )
    return next(named, None)
