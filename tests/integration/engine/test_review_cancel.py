"""Cancellation in the wrong moment: one caller or one region gives up, and nobody else may notice."""

import asyncio

from groundwork.core.ids import region_id
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import TABLE, V2, Node, R, order, simulate

S = region_id(TABLE, 1)


class Slow:
    """A gate that holds the replies of creates under a prefix while it is shut."""

    def __init__(self, operation: str, part: str) -> None:
        self.operation, self.part = operation, part
        self.open = asyncio.Event()
        self.reached = asyncio.Event()
        self.open.set()

    async def __call__(self, operation: str, key: str, when: str) -> None:
        """Hold what was asked for, after it took effect."""
        if operation == self.operation and self.part in key and when == "after" and not self.open.is_set():
            self.reached.set()
            await self.open.wait()


def test_a_region_that_stops_preparing_ends_no_other_that_prepares() -> None:
    """Two regions tail one lane; the order that takes one away leaves the other's task alive, and it reports."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10, R)
        await a.open(10, S)
        b = await Node(bucket, "b", 2).start()
        b.faults.latency_ms = (20.0, 20.0)
        b.tell(*(order(nodes_pb2.PREPARE, 10, r, attempt=11, from_lane=a.lane) for r in (R, S)))
        await asyncio.sleep(0.100)  # both wait for the tail's first look at the lane
        assert not b.reports
        b.tell(order(nodes_pb2.CLOSE, 10, R))
        await b.until(lambda: any(r.HasField("prepared") and r.region_id == S for r in b.reports), 2_000)
        await a.kill()
        await b.kill()

    simulate(main)


def test_a_caller_that_gives_up_a_flush_fences_no_region() -> None:
    """The client of a Flush goes away between the manifest's put and its reply: the region serves on and flushes on."""

    async def main(bucket: Bucket) -> None:
        gate = Slow("create", "/manifest/")
        a = await Node(bucket, "a", 1, gate=gate).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        gate.open.clear()
        asked = asyncio.create_task(a.engine.flush([R]))
        await gate.reached.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        gate.open.set()
        await a.put(10, [("h2", 2, 2.0)])
        [outcome] = await a.engine.flush([R])
        assert outcome.outcome == pb.DONE and a.state() == "serving", outcome
        assert await a.rows(10) == [("h1", 1, 1.0), ("h2", 2, 2.0)]
        await a.kill()

    simulate(main)


def test_a_caller_that_gives_up_a_widening_write_fences_no_region() -> None:
    """The first write in a newer schema is cancelled while the manifest's put lands: the region serves on."""

    async def main(bucket: Bucket) -> None:
        gate = Slow("create", "/manifest/")
        a = await Node(bucket, "a", 1, gate=gate).start()
        await a.open(10)
        a.tell(order(nodes_pb2.OPEN, 10), schema=V2)
        gate.open.clear()
        writing = asyncio.create_task(a.write(10, [("h1", 1, 1.0, "n", "r")], schema=V2))
        await gate.reached.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        gate.open.set()
        await a.put(10, [("h1", 1, 2.0, "n", "r")], schema=V2)
        [outcome] = await a.engine.flush([R])
        assert outcome.outcome == pb.DONE and a.state() == "serving", outcome
        await a.kill()

    simulate(main)


def test_many_cancelled_writes_leave_no_memory_counted() -> None:
    """Clients that give up at any moment of a write leave nothing counted once the region is closed."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        a.faults.latency_ms = (0.0, 30.0)
        writes = [asyncio.create_task(a.write(10, [(f"h{n}", n, float(n))])) for n in range(50)]
        for n, write in enumerate(writes):
            await asyncio.sleep(0.001 * (n % 5))
            if n % 2:
                write.cancel()
        flush = asyncio.create_task(a.engine.flush([R]))
        await asyncio.gather(*writes, return_exceptions=True)
        await asyncio.sleep(1)
        await flush
        assert a.engine.memory_bytes() == a.engine.unflushed_bytes()
        a.tell(order(nodes_pb2.STOP, 10, attempt=11))
        await a.until(lambda: a.state() == "stopped")
        a.tell(order(nodes_pb2.CLOSE, 12))
        assert a.engine.memory_bytes() == 0
        await a.kill()

    simulate(main)
