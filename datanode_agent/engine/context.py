"""What every part of the engine shares, and the regions' tables."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from datanode_agent.core.memory import MemoryBudget
from datanode_agent.engine.config import EngineConfig
from datanode_agent.engine.metrics import EngineMetrics
from datanode_agent.engine.waiting import Changed
from groundwork.core.ids import table_of
from groundwork.core.manifest import Origin
from groundwork.core.ports import Clock, LogStore, ObjectStore, Workers
from groundwork.core.table import Column, Role, Schema
from protos.metasrv.v1 import nodes_pb2, types_pb2

if TYPE_CHECKING:
    from datanode_agent.engine.lanes import OwnLane


class LeaseView(Protocol):
    """What the engine asks of the lease keeper."""

    def valid(self) -> bool:
        """Whether this node may serve now."""
        ...


Report = Callable[[nodes_pb2.RegionReport], None]


@dataclass(frozen=True)
class Table:
    """What orders say of a table."""

    table_id: int
    name: str
    schema: Schema
    partition_columns: tuple[str, ...]
    partitions: int


@dataclass
class Context:
    """One engine's surroundings. `incarnation` is 0 until start()."""

    node_id: str
    store: ObjectStore
    logs: LogStore
    clock: Clock
    workers: Workers
    config: EngineConfig
    lease: LeaseView
    report: Report
    metrics: EngineMetrics
    memory: MemoryBudget
    incarnation: int = 0
    lanes: dict[int, "OwnLane"] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    tables_changed: Changed = field(default_factory=Changed)
    replay_bytes_per_ms: float = 0.0
    _names: int = 0

    def unique(self) -> str:
        """A name that no other process and no other call gives out: the incarnation is one process life's alone."""
        self._names += 1
        return f"{self.incarnation:016x}-{self._names:x}"

    def learn(self, told: types_pb2.Table) -> None:
        """Keep a table's schema, unless a newer one is known."""
        columns = tuple(
            Column(c.name, c.type, Role(c.role), c.since_version or 1)  # type: ignore[arg-type]  # checked by metasrv
            for c in told.columns
        )
        known = self.tables.get(told.table_id)
        if known is None or known.schema.version <= told.schema_version:
            self.tables[told.table_id] = Table(
                told.table_id, told.name, Schema(told.schema_version, columns), tuple(told.partition_columns),
                len(told.region_ids) or 1,
            )  # fmt: skip

    def origin(self, region_id: int) -> Origin | None:
        """What a first manifest is made of, or None where the table is not known here."""
        table = self.tables.get(table_of(region_id))
        if table is None:
            return None
        return Origin(region_id, table.schema, table.name, table.partition_columns, table.partitions)
