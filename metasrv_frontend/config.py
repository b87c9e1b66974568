"""The frontend's configuration file."""

import msgspec

from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import BadInput
from groundwork.core.ids import Locality, check_node_id
from groundwork.core.table import PARTITIONS_MAX


class FrontendConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`metasrv-frontend --config FILE`: see docs/frontend.md."""

    cluster_id: str
    node_id: str
    locality: str
    http_listen: str
    metasrv: list[str]
    log_level: str = "info"
    tls: TlsConfig | None = None
    deadline_ms: int = 30_000  # of a request that does not say x-deadline-ms
    deadline_ms_max: int = 600_000
    auto_partitions: int = 1  # regions of a table that is made by its first write
    time_column: str = "greptime_timestamp"  # of a table that is made by its first write
    request_bytes_max: int = 32 << 20  # of one body, after decompression
    in_flight_bytes_max: int = 64 << 20  # of all write bodies together; as rows they take several times as much
    in_flight_queries_max: int = 16
    query_bytes_max: int = 256 << 20  # Arrow bytes that one query may read, and what the engine may hold besides
    queries_bytes_max: int = 1 << 30  # Arrow bytes that all queries together may have read and still hold
    query_rows_max: int = 1_000_000  # rows of one JSON answer


def check_config(config: FrontendConfig) -> FrontendConfig:
    """Return the configuration, or raise BadInput that names the field."""
    check_node_id(config.node_id)
    Locality.parse(config.locality)
    if len(config.cluster_id) != 32 or any(c not in "0123456789abcdef" for c in config.cluster_id):
        raise BadInput("cluster_id", f"{config.cluster_id!r} is not 32 hex digits")
    for field, address in [("http_listen", config.http_listen), *(("metasrv", a) for a in config.metasrv)]:
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65_536):
            raise BadInput(field, f"{address!r} is not of the form host:port")
    if not config.metasrv:
        raise BadInput("metasrv", "name at least one replica")
    if config.log_level not in ("debug", "info", "warning", "error"):
        raise BadInput("log_level", f"{config.log_level!r} is not one of debug, info, warning, error")
    if not 1 <= config.auto_partitions <= PARTITIONS_MAX:
        raise BadInput("auto_partitions", f"{config.auto_partitions} is not 1 to {PARTITIONS_MAX}")
    for name in (
        "deadline_ms", "deadline_ms_max", "request_bytes_max", "in_flight_bytes_max", "in_flight_queries_max",
        "query_bytes_max", "queries_bytes_max", "query_rows_max",
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise BadInput(name, "must be at least 1")
    return config
