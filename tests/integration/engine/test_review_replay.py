"""What a replay may not begin before: the end of the lane."""

import asyncio

from groundwork.sim.objects import Bucket
from tests.integration.engine.cluster import Node, simulate
from tests.integration.engine.test_review_epochs import Hold


def test_p1_a_replay_begins_behind_the_seal_and_not_before() -> None:
    """P1: the lost node lives and acknowledges a write while the seal is on its way: the new owner has that row."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(11)
        await a.put(11, [("h1", 1, 1.0)])
        gate = Hold(str(a.lane))
        b = await Node(bucket, "b", 2, gate=gate).start()
        opening = asyncio.create_task(b.open(12, over=[a.lane]))
        await gate.reached.wait()
        await asyncio.sleep(5)  # long enough for whatever reads before the seal
        await a.put(11, [("h2", 2, 2.0)])
        gate.open.set()
        await opening
        assert await b.rows(12) == [("h1", 1, 1.0), ("h2", 2, 2.0)]
        await a.kill()
        await b.kill()

    simulate(main)
