"""The acceptance gate: hundreds of random histories of three replicas, and none in which a promise is broken."""

import gc
import logging
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from metasrv.adapters.raft import library
from tests.sim.raft.hardened import Hardened
from tests.sim.raft.stock import Stock
from tests.sim.raft.world import Build, Faults, World

STEPS = 5000
CHUNK = 10
HARSH = Faults(full=0.002, wipe=0.002)
MOVING = Faults(full=0.001, wipe=0.0002, hand_over=0.015)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hundreds of crashes would be thousands of log lines; the library gets its real clock back afterwards."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
    library.use_clock()


def run(seed: int, folder: Path, build: Build, faults: Faults, steps: int = STEPS, *, apart: float = 0.0) -> World:
    """One history."""
    folder = folder / str(seed)
    folder.mkdir()
    world = World(seed, folder, build, faults, apart=apart)
    try:
        world.run(steps)
    finally:
        for name, disk in world.disks.items():
            world.abandon(name)
            disk.lose_unsynced()
    return world


@pytest.mark.parametrize("first", range(0, 80, CHUNK))
def test_power_loss_and_partitions(first: int, tmp_path: Path) -> None:
    """P1, P2: through power loss at any step, compaction and broken links, nothing acknowledged is lost or forked."""
    worlds = [run(seed, tmp_path, Hardened, Faults()) for seed in range(first, first + CHUNK)]
    assert {seed + first: world.failures for seed, world in enumerate(worlds) if world.failures} == {}
    assert sum(len(world.acked) for world in worlds) > 500, "the histories must be about something"
    assert sum(world.crashes for world in worlds) > 50
    assert sum(world.confirmed for world in worlds) > 20


@pytest.mark.parametrize("first", range(1000, 1040, CHUNK))
def test_full_and_lost_disks(first: int, tmp_path: Path) -> None:
    """P1, T10: with disks that fill up and, one at a time, are replaced by empty ones as well."""
    worlds = [run(seed, tmp_path, Hardened, HARSH) for seed in range(first, first + CHUNK)]
    assert {seed + first: world.failures for seed, world in enumerate(worlds) if world.failures} == {}
    assert sum(world.wipes for world in worlds) > 2
    assert sum(len(world.acked) for world in worlds) > 300


@pytest.mark.parametrize("first", range(0, 80, CHUNK))
def test_leaders_that_hand_over_and_go(first: int, tmp_path: Path) -> None:
    """P1, P2, P5: with leaders that hand over and lose power at once, and clusters that start without their third.

    However a history ends, two replicas whose disks were never lost serve without the third, within bounded time.
    """
    worlds = [run(seed, tmp_path, Hardened, MOVING, 3000, apart=0.6) for seed in range(first, first + CHUNK)]
    assert {seed + first: world.failures for seed, world in enumerate(worlds) if world.failures} == {}
    assert sum(world.hand_overs for world in worlds) > 5
    assert sum(world.twos for world in worlds) > 0
    print("two of three serve after, at most, s:", max(round(world.longest_s, 1) for world in worlds))


@pytest.mark.parametrize("seed", [3110, 3144])
def test_histories_that_once_failed(seed: int, tmp_path: Path) -> None:
    """A follower in need of a snapshot while the leader cuts its journal beyond it: it must catch up all the same."""
    assert run(seed, tmp_path, Hardened, Faults(), 6000).failures == []


def test_the_same_seed_is_the_same_history(tmp_path: Path) -> None:
    """A failure is a seed: two runs of one differ in nothing."""
    first, again = (run(77, tmp_path / name, Hardened, HARSH, 2000) for name in _folders(tmp_path))
    assert (first.applied, first.acked, first.crashes, first.now) == (
        again.applied,
        again.acked,
        again.crashes,
        again.now,
    )


def _folders(parent: Path) -> list[str]:
    names = ["first", "again"]
    for name in names:
        (parent / name).mkdir()
    return names


def test_the_stock_library_fails_here(tmp_path: Path) -> None:
    """The gate can tell: the library with its own journal, snapshots and message rules does not get through it."""
    logging.getLogger("pysyncobj").disabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # killed processes do not close their files
        try:
            failures = _stock_failures(tmp_path)
        finally:
            logging.getLogger("pysyncobj").disabled = False
            gc.collect()
    assert any("acknowledged writes are lost" in failure for failure in failures), failures
    assert any("elsewhere" in failure for failure in failures), "different commands at one index"


def _stock_failures(folder: Path) -> list[str]:
    failures: list[str] = []
    for seed in range(15, 40):
        try:
            failures += run(seed, folder, Stock, Faults(), 4000).failures
        except (KeyError, TypeError, IndexError, AssertionError, AttributeError, ValueError, struct.error) as error:
            failures.append(repr(error))  # raised out of its tick: a failure like any other
        if all(any(what in failure for failure in failures) for what in ("writes are lost", "elsewhere")):
            break
    return failures
