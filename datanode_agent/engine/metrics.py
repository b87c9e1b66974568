"""What the engine counts. Never by region: labels are bounded."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class EngineMetrics:
    """One set per process."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        registry = registry or CollectorRegistry()
        self.writes = Counter("datanode_writes", "Writes to regions, by outcome", ["outcome"], registry=registry)
        self.scans = Counter("datanode_scans", "Scans, by outcome", ["outcome"], registry=registry)
        self.flushes = Counter("datanode_flushes", "Flushes, by reason", ["reason"], registry=registry)
        self.compactions = Counter("datanode_compactions", "Compactions committed", registry=registry)
        self.opens = Counter("datanode_region_opens", "Regions opened, by result", ["result"], registry=registry)
        self.replayed_bytes = Counter("datanode_replayed_bytes", "Bytes of lanes read by replays", registry=registry)
        self.lane_damage = Counter("datanode_lane_damage", "Damaged places met in lanes", registry=registry)
        self.claim_ms = Histogram("datanode_claim_ms", "Claim of one region", buckets=_MS, registry=registry)
        self.seal_ms = Histogram("datanode_seal_ms", "Seals before a claim, one region", buckets=_MS, registry=registry)
        self.replay_ms = Histogram(
            "datanode_replay_ms", "Claim to replayed, one region", buckets=_MS, registry=registry
        )
        self.open_ms = Histogram("datanode_open_ms", "Order to serving, one region", buckets=_MS, registry=registry)
        self.append_ms = Histogram("datanode_append_ms", "Append to durable", buckets=_MS, registry=registry)
        self.flush_ms = Histogram("datanode_flush_ms", "Freeze to committed", buckets=_MS, registry=registry)
        self.memory = Gauge("datanode_memory_bytes", "Counted against the budget", registry=registry)
        self.memory_budget = Gauge("datanode_memory_budget_bytes", "Past it writes are put off", registry=registry)
        self.unflushed = Gauge("datanode_unflushed_bytes", "In memtables: what a failover replays", registry=registry)
        self.store_probe_age = Gauge(
            "datanode_store_probe_age_ms", "Since the object store last answered", registry=registry
        )
        self.lane_open = Gauge("datanode_lane_open", "1 while the lane takes appends", ["lane"], registry=registry)
        self.lane_append_age = Gauge(
            "datanode_lane_append_age_ms", "Since the lane's last durable append", ["lane"], registry=registry
        )
        self.lane_appends_waiting = Gauge(
            "datanode_lane_appends_waiting", "Appends that are not durable yet", ["lane"], registry=registry
        )
        self.lane_appended = Gauge(
            "datanode_lane_appended_bytes", "Entries that became durable in this incarnation", ["lane"],
            registry=registry,
        )  # fmt: skip
        self.regions = Gauge("datanode_regions", "Regions, by state", ["state"], registry=registry)
