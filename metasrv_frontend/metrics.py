"""The frontend's metrics. No label grows with tables, regions or clients."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("frontend_requests", "Requests answered", ["face", "status"], registry=self.registry)
        self.rows = Counter("frontend_written_rows", "Rows acknowledged", registry=self.registry)
        self.retries = Counter(
            "frontend_retries", "Attempts at a region that did not succeed", ["outcome"], registry=self.registry
        )
        self.write_seconds = Histogram(
            "frontend_write_seconds", "Time to acknowledge a write", buckets=_SECONDS, registry=self.registry
        )
        self.query_seconds = Histogram(
            "frontend_query_seconds", "Time to answer a statement", buckets=_SECONDS, registry=self.registry
        )
        self.scanned_bytes = Counter(
            "frontend_scanned_bytes", "Arrow bytes received from datanodes", registry=self.registry
        )
        self.in_flight_bytes = Gauge(
            "frontend_in_flight_bytes", "Bytes of write bodies being handled", registry=self.registry
        )
