"""The command: ``python -m benchmarks`` (or ``python -m benchmarks profile``, or ``parts``)."""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks import (
    contenders,
    layout,
    machine,
    parts,
    procfs,
    profile,
    results,
    sampling,
    tables,
)
from benchmarks import stage as stages
from benchmarks.results import Report
from benchmarks.suite import GROUPS, QUICK, USUAL, Plan, run
from benchmarks.upstream_process import CHUNK_MS, CHUNKS

TERMINATED = 128 + signal.SIGTERM
USAGE_ERROR = 2
INCOMPLETE = 1


def main() -> int:
    """Run what the command line asks for; 1 when a row had to be refused."""
    if sys.argv[1:2] == ["profile"]:
        return profile.main(sys.argv[2:])
    if sys.argv[1:2] == ["parts"]:
        return parts.main()
    options = _parser().parse_args()
    if not procfs.is_available():
        print("benchmarks need Linux: CPU time is read from /proc/PID/schedstat", file=sys.stderr)
        return USAGE_ERROR
    signal.signal(signal.SIGTERM, _leave)
    report = _measure(_plan(options), label=options.label)
    before = results.comparable(results.load(layout.LAST), report)
    results.keep(report)
    if options.json:
        print(results.as_json(report), end="")
    else:
        tables.show(report, before)
    _write_document(options, report, before)
    return INCOMPLETE if any(cell.refused for cell in report.cells) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs: about 90 s in all")
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this group only")
    parser.add_argument(
        "--peers", action="store_true", help="LiteLLM and Portkey beside (installs)"
    )
    parser.add_argument(
        "--through", metavar="NAMES", help=f"comma-separated: {', '.join(contenders.RECIPES)}"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="write the tables here (a whole run that is not quick writes docs/benchmarks.md)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--label", default="", help="what this run is, for the comparison")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    names = (contenders.plain_proxy(), "windvane", *(contenders.PEERS if options.peers else ()))
    if options.through:
        names = tuple(options.through.split(","))
    unknown = sorted(set(names) - set(contenders.RECIPES))
    if unknown:
        raise SystemExit(
            f"unknown: {', '.join(unknown)}; there are {', '.join(contenders.RECIPES)}"
        )
    return Plan(
        pace=QUICK if options.quick else USUAL,
        names=names,
        groups=tuple(options.only or GROUPS),
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )


def _measure(plan: Plan, *, label: str) -> Report:
    now = datetime.datetime.now(datetime.UTC)
    neighbours = machine.load_average()
    described = machine.line()
    with stages.opened() as stage:
        placement = _placement(stage)
        cells = run(plan, stage)
    return Report(
        taken_at=now.strftime("%Y-%m-%d %H:%M UTC"),
        label=label,
        mode=plan.pace.name,
        machine=described,
        versions=machine.versions(plan.names),
        placement=placement,
        neighbours=neighbours,
        cells=tuple(cells),
    )


def _placement(stage: stages.Stage) -> tuple[str, ...]:
    cores = stage.cores
    placed = "one core for all: nothing is pinned, rates are low"
    if cores.proxy is not None:
        placed = f"proxy on core {cores.proxy}, upstream and load on core {cores.load}"
    return (
        f"Upstream: {stage.upstream.kind}; a stream is {CHUNKS} chunks, one per {CHUNK_MS} ms",
        f"Load: {sampling.load_kinds()}, Python for streams; {placed}",
    )


def _write_document(options: argparse.Namespace, report: Report, before: Report | None) -> None:
    """Write the tables where asked; unasked only a whole and careful run becomes the document."""
    is_whole = not options.only and not options.quick and not options.through
    path = options.output or (layout.DOCUMENT if is_whole else None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tables.as_markdown(report, before))
        print(f"written to {path}", file=sys.stderr)


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave through every ``finally``, so that no child is left behind."""
    del number, frame
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
