"""A claim that landed is found again by the same opener: it is gone on with, never made twice (HOLES 6, 9)."""

from collections import Counter

import pytest

from groundwork.core.ids import Lane
from groundwork.core.manifest import decode_manifest, version_of
from groundwork.core.marks import watch_marks
from groundwork.sim.objects import Bucket
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import Node, R, order, simulate

ELSE = Lane("c", 3, 0)  # some lane that ends meanwhile: the order for the region names it as well


def claims(bucket: Bucket, epoch: int) -> list[int]:
    """The versions of the region's manifests that were made under an epoch."""
    keys = [key for key in bucket.objects if key.startswith("regions/") and "/manifest/" in key]
    found = [decode_manifest(bucket.objects[key], R, version_of(key)) for key in keys]
    return sorted(m.version for m in found if m.epoch == epoch)


@pytest.mark.parametrize("lost", [1, 3], ids=["one-reply", "three-replies"])
def test_a_claim_whose_reply_was_lost_is_gone_on_with_under_a_changed_order(lost: int) -> None:
    """P1: a claim lands with its reply lost, its replay fails, and the next order goes on with that very claim.

    The replay fails since somebody took objects out of the store, trim marker and all, and puts them back later. Then
    a further lane is over: the order is another one under the same epoch, so that the opening is tried again.
    """
    marks: Counter[str] = Counter()

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.kill()
        data, marker = f"lanes/{a.lane}/{1:020d}", f"lanes/{a.lane}/trim/{2:020d}"
        kept = bucket.objects[data]
        puts: list[str] = []

        async def lose(operation: str, key: str, when: str) -> None:
            if operation == "create" and "/manifest/" in key and when == "before":
                puts.append(key)
                b.faults.lose_replies = int(len(puts) <= lost)
                bucket.objects.pop(data, None)
                bucket.put(marker, b"")

        b = await Node(bucket, "b", 2, gate=lose).start()
        b.tell(order(nodes_pb2.OPEN, 20, over=[a.lane]))
        await b.until(lambda: b.state() == "failed")
        assert b.last("failed").failed.kind == "trimmed"
        assert len(puts) == lost + 1, "the very same put, repeated until its outcome was known"
        made = claims(bucket, 20)
        assert len(made) == 1
        assert "claim_had_landed" not in marks

        bucket.objects[data] = kept
        del bucket.objects[marker]
        await b.open(20, over=[a.lane, ELSE])
        assert marks["claim_had_landed"] == 1
        assert claims(bucket, 20) == made, "it stands on the claim that landed, and makes no second one"
        assert len(puts) == lost + 1
        assert await b.rows(20) == [("h1", 1, 1.0)]
        await b.put(20, [("h2", 2, 2.0)])
        assert len(await b.rows(20)) == 2
        await b.kill()

    watch_marks(lambda name: marks.update((name,)))
    try:
        simulate(main)
    finally:
        watch_marks(None)
