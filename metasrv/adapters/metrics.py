"""What /metrics tells. One registry a process; no label whose values grow without bound."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_PHASE_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 60_000)


class Metrics:
    """All metrics of one replica."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.beats = Counter("metasrv_beats", "Heartbeats heard", ["way"], registry=registry)
        self.relayed = Counter("metasrv_beats_relayed", "Answers of the leader passed on", registry=registry)
        self.grants = Counter("metasrv_grants", "Leases granted or renewed", registry=registry)
        self.refusals = Counter("metasrv_refusals", "Beats or requests refused", ["why"], registry=registry)
        self.suspects = Counter("metasrv_suspects", "Nodes suspected", registry=registry)
        self.failovers = Counter("metasrv_failovers", "Failovers committed", registry=registry)
        self.commands = Counter("metasrv_commands", "Commands applied", ["kind"], registry=registry)
        self.command_refusals = Counter("metasrv_commands_refused", "Commands refused", ["kind"], registry=registry)
        self.decisions = Counter(
            "metasrv_decisions", "Decisions of the leader, each with its sentence in the log", registry=registry
        )
        self.propose_ms = Histogram(
            "metasrv_propose_ms", "From proposal to applied", buckets=(1, 2, 5, 10, 25, 50, 100, 250, 1_000, 5_000),
            registry=registry,
        )  # fmt: skip
        self.failover_ms = Histogram(
            "metasrv_failover_phase_ms", "Phases of failovers", ["phase"], buckets=_PHASE_MS, registry=registry
        )
        self.nodes = Gauge("metasrv_nodes", "Datanodes by status", ["status"], registry=registry)
        self.regions = Gauge("metasrv_regions", "Regions by phase", ["phase"], registry=registry)
        self.lease_ms = Gauge("metasrv_lease_ms", "The lease, as configured", registry=registry)
        self.silent_ms = Gauge(
            "metasrv_silence_max_ms", "The longest silence of a datanode that is up or suspect; on the leader",
            registry=registry,
        )  # fmt: skip
        self.unwell = Gauge("metasrv_nodes_unwell", "Datanodes with a lane or store that hangs", registry=registry)
        self.lanes = Gauge("metasrv_lanes", "Lanes by standing; over: somebody still needs it", ["standing"],
                           registry=registry)  # fmt: skip
        self.procedures = Gauge(
            "metasrv_procedures", "Procedures in flight: moving regions, drains, drops", ["kind"], registry=registry
        )
        self.pauses = Gauge("metasrv_pauses", "Scopes that an operator paused", registry=registry)
        self.in_flight = Gauge("metasrv_proposals_in_flight", "Commands proposed and not applied", registry=registry)
        self.leader = Gauge("metasrv_leader", "1 on the replica that leads", registry=registry)
        self.term = Gauge("metasrv_term", "Consensus term as known here", registry=registry)
        self.revision = Gauge("metasrv_applied_revision", "Revision of the applied state", registry=registry)
        self.watchers = Gauge("metasrv_watchers", "Open streams", ["kind"], registry=registry)
        self.loop_lag_ms = Gauge("metasrv_loop_lag_ms", "How late the last tick came", registry=registry)

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)
