"""P2, T4, T8: nothing leaves a datanode behind the end of its own lease, by its own clock.

Looked at directly where rows and acknowledgements leave, since what a client sees can hardly tell: a lease read may be
as old as a lease anyway. The end of the lease is not taken from the product: tests/sim/beats.py counts it by the rule,
from when a beat that was granted had left. It leaves out what ends a lease sooner, so nobody is blamed wrongly.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from datanode_agent.engine.engine import Engine
from groundwork.sim.processes import current_process
from protos.datanode.v1 import datanode_pb2
from tests.sim.beats import TaskBeats

if TYPE_CHECKING:
    from tests.sim.hosts import DatanodeHost
    from tests.sim.world import World

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # says no more than that the rows before it were all


class Leases:
    """Of all datanodes of one run."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def watch(self, host: "DatanodeHost", engine: Engine, beats: TaskBeats) -> None:
        """Hold every piece that a scan of this engine sends against the lease."""
        scan = engine.scan

        async def watched(
            request: datanode_pb2.ScanRequest, deadline_ms: float
        ) -> AsyncIterator[datanode_pb2.ScanReply]:
            kind = "strong" if request.strong else "lease"
            async for reply in scan(request, deadline_ms):
                if not reply.HasField("refused") and reply.ipc != END_OF_STREAM:
                    self._hold(host, beats, f"sends rows of region {request.region_id:#x} for a {kind} read")
                yield reply

        engine.scan = watched  # type: ignore[method-assign]

    def acknowledged(self, region_id: int) -> None:
        """A datanode has decided to acknowledge a write, just now."""
        process = current_process()
        for host in self._world.datanodes:
            if process is not None and host.process is process and host.beats is not None:
                self._hold(host, host.beats, f"acknowledges a write to region {region_id:#x}")

    def _hold(self, host: "DatanodeHost", beats: TaskBeats, does: str) -> None:
        over_ms = host.clock.now_ms() - beats.leased_until_ms
        if over_ms >= 0.0:
            self._world.fail(f"P2: {host.name} {does}, and its lease ended {over_ms:.0f} ms ago by its own clock")
