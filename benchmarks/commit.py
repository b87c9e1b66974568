"""Durable commits through three replicas on this machine, beside a lone fdatasync on the same disk in the same run.

    .venv/bin/python -m benchmarks.commit [--seconds 3] [--folder DIR]

Prints latencies and their ratio to the fdatasync: read the ratios, a shared machine makes the milliseconds noisy.
"""

import argparse
import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc.aio
import structlog
import uvloop

from groundwork.adapters import rpc
from metasrv.adapters.raft import EmbeddedRaft, RaftConfig
from metasrv.core.ports import Leadership

COMMAND = bytes(200)
IN_FLIGHT = (1, 64, 512)
NAMES = ("metasrv-1", "metasrv-2", "metasrv-3")


class Counter:
    def apply(self, revision: int, command: bytes) -> object:
        return revision

    def snapshot(self) -> Iterator[bytes]:
        return iter((b"",))

    def restore(self, slices: Iterable[bytes]) -> None:
        list(slices)


def percentiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3


def lone_sync(folder: Path, seconds: float) -> list[float]:
    taken: list[float] = []
    with (folder / "lone").open("wb", buffering=0) as file:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            file.write(bytes(300))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return taken


async def commits(leader: EmbeddedRaft, in_flight: int, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def proposer() -> None:
        while (began := time.perf_counter()) < end:
            await leader.propose(COMMAND)
            taken.append(time.perf_counter() - began)

    await asyncio.gather(*(proposer() for _ in range(in_flight)))
    return taken


async def confirms(leader: EmbeddedRaft, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await leader.confirm()
        taken.append(time.perf_counter() - began)
    return taken


async def cluster(folder: Path) -> tuple[dict[str, EmbeddedRaft], list[grpc.aio.Server]]:
    servers = [rpc.aio_server() for _ in NAMES]
    ports = [rpc.listen(server, "127.0.0.1:0", None) for server in servers]
    peers = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
    nodes = {
        name: EmbeddedRaft(
            RaftConfig(cluster_id="b" * 32, node_id=name, peers=peers, data_dir=folder / name), Counter()
        )
        for name in NAMES
    }
    for node, server in zip(nodes.values(), servers, strict=True):
        node.register(server)
        await server.start()
        await node.start()
    return nodes, servers


async def leader_of(nodes: dict[str, EmbeddedRaft]) -> EmbeddedRaft:
    elected: asyncio.Future[EmbeddedRaft] = asyncio.get_running_loop().create_future()

    def watch(node: EmbeddedRaft) -> None:
        def told(leadership: Leadership) -> None:
            if leadership.is_leader and not elected.done():
                elected.set_result(node)

        node.on_leadership(told)

    for node in nodes.values():
        watch(node)
    return await elected


async def measure(folder: Path, seconds: float, base: float) -> None:
    nodes, servers = await cluster(folder)
    leader = await leader_of(nodes)
    await commits(leader, 64, 0.5)
    for in_flight in IN_FLIGHT:
        row(f"commit, {in_flight} in flight", await commits(leader, in_flight, seconds), seconds, base)
    row("confirm, 1 in flight", await confirms(leader, seconds), seconds, base)
    for node in nodes.values():
        await node.stop()
    for server in servers:
        await server.stop(None)


def row(name: str, taken: list[float], seconds: float, base: float | None) -> tuple[float, float]:
    p50, p99 = percentiles(taken)
    ratio = "" if base is None else f"  p50 = {p50 / base:6.1f} fdatasyncs"
    print(f"{name:28}  p50 {p50:8.3f} ms  p99 {p99:8.3f} ms  {len(taken) / seconds:9.0f} /s{ratio}", flush=True)
    return p50, p99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        # Not beside the cluster: one event loop runs all three replicas, and would hold still meanwhile.
        base, _ = row("lone fdatasync, 300 bytes", lone_sync(Path(folder), arguments.seconds), arguments.seconds, None)
        uvloop.run(measure(Path(folder), arguments.seconds, base))
        after, _ = row("lone fdatasync, again", lone_sync(Path(folder), arguments.seconds), arguments.seconds, None)
        print(f"the disk itself moved by a factor of {after / base:.2f} meanwhile")


if __name__ == "__main__":
    main()
