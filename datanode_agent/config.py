"""The configuration of one datanode: one TOML file."""

import re
from pathlib import Path
from typing import Literal

import msgspec

from datanode_agent.engine.config import EngineConfig
from groundwork.adapters.config import ObjectStoreConfig, TlsConfig, load_config
from groundwork.adapters.rpc import check_transport
from groundwork.core.errors import BadInput
from groundwork.core.ids import Locality, check_node_id

LANES_MAX = 64
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class DatanodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See deploy/ for an example with every field."""

    cluster_id: str
    node_id: str
    locality: str
    data_dir: str
    listen: str
    http_listen: str
    metasrv: tuple[str, ...]
    object_store: ObjectStoreConfig
    advertise: str = ""  # the address told to others; empty: `listen`
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_store: Literal["objects", "kafka", "file"] = "objects"
    lanes: int = 2
    capacity_regions: int = 10_000
    stop: Literal["drain", "fast"] = "drain"
    stop_deadline_ms: int = 60_000  # of a drain; what is left then is flushed and released
    writes_in_flight_max: int = 4_096
    scans_in_flight_max: int = 64
    worker_threads: int = 4
    tls: TlsConfig | None = None
    engine: EngineConfig = EngineConfig()

    @property
    def address(self) -> str:
        """Where clients reach this datanode."""
        return self.advertise or self.listen


def load(path: Path) -> DatanodeConfig:
    """Read and check a configuration file. Raises BadInput with one line that names the file and field."""
    config = load_config(path, DatanodeConfig)
    try:
        check(config)
    except BadInput as error:
        raise BadInput(str(path), str(error)) from error
    return config


def check(config: DatanodeConfig) -> None:
    """Raise BadInput for what the types alone do not exclude."""
    if not re.fullmatch(r"[0-9a-f]{32}", config.cluster_id):
        raise BadInput("cluster_id", f"{config.cluster_id!r} is not 32 hex digits")
    check_node_id(config.node_id)
    Locality.parse(config.locality)
    if not config.metasrv:
        raise BadInput("metasrv", "names no replica: give the gRPC addresses of all metasrv replicas")
    if len(set(config.metasrv)) < len(config.metasrv):
        raise BadInput("metasrv", "names a replica twice")
    for field, address in [
        ("listen", config.listen),
        ("http_listen", config.http_listen),
        ("advertise", config.address),
        *(("metasrv", address) for address in config.metasrv),
    ]:
        _check_address(field, address)
    for address in (config.listen, *config.metasrv):
        check_transport(address, config.tls, "tls")
    _check_range("lanes", config.lanes, 1, LANES_MAX)
    _check_range("capacity_regions", config.capacity_regions, 1, 1_000_000)
    _check_range("stop_deadline_ms", config.stop_deadline_ms, 0, 86_400_000)
    _check_range("writes_in_flight_max", config.writes_in_flight_max, 1, 1_000_000)
    _check_range("scans_in_flight_max", config.scans_in_flight_max, 1, 10_000)
    _check_range("worker_threads", config.worker_threads, 1, 256)
    _check_range("engine.memory_budget_bytes", config.engine.memory_budget_bytes, 1 << 20, 1 << 50)
    _check_range("engine.flush_bytes", config.engine.flush_bytes, 1 << 10, config.engine.memory_budget_bytes)
    _check_range("engine.flush_age_ms", config.engine.flush_age_ms, 10, 86_400_000)
    _check_range("engine.replay_objective_ms", config.engine.replay_objective_ms, 1, 3_600_000)


def _check_address(field: str, address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 65_536:
        raise BadInput(field, f"{address!r} is not host:port with a port from 1 to 65535")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise BadInput(field, f"{value:g} is not from {low:g} to {high:g}")
