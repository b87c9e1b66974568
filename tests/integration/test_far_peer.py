"""A peer that is far away, or on a busy machine, is connected to all the same."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from groundwork.adapters.rpc import aio_channel
from protos.metasrv.v1 import admin_pb2
from protos.metasrv.v1.admin_pb2_grpc import AdminStub
from tests.integration.test_replica_calls import Replica, served

AWAY_S = 0.7  # from the connection to the first frame: three round trips between continents


@contextlib.asynccontextmanager
async def far(address: str) -> AsyncIterator[str]:
    """An address from where it takes so long to that one."""
    host, _, port = address.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first_after_s: float) -> None:
        try:
            while piece := await reader.read(65_536):
                await asyncio.sleep(first_after_s)
                first_after_s = 0.0
                writer.write(piece)
        finally:
            writer.transport.abort()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, int(port))
        for task in (carry(reader, ours, 0.0), carry(theirs, writer, AWAY_S)):
            tasks.add(asyncio.create_task(task))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_far_peer_is_connected_to() -> None:
    """The first frame may take longer than any pause between attempts; each attempt has the time that it needs."""

    async def story() -> None:
        async with served(Replica("far")) as address, far(address) as proxy, aio_channel(proxy, None) as channel:
            reply = await AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=30, wait_for_ready=True)
            assert reply.cluster_id == "far"

    asyncio.run(story())
