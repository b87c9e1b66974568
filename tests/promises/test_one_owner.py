"""P2: a region never has two owners that can both acknowledge writes. This holds without trusting any clock.

A writer is stopped at every await between its first check and its acknowledgement, be it in the write itself or in a
put of its lane on the way to the store or back. The region moves, the next owner serves, and the writer goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from groundwork.core.errors import AlreadyExists
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import Node, order, region_write, simulate

STOPS_MAX = 20
ROW = ("h2", 2, 2.0)


class Pause:
    """Where a writer stops: it says so, and waits until it is let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def here(self) -> None:
        """The writer is at its stop."""
        self.reached.set()
        await self.go.wait()


class Stepped:
    """A coroutine that stops before it resumes for the n-th time."""

    def __init__(self, inner: Awaitable[Any], stop: int, pause: Pause) -> None:
        self._inner, self._stop, self._pause = inner, stop, pause

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, resumed = self._inner.__await__(), 0
        error: BaseException | None = None
        while True:
            try:
                waits_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as done:
                return done.value
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001  it goes into the coroutine, which handles it or not
                error = thrown
            resumed += 1
            if resumed == self._stop:
                yield from self._pause.here().__await__()


async def _write(node: Node, stop: int, pause: Pause) -> pb.RegionOutcome:
    [outcome] = await Stepped(node.engine.write([region_write(10, [ROW])], 60_000), stop, pause)
    return outcome


class Gate:
    """Stops the n-th call of the writer's own lane at the store, on the way there or back."""

    def __init__(self, pause: Pause) -> None:
        self._pause, self._left, self._when = pause, 0, ""

    def arm(self, stop: int) -> None:
        """Stop there."""
        self._left, self._when = (stop + 1) // 2, "before" if stop % 2 else "after"

    async def __call__(self, operation: str, key: str, when: str) -> None:
        """The Gate of a SimObjectStore."""
        if self._left and when == self._when and operation == "create" and key.startswith("lanes/a/"):
            self._left -= 1
            if not self._left:
                await self._pause.here()


async def _stopped_writer(
    bucket: Bucket, where: str, stop: int
) -> tuple[Node, Pause, "asyncio.Task[pb.RegionOutcome]"]:
    pause = Pause()
    gate = Gate(pause)
    a = await Node(bucket, "a", 1, gate=gate).start()
    await a.open(10)
    await a.put(10, [("h1", 1, 1.0)])
    if where == "store":
        gate.arm(stop)
    writing = asyncio.create_task(_write(a, stop if where == "write" else 0, pause))
    reached = asyncio.create_task(pause.reached.wait())
    await asyncio.wait([writing, reached], return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    return a, pause, writing


def _stops(
    check: Callable[[Node, Pause, "asyncio.Task[pb.RegionOutcome]", Bucket], Awaitable[None]], where: str
) -> int:
    """Run the check for every stop until the writer ends without stopping; how many there were."""

    async def at(bucket: Bucket, stop: int) -> bool:
        a, pause, writing = await _stopped_writer(bucket, where, stop)
        stopped = pause.reached.is_set()
        if stopped:
            await check(a, pause, writing, bucket)
        pause.go.set()
        await writing
        await a.kill()
        return stopped

    for stop in range(1, STOPS_MAX):
        if not simulate(lambda bucket, stop=stop: at(bucket, stop)):  # type: ignore[misc]
            return stop - 1
    raise AssertionError("the writer has more awaits than this test looks at")


@pytest.mark.parametrize("where", ["write", "store"])
@pytest.mark.parametrize("lease", ["honest", "trusts a broken clock"])
def test_p2_a_stopped_writer_never_acknowledges_behind_the_seal(where: str, lease: str) -> None:
    """P2: after a failover the old owner acknowledges nothing; with a clock that is wrong, only what the seal kept."""

    async def check(a: Node, pause: Pause, writing: "asyncio.Task[pb.RegionOutcome]", bucket: Bucket) -> None:
        a.lease.on = lease != "honest"
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane])
        kept = await b.rows(11, strong=True)
        await b.put(11, [("h1", 1, 7.0)])
        pause.go.set()
        outcome = await writing
        if lease == "honest":
            assert outcome.outcome != pb.DONE, outcome
        assert outcome.outcome != pb.DONE or ROW in kept, "acknowledged, and the next owner served without it"
        late = await a.write(10, [("h3", 3, 3.0)])
        assert late.outcome != pb.DONE, "an append behind the seal"
        assert ("h1", 1, 7.0) in await b.rows(11, strong=True)
        await b.kill()

    assert _stops(check, where) > 0


@pytest.mark.parametrize("where", ["write", "store"])
def test_p2_a_migration_waits_for_a_stopped_writer(where: str) -> None:
    """P2: no position is reported, so nothing can be handed over, while an append's outcome is not decided."""

    async def check(a: Node, pause: Pause, writing: "asyncio.Task[pb.RegionOutcome]", bucket: Bucket) -> None:
        a.tell(order(nodes_pb2.STOP, 10, attempt=11))
        await asyncio.sleep(1)
        assert a.state() == "stopping"
        assert not any(r.HasField("stopped") for r in a.reports)
        pause.go.set()
        outcome = await writing
        await a.until(lambda: a.state() == "stopped")
        stopped = a.last("stopped").stopped
        b = await Node(bucket, "b", 2).start()
        await b.open(12, ends=[(a.lane, stopped.stay_epoch, stopped.position)])
        assert outcome.outcome != pb.DONE or ROW in await b.rows(12, strong=True)
        await b.kill()

    assert _stops(check, where) > 0


def test_p2_an_old_owner_cannot_flush_over_the_new_one() -> None:
    """P2: the old owner's flush meets the claim's manifest, closes the region and reports that it was fenced."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [ROW])
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane])
        [outcome] = await a.engine.flush([])
        assert outcome.outcome == pb.NOT_OWNER and a.state() == "failed"
        await a.until(lambda: any(r.HasField("failed") for r in a.reports))  # it looks first where its stay ended
        assert a.last("failed").failed.kind == "fenced" and not a.last("failed").failed.HasField("position")
        assert await b.rows(11) == [ROW]
        with pytest.raises(AlreadyExists):
            await a.store.create(f"lanes/{a.lane}/{2:020d}", b"")  # the SEAL stands where its next append would go
        for node in (a, b):
            await node.kill()

    simulate(main)
