"""Back-pressure that ends: what was refused for want of memory makes room for itself."""

import asyncio

import msgspec

from groundwork.core.table import Column, Role, Schema
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from tests.integration.engine.cluster import QUIET, Node, simulate

TEXTS = Schema(
    1,
    (
        Column("host", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        Column("value", "string", Role.FIELD),
    ),
)


def test_a_write_that_does_not_fit_is_not_refused_until_the_memtable_is_old() -> None:
    """Below three quarters of a small budget nothing was flushed, so a big write waited for `flush_age_ms`: minutes."""

    async def main(bucket: Bucket) -> None:
        config = msgspec.structs.replace(QUIET, tick_ms=200, memory_budget_bytes=100_000, flush_age_ms=3_600_000)
        a = await Node(bucket, "a", 1, config).start()
        await a.open(1, schema=TEXTS)
        await a.put(1, [("h", 1, "x" * 60_000)], schema=TEXTS)
        big = [("h", 2, "x" * 60_000)]
        refused = await a.write(1, big, schema=TEXTS)
        assert refused.outcome == pb.OVERLOADED
        await asyncio.sleep(1)
        await a.put(1, big, schema=TEXTS)
        await a.kill()

    simulate(main)
