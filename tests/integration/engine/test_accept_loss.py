"""Damaged acknowledged entries, from the lane to the operator and back: the engine under the real state machine."""

import asyncio

import msgspec
import pytest

from datanode_agent.engine.engine import EngineConfig
from groundwork.core.entry import Entry, Kind
from groundwork.core.errors import Refused
from groundwork.core.wire import table_to_wire
from groundwork.sim.objects import Bucket
from metasrv.adapters.reports import reports_from_wire
from metasrv.adapters.to_wire import order_to_wire
from metasrv.core import commands as c
from metasrv.core.events import Outcome
from metasrv.core.explain import explain_region
from metasrv.core.machine import Machine
from metasrv.core.orders import orders_of
from metasrv.core.planner import plan_accept_loss
from metasrv.core.records import Phase
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2, types_pb2
from tests.integration.engine.cluster import QUIET, V1, Node, simulate


class World:
    """The machine, and engines that get its orders and whose reports it gets, at once."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket, self.machine, self.revision = bucket, Machine(), 0
        self.nodes: dict[str, Node] = {}
        self.propose(c.Bootstrap(cluster_id="c1", generation=1))

    def propose(self, command: c.AnyCommand) -> Outcome:
        """Commit, apply, tell every node its orders."""
        self.revision += 1
        outcome = self.machine.apply(self.revision, c.encode(command))
        state = self.machine.state
        for node in self.nodes.values():
            reply = nodes_pb2.OrdersReply(snapshot=True, revision=state.revision)
            reply.orders.extend(map(order_to_wire, orders_of(state, node.name)))
            reply.tables.extend(table_to_wire(t.info(), t.priority) for t in state.tables.values())
            node.engine.apply(reply)
        return outcome

    async def start(self, name: str, config: EngineConfig = QUIET) -> Node:
        """A datanode process."""
        outcome = self.propose(
            c.Register(node_id=name, folder_id=name, locality="s/z", address="x:1", lanes=1, capacity_regions=9)
        )
        node = Node(self.bucket, name, outcome.value, config)
        sender = types_pb2.Sender(node_id=name, incarnation=outcome.value)

        def report(told: nodes_pb2.RegionReport) -> None:
            request = nodes_pb2.ReportRequest(sender=sender, regions=[told])
            self.propose(c.Reports(items=tuple(reports_from_wire(request)[0])))

        node.engine._context.report = report
        self.nodes[name] = await node.start()
        return node

    def accept(self, region_id: int) -> Outcome:
        """As the Admin service does it: a plan, then its command."""
        plan = plan_accept_loss(self.machine.state, c.AcceptLoss(region_id=region_id, who="ops", wall_ms=5))
        assert plan.command is not None and "1 damaged place" in plan.sentence
        return self.propose(plan.command)


async def damaged(bucket: Bucket) -> tuple[World, Node, int]:
    """A region whose second of three acknowledged writes is damaged, failed over to B, which has it read-only."""
    world = World(bucket)
    a = await world.start("a")
    world.propose(c.CreateTable(name="cpu", columns=V1.columns, lanes=(a.lane,), placement=(0,)))
    [(region_id, region)] = world.machine.state.regions.items()
    await a.until(lambda: a.state(region_id) == "serving")
    for n in range(3):
        await a.put(region.epoch, [("h1", n, float(n))], region_id)
    await world.nodes.pop("a").kill()
    key = f"lanes/{a.lane}/{2:020d}"
    body = bytearray(bucket.objects[key])
    body[len(body) // 2] ^= 0xFF
    bucket.objects[key] = bytes(body)
    b = await world.start("b")
    world.propose(c.Failover(ended=(c.Ended("a", a.token, "operator"),), moves=(c.Move(a.lane, b.lane),)))
    await b.until(lambda: b.state(region_id) == "read_only")
    return world, b, region_id


def test_an_operator_accepts_a_loss_and_the_region_serves() -> None:
    """Read-only and loud until the loss is accepted; then it serves without the damaged entry, and the trail has it."""

    async def main(bucket: Bucket) -> None:
        world, b, region_id = await damaged(bucket)
        state = world.machine.state
        before = state.regions[region_id]
        assert before.phase is Phase.OPENING and state.failures[region_id].read_only
        assert (await b.write(before.epoch, [("h1", 9, 9.0)], region_id)).outcome == pb.READ_ONLY
        outcome = world.accept(region_id)
        await b.until(lambda: b.state(region_id) == "serving")
        epoch = state.regions[region_id].epoch
        assert epoch == outcome.value > before.epoch and state.regions[region_id].phase is Phase.SERVING
        assert await b.rows(epoch, region_id) == [("h1", 0, 0.0), ("h1", 2, 2.0)]
        await b.put(epoch, [("h1", 9, 9.0)], region_id)
        [event] = [e for e in state.audit if e.kind == "accept_loss"]
        assert event.fields["who"] == "ops" and "the first at 2" in event.fields["lost"]
        assert any("ops accepts a loss" in line for line in explain_region(state, region_id))
        with pytest.raises(Refused, match="no damaged entries"):
            world.accept(region_id)
        await b.engine.flush([])
        await world.nodes.pop("b").kill()
        d = await world.start("d")
        world.propose(c.Failover(ended=(c.Ended("b", b.token, "operator"),), moves=(c.Move(b.lane, d.lane),)))
        await d.until(lambda: d.state(region_id) == "serving")
        assert len(await d.rows(state.regions[region_id].epoch, region_id)) == 3, "nothing is damaged any more"
        await d.kill()

    simulate(main)


def test_an_acceptance_outlives_a_failover() -> None:
    """The node dies before it could serve: the next owner knows that the loss is accepted."""

    async def main(bucket: Bucket) -> None:
        world, b, region_id = await damaged(bucket)
        b.faults.hang = True
        world.accept(region_id)
        del world.nodes["b"]
        d = await world.start("d")
        world.propose(c.Failover(ended=(c.Ended("b", b.token, "operator"),), moves=(c.Move(b.lane, d.lane),)))
        await d.until(lambda: d.state(region_id) == "serving")
        assert len(await d.rows(world.machine.state.regions[region_id].epoch, region_id)) == 2
        assert region_id not in world.machine.state.failures
        b.faults.heal()
        await b.kill()
        await d.kill()

    simulate(main)


def test_only_a_loss_that_was_reported_can_be_accepted() -> None:
    """A region that serves, or failed for something else, has no loss to accept; a repeat is refused too."""

    async def main(bucket: Bucket) -> None:
        world = World(bucket)
        a = await world.start("a")
        world.propose(c.CreateTable(name="cpu", columns=V1.columns, lanes=(a.lane,), placement=(0,)))
        [(region_id, region)] = world.machine.state.regions.items()
        await a.until(lambda: a.state(region_id) == "serving")
        refused = "no loss to accept"
        assert refused in (world.propose(c.AcceptLoss(region_id=region_id)).refused or "")
        item = c.RegionFailed("a", a.token, region_id, region.epoch, "damaged", "its manifest is damaged")
        world.propose(c.Reports(items=(item,)))
        assert refused in (world.propose(c.AcceptLoss(region_id=region_id)).refused or "")
        assert refused in (world.propose(c.AcceptLoss(region_id=99)).refused or "")
        await a.kill()

    simulate(main)


def test_rows_that_cannot_be_flushed_make_a_region_read_only_once() -> None:
    """An entry whose checksum holds and whose rows do not: one report, no flush again and again; then it goes."""

    async def main(bucket: Bucket) -> None:
        world = World(bucket)
        config = msgspec.structs.replace(QUIET, tick_ms=50, flush_age_ms=100)
        a = await world.start("a", config)
        world.propose(c.CreateTable(name="cpu", columns=V1.columns, lanes=(a.lane,), placement=(0,)))
        [(region_id, region)] = world.machine.state.regions.items()
        await a.until(lambda: a.state(region_id) == "serving")
        await a.put(region.epoch, [("h1", 1, 1.0)], region_id)
        lane = a.engine._context.lanes[0]
        await lane.append(Entry(Kind.DATA, region_id, region.epoch, 2, 1, 1, b"x" * 64))
        await a.put(region.epoch, [("h1", 3, 3.0)], region_id)
        await a.until(lambda: a.state(region_id) == "read_only")
        said = [e for e in world.machine.state.audit if e.kind == "region_failed"]
        [outcome] = await a.engine.flush([region_id])
        assert outcome.outcome != pb.DONE
        await asyncio.sleep(5)
        assert len(said) == 1 and said == [e for e in world.machine.state.audit if e.kind == "region_failed"]
        assert (await a.write(region.epoch, [("h1", 9, 9.0)], region_id)).outcome == pb.READ_ONLY
        plan = plan_accept_loss(world.machine.state, c.AcceptLoss(region_id=region_id, who="ops"))
        assert plan.command is not None
        world.propose(plan.command)
        await a.until(lambda: a.state(region_id) == "serving")
        epoch = world.machine.state.regions[region_id].epoch
        assert await a.rows(epoch, region_id) == [("h1", 1, 1.0), ("h1", 3, 3.0)]
        await a.until(lambda: a.info(region_id).sst_files == 1 and a.engine.unflushed_bytes() == 0)
        assert await a.rows(epoch, region_id) == [("h1", 1, 1.0), ("h1", 3, 3.0)]
        await a.kill()

    simulate(main)
