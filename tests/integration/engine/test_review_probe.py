"""Proof of work before there was work: a datanode that had to wait is not unwell for that."""

import asyncio

from groundwork.sim.objects import Bucket
from tests.integration.engine.cluster import Node, simulate


def test_an_engine_that_starts_late_has_no_old_probe() -> None:
    """While nobody leads no datanode can register. Its wait counted as a store that is away: it was failed over."""

    async def story(bucket: Bucket) -> None:
        node = Node(bucket, "dn-1", 1)
        await asyncio.sleep(30)
        await node.start()
        assert node.engine.store_probe_age_ms() < 1_000
        await node.kill()

    simulate(story)
