"""The measurements: each group of the table is one function from a plan to cells."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import (
    accounting,
    contenders,
    parts,
    payloads,
    sampling,
    store_size,
    trouble,
)
from benchmarks.children import on_core
from benchmarks.contenders import PEERS, CannotTakePartError
from benchmarks.peers import PeerNotInstalledError
from benchmarks.probe import NotReadyError
from benchmarks.results import ERROR_SHARE_MAX, Cell, Figure
from benchmarks.sampling import LoadFailedError, Sample, Target, Workload
from benchmarks.stage import Stage, Started

Say = Callable[[str], None]

COULD_NOT_START = (CannotTakePartError, PeerNotInstalledError, NotReadyError, OSError)

LOAD_CORE_FULL = 0.97
"""Above this the load core is the limit: CPU per unit still holds, the rate is a lower bound."""

PEER_WARM_UP_S = 2.0
"""Peers get this long before each cell: node compiles its hot functions only after a while."""

SETTLE_S = 0.5
"""Rest before idle memory is read."""

PLAIN = ("nginx", "relay")
QUESTIONS = 64
"""Different questions of a load whose questions come again."""
JOINERS = 512

IMPORT_TIMEOUT_S = 60
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often things are measured. Calls in many short rounds: a machine's noise lasts for
    seconds, and what stands in one round is comparable."""

    name: str
    repeats: int
    call_repeats: int
    call_seconds: float
    stream_seconds: float
    """Of a stream's load, and of any whose memory is looked at."""
    warm_up_s: float
    cold_starts: int


QUICK = Pace("quick", 3, 3, 0.4, 0.7, 0.2, 3)
USUAL = Pace("usual", 5, 15, 0.5, 2.2, 0.5, 5)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    pace: Pace
    names: tuple[str, ...]
    groups: tuple[str, ...]
    say: Say

    @property
    def has_peers(self) -> bool:
        """Say whether peers take part, who need fewer connections."""
        return any(name in PEERS for name in self.names)


def run(plan: Plan, stage: Stage) -> list[Cell]:
    """Run every group of the plan that there is something to measure for."""
    cells: list[Cell] = []
    loads = [group for group in plan.groups if group in LOAD_GROUPS]
    if loads:
        wanted = {
            name: None for group in loads for _, names in LOAD_GROUPS[group](plan) for name in names
        }
        with _all_started(plan, stage, [*wanted]) as (started, missing):
            cells += [Cell("start", "start", name, refused=why) for name, why in missing.items()]
            for group in loads:
                cells += _load_group(group, plan, stage, started)
    for group in plan.groups:
        if group in OTHER_GROUPS:
            cells += OTHER_GROUPS[group](plan, stage)
    return cells


def _json_workloads(plan: Plan) -> list[tuple[Workload, tuple[str, ...]]]:
    """Calls of 1 KB. Peers take part where few connections are open; the upstream itself at one."""
    names = [*plan.names]
    if "windvane" in names:
        names.insert(names.index("windvane") + 1, "windvane-limits")
    if plan.has_peers:
        names.append("by-hand")
    ours = tuple(name for name in names if name not in PEERS)

    def small(connections: int) -> Workload:
        name = f"1 KB JSON, {connections} conn"
        return Workload(name, payloads.SMALL_BYTES, is_stream=False, connections=connections)

    return [(small(64), ours), (small(8), tuple(names)), (small(1), ("direct", *plan.names))]


def _large_workloads(plan: Plan) -> list[tuple[Workload, tuple[str, ...]]]:
    ours = tuple(name for name in plan.names if name not in PEERS)
    return [
        (
            Workload(
                f"100 KB JSON, {n} conn", payloads.LARGE_BYTES, is_stream=False, connections=n
            ),
            ours,
        )
        for n in (64, 8)
    ]


def _stream_workloads(plan: Plan) -> list[tuple[Workload, tuple[str, ...]]]:
    ours = tuple(name for name in plan.names if name not in PEERS)
    cells = [(Workload("512 live streams", payloads.SMALL_BYTES, True, 512), ours)]
    if plan.has_peers:
        cells += [(Workload("32 live streams", payloads.SMALL_BYTES, True, 32), plan.names)]
    return cells


def _hit_workloads(plan: Plan) -> list[tuple[Workload, tuple[str, ...]]]:
    """Questions that the warm-up has asked already; the plain proxy asks the upstream each time."""
    return [
        (
            Workload(
                f"1 KB JSON asked again, {n} conn",
                payloads.SMALL_BYTES,
                is_stream=False,
                connections=n,
                questions=QUESTIONS,
            ),
            _beside_plain(plan, "windvane-cache"),
        )
        for n in (64, 8)
    ]


def _beside_plain(plan: Plan, name: str) -> tuple[str, ...]:
    plain = tuple(each for each in plan.names if each in PLAIN)
    return (*plain, name) if "windvane" in plan.names else plain


LOAD_GROUPS: Mapping[str, Callable[[Plan], list[tuple[Workload, tuple[str, ...]]]]] = {
    "json": _json_workloads,
    "large": _large_workloads,
    "stream": _stream_workloads,
    "hit": _hit_workloads,
}


@contextlib.contextmanager
def _all_started(
    plan: Plan, stage: Stage, names: Sequence[str]
) -> Iterator[tuple[dict[str, Target], dict[str, str]]]:
    """Start contenders, side by side; those that cannot start are named with the reason."""
    targets, missing = {"direct": stage.direct()}, {}
    with contextlib.ExitStack() as stack:
        for name in names:
            if name in targets:
                continue
            plan.say(f"starting {name}")
            try:
                targets[name] = stack.enter_context(stage.started(name)).target
            except COULD_NOT_START as error:
                missing[name] = f"{name} could not start: {error}"
        yield targets, missing


def _load_group(
    group: str, plan: Plan, stage: Stage, started: Mapping[str, Target]
) -> Iterator[Cell]:
    for workload, names in LOAD_GROUPS[group](plan):
        taking_part = [started[name] for name in names if name in started]
        plan.say(f"{workload.name}: {', '.join(target.name for target in taking_part)}")
        yield from _take_turns(group, workload, taking_part, plan.pace, stage)


def _take_turns(
    group: str, workload: Workload, targets: Sequence[Target], pace: Pace, stage: Stage
) -> Iterator[Cell]:
    """Sample each target once per round, so that a noisy second is shared."""
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    broken: dict[str, str] = {}
    repeats, seconds = pace.call_repeats, pace.call_seconds
    if workload.is_stream:
        repeats, seconds = pace.repeats, pace.stream_seconds
    for turn in range(repeats + 1):
        for target in targets:
            if target.name in broken:
                continue
            try:
                wanted_s = seconds if turn else _warm_up_s(target, pace)
                sample = sampling.take(workload, target, stage.upstream, wanted_s)
            except (LoadFailedError, OSError, ValueError) as error:
                broken[target.name] = str(error)
            else:
                samples[target.name] += [sample] if turn else []
    for target in targets:
        yield as_cell(group, workload, target, samples[target.name], broken.get(target.name))


def _warm_up_s(target: Target, pace: Pace) -> float:
    return max(pace.warm_up_s, PEER_WARM_UP_S) if target.name in PEERS else pace.warm_up_s


def as_cell(
    group: str, workload: Workload, target: Target, samples: Sequence[Sample], broken: str | None
) -> Cell:
    """Judge the samples of one target, and sum them up if they are good."""
    name = target.name
    refused = broken or why_refused(
        samples, may_be_kept=workload.is_repeated and target.keeps_answers
    )
    notes = tuple(_notes(samples))
    if refused:
        return Cell(group, workload.name, name, refused=refused, notes=notes)
    figures = {
        "rate_per_s": Figure.of([s.units_per_s for s in samples]),
        "p50_ms": Figure.of([s.p50_ms for s in samples]),
        "p99_ms": Figure.of([s.p99_ms for s in samples]),
        "load_core_busy": Figure.of([s.load_core_busy for s in samples]),
    }
    if name != "direct":
        figures["cpu_us"] = Figure.of([s.cpu_us_per_unit for s in samples])
        figures["proxy_core_busy"] = Figure.of([s.proxy_core_busy for s in samples])
        figures["resident_mib_max"] = Figure.of([s.resident_bytes_max / MIB for s in samples])
    return Cell(group, workload.name, name, figures=figures, notes=notes)


def why_refused(samples: Sequence[Sample], *, may_be_kept: bool = False) -> str | None:
    """Say why samples must not be shown as a result; None when they may. `may_be_kept` tells that
    others than the upstream were to answer."""
    requests = sum(s.requests for s in samples)
    errors = sum(s.errors for s in samples)
    calls = sum(s.upstream_calls for s in samples)
    if not requests:
        return f"no request was answered, {errors} errors"
    if errors > requests * ERROR_SHARE_MAX:
        return f"{errors} errors in {requests} requests"
    if may_be_kept:
        if calls > max(requests * ERROR_SHARE_MAX, len(samples)):
            return f"the upstream saw {calls} calls of {requests}: they were not all shared"
        return None
    if calls < requests * (1 - ERROR_SHARE_MAX):
        return f"the upstream saw only {calls} calls of {requests}: something else answered"
    return None


def _notes(samples: Sequence[Sample]) -> Iterator[str]:
    errors = sum(s.errors for s in samples)
    if errors:
        yield f"{errors} errors in {sum(s.requests for s in samples)}"
    if any(s.load_core_busy > LOAD_CORE_FULL for s in samples):
        yield "load core full: the rate is a lower bound"


def _joined(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """Many who follow one stream, each from its beginning: the cost of a chunk to each of them."""
    name, pace = f"{JOINERS} joiners of one stream", plan.pace
    pace = replace(pace, repeats=max(pace.repeats // 2, 1))
    workload = Workload(name, payloads.SMALL_BYTES, True, JOINERS, is_together=True)
    with stage.with_long_streams() as long:
        names = _beside_plain(plan, "windvane-cache")
        with _all_started(plan, long, names) as (started, missing):
            for each, why in missing.items():
                yield Cell("joined", name, each, refused=why)
            taking_part = [started[each] for each in names if each in started]
            plan.say(f"{name}: {', '.join(target.name for target in taking_part)}")
            yield from _take_turns("joined", workload, taking_part, pace, long)


def _store(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """What an entry of the cache's memory costs beyond its own bytes, and all of it beside its room."""
    for shape in store_size.SHAPES:
        plan.say(f"memory store: {shape.name}")
        with on_core(stage.cores.proxy):
            runs = [store_size.measure(shape) for _ in range(max(plan.pace.repeats // 2, 1))]
        figures = {
            "entry_bytes": Figure.of([run.entry_bytes for run in runs]),
            "counted_bytes": Figure.of([run.counted_bytes for run in runs]),
        }
        yield Cell("store", f"memory store, {shape.name}", "windvane", figures=figures)
    plan.say("memory store: turned over")
    with on_core(stage.cores.proxy):
        turned = [store_size.measure_turned_over() for _ in range(max(plan.pace.repeats // 2, 1))]
    figures = {
        "room_x": Figure.of([run.room_x for run in turned]),
        "own_x": Figure.of([run.own_x for run in turned]),
    }
    yield Cell("store", store_size.TURNED_OVER_NAME, "windvane", figures=figures)


def _accounting(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """What auth, limits, holds, journal and settling add to a request."""
    plan.say("accounting, in process")
    with on_core(stage.cores.proxy):
        # Where its memory happens to lie is worth five microseconds to a process: many are asked.
        runs = [accounting.measure() for _ in range(plan.pace.call_repeats)]
    figures = {
        "whole_us": Figure.of([run.whole_us for run in runs]),
        "added_us": Figure.of([run.added_us for run in runs]),
        "ledger_us": Figure.of([run.ledger_us for run in runs]),
    }
    yield Cell("accounting", "1 KB JSON in process", "windvane-limits", figures=figures)


def _key(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """What the cache's key of a long conversation costs."""
    plan.say("the key of 100 KB, in process")
    with on_core(stage.cores.proxy):
        runs = [parts.long_key_us() for _ in range(plan.pace.repeats)]
    yield Cell("key", "100 KB in process", "windvane", figures={"key_us": Figure.of(runs)})


def _trouble(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """What callers, provider and gateway notice when one of them, or what stands behind, fails."""
    for name, measured in trouble.TROUBLES.items():
        plan.say(name)
        try:
            runs = [measured(stage) for _ in range(max(plan.pace.repeats // 2, 1))]
        except CannotTakePartError as error:
            plan.say(f"left out, {error}")
        except trouble.COULD_NOT_BE as error:
            yield Cell("trouble", name, "windvane", refused=str(error))
        else:
            figures = {figure: Figure.of([run[figure] for run in runs]) for figure in runs[0]}
            yield Cell("trouble", name, "windvane", figures=figures)


def _cold(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """Spawn to first 200. One start before the measured ones warms byte code and disk cache."""
    for name in plan.names:
        plan.say(f"cold start: {name}")
        try:
            starts = [_start_once(stage, name) for _ in range(plan.pace.cold_starts + 1)][1:]
        except COULD_NOT_START as error:
            yield Cell("cold", "cold start", name, refused=f"{name} could not start: {error}")
            continue
        figures = {"chat_ms": Figure.of([start.chat_s * 1e3 for start in starts])}
        lives = [start.live_s * 1e3 for start in starts if start.live_s is not None]
        if lives:
            figures["live_ms"] = Figure.of(lives)
        yield Cell("cold", "cold start", name, figures=figures)


def _start_once(stage: Stage, name: str) -> Started:
    with stage.started(name) as started:
        return started


def _memory(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """Resident memory of a fresh process: idle, then the most seen under each kind of load."""
    for name in plan.names:
        plan.say(f"memory: {name}")
        try:
            with stage.started(name) as started:
                yield _memory_of(started, plan.pace, stage)
        except (*COULD_NOT_START, LoadFailedError) as error:
            yield Cell("memory", "memory", name, refused=f"{name}: {error}")


def _memory_of(started: Started, pace: Pace, stage: Stage) -> Cell:
    name = started.target.name
    connections, streams = (8, 32) if name in PEERS else (64, 512)
    time.sleep(SETTLE_S)
    figures = {"idle_mib": _mib(sampling.resident_bytes(started.target.child))}
    loads = {
        "json_mib": Workload("JSON", payloads.SMALL_BYTES, False, connections),
        "large_mib": Workload("100 KB", payloads.LARGE_BYTES, False, connections),
        "stream_mib": Workload("streams", payloads.SMALL_BYTES, True, streams),
    }
    for figure, workload in loads.items():
        sample = sampling.take(workload, started.target, stage.upstream, pace.stream_seconds)
        refused = why_refused([sample])
        if refused:
            return Cell("memory", "memory", name, figures, refused=f"{workload.name}: {refused}")
        figures[figure] = _mib(sample.resident_bytes_max)
    return Cell("memory", "memory", name, figures=figures)


def _mib(count: int) -> Figure:
    return Figure(count / MIB, 0.0)


IMPORT_PROGRAM = """
import sys, time
began = time.process_time_ns()
import windvane
spent = time.process_time_ns() - began
import json
heavy = [name for name in ("fastapi", "pydantic") if name in sys.modules]
print(json.dumps({"cpu_ms": spent / 1e6, "modules": len(sys.modules), "heavy": heavy}))
"""


def _import(plan: Plan, stage: Stage) -> Iterator[Cell]:
    """CPU time of ``import windvane`` in a fresh interpreter, and whether it stays light."""
    plan.say("import windvane")
    try:
        with on_core(stage.cores.proxy):
            runs = [_import_once() for _ in range(plan.pace.cold_starts + 1)][1:]
    except subprocess.CalledProcessError as error:
        yield Cell("import", "import windvane", "windvane", refused=error.stderr.strip()[-300:])
        return
    except subprocess.TimeoutExpired:
        refused = f"it took longer than {IMPORT_TIMEOUT_S} s"
        yield Cell("import", "import windvane", "windvane", refused=refused)
        return
    heavy = sorted({name for run in runs for name in run.heavy})
    note = f"imports {', '.join(heavy)}: NO, it should not" if heavy else "no fastapi, no pydantic"
    figures = {
        "cpu_ms": Figure.of([run.cpu_ms for run in runs]),
        "modules": Figure.of([run.modules for run in runs]),
    }
    yield Cell("import", "import windvane", "windvane", figures=figures, notes=(note,))


@dataclass(frozen=True, slots=True)
class _Import:
    """What one fresh interpreter said after ``import windvane``."""

    cpu_ms: float
    modules: int
    heavy: list[str]


def _import_once() -> _Import:
    return _Import(
        **json.loads(contenders.run_python("-c", IMPORT_PROGRAM, timeout_s=IMPORT_TIMEOUT_S))
    )


OTHER_GROUPS: Mapping[str, Callable[[Plan, Stage], Iterator[Cell]]] = {
    "joined": _joined,
    "accounting": _accounting,
    "key": _key,
    "store": _store,
    "cold": _cold,
    "memory": _memory,
    "import": _import,
    "trouble": _trouble,
}
GROUPS = (*LOAD_GROUPS, *OTHER_GROUPS)
UNDER_LOAD = (*LOAD_GROUPS, "joined")
TROUBLE = "trouble"
