"""The whole cluster in one thread: fixed seeds on every test run, fresh ones with `make soak`."""

import os
import subprocess
import sys

import msgspec
import pytest

from tests.sim.run import Report

CHUNK = 10
SEEDS = 50


def _run(first: int, seeds: int) -> list[Report]:
    """In a process of its own, where sets of strings have one order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.run", "--seed", str(first), "--seeds", str(seeds), "--json"],
        capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False,
    )  # fmt: skip
    reports = [msgspec.json.decode(line, type=Report) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == seeds, done.stdout[-3000:] + done.stderr[-3000:]
    return reports


@pytest.mark.parametrize("first", range(1, 1 + SEEDS, CHUNK))
def test_nothing_acknowledged_is_lost(first: int) -> None:
    """P1, P2, P6: through every fault that the nemesis knows, and everything converges when the faults stop."""
    reports = _run(first, CHUNK)
    failed = {f"python -m tests.sim.run --seed {r.seed}": r.failures[:4] for r in reports if r.failures}
    assert failed == {}
    assert sum(r.writes for r in reports) > 100, "the histories must be about something"


def test_the_same_seed_is_the_same_history() -> None:
    """A failure is a seed: a history that follows others in its process and one that comes first differ in nothing."""
    [_, second] = _run(20, 2)
    [alone] = _run(21, 1)
    assert second.digest == alone.digest
    assert second.writes == alone.writes
