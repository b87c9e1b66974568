"""metasrv.toml, typed. docs/routes.md and deploy/ hold examples."""

import re
from pathlib import Path

import msgspec

from groundwork.adapters.config import ObjectStoreConfig, TlsConfig, load_config
from groundwork.adapters.rpc import check_transport, is_loopback
from groundwork.core.errors import BadInput
from groundwork.core.ids import Locality, check_node_id
from metasrv.core.records import Config

_CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
LOG_LEVELS = ("debug", "info", "warning", "error")


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds. The lease is P3's figure: a crashed datanode's regions are back within one lease and a second."""

    lease_ms: int = 3_000
    beat_ms: int = 500
    election_ms_min: int = 400
    election_ms_max: int = 800
    tick_ms: int = 50


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What operators may tune of the leader's decisions. Absent values are the core's own (metasrv.core.records)."""

    breaker_fraction: float | None = None
    unwell_ms: int | None = None
    moves_max: int | None = None
    rebalance_moves_max: int | None = None
    settle_ms: int | None = None
    trim_every_ms: int | None = None


class MetasrvConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica of metasrv."""

    cluster_id: str
    node_id: str
    locality: str
    data_dir: str
    listen: str
    http_listen: str
    peers: dict[str, str]
    object_store: ObjectStoreConfig
    advertise: str = ""
    log_level: str = "info"
    tls: TlsConfig | None = None
    timing: Timing = Timing()
    policy: PolicyConfig = PolicyConfig()


def load(path: Path) -> MetasrvConfig:
    """Read and check a configuration file. Raises BadInput that names the field and what is allowed."""
    config = load_config(path, MetasrvConfig)
    if not _CLUSTER_ID.fullmatch(config.cluster_id):
        raise BadInput("cluster_id", f"{config.cluster_id!r} is not 32 hex digits; make one: openssl rand -hex 16")
    check_node_id(config.node_id)
    Locality.parse(config.locality)
    if config.log_level not in LOG_LEVELS:
        raise BadInput("log_level", f"{config.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
    _check_address("listen", config.listen)
    _check_address("http_listen", config.http_listen)
    check_transport(config.listen, config.tls, "listen")
    _check_peers(config)
    _check_store(config.object_store)
    _check_timing(config.timing)
    replicated(config)
    return config


def replicated(config: MetasrvConfig) -> Config:
    """The part that every leader must agree on, and that is therefore kept in the replicated state."""
    policy = {k: v for k, v in msgspec.structs.asdict(config.policy).items() if v is not None}
    timing = config.timing
    values = {"lease_ms": timing.lease_ms, "beat_ms": timing.beat_ms, "tick_ms": timing.tick_ms, **policy}
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise BadInput("policy", str(error)) from error


def _check_address(field: str, address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65_536):
        raise BadInput(field, f"{address!r} is not of the form host:port with a port from 1 to 65535")


def _check_peers(config: MetasrvConfig) -> None:
    mine = config.peers.get(config.node_id)
    if mine is None:
        raise BadInput("peers", f"all replicas must be listed, this one too: {config.node_id!r} is missing")
    for node_id, address in config.peers.items():
        check_node_id(node_id, "peers")
        _check_address(f"peers.{node_id}", address)
        check_transport(address, config.tls, f"peers.{node_id}")
    if len(set(config.peers.values())) < len(config.peers):
        raise BadInput("peers", "two replicas have the same address")
    told = config.advertise or config.listen
    if mine != told and not (is_loopback(mine) and not is_loopback(told)):
        raise BadInput("peers", f"{config.node_id} is {mine} there, but tells others {told} (advertise, else listen)")


def _check_store(store: ObjectStoreConfig) -> None:
    if bool(store.directory) == bool(store.s3_bucket):
        raise BadInput("object_store", "set either directory or s3_bucket")


def _check_timing(timing: Timing) -> None:
    if not 200 <= timing.lease_ms <= 600_000:
        raise BadInput("timing.lease_ms", f"{timing.lease_ms} is not from 200 to 600000")
    if not 10 <= timing.beat_ms <= timing.lease_ms // 3:
        raise BadInput("timing.beat_ms", f"{timing.beat_ms} is not from 10 to a third of lease_ms ({timing.lease_ms})")
    if not 50 <= timing.election_ms_min < timing.election_ms_max:
        raise BadInput("timing.election_ms_min", "it must be at least 50 and below election_ms_max")
    if not 5 <= timing.tick_ms <= timing.lease_ms // 4:
        raise BadInput("timing.tick_ms", f"{timing.tick_ms} is not from 5 to a quarter of lease_ms")
