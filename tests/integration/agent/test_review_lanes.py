"""An incarnation without a lane that takes appends is of no use, however well it beats."""

import asyncio
from pathlib import Path

from groundwork.adapters.clock import SystemClock
from groundwork.core.ids import Lane
from tests.integration.agent.replica import until
from tests.integration.frontend.harness import cluster


def _spoil(folder: Path) -> None:
    """Objects of nobody in the next places of a lane: its writer meets one of them and is out for good."""
    taken = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    for seq in range(taken + 1, taken + 9):
        path = folder / f"{seq:020d}"
        if not path.exists():
            path.write_bytes(b"whoever wrote this")


def test_an_agent_whose_lanes_are_all_out_registers_again(tmp_path: Path) -> None:
    """It went on beating, was granted, counted as well, and no region could be opened there until it was restarted."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            assert (await c.world.write("cpu,host=a v=1 1")).status_code == 204
            nodes = c.world.replica.machine.state.nodes
            before = nodes["dn-1"].incarnation
            for index in range(nodes["dn-1"].lanes):
                _spoil(tmp_path / "objects" / "lanes" / str(Lane("dn-1", before, index)))
            agent = c.nodes["dn-1"].agent
            await until(lambda: nodes["dn-1"].incarnation > before, SystemClock(), "it registers again")
            await until(lambda: agent._readiness().ready, SystemClock(), "it is ready under the new incarnation")

    asyncio.run(story())
