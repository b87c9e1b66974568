"""A write to several regions of which one does not take its rows."""

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio

from protos.datanode.v1 import datanode_pb2
from tests.integration.frontend.harness import cluster


def test_p1_one_region_missing_is_no_success(tmp_path: Path) -> None:
    """P1: every region has its rows, or the answer is an error that names those that have not."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            assert (await c.world.write("good,t=a v=1 1\nbad,t=a v=1 1")).status_code == 204
            bad = c.world.frontend.routes.table("bad")
            assert bad is not None
            wire = c.nodes["dn-1"].wire

            async def before(request: datanode_pb2.WriteRequest, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
                if [w.region_id for w in request.writes] == list(bad.region_ids):
                    wire.refuse_writes = [datanode_pb2.RegionOutcome(outcome=datanode_pb2.READ_ONLY, message="damaged")]

            wire.refuse_writes = [datanode_pb2.RegionOutcome(outcome=datanode_pb2.NO_LEASE)]  # then each travels alone
            wire.before_write = before
            answer = await c.world.write("good,t=a v=2 2\nbad,t=a v=2 2")
            assert answer.status_code == 503
            assert answer.json()["regions_undone"] == 1
            assert answer.json()["regions"][0]["table"] == "bad"
            assert await c.world.rows("SELECT count(*) FROM good") == [[2]]
            assert await c.world.rows("SELECT count(*) FROM bad") == [[1]]

    asyncio.run(story())
