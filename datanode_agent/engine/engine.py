"""The region engine of one datanode: lanes, regions, and the orders of metasrv carried out on them.

Everything runs on one event loop; heavy work goes through the Workers port. See docs/regions.md.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from datanode_agent.engine.config import EngineConfig
from groundwork.core.ports import Clock, LogStore, ObjectStore, Workers
from protos.datanode.v1 import datanode_pb2
from protos.metasrv.v1 import nodes_pb2


class LeaseView(Protocol):
    """What the engine asks of the lease keeper."""

    def valid(self) -> bool:
        """Whether this node may serve now."""
        ...


class LaneHealth(NamedTuple):
    """Proof of work of one lane."""

    index: int
    open: bool  # its OPEN mark is durable
    append_age_ms: float  # since the last append (or canary append) that became durable, or since it opened


Report = Callable[[nodes_pb2.RegionReport], None]


class Engine:
    """See the module docstring. Methods are called on the loop, except where they say otherwise."""

    def __init__(
        self,
        *,
        node_id: str,
        store: ObjectStore,
        logs: LogStore,
        clock: Clock,
        workers: Workers,
        config: EngineConfig,
        lease: LeaseView,
        report: Report,
        registry: CollectorRegistry | None = None,
    ) -> None:
        raise NotImplementedError

    async def start(self, incarnation: int, lanes: int) -> None:
        """Open this incarnation's lane writers (their OPEN marks) and begin. Raises Sealed, StoreUnavailable."""
        raise NotImplementedError

    def admit(self, lanes: Sequence[int]) -> None:
        """A grant that was asked for after OPEN was durable named these lanes: their appends may be acknowledged."""
        raise NotImplementedError

    def lanes_health(self) -> list[LaneHealth]:
        """Proof of work per lane. Reads plain numbers only: may be called from the heartbeat thread."""
        raise NotImplementedError

    def store_probe_age_ms(self) -> float:
        """Milliseconds since the object store last answered. May be called from the heartbeat thread."""
        raise NotImplementedError

    def apply(self, reply: nodes_pb2.OrdersReply) -> None:
        """Take orders: idempotent, at once; work goes on in tasks. Older epochs and attempts are ignored.

        Returns when every region that was taken away or stopped refuses writes already.
        """
        raise NotImplementedError

    async def write(
        self, writes: Sequence[datanode_pb2.RegionWrite], deadline_ms: float
    ) -> list[datanode_pb2.RegionOutcome]:
        """Write rows; one outcome per write, in order. `deadline_ms` is what is left of the caller's patience."""
        raise NotImplementedError

    def scan(self, request: datanode_pb2.ScanRequest, deadline_ms: float) -> AsyncIterator[datanode_pb2.ScanReply]:
        """Rows of one region as pieces of one Arrow IPC stream; or a refusal, also in the middle of it."""
        raise NotImplementedError

    async def flush(self, region_ids: Sequence[int]) -> list[datanode_pb2.RegionOutcome]:
        """Flush these regions now (none given: all that serve)."""
        raise NotImplementedError

    def regions(self) -> list[datanode_pb2.RegionInfo]:
        """What this node holds, for operators."""
        raise NotImplementedError

    def unflushed_bytes(self) -> int:
        """Bytes in memtables. May be called from the heartbeat thread."""
        raise NotImplementedError

    def memory_bytes(self) -> int:
        """Bytes counted against the memory budget. May be called from the heartbeat thread."""
        raise NotImplementedError

    def write_rows_per_s(self) -> int:
        """Rows acknowledged per second, lately. May be called from the heartbeat thread."""
        raise NotImplementedError

    async def stop(self, flush: bool) -> None:
        """End cleanly; with `flush`, every serving region is flushed first. Lanes are closed, not sealed."""
        raise NotImplementedError

    async def abandon(self) -> None:
        """This incarnation was superseded: close every region at once and forget all. start() may follow."""
        raise NotImplementedError
