"""The pause drill's last step against a real replica: a region goes back to the woken datanode in any case."""

import asyncio
from pathlib import Path

from groundwork.adapters.admin_client import AdminClient
from groundwork.core.wire import lane_to_wire
from metactl.asking import Metasrv
from metactl.zombie import Move
from metasrv.service import Service
from protos.metasrv.v1 import nodes_pb2
from tests.integration.metasrv.world import CLUSTER, CPU, Datanode, datanode, solo


async def _report(node: Datanode, report: nodes_pb2.RegionReport) -> None:
    await node.nodes.Report(nodes_pb2.ReportRequest(sender=node.sender, regions=[report]), timeout=20)


async def _carry_out(service: Service, region_id: int, source: Datanode, target: Datanode) -> None:
    """What the two agents report of the migration that is in flight, to its end."""
    state = service.machine.state
    attempt, region = state.migrations[region_id].attempt, state.regions[region_id]
    prepared = nodes_pb2.RegionReport(region_id=region_id)
    prepared.prepared.attempt = attempt
    await _report(target, prepared)
    stopped = nodes_pb2.RegionReport(region_id=region_id, epoch=region.epoch)
    stopped.stopped.attempt, stopped.stopped.stay_epoch, stopped.stopped.position = attempt, region.stay_epoch, 1
    stopped.stopped.lane.CopyFrom(lane_to_wire(region.lane))
    await _report(source, stopped)
    await target.serve(region_id, epoch=state.regions[region_id].epoch)


def test_a_move_that_was_accepted_and_cancelled_is_asked_for_again(tmp_path: Path) -> None:
    """Its request id is answered by the attempt that is over: another one is taken, and the region arrives."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1") as one:
            region_id = (await routes.create_table("cpu", CPU)).region_ids[0]
            state = service.machine.state
            await one.serve(region_id, epoch=state.regions[region_id].epoch)
            metasrv = Metasrv([service.config.listen], CLUSTER)
            move = Move(metasrv, region_id, "dn-2")
            assert not await asyncio.to_thread(move.done), "dn-2 has not registered: refused, and asked for again"
            assert not state.migrations
            async with datanode(service.config.listen, "dn-2") as two:
                assert not await asyncio.to_thread(move.done)
                first = state.migrations[region_id].attempt
                assert not await asyncio.to_thread(move.done)
                assert state.migrations[region_id].attempt == first, "one that is in flight is waited for"
                await AdminClient(routes.calls).cancel(first)
                assert not await asyncio.to_thread(move.done)
                assert state.migrations[region_id].attempt > first
                await _carry_out(service, region_id, one, two)
                assert await asyncio.to_thread(move.done)
            metasrv.close()

    asyncio.run(story())
