"""What the agent counts. The engine adds its own to the same registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry a process. No labels without a bound."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.lease_left_seconds = Gauge("datanode_lease_left_seconds", "Lease left; 0: may not serve", registry=r)
        self.incarnation = Gauge("datanode_incarnation", "Token of the registration in force", registry=r)
        self.registrations = Counter("datanode_registrations", "Registrations of this process", registry=r)
        self.beats_sent = Gauge("datanode_beats_sent", "Beats sent by this process", registry=r)
        self.beats_answered = Counter(
            "datanode_beats_answered", "Answers to beats, by what they said", ["answer"], registry=r
        )
        self.beat_round_trip_seconds = Histogram(
            "datanode_beat_round_trip_seconds", "From a beat's send time to its grant", buckets=_LATENCY_S, registry=r
        )  # fmt: skip
        self.leases_lost = Counter("datanode_leases_lost", "Times that the lease ran out or was ended", registry=r)
        self.orders_applied = Counter("datanode_orders_applied", "Orders applied, by kind", ["kind"], registry=r)
        self.orders_revision = Gauge("datanode_orders_revision", "Assignment revision that is applied", registry=r)
        self.orders_streams = Counter("datanode_orders_streams", "Orders streams opened", registry=r)
        self.reports_waiting = Gauge("datanode_reports_waiting", "Region reports that wait for an answer", registry=r)
        self.requests = Counter("datanode_requests", "Requests, by method", ["method"], registry=r)
        self.requests_in_flight = Gauge(
            "datanode_requests_in_flight", "Requests being answered", ["method"], registry=r
        )
        self.region_outcomes = Counter(
            "datanode_region_outcomes", "Outcomes per region and request", ["method", "outcome"], registry=r
        )  # fmt: skip
        self.write_rows = Counter("datanode_write_rows", "Rows of acknowledged writes", registry=r)
        self.write_bytes = Counter("datanode_write_bytes", "Bytes of acknowledged writes", registry=r)
        self.write_seconds = Histogram(
            "datanode_write_seconds", "Time to answer a write", buckets=_LATENCY_S, registry=r
        )
        self.scan_bytes = Counter("datanode_scan_bytes", "Bytes of answered scans", registry=r)
