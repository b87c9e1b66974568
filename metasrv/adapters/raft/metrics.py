"""What a replica says of itself to Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class RaftMetrics:
    """One process's Raft figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.term = Gauge("metasrv_raft_term", "The current term", registry=registry)
        self.leads = Gauge("metasrv_raft_is_leader", "1 while this replica leads", registry=registry)
        self.applied = Gauge("metasrv_raft_applied_revision", "The last applied entry", registry=registry)
        self.elections = Counter("metasrv_raft_elections", "Elections that this replica started", registry=registry)
        self.commit_s = Histogram(
            "metasrv_raft_commit_seconds", "From a command's append to its apply", registry=registry, buckets=_FAST_S
        )
        self.sync_s = Histogram(
            "metasrv_raft_sync_seconds", "One sync of the journal", registry=registry, buckets=_FAST_S
        )
        self.turn_s = Histogram(
            "metasrv_raft_turn_seconds", "One turn of the loop, syncs included", registry=registry, buckets=_FAST_S
        )
        self.stall_max_s = Gauge(
            "metasrv_raft_stall_max_seconds", "The longest turn since the start", registry=registry
        )
        self.journal_bytes = Gauge("metasrv_raft_journal_bytes", "The journal's file", registry=registry)
        self.disk_full = Gauge("metasrv_raft_disk_full", "1 while the journal cannot be written", registry=registry)
        self._stall_max_s = 0.0

    def turned(self, seconds: float) -> None:
        """One turn took so long."""
        self.turn_s.observe(seconds)
        if seconds > self._stall_max_s:
            self._stall_max_s = seconds
            self.stall_max_s.set(seconds)
