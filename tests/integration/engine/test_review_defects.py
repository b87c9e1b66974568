"""What must not go on silently behind a defect."""

import asyncio
from typing import Any, cast

import msgspec

from datanode_agent.engine.engine import Engine
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.core.manifest import DROPS_FOLDER
from groundwork.sim.clock import SimClock
from groundwork.sim.objects import Bucket, Faults, SimObjectStore
from groundwork.sim.workers import InlineWorkers
from tests.integration.engine.cluster import QUIET, Lease, simulate
from tests.integration.engine.test_drops import dropped, only_the_tombstone

TICKING = msgspec.structs.replace(QUIET, tick_ms=100)


def test_p1_a_datanode_that_would_flush_no_more_says_so_to_whoever_ends_the_process() -> None:
    """A defect in the upkeep's ticks would end flushing for good: memory fills up, and the lanes grow."""

    async def main(bucket: Bucket) -> None:
        crashes: list[BaseException] = []
        store, clock = SimObjectStore(bucket, Faults(), seed=1), SimClock()
        engine = Engine(
            node_id="a", store=store, logs=ObjectsLog(store, clock, InlineWorkers()), clock=clock,
            workers=InlineWorkers(), config=TICKING, lease=Lease(), report=lambda _: None, crashed=crashes.append,
        )  # fmt: skip
        await engine.start(1, 1)
        await asyncio.sleep(1)
        assert not crashes
        engine._regions[1] = cast(Any, "a region that is none")
        await asyncio.sleep(1)
        assert isinstance(crashes[0], AttributeError)
        del engine._regions[1]
        await engine.stop(flush=False)

    simulate(main)


def test_a_strange_file_among_the_drop_markers_ends_no_clean_up() -> None:
    """A person left a file in `drops/`: it is passed over, and what is dropped goes all the same."""

    async def main(bucket: Bucket) -> None:
        bucket.objects[f"{DROPS_FOLDER}notes.txt"] = b"do not touch"
        a = await dropped(bucket)
        await a.until(lambda: only_the_tombstone(bucket))
        await a.kill()

    simulate(main)
