"""`metasrv --config FILE [--rejoin]`: one replica as a process. Bad input is one line on stderr and exit code 2."""

import asyncio
import signal
import socket
from pathlib import Path

import click
import grpc.aio
import structlog
import uvloop
from prometheus_client import CollectorRegistry, disable_created_metrics

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import exit_with
from groundwork.adapters.defects import end_on_violation
from groundwork.adapters.logs import configure_logs
from groundwork.adapters.objects import open_object_store
from groundwork.adapters.systemd import notify
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.errors import BadInput, ForeignCluster, MetasrvError
from metasrv.adapters.folder import DataFolder
from metasrv.adapters.raft import EmbeddedRaft, RaftConfig
from metasrv.config import MetasrvConfig, load
from metasrv.core.ports import Consensus, StateMachine
from metasrv.service import Service

log = structlog.get_logger()
STORE_THREADS = 4


def raft_config(config: MetasrvConfig, rejoin: bool) -> RaftConfig:
    """What the embedded consensus is told."""
    return RaftConfig(
        cluster_id=config.cluster_id,
        node_id=config.node_id,
        peers=config.peers,
        data_dir=Path(config.data_dir) / "raft",
        election_ms_min=config.timing.election_ms_min,
        election_ms_max=config.timing.election_ms_max,
        tls=config.tls,
        rejoin=rejoin,
    )


def check_free(address: str) -> None:
    """Raise BadInput where the port is taken, before gRPC says so in lines of its own."""
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise BadInput("listen", f"cannot listen on {address}: {error.strerror}") from error


async def serve(config: MetasrvConfig, rejoin: bool) -> None:
    """Run until SIGTERM or SIGINT. Raises what keeps it from starting, or ends it."""
    workers = ThreadWorkers("object-store", STORE_THREADS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        check_free(config.listen)
        store = open_object_store(config.object_store, workers)

        def embedded(machine: StateMachine, server: grpc.aio.Server, registry: CollectorRegistry) -> Consensus:
            raft = EmbeddedRaft(raft_config(config, rejoin), machine, registry=registry)
            raft.register(server)
            return raft

        service = Service(config, SystemClock(), store, embedded)
        await service.start()
        notify("READY=1")
        waiting = asyncio.create_task(stop.wait())
        failed = asyncio.create_task(service.failed())
        await asyncio.wait({waiting, failed}, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        waiting.cancel()
        if failed.done():
            failed.result()
        failed.cancel()
        log.info("stopping")
        await service.stop()
    finally:
        workers.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="metasrv.toml")
@click.option("--rejoin", is_flag=True, help="Start with an empty journal and vote only after catching up.")
def main(path: Path, rejoin: bool) -> None:
    """One replica of the metadata service."""
    try:
        config = load(path)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library forgot its types
        configure_logs(config.node_id, config.log_level)
        end_on_violation()
        folder = DataFolder(Path(config.data_dir), config.cluster_id, config.node_id)
        folder.open()
        try:
            uvloop.run(serve(config, rejoin))
        except ForeignCluster:
            folder.forget()
            raise
    except (BadInput, ForeignCluster) as error:
        exit_with(str(error))
    except MetasrvError as error:
        exit_with(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
