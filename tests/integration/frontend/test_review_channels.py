"""A scan of an earlier incarnation while requests to the next one begin: each is answered for itself."""

import asyncio
from collections.abc import AsyncIterator

import pyarrow as pa

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.route_client import RouteClient
from groundwork.adapters.rpc import aio_server
from groundwork.core.route_cache import Phase, Route
from metasrv_frontend.adapters.datanodes import Datanodes
from metasrv_frontend.adapters.route_waits import RouteWaits
from metasrv_frontend.adapters.scanner import Pool, Scanner
from metasrv_frontend.metrics import Metrics
from protos.datanode.v1 import datanode_pb2, datanode_pb2_grpc
from protos.metasrv.v1 import types_pb2
from tests.integration.agent.harness import CLUSTER_ID
from tests.integration.frontend.harness import Context

R = 7 << 32


class SlowNode(datanode_pb2_grpc.DatanodeServicer):
    """A datanode whose scan sends the schema, and the rest when a test lets it."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def Scan(self, request: datanode_pb2.ScanRequest, context: Context) -> AsyncIterator[datanode_pb2.ScanReply]:
        """One row."""
        batch = pa.record_batch({"v": [1.5]})
        yield datanode_pb2.ScanReply(ipc=batch.schema.serialize().to_pybytes())
        self.began.set()
        await self.go_on.wait()
        yield datanode_pb2.ScanReply(ipc=batch.serialize().to_pybytes())


def test_a_scan_outlasts_the_next_incarnation_of_its_node() -> None:
    """Its channel was closed as unused: the query ended as if its client had gone, instead of an answer or a retry."""

    async def story() -> None:
        node, server = SlowNode(), aio_server()
        datanode_pb2_grpc.add_DatanodeServicer_to_server(node, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        clock = SystemClock()
        routes = RouteClient(["127.0.0.1:1"], CLUSTER_ID, None, clock, "fe-1")
        table = types_pb2.Table(table_id=7, name="t", schema_version=1, region_ids=[R])
        wire = types_pb2.Route(
            region_id=R, table_id=7, node_id="dn-1", incarnation=1, address=address, epoch=1, phase=2
        )
        routes.cache.merge(1, [table], [wire])
        nodes = Datanodes(CLUSTER_ID, None)
        scanner = Scanner(routes, RouteWaits(routes, clock), nodes, clock, Metrics())
        with Pool(1 << 20).share(1 << 20) as budget:
            request = datanode_pb2.ScanRequest(region_id=R)
            scan = asyncio.create_task(scanner._region(request, clock.now_ms() + 60_000, budget))
            await node.began.wait()
            with nodes.scanning(Route(R, 7, 0, "dn-1", 2, address, 2, Phase.SERVING, "")):
                await asyncio.gather(*nodes._closing)  # what is being closed is closed, with all that uses it
            node.go_on.set()
            batches = await scan
        assert [batch.to_pydict() for batch in batches] == [{"v": [1.5]}]
        await nodes.stop()
        await routes.stop()
        await server.stop(0)

    asyncio.run(story())
