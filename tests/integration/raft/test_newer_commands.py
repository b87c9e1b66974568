"""A replica that meets a command of a newer release stops there: it neither applies nor skips it."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from groundwork.adapters import rpc
from groundwork.core.errors import NewerFormat
from metasrv.adapters.raft import EmbeddedRaft, RaftConfig
from metasrv.core import commands as c
from metasrv.core.machine import Machine
from tests.integration.raft.cluster import CLUSTER, until

NEWER = {
    "level": bytes((c.FEATURE_LEVEL + 1,)) + c.encode(c.Note(kind="k", sentence="s"))[1:],
    "kind": b"\x01" + msgspec.msgpack.encode({"type": "Teleport", "region_id": 1}),
    "field": b"\x01" + msgspec.msgpack.encode({"type": "Forget", "node_id": "dn-1", "gently": True}),
}


@pytest.mark.parametrize("newer", NEWER)
def test_a_newer_command_changes_nothing_and_is_not_skipped(newer: str) -> None:
    """A level, a kind or a field that is not known: the machine stays exactly where it was, and says what to do."""
    machine = Machine()
    machine.apply(1, c.encode(c.Bootstrap(cluster_id="c", generation=1)))
    before = list(machine.snapshot())
    with pytest.raises(NewerFormat, match="run the release that the other replicas run"):
        machine.apply(2, NEWER[newer])
    assert list(machine.snapshot()) == before and machine.state.revision == 1


def test_a_replica_ends_at_a_newer_command_again_and_again(tmp_path: Path) -> None:
    """It ends before it applies what follows; started again on its log, it ends at the same place."""

    async def life(newer: bool) -> tuple[Machine, list[str]]:
        machine = Machine()
        fatal: list[str] = []
        server = rpc.aio_server()
        port = rpc.listen(server, "127.0.0.1:0", None)
        config = RaftConfig(
            cluster_id=CLUSTER, node_id="metasrv-1", peers={"metasrv-1": f"127.0.0.1:{port}"}, data_dir=tmp_path / "m1",
            election_ms_min=300, election_ms_max=600,
        )  # fmt: skip
        node = EmbeddedRaft(config, machine, fatal=fatal.append)
        node.register(server)
        await server.start()
        await node.start()
        replica = node._replica
        assert replica is not None
        try:
            if newer:
                await until(lambda: node.leadership().is_leader, "a leader")
                await node.propose(c.encode(c.Bootstrap(cluster_id="c", generation=1)))
                doomed = asyncio.create_task(node.propose(NEWER["level"], 60_000))
            await until(lambda: fatal, "its end")
            if newer:
                doomed.cancel()
                await asyncio.gather(doomed, return_exceptions=True)
        finally:
            await node.stop()
            replica.close()  # as the end of the process would
            await server.stop(None)
        return machine, fatal

    for newer in (True, False):
        machine, fatal = asyncio.run(life(newer))
        assert len(fatal) == 1 and "feature level 2" in fatal[0]
        assert machine.state.cluster_id == "c"
