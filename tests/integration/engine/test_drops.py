"""What a drop deletes, who does it, and what it never touches."""

import asyncio

import msgspec

from groundwork.core.ids import region_id
from groundwork.core.manifest import decode_manifest, drop_marker_key, manifest_folder, manifest_key
from groundwork.sim.objects import Bucket
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, TABLE, Node, R, order, simulate

GRACE = msgspec.structs.replace(QUIET, delete_grace_ms=2_000)
OTHER = region_id(TABLE, 1)


def of(bucket: Bucket, region: int) -> set[str]:
    """What exists of a region."""
    folder = manifest_folder(region).removesuffix("manifest/")
    return {key for key in bucket.objects if key.startswith(folder)}


async def dropped(bucket: Bucket) -> Node:
    """A node that has just dropped R, and serves another region of the table."""
    a = await Node(bucket, "a", 1, GRACE).start()
    await a.open(10)
    await a.open(10, OTHER)
    for n in range(5):
        for region in (R, OTHER):
            await a.put(10, [("h1", n, 1.0)], region)
        await a.engine.flush([])
    a.tell(order(nodes_pb2.DROP, 11))
    await a.until(lambda: a.reports[-1].HasField("closed"))
    return a


def only_the_tombstone(bucket: Bucket) -> bool:
    """The tombstone, and the version before it."""
    left = sorted(of(bucket, R))
    if left != [manifest_key(R, 6), manifest_key(R, 7)] or drop_marker_key(R) in bucket.objects:
        return False
    return decode_manifest(bucket.objects[left[-1]], R, 7).tombstone


def test_a_drop_deletes_the_regions_files_after_a_grace() -> None:
    """Holes 8, 9: the node that dropped it deletes its SSTs and old manifests, never the tombstone, never another's."""

    async def main(bucket: Bucket) -> None:
        a = await dropped(bucket)
        before, other = of(bucket, R), of(bucket, OTHER)
        await asyncio.sleep(1)
        assert of(bucket, R) == before and drop_marker_key(R) in bucket.objects, "scans elsewhere have their grace"
        await a.until(lambda: only_the_tombstone(bucket))
        assert of(bucket, OTHER) == other and len(await a.rows(10, OTHER)) == 5
        b = await Node(bucket, "b", 2, GRACE).start()
        b.tell(order(nodes_pb2.OPEN, 12, over=[a.lane]))
        await b.until(lambda: b.state() == "failed")
        assert b.last("failed").failed.kind == "dropped"
        await a.kill()
        await b.kill()

    simulate(main)


def test_another_node_finishes_a_drop() -> None:
    """The node dies within the grace: whoever finds the marker finishes; a store that fails meanwhile ends nothing."""

    async def main(bucket: Bucket) -> None:
        a = await dropped(bucket)
        await a.kill()
        b = await Node(bucket, "b", 2, GRACE).start()
        await asyncio.sleep(15)
        assert drop_marker_key(R) in bucket.objects, "the node that dropped it may be at it still"
        b.faults.unavailable = 1.0
        await asyncio.sleep(10)
        b.faults.heal()
        await b.until(lambda: only_the_tombstone(bucket))
        await b.kill()

    simulate(main)


def test_a_marker_without_a_tombstone_deletes_nothing() -> None:
    """Whatever the marker says: only a region whose newest manifest is a tombstone is cleaned up."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1, GRACE).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.engine.flush([])
        bucket.objects[drop_marker_key(R)] = b"a mistake"
        before = of(bucket, R)
        await asyncio.sleep(60)
        assert of(bucket, R) == before and await a.rows(10) == [("h1", 1, 1.0)]
        await a.kill()

    simulate(main)


def test_a_drop_that_failed_is_tried_again() -> None:
    """Its newest manifest was unreadable for a while: metasrv gives no other order, so the node tries by itself."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1, GRACE).start()
        await a.open(10)
        readable = bucket.objects[manifest_key(R, 1)]
        bucket.objects[manifest_key(R, 1)] = b"damaged"
        a.tell(order(nodes_pb2.DROP, 11))
        await a.until(lambda: a.state() == "failed")
        bucket.objects[manifest_key(R, 1)] = readable
        await asyncio.sleep(2 * QUIET.tell_again_ms / 1000)
        assert a.reports[-1].HasField("closed") and a.state() == "closed"
        await a.kill()

    simulate(main)
