"""What one replica is told by its operator. Addresses come from here only, never from a log or a snapshot."""

from pathlib import Path

import msgspec

from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import BadInput
from groundwork.core.ids import check_node_id

COMMAND_BYTES_LIMIT = 16 << 20


class RaftLimits(msgspec.Struct, frozen=True):
    """Bounds of memory, messages and stalls."""

    command_bytes_max: int = 2 << 20
    journal_entries_max: int = 20_000
    """A snapshot is taken, and the journal cut, when it holds more entries than this (or more bytes than below)."""
    journal_bytes_max: int = 64 << 20
    journal_tail_entries: int = 1_000
    """Entries below the snapshot that are kept, so that a replica that lags a little needs no snapshot."""
    in_flight_max: int = 4_096
    """Proposals in the log and not yet committed; the others wait in front of it."""
    apply_turn_max: int = 1_000
    """Entries applied in one turn of the loop."""
    snapshot_turn_ms: float = 2.0
    """How long one turn may write at a snapshot."""
    chunk_bytes: int = 256 << 10
    chunks_in_flight_max: int = 4
    peer_window_bytes: int = 8 << 20
    """What may wait for one peer before it is sent no further entries for the moment."""
    peer_queue_bytes_max: int = 32 << 20
    """What may wait for one peer before its stream is cut and everything in it dropped."""


class RaftConfig(msgspec.Struct, frozen=True):
    """One replica. `peers` maps the id of every replica, this one included, to its host:port."""

    cluster_id: str
    node_id: str
    peers: dict[str, str]
    data_dir: Path
    election_ms_min: float = 400
    election_ms_max: float = 800
    append_period_ms: float = 50
    tls: TlsConfig | None = None
    rejoin: bool = False
    """Start over with an empty journal when it is missing or damaged, and vote only after having caught up."""
    limits: RaftLimits = RaftLimits()

    @property
    def others(self) -> tuple[str, ...]:
        """The other replicas' ids, sorted. A replica that lists itself is expected, not a mistake."""
        return tuple(sorted(peer for peer in self.peers if peer != self.node_id))

    @property
    def quorum(self) -> int:
        """How many replicas, this one included, make a majority."""
        return (len(self.others) + 1) // 2 + 1

    def check(self) -> "RaftConfig":
        """Return it, or raise BadInput naming the field."""
        check_node_id(self.node_id)
        for peer in self.peers:
            check_node_id(peer, "peers")
        if len(set(self.peers.values())) != len(self.peers):
            raise BadInput("peers", "two replicas have the same address")
        if self.append_period_ms * 3 >= self.election_ms_min:
            raise BadInput("election_ms_min", f"must be more than three append periods ({self.append_period_ms} ms)")
        if self.election_ms_min >= self.election_ms_max:
            raise BadInput("election_ms_max", "must be more than election_ms_min, or votes keep being split")
        if not 0 < self.limits.command_bytes_max <= COMMAND_BYTES_LIMIT:
            raise BadInput("command_bytes_max", f"must be 1 to {COMMAND_BYTES_LIMIT}")
        if self.rejoin and not self.others:
            raise BadInput("--rejoin", "a single replica has nobody to rejoin: restore a backup instead")
        return self
