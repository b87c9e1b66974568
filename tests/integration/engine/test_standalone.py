"""A standalone: lanes in files of its own disk, restarted in place."""

import asyncio
from pathlib import Path

import pyarrow as pa

from datanode_agent.engine.engine import Engine, EngineConfig
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.file import FileLog
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.ids import Lane
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import V1, Lease, R, order, region_write, table


def test_a_restart_replays_file_lanes(tmp_path: Path) -> None:
    """Three process lives in a row: each seals its predecessor's file lane, and has every acknowledged row."""

    async def life(token: int, workers: ThreadWorkers) -> None:
        clock = SystemClock()
        engine = Engine(
            node_id="a", store=DirectoryStore(tmp_path / "objects", workers),
            logs=FileLog(tmp_path / "lanes", clock, workers), clock=clock, workers=workers, config=EngineConfig(),
            lease=Lease(), report=lambda report: None,
        )  # fmt: skip
        await engine.start(token, 1)
        engine.admit([0])
        over = [Lane("a", token - 1, 0)] if token > 1 else []
        told = order(nodes_pb2.OPEN, 10 * token, over=over)
        engine.apply(nodes_pb2.OrdersReply(revision=1, orders=[told], tables=[table(V1)]))
        for n in range(5):
            rows = [("h", token * 10 + n, 1.0), ("h", 0, float(token))]
            [outcome] = await engine.write([region_write(10 * token, rows)], 5_000)
            assert outcome.outcome == pb.DONE, outcome
            if n == 2 and token != 1:
                await engine.flush([])
        request = pb.ScanRequest(region_id=R, epoch=10 * token)
        replies = [reply async for reply in engine.scan(request, 5_000)]
        assert not any(reply.HasField("refused") for reply in replies)
        found = pa.ipc.open_stream(b"".join(reply.ipc for reply in replies)).read_all()
        assert found.num_rows == 5 * token + 1
        assert engine.regions()[0].memtable_bytes > 0
        await engine.stop(flush=False)

    async def main() -> None:
        workers = ThreadWorkers("test", 4)
        for token in (1, 2, 3):
            await life(token, workers)
        workers.close()

    asyncio.run(main())
