"""One sample: a load for a while against one target, and what it cost.

The load runs in a process of its own on the load core; this driver sleeps meanwhile and only looks
up the target's memory now and then.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contenders, layout, payloads, probe, procfs
from benchmarks.children import Child, clean_environment
from benchmarks.payloads import Request
from benchmarks.upstream_process import Upstream

LOOK_S = 0.2
OVERTIME_S = 40.0
"""How long past its time a load may run before the sample is given up."""

WRK_LIMIT_S = 600
"""wrk counts whole seconds only, so it is told a long time and interrupted at the right one."""


FIRST_ASKED_AGAIN = 1
"""The number of the first question that comes again: no other load asks it."""


class LoadFailedError(Exception):
    """The load itself broke, so nothing was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load goes. Without a child (the upstream itself) no CPU is accounted."""

    name: str
    port: int
    headers: Mapping[str, str]
    child: Child | None
    keeps_answers: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What a load does: how large its calls are, whether they stream, how many run at once.

    Each call is another question, but for those of `questions` (they come again and again), and of
    streams that all ask for `together`.
    """

    name: str
    body_bytes: int
    is_stream: bool
    connections: int
    questions: int = 0
    is_together: bool = False

    @property
    def is_repeated(self) -> bool:
        """Say whether one answer may serve for several calls."""
        return bool(self.questions) or self.is_together

    def request(self, target: Target) -> Request:
        """Build the call for a target."""
        return payloads.chat(
            body_bytes=self.body_bytes,
            is_stream=self.is_stream,
            headers=target.headers,
            port=target.port,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """What one load found. A unit is what is paid for: a request, or a chunk of a stream."""

    requests: int
    units: int
    units_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    upstream_calls: int
    cpu_us_per_unit: float
    proxy_core_busy: float
    load_core_busy: float
    resident_bytes_max: int


def take(workload: Workload, target: Target, upstream: Upstream, seconds: float) -> Sample:
    """Load a target for some seconds."""
    calls = probe.posts(upstream.port)
    target_ns, upstream_ns = _cpu_ns(target.child), _cpu_ns(upstream.child)
    driver_s, began_s = _children_cpu_s(), time.perf_counter()
    report, resident = _drive(_command(workload, target, upstream, seconds), target, seconds)
    wall_s = time.perf_counter() - began_s
    target_ns = _cpu_ns(target.child) - target_ns
    load_s = _children_cpu_s() - driver_s + (_cpu_ns(upstream.child) - upstream_ns) / 1e9
    units = int(report.get("units", report["requests"]))
    return Sample(
        requests=int(report["requests"]),
        units=units,
        units_per_s=report.get("units_per_s", units / report["duration_s"]),
        p50_ms=report["p50_ms"],
        p99_ms=report["p99_ms"],
        errors=int(report["errors"]),
        upstream_calls=probe.posts(upstream.port) - calls,
        cpu_us_per_unit=target_ns / 1e3 / max(units, 1),
        proxy_core_busy=target_ns / 1e9 / wall_s,
        load_core_busy=load_s / wall_s,
        resident_bytes_max=resident,
    )


def load_kinds() -> str:
    """Name the programs that make the load."""
    return "wrk for JSON" if _wrk() else "Python for JSON (wrk was not found)"


def _command(workload: Workload, target: Target, upstream: Upstream, seconds: float) -> list[str]:
    folder = layout.BENCH
    files = [str(path) for path in workload.request(target).save(folder)]
    number = str(FIRST_ASKED_AGAIN if workload.questions else payloads.first_number())
    connections, questions = str(workload.connections), str(workload.questions)
    wrk = _wrk()
    if workload.is_stream or wrk is None:
        module = "benchmarks.stream_load" if workload.is_stream else "benchmarks.load"
        how = "together" if workload.is_together else "spread"
        pace = [str(upstream.chunks), str(upstream.chunk_ms), how]
        call = [sys.executable, "-m", module, str(target.port), *files, number, connections]
        return [*call, str(seconds), *(pace if workload.is_stream else [questions])]
    url = f"http://127.0.0.1:{target.port}{payloads.PATH}"
    shape = ["-t1", f"-c{connections}", f"-d{WRK_LIMIT_S}s", "--timeout", "20s", "--latency"]
    return [wrk, *shape, "-s", str(layout.HERE / "wrk.lua"), url, "--", *files, number, questions]


def _drive(command: Sequence[str], target: Target, seconds: float) -> tuple[dict[str, float], int]:
    """Run the load and return its report and the target's largest resident memory meanwhile."""
    environment = {**clean_environment(), **contenders.python_environment()}
    resident = 0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            ends_s = time.perf_counter() + seconds
            is_wrk = Path(command[0]).name == "wrk"
            while process.poll() is None:
                left_s = ends_s - time.perf_counter()
                if left_s <= 0 and is_wrk:
                    process.send_signal(signal.SIGINT)
                    process.wait(OVERTIME_S)
                elif left_s < -OVERTIME_S:
                    raise LoadFailedError(f"the load did not end in {seconds + OVERTIME_S:.0f} s")
                else:
                    time.sleep(min(LOOK_S, left_s) if is_wrk and left_s > 0 else LOOK_S / 4)
                resident = max(resident, resident_bytes(target.child))
            output, complaints = process.communicate()
        finally:
            process.kill()
    try:
        report: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise LoadFailedError(f"no report from {command[0]}: {complaints[-500:]}") from error
    return report, resident


def resident_bytes(child: Child | None) -> int:
    """Resident memory of a target's tree; 0 for the upstream itself."""
    return procfs.resident_bytes(child.pid) if child else 0


def _cpu_ns(child: Child | None) -> int:
    return procfs.cpu_ns(child.pid) if child else 0


def _children_cpu_s() -> float:
    """CPU time of the loads that have ended (servers are counted by pid, and end later)."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wrk() -> str | None:
    return shutil.which("wrk")
