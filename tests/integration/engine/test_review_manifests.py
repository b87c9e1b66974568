"""Versions under names that clean-up had freed: none of them counts, whatever stands beside them."""

import msgspec

from groundwork.core.manifest import manifest_key
from groundwork.sim.objects import Bucket
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, R, order, simulate
from tests.integration.engine.test_review_epochs import Hold

CLEANING = msgspec.structs.replace(QUIET, manifests_kept=2)


def test_hole9_p2_a_void_version_is_no_predecessor_for_a_second_zombie() -> None:
    """P2, hole 9: two zombies put versions 1 and 2 late under freed names: the first must not vouch for the second."""

    async def main(bucket: Bucket) -> None:
        first, second = Hold(manifest_key(R, 1)), Hold(manifest_key(R, 2))
        z1 = await Node(bucket, "z1", 1, gate=first).start()
        z1.tell(order(nodes_pb2.OPEN, 10))
        await first.reached.wait()
        a = await Node(bucket, "a", 2, CLEANING).start()
        await a.open(11)
        z2 = await Node(bucket, "z2", 3, gate=second).start()
        z2.tell(order(nodes_pb2.OPEN, 12, over=[a.lane]))  # seals A's lane, and its claim is on its way
        await second.reached.wait()
        c = await Node(bucket, "c", 4, CLEANING).start()
        await c.open(13, over=[a.lane])
        for n in range(6):
            await c.put(13, [("h1", 1, float(n))])
            await c.engine.flush([])
            await c.engine._orders.flusher.clean(c.engine._regions[R])
        assert not {manifest_key(R, 1), manifest_key(R, 2)} & bucket.objects.keys(), "both names are free"
        first.open.set()
        await z1.until(lambda: z1.state() == "failed")
        assert manifest_key(R, 1) in bucket.objects, "a void version: nobody built on it"
        second.open.set()
        await z2.until(lambda: z2.state() != "opening")
        assert z2.state() == "failed" and z2.last("failed").failed.kind == "newer_epoch"
        assert await c.rows(13) == [("h1", 1, 5.0)]
        for node in (z1, a, z2, c):
            await node.kill()

    simulate(main)
