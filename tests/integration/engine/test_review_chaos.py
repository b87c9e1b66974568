"""Random lives of a region: moves, cancels, deaths, lane ends, flushes and callers that give up, over a slow store."""

import asyncio
import math
import random
from dataclasses import dataclass

import msgspec
import pytest

from groundwork.core.ids import Lane
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, V1, V2, Node, R, order, simulate

LIVELY = msgspec.structs.replace(
    QUIET, tick_ms=50, settle_ms=200, flush_age_ms=300, flush_bytes=4_000, canary_ms=100, files_max=2,
    delete_grace_ms=50, manifests_kept=2, memory_budget_bytes=200_000,
)  # fmt: skip


@dataclass
class Asked:
    """One write, between two readings of a counter. Without an acknowledgement it may land whenever it likes."""

    key: str
    value: float
    began: int
    ended: float = math.inf
    acknowledged: bool = False


class World:
    """Plays metasrv for one region: one owner, epochs that grow, the lanes that are over, and the trim index."""

    def __init__(self, bucket: Bucket, seed: int) -> None:
        self.bucket, self.random = bucket, random.Random(seed)
        self.token = 100
        self.nodes: list[Node] = []
        self.over: list[Lane] = []
        self.ends: list[tuple[Lane, int, int]] = []
        self.owner: Node | None = None
        self.epoch = self.stay = 0
        self.asked: list[Asked] = []
        self.clock = 0
        self.writers: set[asyncio.Task[None]] = set()
        self.zombies: list[tuple[Node, int]] = []  # failed over, and they do not know: (node, its epoch)

    def next(self) -> int:
        """A token."""
        self.token += 1
        return self.token

    async def spawn(self) -> Node:
        """A datanode process."""
        n = self.next()
        node = Node(self.bucket, f"n{n}", n, LIVELY)
        node.faults.latency_ms = (0.0, 4.0)
        node.faults.lost_reply = 0.03
        self.nodes.append(node)
        return await node.start(2)

    async def assign(self, node: Node, lane_index: int) -> None:
        """OPEN under a new epoch."""
        self.epoch = self.stay = self.next()
        self.owner, self.lane_index = node, lane_index
        node.tell(
            order(nodes_pb2.OPEN, self.epoch, over=self.over, ends=self.ends, lane_index=lane_index), schema=self.schema
        )

    schema = V1

    async def write(self) -> None:
        """One write, perhaps given up by its caller."""
        owner, epoch, schema = self.owner, self.epoch, self.schema
        assert owner is not None
        if self.zombies and self.random.random() < 0.3:
            owner, epoch = self.random.choice(self.zombies)
        self.clock += 1
        asked = Asked(f"h{self.random.randrange(8)}", float(self.clock), self.clock)
        self.asked.append(asked)
        row = (asked.key, 1, asked.value) if schema is V1 else (asked.key, 1, asked.value, "n", "")
        call = asyncio.create_task(owner.write(epoch, [row], schema=schema))
        if self.random.random() < 0.2:
            await asyncio.sleep(self.random.random() * 0.02)
            call.cancel()
        done = (await asyncio.gather(call, return_exceptions=True))[0]
        self.clock += 1
        if isinstance(done, pb.RegionOutcome) and done.outcome == pb.DONE:
            asked.ended, asked.acknowledged = self.clock, True

    def some_writes(self, count: int) -> None:
        """Concurrent writers."""
        for _ in range(count):
            task = asyncio.create_task(self.write())
            self.writers.add(task)
            task.add_done_callback(self.writers.discard)

    async def move(self) -> None:
        """PREPARE, STOP, then hand over or cancel."""
        source = self.owner
        assert source is not None
        target = next((n for n in self.nodes if n is not source), None) or await self.spawn()
        attempt = self.next()
        lane = Lane(source.name, source.token, self.lane_index)
        target.tell(order(nodes_pb2.PREPARE, self.epoch, attempt=attempt, from_lane=lane), schema=self.schema)
        await asyncio.sleep(self.random.random() * 0.1)
        source.reports.clear()
        source.tell(order(nodes_pb2.STOP, self.epoch, attempt=attempt), schema=self.schema)
        if self.random.random() < 0.4:
            await asyncio.sleep(self.random.random() * 0.02)
            self.epoch = self.next()
            source.tell(order(nodes_pb2.RESUME, self.epoch), schema=self.schema)
            target.tell(order(nodes_pb2.CLOSE, self.epoch), schema=self.schema)
            return
        await source.until(lambda: any(r.HasField("stopped") for r in source.reports))
        told = source.last("stopped").stopped
        assert told.stay_epoch == self.stay and told.attempt == attempt
        self.ends.append((lane, told.stay_epoch, told.position))
        await self.assign(target, self.random.randrange(2))
        await asyncio.sleep(self.random.random() * 0.02)
        source.tell(order(nodes_pb2.CLOSE, self.epoch), schema=self.schema)

    async def death(self) -> None:
        """kill -9 of the owner, or a network that is cut between it and metasrv; a survivor takes over."""
        dead = self.owner
        assert dead is not None
        self.nodes.remove(dead)
        if self.random.random() < 0.5:
            await dead.kill()
        else:
            self.zombies.append((dead, self.epoch))
        self.over += [Lane(dead.name, dead.token, i) for i in range(2)]
        target = self.random.choice(self.nodes) if self.nodes else await self.spawn()
        await self.assign(target, self.random.randrange(2))

    async def reassign(self) -> None:
        """The owner is assigned anew under a higher epoch while it may be opening or serving."""
        assert self.owner is not None
        await self.assign(self.owner, self.lane_index)


async def life(bucket: Bucket, seed: int) -> None:
    """One history, then what a last owner reads."""
    world = World(bucket, seed)
    await world.assign(await world.spawn(), 0)
    for _ in range(25):
        world.some_writes(world.random.randrange(10))
        await asyncio.sleep(world.random.random() * 0.1)
        owner = world.owner
        assert owner is not None
        serving = owner.state() == "serving"
        act = world.random.random()
        if act < 0.15:
            await world.death()
        elif act < 0.5 and serving:
            await world.move()
        elif act < 0.6:
            await world.reassign()
        elif act < 0.8:
            flushing = asyncio.create_task(owner.engine.flush([R]))
            await asyncio.sleep(world.random.random() * 0.02)
            if world.random.random() < 0.5:
                flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        elif act < 0.85:
            world.schema = V2
            owner.tell(order(nodes_pb2.OPEN, world.epoch, over=world.over, ends=world.ends,
                             lane_index=world.lane_index), schema=V2)  # fmt: skip
    for node in [*world.nodes, *(zombie for zombie, _ in world.zombies)]:
        node.faults.heal()
    await asyncio.gather(*world.writers)
    owner = world.owner
    assert owner is not None
    await owner.until(lambda: owner.state() == "serving", 20_000)
    await check(world, owner)
    for node in world.nodes:
        held = node.engine.memory_bytes(), node.engine.unflushed_bytes()
        assert held[0] == held[1], held
    last = await world.spawn()
    last.faults.heal()
    for node in list(world.nodes):
        if node is not last:
            world.nodes.remove(node)
            await node.kill()
            assert node.engine.memory_bytes() == 0
            world.over += [Lane(node.name, node.token, i) for i in range(2)]
    await world.assign(last, 0)
    await last.until(lambda: last.state() == "serving", 20_000)
    await check(world, last)
    await last.kill()
    for zombie, _ in world.zombies:
        await zombie.kill()
        assert zombie.engine.memory_bytes() == 0


async def check(world: World, node: Node) -> None:
    """Every key holds a value that no acknowledged write came after."""
    assert any(a.acknowledged for a in world.asked)
    got = {row[0]: row[2] for row in await node.rows(world.epoch)}
    for key in {a.key for a in world.asked if a.acknowledged}:
        assert key in got, f"{key} is gone"
        held = next(a for a in world.asked if a.value == got[key])
        after = [a for a in world.asked if a.key == key and a.acknowledged and a.began > held.ended]
        assert held.key == key and not after, (held, after)


@pytest.mark.parametrize("seed", range(10))
def test_p1_random_lives_lose_nothing(seed: int) -> None:
    """P1: after any history the last owner has every acknowledged write, and no node counts memory it gave back."""
    simulate(lambda bucket: life(bucket, seed))
