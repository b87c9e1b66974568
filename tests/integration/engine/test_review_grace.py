"""Files that a compaction replaced: who still reads them finds them."""

import asyncio

import msgspec

from groundwork.sim.objects import Bucket
from tests.integration.engine.cluster import QUIET, Node, R, simulate

GRACE_MS = 1_000.0
MERGING = msgspec.structs.replace(QUIET, files_max=1, delete_grace_ms=GRACE_MS)


def _files(bucket: Bucket) -> set[str]:
    return {key for key in bucket.objects if key.endswith(".parquet")}


async def _two_files(a: Node) -> None:
    for n in (1, 2):
        await a.put(10, [("h", n, float(n))])
        await a.engine.flush([])


def test_a_merged_file_goes_after_the_grace_period() -> None:
    """A scan on a former owner, whose manifest is older, has so long to end."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1, MERGING).start()
        await a.open(10)
        flusher, region = a.engine._orders.flusher, a.engine._regions[R]
        await _two_files(a)
        old = _files(bucket)
        assert await flusher.compact(region)
        await flusher.clean(region)
        assert len(old) == 2 and old < _files(bucket)
        await asyncio.sleep(2 * GRACE_MS / 1_000)
        await flusher.clean(region)
        assert len(_files(bucket)) == 1
        assert await a.rows(10) == [("h", 1, 1.0), ("h", 2, 2.0)]
        await a.kill()

    simulate(main)


def test_a_merged_file_stays_for_as_long_as_a_scan_here_reads_it() -> None:
    """However long after the grace period that is."""

    async def main(bucket: Bucket) -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def gate(operation: str, key: str, when: str) -> None:
            if operation == "get" and key.endswith(".parquet") and when == "before" and not asked.is_set():
                asked.set()
                await go_on.wait()

        a = await Node(bucket, "a", 1, MERGING, gate).start()
        await a.open(10)
        flusher, region = a.engine._orders.flusher, a.engine._regions[R]
        await _two_files(a)
        old = _files(bucket)
        scan = asyncio.create_task(a.rows(10))
        await asked.wait()
        assert await flusher.compact(region)
        await asyncio.sleep(2 * GRACE_MS / 1_000)
        await flusher.clean(region)
        go_on.set()
        assert await scan == [("h", 1, 1.0), ("h", 2, 2.0)]
        await flusher.clean(region)
        assert not old & _files(bucket)
        await a.kill()

    simulate(main)
