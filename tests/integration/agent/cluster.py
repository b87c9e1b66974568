"""One metasrv replica and datanodes as processes, and a client that speaks to both."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.rpc import aio_channel
from groundwork.core.arrow import arrow_schema, encode_batch
from groundwork.core.table import TableInfo
from groundwork.core.wire import table_from_wire
from metactl import child
from protos.datanode.v1 import datanode_pb2, datanode_pb2_grpc
from protos.metasrv.v1 import catalog_pb2, catalog_pb2_grpc, routes_pb2, routes_pb2_grpc, types_pb2
from tests.integration.agent.harness import CLUSTER_ID, write_config
from tests.ports import free_ports

COLUMNS = [
    types_pb2.Column(name="host", type="string", role=types_pb2.TAG, since_version=1),
    types_pb2.Column(name="greptime_timestamp", type="timestamp_ns", role=types_pb2.TIME, since_version=1),
    types_pb2.Column(name="usage", type="float64", role=types_pb2.FIELD, since_version=1),
]
_CLOCK = SystemClock()


class Process:
    """One program with its log, ended at the end of the test however it stands, and with a test that is killed."""

    def __init__(self, name: str, module: str, folder: Path, arguments: Sequence[str], http: str) -> None:
        self.name = name
        self.http = http
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as out:
            with_us = [sys.executable, "-I", "-S", str(child.__file__), str(os.getpid())]
            self.popen = subprocess.Popen(
                [*with_us, sys.executable, "-c", f"from {module}.main import main; main()", *arguments],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.popen.pid, number)

    async def ended(self, patience_ms: float = 60_000) -> int:
        """Wait for its end; the exit status."""
        end_ms = _CLOCK.now_ms() + patience_ms
        while self.popen.poll() is None:
            assert _CLOCK.now_ms() < end_ms, f"{self.name} did not end\n{self.tail()}"
            await _CLOCK.sleep(20)
        return self.popen.returncode

    async def get(self, path: str) -> tuple[int, str]:
        """One HTTP page: status and body; status 0 while nobody listens."""
        return await asyncio.get_running_loop().run_in_executor(None, _get, f"http://{self.http}{path}")

    async def ready(self, patience_ms: float = 60_000) -> dict[str, Any]:
        """Wait until /ready says yes; what it says."""
        end_ms = _CLOCK.now_ms() + patience_ms
        while True:
            status, body = await self.get("/ready")
            if status == 200:
                found = json.loads(body)
                assert isinstance(found, dict)
                return found
            assert self.popen.poll() is None, f"{self.name} ended\n{self.tail()}"
            assert _CLOCK.now_ms() < end_ms, f"{self.name} is not ready: {body}\n{self.tail()}"
            await _CLOCK.sleep(30)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    async def event(self, name: str, count: int = 1, patience_ms: float = 60_000) -> dict[str, Any]:
        """Wait for the count-th log line of one event."""
        end_ms = _CLOCK.now_ms() + patience_ms
        while len(found := self.events(name)) < count:
            assert _CLOCK.now_ms() < end_ms, f"{self.name} never logged {name}\n{self.tail()}"
            await _CLOCK.sleep(20)
        return found[count - 1]

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-30:])

    def kill(self) -> None:
        """End it at once, also when it is stopped."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


class Cluster:
    """See the module docstring. Datanodes and metasrv share one object-store folder."""

    def __init__(self, folder: Path, lease_ms: int) -> None:
        self.folder = folder
        grpc_port, self._http_port = free_ports(2)
        self.metasrv_address = f"127.0.0.1:{grpc_port}"
        self._lease_ms = lease_ms
        self._processes: list[Process] = []
        self.metasrv = self.start_metasrv()
        self._channel = aio_channel(self.metasrv_address, None)
        self.sender = types_pb2.Sender(cluster_id=CLUSTER_ID)

    def start_metasrv(self) -> Process:
        """Start the one replica (again)."""
        (self.folder / "objects").mkdir(exist_ok=True)
        path = self.folder / "metasrv.toml"
        path.write_text(
            f'cluster_id = "{CLUSTER_ID}"\nnode_id = "metasrv-1"\nlocality = "site-1/zone-a"\n'
            f'data_dir = "{self.folder / "metasrv"}"\nlisten = "{self.metasrv_address}"\n'
            f'http_listen = "127.0.0.1:{self._http_port}"\n[peers]\n"metasrv-1" = "{self.metasrv_address}"\n'
            f'[object_store]\ndirectory = "{self.folder / "objects"}"\n'
            f"[timing]\nlease_ms = {self._lease_ms}\nbeat_ms = {min(250, self._lease_ms // 6)}\ntick_ms = 20\n"
        )
        self.metasrv = self._start("metasrv-1", "metasrv", ["--config", str(path)], f"127.0.0.1:{self._http_port}")
        return self.metasrv

    def configure(self, node_id: str, folder: str | None = None, **changes: object) -> Path:
        """A datanode's configuration; `folder` is its data folder's place, by default its own."""
        place = self.folder / (folder or node_id)
        return write_config(place, [self.metasrv_address], objects=self.folder / "objects", node_id=node_id, **changes)

    def start_datanode(self, config: Path, *arguments: str, name: str = "") -> Process:
        """Start a datanode."""
        http = next(line.split('"')[1] for line in config.read_text().splitlines() if line.startswith("http_listen"))
        return self._start(name or config.parent.name, "datanode_agent", ["--config", str(config), *arguments], http)

    def _start(self, name: str, module: str, arguments: Sequence[str], http: str) -> Process:
        process = Process(name, module, self.folder, arguments, http)
        self._processes.append(process)
        return process

    async def create_table(self, name: str, partitions: int = 1) -> TableInfo:
        """A table with one tag and one field."""
        stub = catalog_pb2_grpc.CatalogStub(self._channel)
        reply = await stub.CreateTable(
            catalog_pb2.CreateTableRequest(
                sender=self.sender,
                name=name,
                columns=COLUMNS,
                partitions=partitions,
                if_not_exists=True,
                request_id=name,
            ),
            timeout=30,
            wait_for_ready=True,
        )
        return table_from_wire(reply.table)

    async def route(self, region_id: int) -> types_pb2.Route:
        """Where a region is, as metasrv says now."""
        stub = routes_pb2_grpc.RoutesStub(self._channel)
        request = routes_pb2.RoutesRequest(sender=self.sender, region_ids=[region_id])
        reply = await stub.Get(request, timeout=20, wait_for_ready=True)
        return reply.routes[0]

    async def write(
        self, table: TableInfo, rows: Sequence[tuple[str, int, float]], route: types_pb2.Route, lives: bool = True
    ) -> datanode_pb2.RegionOutcome:
        """Write rows to one region by one route; its outcome. Where the node `lives` the connection is waited for."""
        columns = list(zip(*rows, strict=True))
        schema = arrow_schema(table.schema)
        batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
        request = datanode_pb2.WriteRequest(
            target=self._target(route),
            writes=[
                datanode_pb2.RegionWrite(
                    region_id=route.region_id, epoch=route.epoch, schema_version=table.schema.version, rows=len(rows),
                    batch=encode_batch(batch),
                )
            ],
        )  # fmt: skip
        async with aio_channel(route.address, None) as channel:
            reply = await datanode_pb2_grpc.DatanodeStub(channel).Write(request, timeout=20, wait_for_ready=lives)
        return reply.outcomes[0]

    async def write_until_done(
        self, table: TableInfo, rows: Sequence[tuple[str, int, float]], patience_ms: float = 60_000
    ) -> types_pb2.Route:
        """Write to the first region, asking for the route again until it is done; the route that did."""
        end_ms = _CLOCK.now_ms() + patience_ms
        last: object = None
        while _CLOCK.now_ms() < end_ms:
            route = await self.route(table.region_ids[0])
            if route.node_id:
                with contextlib.suppress(Exception):  # a dead or stopped node: the route changes
                    last = outcome = await self.write(table, rows, route, lives=False)
                    if outcome.outcome == datanode_pb2.DONE:
                        return route
            await _CLOCK.sleep(50)
        raise AssertionError(f"no write was done; last: {last}")

    async def scan(self, table: TableInfo, route: types_pb2.Route, strong: bool = False) -> list[dict[str, Any]]:
        """All rows of one region."""
        request = datanode_pb2.ScanRequest(
            target=self._target(route), region_id=route.region_id, epoch=route.epoch,
            schema_version=table.schema.version, strong=strong,
        )  # fmt: skip
        body = b""
        async with aio_channel(route.address, None) as channel:
            async for reply in datanode_pb2_grpc.DatanodeStub(channel).Scan(request, timeout=20, wait_for_ready=True):
                assert not reply.HasField("refused"), reply.refused
                body += reply.ipc
        rows = pa.ipc.open_stream(body).read_all().to_pylist()
        return sorted(rows, key=lambda row: str(row["host"]))

    def _target(self, route: types_pb2.Route) -> datanode_pb2.Target:
        return datanode_pb2.Target(cluster_id=CLUSTER_ID, node_id=route.node_id, incarnation=route.incarnation)

    async def close(self) -> None:
        """End every process."""
        await self._channel.close()
        for process in self._processes:
            process.kill()


@contextlib.asynccontextmanager
async def cluster(folder: Path, lease_ms: int = 60_000) -> AsyncIterator[Cluster]:
    """A started replica, no datanode yet. No lease runs out during a test that is not about that."""
    one = Cluster(folder, lease_ms)
    try:
        await one.metasrv.ready()
        yield one
    finally:
        await one.close()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
