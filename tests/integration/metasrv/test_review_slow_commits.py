"""A leader whose commits are slow hears beats while it waits for them: it is not away."""

import asyncio
from pathlib import Path

from metasrv.core import commands
from metasrv.core.ports import Applied
from metasrv.core.records import NodeStatus
from metasrv.sim.solo import SoloConsensus
from tests.integration.metasrv.world import configs, datanode, eventually, replica

LEASE_MS, COMMIT_MS = 1_000, 700


class SlowCommits(SoloConsensus):
    """Every commit takes longer than half a lease."""

    async def propose(self, command: bytes, deadline_ms: float = 5_000) -> Applied:
        """As the slow disk of a quorum would."""
        await asyncio.sleep(COMMIT_MS / 1_000)
        return await super().propose(command, deadline_ms)


def test_t3_commits_slower_than_half_a_lease_put_no_failover_off(tmp_path: Path) -> None:
    """T3: each wait was credited to every datanode, and to say so was a commit too: nobody was ever suspected again."""

    async def story() -> None:
        config = configs(tmp_path, 1, LEASE_MS)[0]
        async with replica(config, lambda machine, server, registry: SlowCommits(machine, config.node_id)) as service:
            nodes = service.machine.state.nodes

            async def begun() -> bool:
                return bool(service.machine.state.cluster_id)

            await eventually(begun)
            async with datanode(config.listen, "dn-1") as node:
                await node.beat()
                wall_ms = service.clock.wall_ms()
                pause = commands.Pause(
                    scope="table/cpu", reason="a test", who="ops", expires_wall_ms=wall_ms + 1, wall_ms=wall_ms
                )
                await service.consensus.propose(commands.encode(pause))  # its end is what the leader commits next

                async def suspect() -> bool:
                    return nodes["dn-1"].status is NodeStatus.SUSPECT

                await eventually(suspect, 60)

    asyncio.run(story())
