"""Planned moves: prepare, stop, hand over or cancel; and that no report or order of another attempt counts."""

import asyncio

from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2, types_pb2
from tests.integration.engine.cluster import Node, R, Row, order, region_write, simulate


async def pair(bucket: Bucket) -> tuple[Node, Node]:
    """An owner with one row, and another node."""
    a = await Node(bucket, "a", 1).start()
    b = await Node(bucket, "b", 2).start()
    await a.open(10)
    await a.put(10, [("h1", 1, 1.0)])
    return a, b


async def stop(a: Node, epoch: int, attempt: int) -> tuple[int, int]:
    """STOP, and what the owner reports: (stay epoch, position)."""
    a.tell(order(nodes_pb2.STOP, epoch, attempt=attempt))
    await a.until(lambda: a.state() == "stopped")
    report = a.last("stopped")
    assert report.epoch == epoch and report.stopped.attempt == attempt
    return report.stopped.stay_epoch, report.stopped.position


def test_p4_migration_hands_over_at_the_reported_position() -> None:
    """P4: the target tails while the owner serves, then claims at the committed position and replays only the rest."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane))
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        assert b.last("prepared").prepared.attempt == 11 and b.state() == "preparing"
        await a.put(10, [("h2", 2, 2.0)])
        began = b.clock.now_ms()
        stay_epoch, position = await stop(a, 10, 11)
        refused = await a.write(10, [("h3", 3, 3.0)])
        assert refused.outcome == pb.STOPPED
        await b.open(12, ends=[(a.lane, stay_epoch, position)])
        print(f"writes refused for {b.clock.now_ms() - began:.1f} ms of virtual time, without network and disk")
        a.tell(order(nodes_pb2.CLOSE, 12))
        assert a.state() == "closed" and a.last("closed").epoch == 12
        assert await b.rows(12) == [("h1", 1, 1.0), ("h2", 2, 2.0)]
        await b.put(12, [("h1", 1, 3.0)])
        assert (await a.write(10, [("h1", 1, 4.0)])).outcome == pb.NOT_OWNER
        await a.kill()
        await b.kill()

    simulate(main)


def test_p4_what_was_read_while_preparing_is_not_read_again() -> None:
    """P4: between the hand-over and serving no manifest is read; only the claim is put."""

    async def main(bucket: Bucket) -> None:
        calls: list[tuple[str, str]] = []

        async def gate(operation: str, key: str, when: str) -> None:
            if when == "before":
                calls.append((operation, key))

        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2, gate=gate).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane))
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        stay_epoch, position = await stop(a, 10, 11)
        calls.clear()
        await b.open(12, ends=[(a.lane, stay_epoch, position)])
        assert [operation for operation, key in calls if "manifest" in key] == ["create", "list"]
        assert await b.rows(12) == [("h1", 1, 1.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_p4_a_flush_while_the_target_prepares_is_not_lost() -> None:
    """P1, P4: the owner committed newer manifests than the target knows: its claim looks again."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane))
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        await a.engine.flush([R])
        await a.put(10, [("h2", 2, 2.0)])
        await a.engine.flush([R])
        await a.put(10, [("h1", 1, 3.0)])
        newest = a.info().manifest_version
        stay_epoch, position = await stop(a, 10, 11)
        await b.open(12, ends=[(a.lane, stay_epoch, position)])
        assert b.info().manifest_version == newest + 1
        assert await b.rows(12) == [("h1", 1, 3.0), ("h2", 2, 2.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_p4_a_lone_write_waits_at_the_former_owner_and_is_sent_on() -> None:
    """P4: a lone write waits for the hand-over and is sent on to the new owner; one among others is not held."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        await stop(a, 10, 11)
        began = a.clock.now_ms()
        several = [region_write(10, [("h3", 3, 3.0)]), region_write(10, [("h4", 4, 4.0)])]
        together = await a.engine.write(several, 1_000)
        assert [o.outcome for o in together] == [pb.STOPPED] * 2 and a.clock.now_ms() == began
        waiting = asyncio.create_task(a.write(10, [("h3", 3, 3.0)]))
        await a.clock.sleep(20)
        assert not waiting.done()
        close = order(nodes_pb2.CLOSE, 12)
        close.moved_to.MergeFrom(types_pb2.Route(region_id=R, node_id="b", incarnation=2, address="b:1", epoch=12))
        a.tell(close)
        answer = await waiting
        assert answer.outcome == pb.NOT_OWNER and answer.moved_to == close.moved_to
        assert (await a.write(10, [("h3", 3, 3.0)])).moved_to.node_id == "b"
        held = await a.scan(10)
        assert isinstance(held, pb.RegionOutcome) and held.moved_to.epoch == 12
        a.tell(order(nodes_pb2.CLOSE, 13))
        assert a.engine.regions() == []
        await a.kill()
        await b.kill()

    simulate(main)


def test_a_lone_write_to_a_stopped_region_waits_no_longer_than_told() -> None:
    """Where the hand-over does not come, the caller looks for itself; where the owner resumes, it is stale."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        await stop(a, 10, 11)
        began = a.clock.now_ms()
        assert (await a.write(10, [("h3", 3, 3.0)])).outcome == pb.STOPPED
        assert a.clock.now_ms() - began == 300
        waiting = asyncio.create_task(a.write(10, [("h3", 3, 3.0)]))
        await a.clock.sleep(20)
        a.tell(order(nodes_pb2.RESUME, 12))
        assert (await waiting).outcome == pb.STALE_EPOCH
        await a.kill()
        await b.kill()

    simulate(main)


def test_hole7_resume_takes_a_new_epoch_and_no_claim() -> None:
    """Hole 7 and 5 of the second pass: a cancelled owner goes on in its stay under a new epoch, without a claim."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        version = a.info().manifest_version
        _, first = await stop(a, 10, 11)
        a.tell(order(nodes_pb2.RESUME, 12))
        assert a.state() == "serving" and a.info().epoch == 12 and a.info().manifest_version == version
        await a.put(12, [("h2", 2, 2.0)])
        assert (await a.write(10, [("h9", 9, 9.0)])).outcome == pb.STALE_EPOCH
        stay_epoch, second = await stop(a, 12, 13)
        assert second > first and stay_epoch == 10, "the stay keeps the epoch of its claim"
        await b.open(14, ends=[(a.lane, stay_epoch, second)])
        assert await b.rows(14) == [("h1", 1, 1.0), ("h2", 2, 2.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_orders_of_older_epochs_and_attempts_are_ignored() -> None:
    """A repeated STOP of an old attempt, and orders of a lower epoch, change nothing."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        await stop(a, 10, 11)
        a.tell(order(nodes_pb2.RESUME, 12))
        for old in (order(nodes_pb2.STOP, 10, attempt=11), order(nodes_pb2.STOP, 12, attempt=11),
                    order(nodes_pb2.CLOSE, 10), order(nodes_pb2.OPEN, 10)):  # fmt: skip
            a.tell(old)
            assert a.state() == "serving" and a.info().epoch == 12
        a.engine.apply(nodes_pb2.OrdersReply(revision=1, snapshot=True))
        assert a.state() == "serving", "a snapshot of a replica that lags closes nothing"
        await a.kill()
        await b.kill()

    simulate(main)


def test_hole5_two_moves_before_a_flush() -> None:
    """Hole 5: A to B to C and back to A without a flush: every stay is named, and nothing is lost."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        c = await Node(bucket, "c", 3).start()
        owner, epoch, want = a, 10, [("h1", 1, 1.0)]
        for n, target in enumerate((b, c, a, b)):
            stay_epoch, position = await stop(owner, epoch, epoch + 1)
            await target.open(epoch + 2, ends=[(owner.lane, stay_epoch, position)])
            owner.tell(order(nodes_pb2.CLOSE, epoch + 2))
            owner, epoch = target, epoch + 2
            row: Row = (f"m{n}", n, float(n))
            await owner.put(epoch, [row])
            want.append(row)
            assert await owner.rows(epoch) == sorted(want)
        await owner.engine.flush([])
        stays = owner.last("covered").covered.stays
        assert [s.done for s in stays] == [False, *[True] * 4]  # its own, and those that need their lanes no more
        for node in (a, b, c):
            await node.kill()
        d = await Node(bucket, "d", 4).start()
        await d.open(99, over=[b.lane])
        assert await d.rows(99) == sorted(want)
        await d.kill()

    simulate(main)


def test_a_region_comes_back_without_the_close_in_between() -> None:
    """The owner's orders skipped the moves to B and back: it must not go on in its old stay, but claim anew."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        stay_epoch, position = await stop(a, 10, 11)
        await b.open(12, ends=[(a.lane, stay_epoch, position)])
        await b.put(12, [("h1", 1, 7.0)])
        b_stay, b_position = await stop(b, 12, 13)
        await a.open(14, ends=[(b.lane, b_stay, b_position)])
        assert await a.rows(14) == [("h1", 1, 7.0)]
        await a.put(14, [("h1", 1, 8.0)])
        assert await a.rows(14) == [("h1", 1, 8.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_stop_waits_for_the_outcome_of_the_last_append() -> None:
    """An append whose reply is slow, or was lost, lies below the reported position."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        a.faults.latency_ms = (20.0, 20.0)
        writing = asyncio.create_task(a.write(10, [("h2", 2, 2.0)]))
        await asyncio.sleep(0.005)
        cut = asyncio.create_task(a.write(10, [("h3", 3, 3.0)]))
        await asyncio.sleep(0.005)
        cut.cancel()  # its caller gave up: the append goes on
        await asyncio.gather(cut, return_exceptions=True)
        stay_epoch, position = await stop(a, 10, 11)
        assert (await writing).outcome == pb.DONE
        await b.open(12, ends=[(a.lane, stay_epoch, position)])
        rows = await b.rows(12)
        assert ("h2", 2, 2.0) in rows
        await asyncio.sleep(1)
        keys = [k for k in bucket.objects if k.startswith(f"lanes/{a.lane}/0")]
        assert max(int(k.rpartition("/")[2]) for k in keys) < position, "nothing of it became durable later"
        await a.kill()
        await b.kill()

    simulate(main)


def test_write_with_a_newer_epoch_waits() -> None:
    """A request under an epoch that the node does not know yet waits within its deadline, then says what it knows."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        writing = asyncio.create_task(b.write(12, [("h2", 2, 2.0)]))
        await asyncio.sleep(0.1)
        assert not writing.done()
        stay_epoch, position = await stop(a, 10, 11)
        await b.open(12, ends=[(a.lane, stay_epoch, position)])
        assert (await writing).outcome == pb.DONE
        assert (await b.write(13, [("h2", 2, 2.0)])).outcome == pb.OPENING
        await a.kill()
        await b.kill()

    simulate(main)


def test_drop_leaves_a_tombstone() -> None:
    """A dropped region reports closing, refuses everything, and no later claim opens it."""

    async def main(bucket: Bucket) -> None:
        a, b = await pair(bucket)
        a.tell(order(nodes_pb2.DROP, 11))
        assert (await a.write(10, [("h2", 2, 2.0)])).outcome == pb.STALE_EPOCH
        await a.until(lambda: any(r.HasField("closed") for r in a.reports))
        b.tell(order(nodes_pb2.OPEN, 12, R))
        await b.until(lambda: any(r.HasField("failed") for r in b.reports))
        assert b.last("failed").failed.kind == "dropped"
        await a.kill()
        await b.kill()

    simulate(main)
