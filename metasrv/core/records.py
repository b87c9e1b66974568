"""The records of the replicated state: frozen, small, and shared wherever two of them say the same.

Most are array-like on disk: fields are only ever appended, with a default, so that an older snapshot stays readable.
Times named `wall_ms` come from commands and are for people. None can be part of a cycle, so the garbage collector need
not walk over them (gc=False): with 1,000,000 regions a full collection took 184 ms.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct

from groundwork.core.ids import Lane, region_id
from groundwork.core.table import PARTITIONS_KEPT_MAX, Schema, TableInfo

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Token = Count
RegionId = Count
TEXT_CHARS_MAX = 2_000
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Name = Annotated[str, Meta(max_length=255)]
LANES_MAX = 64


class NodeStatus(enum.IntEnum):
    """What metasrv has committed about a datanode's current incarnation."""

    UP = 1
    SUSPECT = 2  # silent for a lease: no grants before Clear
    RELEASED = 3  # its death was witnessed, or it stopped gracefully: its lanes are over
    LOST = 4  # failed over: its lanes are over


class Phase(enum.IntEnum):
    """Where a region is. LOST is never stored: it is any region whose owner's lane is over."""

    OPENING = 1
    SERVING = 2
    STOPPING = 3
    LOST = 4
    DROPPING = 5


class Stay(Struct, frozen=True, array_like=True, gc=False):
    """A region's time in a lane: an entry of the trim index. Positions below `covered` are in SSTs."""

    lane: Lane
    epoch: Token  # of the claim that began it
    covered: Count = 0


class StayEnd(Struct, frozen=True, array_like=True, gc=False):
    """The committed hand-over position of one stay, exclusive."""

    lane: Lane
    stay_epoch: Token
    position: Count


class Region(Struct, frozen=True, array_like=True, gc=False):
    """One partition. `lane` is its owner's; `stay_epoch` is that of its claim there (below `epoch` once resumed)."""

    lane: Lane
    epoch: Token
    phase: Phase
    stay_epoch: Token
    stays: tuple[Stay, ...]
    ends: tuple[StayEnd, ...] = ()


class Node(Struct, frozen=True, gc=False):
    """A datanode under its node id, in its latest incarnation."""

    node_id: str
    incarnation: Token
    folder_id: str
    locality: str
    address: str
    capacity_regions: int
    lanes: int
    status: NodeStatus
    orders_revision: int = 0  # the last revision that changed its orders
    silent_ms: int = 0  # when it became suspect
    why: str = ""  # of its status
    registered_wall_ms: int = 0


class LaneState(Struct, frozen=True, array_like=True, gc=False):
    """What is committed about a lane. Without a record a lane is over."""

    over: bool = False
    reached: int = 0  # the highest position that any report covered: an end read no later than the index
    trim: int = 0  # positions below it may be deleted; only grows
    changed: int = 0  # revision of the last change to the stays in it
    computed: int = 0  # revision at which its trim point was last computed


class Table(Struct, frozen=True, gc=False):
    """A table. Its regions are `region_id(table_id, 0..partitions-1)`; while it is dropped they go one by one."""

    table_id: int
    name: str
    schema: Schema
    partition_columns: tuple[str, ...]  # fixed at creation, so that a tag added later moves no row
    partitions: Annotated[int, Meta(ge=1, le=PARTITIONS_KEPT_MAX)]
    priority: int = 0
    dropping: int = 0  # the token of the drop, 0: none
    remaining: int = 0  # regions not yet confirmed as dropped
    request_id: str = ""

    @property
    def region_ids(self) -> tuple[int, ...]:
        """In partition order."""
        return tuple(region_id(self.table_id, p) for p in range(self.partitions))

    def info(self) -> TableInfo:
        """What a client needs to know."""
        return TableInfo(self.table_id, self.name, self.schema, self.partition_columns, self.region_ids)


class Migration(Struct, frozen=True, array_like=True, gc=False):
    """A planned move of one region. `attempt` is its token; a report counts only for its own attempt."""

    attempt: Token
    source: Lane
    target: Lane
    stopping: bool = False  # the owner was told to stop; before that it serves while the target tails
    who: str = ""
    why: str = ""
    started_wall_ms: int = 0


class Drain(Struct, frozen=True, array_like=True, gc=False):
    """All regions are to leave this node, and none are placed on it."""

    procedure_id: Token
    who: str
    by_node: bool  # asked for by the datanode's own graceful stop: forgotten when it registers again
    started_wall_ms: int


class Pause(Struct, frozen=True, array_like=True, gc=False):
    """Maintenance: no failover and no voluntary move away within the scope, until it expires."""

    scope: str  # cluster, site/NAME, node/NAME, table/NAME
    reason: str
    who: str
    expires_wall_ms: int


class Failure(Struct, frozen=True, array_like=True, gc=False):
    """What the owner of a region last reported as gone wrong. Forgotten when the region serves again."""

    epoch: Token
    kind: str  # fenced, lane_over, lane_not_over, newer_epoch, trimmed, damaged, store_unavailable
    message: str
    read_only: bool
    wall_ms: int
    times: int = 1
    accepted: bool = False  # an operator accepted the loss: forgotten when the region serves


class Config(Struct, frozen=True, gc=False):
    """What every leader must agree on. Times in milliseconds."""

    lease_ms: Annotated[int, Meta(ge=50, le=600_000)] = 3_000
    beat_ms: Annotated[int, Meta(ge=10, le=60_000)] = 500
    tick_ms: Annotated[int, Meta(ge=1, le=10_000)] = 100  # how often the leader judges
    unwell_ms: Annotated[int, Meta(ge=100)] = 6_000  # since the last durable append, or store probe
    breaker_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.5
    failover_regions_max: Annotated[int, Meta(ge=1)] = 4_000  # in one command: an apply stalls all else (0008)
    moves_max: Annotated[int, Meta(ge=1, le=10_000)] = 16  # migrations in flight for operators and drains
    rebalance_moves_max: Annotated[int, Meta(ge=0, le=10_000)] = 4
    rebalance_spread: Annotated[float, Meta(ge=0, le=1)] = 0.1  # of the mean load: hysteresis
    settle_ms: Annotated[int, Meta(ge=0)] = 60_000  # a node must be well for so long before work is moved back to it
    prepare_deadline_ms: Annotated[int, Meta(ge=1)] = 120_000
    stop_deadline_ms: Annotated[int, Meta(ge=1)] = 2_000
    trim_every_ms: Annotated[int, Meta(ge=1)] = 5_000
