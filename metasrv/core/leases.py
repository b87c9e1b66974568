"""Who was heard when, and whether a beat may be granted a lease. In memory, on every replica; nothing of it is replicated.

A grant is sound only if the leader called `confirm()` AFTER it received the beat: the service does that, then asks
`decide`. Times are this replica's own clock, in ms; ages come from other replicas as durations, never as times.
"""

import enum
from collections.abc import Iterable

from msgspec import Struct

from metasrv.core.records import Config, NodeStatus
from metasrv.core.state import State


class Refusal(enum.IntEnum):
    """The values of metasrv.v1.Refusal."""

    NOT_LEADER = 1
    SUSPECTED = 2
    SUPERSEDED = 3
    UNKNOWN_NODE = 4
    FOREIGN_CLUSTER = 5


class LaneHealth(Struct, frozen=True):
    """metasrv.v1.LaneHealth."""

    index: int
    open: bool
    append_age_ms: int


class Beat(Struct, frozen=True):
    """metasrv.v1.BeatRequest, without what only the service needs."""

    node_id: str
    incarnation: int
    lanes: tuple[LaneHealth, ...] = ()
    store_probe_age_ms: int = 0
    unflushed_bytes: int = 0
    memory_bytes: int = 0
    write_rows_per_s: int = 0


class Grant(Struct, frozen=True):
    """metasrv.v1.Grant."""

    lease_ms: int
    assignment_revision: int
    lanes: tuple[int, ...]


class Heard(Struct, frozen=True):
    """What a replica remembers of a node: metasrv.v1.HeardNode."""

    node_id: str
    incarnation: int
    age_ms: float


class NodeView(Struct, frozen=True):
    """A node as the leader sees it now. `open_lanes` are indices that beats call open and well."""

    node_id: str
    silent_ms: float
    known: bool  # some replica has heard this incarnation
    well: bool
    settled: bool  # well, and heard, for settle_ms without a break: work may be moved back to it
    open_lanes: tuple[int, ...]
    why_unwell: str = ""
    unflushed_bytes: int = 0


Inventory = dict[str, NodeView]


class _Memory(Struct):
    """What this replica remembers of one node."""

    incarnation: int
    heard_at_ms: float
    first_ms: float
    well_since_ms: float | None
    beat: Beat | None
    known: bool


class LeaseBook:
    """The memory of one replica; see the module docstring."""

    def __init__(self, replica_id: str) -> None:
        """`replica_id` is this replica's node id."""
        raise NotImplementedError

    # --- every replica

    def heard(self, beat: Beat, now_ms: float, age_ms: float = 0.0) -> None:
        """A beat arrived, here or (age_ms ago) at a replica that relays it. Older incarnations are ignored."""
        raise NotImplementedError

    def memory(self, now_ms: float) -> list[Heard]:
        """What this replica heard: the answer to Replicas.Heard."""
        raise NotImplementedError

    def led_by(self, leader_id: str | None) -> None:
        """Raft says who leads (call at each change, own leadership included, before elected())."""
        raise NotImplementedError

    # --- the leader

    def elected(self, now_ms: float) -> None:
        """This replica begins to lead. It judges nobody before judging_from_ms."""
        raise NotImplementedError

    def reported(self, replica_id: str, nodes: Iterable[Heard], now_ms: float) -> None:
        """Another replica's answer to Replicas.Heard."""
        raise NotImplementedError

    def tick(self, now_ms: float, config: Config) -> float:
        """Note that the leader is awake. After a gap over half a lease every node is credited with it (T3): the credit."""
        raise NotImplementedError

    def silence_ms(self, node_id: str, incarnation: int, now_ms: float) -> float:
        """For how long no reporting replica has heard this incarnation, as far as the leader may hold it against the node."""
        raise NotImplementedError

    def may_judge(self, now_ms: float, config: Config, replicas: Iterable[str]) -> bool:
        """Whether enough is known after the election: all replicas reported, or two beats have passed."""
        raise NotImplementedError

    def decide(self, state: State, beat: Beat) -> Grant | Refusal:
        """Grant or refuse a beat that the leader received before its confirm() round began."""
        raise NotImplementedError

    def may_register(self, state: State, node_id: str, now_ms: float) -> bool:
        """Whether the current incarnation counts as heard: for Register.heard."""
        raise NotImplementedError

    def inventory(self, state: State, now_ms: float) -> Inventory:
        """Every registered node, as seen now."""
        raise NotImplementedError


__all__ = ["NodeStatus"]
