"""Engines under the real state machine: orders that come late, reports that come twice and late, trims, and deaths.

The log of metasrv is the machine itself, so what is random is everything between it and the datanodes.
"""

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from groundwork.core.ids import Lane
from groundwork.core.table import Column
from groundwork.core.wire import table_to_wire
from groundwork.sim.objects import Bucket
from metasrv.adapters.reports import reports_from_wire
from metasrv.adapters.to_wire import order_to_wire, trim_to_wire
from metasrv.core import commands as c
from metasrv.core.events import Outcome
from metasrv.core.machine import Machine
from metasrv.core.orders import orders_of, trim_orders_of
from metasrv.core.records import NodeStatus, Phase
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2, types_pb2
from tests.integration.engine.cluster import QUIET, V1, Node, simulate

CONFIG = msgspec.structs.replace(
    QUIET, tick_ms=40, settle_ms=150, flush_age_ms=200, flush_bytes=3_000, canary_ms=60, files_max=2,
    delete_grace_ms=40, manifests_kept=2, memory_budget_bytes=400_000,
)  # fmt: skip
REGIONS = 3


@dataclass
class Asked:
    """One write, between two readings of a counter; without an acknowledgement it may land whenever it likes."""

    region: int
    key: str
    value: float
    began: int
    ended: float = math.inf
    acknowledged: bool = False


class World:
    """Metasrv as the machine and what a leader proposes, datanodes as engines."""

    def __init__(self, bucket: Bucket, seed: int) -> None:
        self.bucket, self.random = bucket, random.Random(seed)
        self.machine, self.revision = Machine(), 0
        self.nodes: dict[str, Node] = {}
        self.dead: list[Node] = []
        self.asked: list[Asked] = []
        self.clock = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.trims = 0
        self.propose(c.Bootstrap(cluster_id="c1", generation=1))

    def propose(self, command: c.AnyCommand) -> Outcome:
        """Commit, apply, and let the orders travel."""
        self.revision += 1
        outcome = self.machine.apply(self.revision, c.encode(command))
        for node in self.nodes.values():
            self.later(lambda n=node: self.order(n), 0.03)  # type: ignore[misc]
        return outcome

    def later(self, act: Callable[[], object], most_s: float) -> None:
        """Do it after a random while."""

        async def run() -> None:
            await asyncio.sleep(self.random.random() * most_s)
            act()

        self.spawn(run())

    def spawn(self, work: object) -> None:
        """Keep a task."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def order(self, node: Node) -> None:
        """A snapshot of its orders, unless it was superseded; what a lagging stream sends may have been overtaken."""
        state = self.machine.state
        held = state.nodes.get(node.name)
        if held is None or held.incarnation != node.token or node not in self.nodes.values():
            return
        reply = nodes_pb2.OrdersReply(snapshot=True, revision=state.revision)
        reply.orders.extend(map(order_to_wire, orders_of(state, node.name)))
        reply.trims.extend(map(trim_to_wire, trim_orders_of(state, node.name)))
        reply.tables.extend(table_to_wire(t.info(), t.priority) for t in state.tables.values())
        self.later(lambda: node.engine.apply(reply) if node in self.nodes.values() else None, 0.02)

    def report(self, node: Node, report: nodes_pb2.RegionReport) -> None:
        """Late, and sometimes twice."""
        told = nodes_pb2.RegionReport()
        told.CopyFrom(report)
        request = nodes_pb2.ReportRequest(
            sender=types_pb2.Sender(node_id=node.name, incarnation=node.token), regions=[told]
        )
        for _ in range(1 + (self.random.random() < 0.2)):
            self.later(lambda: self.propose(c.Reports(items=tuple(reports_from_wire(request)[0]))), 0.04)

    async def start(self, name: str) -> Node:
        """A datanode process."""
        held = self.machine.state.nodes.get(name)
        outcome = self.propose(
            c.Register(
                node_id=name, folder_id=name, locality="s/z", address=f"{name}:1", lanes=2, capacity_regions=100,
                replaces=held.incarnation if held else 0,
            )
        )  # fmt: skip
        assert not outcome.refused, outcome
        node = Node(self.bucket, name, outcome.value, CONFIG)
        node.engine._context.report = lambda report: self.report(node, report)
        node.faults.latency_ms = (0.0, 3.0)
        node.faults.lost_reply = 0.02
        await node.start(2)
        self.nodes[name] = node
        self.order(node)
        return node

    # ---------------------------------------------------------------- what a leader does

    def lane(self, but: str = "") -> Lane:
        """Some lane that takes regions."""
        name = self.random.choice([n for n in self.nodes if n != but])
        return Lane(name, self.nodes[name].token, self.random.randrange(2))

    def fail_over(self) -> None:
        """Everything lost goes to survivors."""
        moves = tuple(c.Move(lane, self.lane()) for lane in self.machine.state.lost_lanes())
        if moves:
            self.propose(c.Failover(moves=moves))

    def upkeep(self) -> None:
        """Trims, and regions that failed."""
        state = self.machine.state
        points = [c.TrimPoint(x, state.trim_limit(x)) for x, r in state.lanes.items() if state.trim_limit(x) > r.trim]
        if points:
            self.trims += len(points)
            self.propose(c.Trim(points=tuple(points)))
        failed = tuple(r for r in state.failures if state.regions[r].phase is Phase.OPENING)
        if failed and self.random.random() < 0.5:
            self.propose(c.Reopen(region_ids=failed))
        self.fail_over()

    async def die(self) -> None:
        """kill -9, or a zombie that nobody tells anything; sometimes a process starts in its place at once."""
        name = self.random.choice(list(self.nodes))
        node = self.nodes.pop(name)
        if self.random.random() < 0.5:
            await node.kill()
        else:
            self.dead.append(node)
        if self.random.random() < 0.5 or not self.nodes:
            await self.start(name)
        else:
            self.propose(c.Release(node_id=name, incarnation=node.token))
        if not any(n.status is NodeStatus.UP for n in self.machine.state.nodes.values()) or len(self.nodes) < 2:
            await self.start(f"n{self.revision}")
        self.fail_over()

    def end_lane(self) -> None:
        """A lane that hangs is ended; its node lives."""
        region = self.random.choice(list(self.machine.state.regions.items()))[1]
        if not self.machine.state.is_over(region.lane) and region.lane.node_id in self.nodes:
            node = self.nodes[region.lane.node_id]
            other = Lane(node.name, node.token, 1 - region.lane.index)
            target = other if not self.machine.state.is_over(other) else self.lane(node.name)
            if not self.machine.state.is_over(target):
                self.propose(c.Failover(lanes=(region.lane,), moves=(c.Move(region.lane, target),)))

    def migrate(self) -> None:
        """Moves; each is cancelled or not."""
        state = self.machine.state
        moves = []
        for region_id, region in state.regions.items():
            if len(self.nodes) > 1 and self.random.random() < 0.6:
                moves.append(c.Placement(region_id, self.lane(region.lane.node_id)))
        outcome = self.propose(c.StartMigration(moves=tuple(moves))) if moves else None
        if outcome is not None and not outcome.refused:
            cancel = c.CancelMigration(attempt=outcome.value)
            self.later(lambda: self.propose(cancel), 0.25 if self.random.random() < 0.6 else 2.0)

    # ---------------------------------------------------------------- clients

    async def write(self) -> None:
        """One write, to the owner or to a zombie that was the owner, perhaps given up."""
        region_id, region = self.random.choice(list(self.machine.state.regions.items()))
        node = self.nodes.get(region.lane.node_id)
        epoch = region.epoch
        for zombie in self.dead:
            held = zombie.engine._regions.get(region_id)
            if held is not None and self.random.random() < 0.4:
                node, epoch = zombie, held.epoch
        if node is None:
            return
        self.clock += 1
        asked = Asked(region_id, f"h{self.random.randrange(4)}", float(self.clock), self.clock)
        self.asked.append(asked)
        call = asyncio.create_task(node.write(epoch, [(asked.key, 1, asked.value)], region=region_id, schema=V1))
        if self.random.random() < 0.2:
            await asyncio.sleep(self.random.random() * 0.02)
            call.cancel()
        done = (await asyncio.gather(call, return_exceptions=True))[0]
        self.clock += 1
        if isinstance(done, pb.RegionOutcome) and done.outcome == pb.DONE:
            asked.ended, asked.acknowledged = self.clock, True

    async def check(self) -> None:
        """Every key holds a value that no acknowledged write came after."""
        for region_id, region in self.machine.state.regions.items():
            rows = await self.nodes[region.lane.node_id].rows(region.epoch, region=region_id)
            got = {row[0]: row[2] for row in rows}
            for key in {a.key for a in self.asked if a.acknowledged and a.region == region_id}:
                assert key in got, f"{key} of {region_id} is gone"
                held = next(a for a in self.asked if a.value == got[key])
                mine = [a for a in self.asked if a.region == region_id and a.key == key and a.acknowledged]
                assert not [a for a in mine if a.began > held.ended], (held, mine)

    def serves(self) -> bool:
        """Every region serves where the machine says."""
        state = self.machine.state
        return not state.migrations and all(
            state.phase_of(r) is Phase.SERVING
            and r.lane.node_id in self.nodes
            and self.nodes[r.lane.node_id].state(i) == "serving"
            and self.nodes[r.lane.node_id].info(i).epoch == r.epoch
            for i, r in state.regions.items()
        )


async def life(bucket: Bucket, seed: int) -> int:
    """One history; then all faults end, and everything must serve and be there. How much was trimmed."""
    world = World(bucket, seed)
    for name in ("a", "b", "c"):
        await world.start(name)
    lanes = tuple(world.lane() for _ in range(REGIONS))
    columns = tuple(Column(x.name, x.type, x.role) for x in V1.columns)
    made = world.propose(
        c.CreateTable(name="cpu", columns=columns, partitions=REGIONS, lanes=lanes, placement=tuple(range(REGIONS)))
    )
    assert not made.refused, made
    for _ in range(40):
        for _ in range(world.random.randrange(12)):
            world.spawn(world.write())
        await asyncio.sleep(world.random.random() * 0.12)
        act = world.random.random()
        if act < 0.1:
            await world.die()
        elif act < 0.16:
            world.end_lane()
        elif act < 0.5:
            world.migrate()
        world.upkeep()
    for node in [*world.nodes.values(), *world.dead]:
        node.faults.heal()
    for _ in range(400):
        await asyncio.sleep(0.1)
        world.upkeep()
        if world.serves() and not world.tasks:
            break
    state = world.machine.state
    assert world.serves(), ([(r.lane, r.epoch, r.phase) for _, r in state.regions.items()], state.failures,
                            state.migrations, [n.engine.regions() for n in world.nodes.values()])  # fmt: skip
    await world.check()
    for node in [*world.nodes.values(), *world.dead]:
        await node.kill()
        assert node.engine.memory_bytes() == 0
    return world.trims


@pytest.mark.parametrize("seed", range(8))
def test_p1_p2_random_lives_under_the_real_machine(seed: int) -> None:
    """P1, P2: whatever comes late or twice, no acknowledged write is lost, and in the end every region serves."""
    simulate(lambda bucket: life(bucket, seed))
