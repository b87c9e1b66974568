"""`python -m tests.sim.run --seed N` replays one history exactly and says what went wrong in it.

`--seeds K` runs K of them from N on; `--soak SECONDS` runs fresh ones on every core and prints what they reached.
"""

import argparse
import gc
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tests.sim.world import World


class Report(msgspec.Struct):
    """One history, as one line of JSON."""

    seed: int
    digest: str
    failures: list[str]
    cpu_s: float
    virtual_s: float
    writes: int
    reads: int
    failovers: int
    faults: dict[str, int]
    marks: dict[str, int]
    outages_s: list[float]
    recoveries_s: list[float]  # until a key took a write after all faults had ended, in mid-history or at the end
    detections_s: list[float]  # until a key took a write after a datanode had died and stayed dead, all else well
    settled_s: float  # until every region served and every replica was up, at the end
    stages_s: dict[str, float]  # the longest that each stage of an outage took with all that it takes being well


def fixed_hashes() -> None:
    """Sets of strings have one order in every run, or a seed would not decide everything."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        arguments = [sys.executable, "-m", "tests.sim.run", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})


def one(seed: int, trace: Path | None = None) -> Report:
    """Run one history; its trace goes to a file."""
    from tests.sim.world import World

    began_s = time.process_time()
    gc.disable()
    try:
        report = _told(World(seed).run(), trace)
    finally:
        gc.collect(0)  # all of it is young, and now all of it is garbage: nothing is looked through twice
        gc.enable()
    report.cpu_s = time.process_time() - began_s
    return report


def _told(world: "World", trace: Path | None) -> Report:
    history = world.clients.history
    if trace is not None:
        trace.write_text("\n".join(world.trace.lines) + "\n")
    return Report(
        world.seed, world.trace.digest, world.failures, 0.0, world.virtual_s, history.writes,
        history.strong_reads + history.lease_reads, world.checks.failovers, dict(world.trace.faults),
        dict(world.trace.marks), history.outages_s, history.recoveries_s, history.detections_s, world.settled_s,
        world.outages.longest_s,
    )  # fmt: skip


def say(report: Report) -> None:
    """For people: one line, and what went wrong with the command that replays it."""
    print(
        f"seed {report.seed}: {report.cpu_s:.2f} CPU s for {report.virtual_s:.0f} s, {report.writes} writes, "
        f"{report.reads} reads, {report.failovers} failovers, trace {report.digest}, faults {report.faults}"
    )
    for failure in report.failures[:4]:
        print("    ", failure)
    if report.failures:
        print(f"    replay: python -m tests.sim.run --seed {report.seed}", flush=True)


# Marks that no history here reaches, and why.
ELSEWHERE = {
    # A claim landed, its replay failed, and the order changed within its epoch. A replay fails by damage in the store
    # only, and that is not made here.
    "claim_had_landed",
}


def known_marks() -> set[str]:
    """Every mark in the product that a history can reach, and the log lines that count as marks."""
    from tests.sim.trace import RARE

    root = Path(__file__).resolve().parents[2]
    found = set(RARE)
    for package in ("groundwork", "metasrv", "datanode_agent", "metasrv_frontend"):
        for path in (root / package).rglob("*.py"):
            found.update(re.findall(r'\bmark\("(\w+)"\)', path.read_text()))
    return found - ELSEWHERE


def summary(reports: list[Report], wall_s: float) -> set[str]:
    """What a soak comes to; the marks that it never reached."""
    faults: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    outages = sorted(s for r in reports for s in r.outages_s)
    for report in reports:
        faults.update(report.faults)
        marks.update(report.marks)
    hours = sum(r.virtual_s for r in reports) / 3600
    cpu_s = sum(r.cpu_s for r in reports) / max(1, len(reports))
    print(f"{len(reports)} seeds in {wall_s:.0f} s: {len(reports) / wall_s:.1f} seeds/s, {cpu_s:.2f} CPU s a seed")
    print(f"{hours:.1f} simulated hours, {sum(r.writes for r in reports)} writes acknowledged, ", end="")
    print(f"{sum(r.reads for r in reports)} reads checked, {sum(r.failovers for r in reports)} failovers")
    print(f"{sum(faults.values())} faults: {', '.join(f'{k} {n}' for k, n in sorted(faults.items()))}")
    print(f"marks reached: {', '.join(f'{k} {n}' for k, n in sorted(marks.items())) or 'none'}")
    never = known_marks() - set(marks)
    print(f"marks never reached: {', '.join(sorted(never)) or 'none'}")
    _spread("writes that met an outage", outages)
    _spread("keys that took a write again after all faults had ended", [s for r in reports for s in r.recoveries_s])
    _spread("keys that took a write after a datanode died for good", [s for r in reports for s in r.detections_s])
    _spread("histories that settled after that, every region serving", [r.settled_s for r in reports])
    for stage in sorted({stage for r in reports for stage in r.stages_s}):
        told = f"outages without an excuse, stage {stage!r}"
        _spread(told, [r.stages_s[stage] for r in reports if stage in r.stages_s])
    failed = [r for r in reports if r.failures]
    print(f"{len(failed)} seeds failed{': ' + ', '.join(str(r.seed) for r in failed[:50]) if failed else ''}")
    return never


def _spread(what: str, seconds: list[float]) -> None:
    seconds = sorted(seconds)
    if seconds:
        p50, p99 = (seconds[min(len(seconds) - 1, int(len(seconds) * q))] for q in (0.5, 0.99))
        print(f"{what}: {len(seconds)}, p50 {p50:.2f} s, p99 {p99:.2f} s, max {seconds[-1]:.2f} s")


def soak(seconds: float, cores: int) -> tuple[list[Report], bool]:
    """Fresh seeds in one process a core, each with seeds of its own; whether all of these ended as they should."""
    first = random.SystemRandom().randrange(1 << 31) * 1_000
    until = str(time.time() + seconds)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sim.run", "--seed", str(first + n), "--step", str(cores), "--until", until,
             "--json"],
            stdout=subprocess.PIPE, text=True,
        )
        for n in range(cores)
    ]  # fmt: skip
    reports: list[Report] = []
    with ThreadPoolExecutor(cores) as readers:
        ended = list(readers.map(_read, workers, [reports] * cores))
    return reports, all(ended)


def _read(worker: "subprocess.Popen[str]", reports: list[Report]) -> bool:
    """A worker's reports as they come, and what failed at once: a soak may be hours long."""
    assert worker.stdout is not None
    failed = False
    for line in worker.stdout:
        if not line.startswith("{"):
            print(line, end="", flush=True)
            continue
        report = msgspec.json.decode(line, type=Report)
        reports.append(report)
        if report.failures:
            failed = True
            say(report)
    if worker.wait() == int(failed):
        return True
    print(f"a worker ended with {worker.returncode}, by itself: see above", flush=True)
    return False


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--step", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object a seed")
    parser.add_argument("--trace", type=Path, help="a file for every event of the (last) history")
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--nightly", action="store_true", help="a soak that leaves a mark unreached has failed")
    options = parser.parse_args()
    fixed_hashes()
    began = time.monotonic()
    if options.soak:
        reports, ended = soak(options.soak, os.cpu_count() or 1)
        never = summary(reports, time.monotonic() - began)
        sys.exit(not ended or any(r.failures for r in reports) or (options.nightly and bool(never)))
    failed = False
    seed, count = options.seed, 0
    while time.time() < options.until if options.until else count < options.seeds:
        report = one(seed, options.trace)
        failed |= bool(report.failures)
        show: Any = print if options.json else say
        show(msgspec.json.encode(report).decode() if options.json else report)
        seed, count = seed + options.step, count + 1
    sys.exit(failed)


if __name__ == "__main__":
    main()
