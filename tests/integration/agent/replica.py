"""One metasrv replica in the test's own loop: the real faces and state machine on the single-replica twin."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.rpc import aio_server, listen
from metasrv.adapters.faces import Faces
from metasrv.adapters.forward import Peers
from metasrv.adapters.guard import Guard
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.proposing import Proposer
from metasrv.config import MetasrvConfig
from metasrv.core import commands
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.records import Config
from metasrv.sim.solo import SoloConsensus
from tests.integration.agent.harness import CLUSTER_ID
from tests.ports import free_ports


class Replica:
    """A replica that leads unless told otherwise. It judges nobody by itself: tests propose what a leader would."""

    def __init__(self, lease_ms: int, beat_ms: int, cluster_id: str = CLUSTER_ID) -> None:
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.machine = Machine()
        self.consensus = SoloConsensus(self.machine)
        self.metrics = Metrics()
        self.book = LeaseBook("metasrv-1")
        self.config = Config(lease_ms=lease_ms, beat_ms=beat_ms)
        self.cluster_id = cluster_id
        self.clock = SystemClock()
        self.proposer = Proposer(self.consensus, self.clock, self.metrics)
        self._server: grpc.aio.Server | None = None
        self._faces: Faces | None = None
        self._peers: Peers | None = None

    async def start(self) -> None:
        """Bootstrap on the first start, then serve on the one address."""
        await self.consensus.start()
        if not self.machine.state.cluster_id:
            await self.proposer.commit(commands.Bootstrap(cluster_id=self.cluster_id, generation=1, config=self.config))
        peers = {"metasrv-1": self.address}
        config = MetasrvConfig(
            cluster_id=self.cluster_id, node_id="metasrv-1", locality="site-1/zone-a", data_dir="", listen=self.address,
            http_listen="", peers=peers, object_store=ObjectStoreConfig(),
        )  # fmt: skip
        self._peers = Peers("metasrv-1", peers, None)
        self._faces = Faces(
            config=config, clock=self.clock, machine=self.machine, book=self.book, proposer=self.proposer,
            peers=self._peers, metrics=self.metrics, poke=lambda: None,
        )  # fmt: skip
        self._server = server = aio_server([Guard(self.cluster_id, peers, lambda _: None)])
        self._faces.add_to(server)
        listen(server, self.address, None)
        await server.start()
        self._faces.relay.start()

    async def stop(self) -> None:
        """Stop answering at once; the state stays, so start() may follow."""
        if self._server is not None and self._faces is not None and self._peers is not None:
            await self._faces.relay.stop()
            await self._server.stop(None)
            await self._peers.close()
            self._server = None

    async def register(self, node_id: str, folder_id: str = "folder", takeover: bool = False) -> int:
        """Register a node as a leader that does not hear the old incarnation would; its token."""
        held = self.machine.state.nodes.get(node_id)
        outcome = await self.proposer.commit(
            commands.Register(
                node_id=node_id, folder_id=folder_id, locality="site-1/zone-a", address="127.0.0.1:9", lanes=2,
                capacity_regions=100, replaces=held.incarnation if held else 0, takeover=takeover,
            )
        )  # fmt: skip
        return outcome.value


@asynccontextmanager
async def replica(lease_ms: int = 1_000, beat_ms: int = 50, cluster_id: str = CLUSTER_ID) -> AsyncIterator[Replica]:
    """A started replica, stopped at the end."""
    one = Replica(lease_ms, beat_ms, cluster_id)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def until(holds: Callable[[], bool], clock: SystemClock, what: str, patience_ms: float = 20_000) -> None:
    """Wait until something holds; fails with its name when it never does."""
    end_ms = clock.now_ms() + patience_ms
    while not holds():
        assert clock.now_ms() < end_ms, f"waited {patience_ms:.0f} ms in vain for: {what}"
        await clock.sleep(5)
