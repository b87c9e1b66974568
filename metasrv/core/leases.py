"""Who was heard when, and whether a beat may be granted a lease. In memory, on every replica; none of it is replicated.

A grant is sound only if the leader called `confirm()` AFTER it received the beat: the service does that, then asks
`decide`. Times are this replica's own clock, in ms; ages come from other replicas as durations, never as times.
"""

import enum
import math
from collections.abc import Iterable, Mapping

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


class Past(Struct, frozen=True):
    """What a replica knows of the leaders before: its term, and how long ago it last heard each of them lead.

    One that has listened for less than a lease (`listening_ms`) has forgotten what it heard and granted before.
    """

    term: int = 0
    led_ago_ms: Mapping[str, float] = {}
    listening_ms: float = math.inf


NO_PAST = Past()


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
    hung_lanes: tuple[int, ...] = ()  # open, and their appends hang while others of the node work
    doubtful: bool = False  # its proof of work is half as old as would condemn it: it may be the next (T17)
    opening: bool = False  # registered and heard, but not all of its lanes are open yet: it can acknowledge nothing


Inventory = dict[str, NodeView]


class _Memory(Struct):
    """What this replica remembers of one node, in its latest incarnation."""

    incarnation: int
    heard_at_ms: float  # by any replica that reported; meaningless while not known
    known: bool  # false: registered, and never heard
    first_ms: float
    well_since_ms: float | None = None
    beat: Beat | None = None
    beat_at_ms: float = 0.0


class LeaseBook:
    """The memory of one replica; see the module docstring."""

    def __init__(self, replica_id: str, replicas: Iterable[str] = (), lease_ms: int = Config().lease_ms) -> None:
        """`replica_id` is this replica's node id, one of `replicas`. The lease holds until a state says another."""
        self._id = replica_id
        self._replicas = frozenset(replicas) | {replica_id}
        self._nodes: dict[str, _Memory] = {}
        self._elected_ms: float | None = None
        self._term = 0
        self._reported: dict[str, float] = {}  # who reported -> for how long it had been listening then, ms
        self._vouching: set[str] = set()  # they reported in the leader's term: no older leader gets an answer from them
        self._led_at_ms: dict[str, float] = {}  # replica -> when one that vouches last heard it as the leader
        self._own: dict[str, float] = {}  # node id -> last beat that came here, directly or relayed
        self._theirs: dict[str, set[str]] = {}  # replica -> nodes that it heard within a lease, as it last said
        self._ticked_ms: float | None = None
        self._credit_ms = 0.0  # given and not yet told
        self._lease_ms = lease_ms

    # --- every replica

    def heard(self, beat: Beat, now_ms: float, age_ms: float = 0.0) -> None:
        """A beat arrived, here or (age_ms ago) at a replica that relays it. Older incarnations are ignored."""
        memory = self._note(beat.node_id, beat.incarnation, now_ms, now_ms - age_ms)
        if memory:
            self._own[beat.node_id] = max(self._own.get(beat.node_id, 0.0), now_ms - age_ms)
        if memory and now_ms - age_ms >= memory.beat_at_ms:
            memory.beat, memory.beat_at_ms = beat, now_ms - age_ms

    def registered(self, node_id: str, incarnation: int, now_ms: float) -> None:
        """This incarnation was registered through this leader: it is alive, and has proved nothing else yet.

        Its silence counts from here, not from the leader's election, long before it was known.
        """
        self._note(node_id, incarnation, now_ms, now_ms)

    def _note(self, node_id: str, incarnation: int, now_ms: float, at_ms: float) -> _Memory | None:
        memory = self._nodes.get(node_id)
        if memory is None or memory.incarnation < incarnation:
            # What the last incarnation proved of this machine counts until the new one speaks for itself.
            last = memory.beat if memory else None
            memory = self._nodes[node_id] = _Memory(incarnation, at_ms, True, now_ms, beat=last)
        elif memory.incarnation > incarnation:
            return None
        memory.heard_at_ms = max(memory.heard_at_ms, at_ms) if memory.known else at_ms
        memory.known = True
        return memory

    def awake(self, now_ms: float) -> None:
        """Note that this replica is awake; every node is credited with a gap over half a lease (T3).

        To be called all the time: by a leader that waits for a commit, which hears beats then and is not away, and by a
        follower: what it did not hear while it slept must not be held against anybody, whoever asks it or elects it.
        """
        before, self._ticked_ms = self._ticked_ms, now_ms
        if before is None or now_ms - before <= self._lease_ms / 2:
            return
        credit = now_ms - before
        self._credit_ms += credit
        for memory in self._nodes.values():
            memory.heard_at_ms = min(now_ms, memory.heard_at_ms + credit)
            memory.first_ms = min(now_ms, memory.first_ms + credit)
        if self._elected_ms is not None:
            self._elected_ms = min(now_ms, self._elected_ms + credit)
        self._led_at_ms = {leader: min(now_ms, at_ms + credit) for leader, at_ms in self._led_at_ms.items()}

    def memory(self, now_ms: float) -> list[Heard]:
        """What this replica heard: the answer to Replicas.Heard."""
        return [
            Heard(node_id, m.incarnation, max(0.0, now_ms - m.heard_at_ms))
            for node_id, m in sorted(self._nodes.items())
            if m.known
        ]

    def led_by(self, leader_id: str | None) -> None:
        """Raft says who leads (call at each change)."""
        if leader_id != self._id:
            self._elected_ms = None

    # --- the leader

    def elected(self, now_ms: float, past: Past = NO_PAST) -> None:
        """This replica begins to lead. What it heard as a follower counts; who reported before does not."""
        self._elected_ms = now_ms
        self._ticked_ms, self._credit_ms = None, 0.0
        self._term = past.term
        self._reported, self._vouching, self._led_at_ms = {}, set(), {}
        self._theirs = {}
        self._looks_back(self._id, past, now_ms)
        for memory in self._nodes.values():
            memory.well_since_ms = None

    def reported(self, replica_id: str, nodes: Iterable[Heard], now_ms: float, past: Past = NO_PAST) -> None:
        """Another replica's answer to Replicas.Heard."""
        self._looks_back(replica_id, past, now_ms)
        theirs = list(nodes)
        self._theirs[replica_id] = {n.node_id for n in theirs if n.age_ms < self._lease_ms}
        for node in theirs:
            self._note(node.node_id, node.incarnation, now_ms, now_ms - node.age_ms)

    def _looks_back(self, replica_id: str, past: Past, now_ms: float) -> None:
        self._reported[replica_id] = past.listening_ms
        if past.term >= self._term:
            self._vouching.add(replica_id)
            for leader_id, ago_ms in past.led_ago_ms.items():
                at_ms = now_ms - ago_ms
                self._led_at_ms[leader_id] = max(at_ms, self._led_at_ms.get(leader_id, at_ms))

    def tick(self, now_ms: float, config: Config) -> float:
        """As awake(). The credit that was given since the last tick, 0 for none."""
        self._lease_ms = config.lease_ms
        self.awake(now_ms)
        credit, self._credit_ms = self._credit_ms, 0.0
        return credit

    def silence_ms(self, node_id: str, incarnation: int, now_ms: float) -> float:
        """For how long no reporting replica has heard this incarnation, as far as it may be held against the node.

        Counted from the last time any reporting replica heard it. Where none heard it, from the election (or its
        registration). Not from before the last grant that a replica which does not report may have given as a leader.
        """
        memory = self._nodes.get(node_id)
        if memory is None or memory.incarnation != incarnation:
            first = self._elected_ms if memory is None and self._elected_ms is not None else now_ms
            last = memory.beat if memory else None
            memory = self._nodes[node_id] = _Memory(incarnation, first, False, first, beat=last)
        since = memory.heard_at_ms if memory.known else memory.first_ms
        if self._elected_ms is not None:
            since = max(since, self._unseen_grant_ms(self._elected_ms) if memory.known else self._elected_ms)
        return max(0.0, now_ms - since)

    def _unseen_grant_ms(self, elected_ms: float) -> float:
        """The latest time of a beat that a leader which does not report may have answered with a grant.

        Each grant waited for a quorum that answered after the beat. So it came no later than some member of the quorum
        last heard that leader, nor than the election, where members may be missing (docs/decisions/0007).
        """
        knowing = {replica for replica, ms in self._reported.items() if ms >= self._lease_ms}
        silent = self._replicas - knowing
        if not silent:
            return -math.inf
        unvouched = self._replicas - (self._vouching & knowing)
        if 2 * len(unvouched) > len(self._replicas):
            return elected_ms  # they could have been a quorum among themselves
        return min(elected_ms, max(self._led_at_ms.get(replica, -math.inf) for replica in silent))

    def hears_more(self, now_ms: float) -> tuple[str, int, int]:
        """The replica that hears more datanodes than this one, how many, and how many this one hears; "" for none."""
        mine = sum(now_ms - at < self._lease_ms for at in self._own.values())
        counts = sorted(((len(nodes), replica) for replica, nodes in self._theirs.items()), key=lambda c: (-c[0], c[1]))
        if counts and counts[0][0] > mine:
            return counts[0][1], counts[0][0], mine
        return "", 0, mine

    def was_heard(self, node_id: str, incarnation: int, now_ms: float) -> bool:
        """Some replica heard this incarnation within a lease. An election alone is not hearing."""
        memory = self._nodes.get(node_id)
        if memory is None or memory.incarnation != incarnation or not memory.known:
            return False
        return now_ms - memory.heard_at_ms < self._lease_ms

    def may_judge(self, now_ms: float, config: Config, replicas: Iterable[str]) -> bool:
        """Whether enough is known after the election: all replicas reported, or two beats have passed."""
        if self._elected_ms is None:
            return False
        return self._reported.keys() >= set(replicas) or now_ms - self._elected_ms >= min(
            2 * config.beat_ms, config.lease_ms
        )

    def decide(self, state: State, beat: Beat) -> Grant | Refusal:
        """Grant or refuse a beat that the leader received before its confirm() round began."""
        node = state.nodes.get(beat.node_id)
        if node is None:
            return Refusal.UNKNOWN_NODE
        if node.incarnation != beat.incarnation or node.status > NodeStatus.SUSPECT:
            return Refusal.SUPERSEDED
        if node.status is NodeStatus.SUSPECT:
            return Refusal.SUSPECTED
        lanes = tuple(lane.index for lane in state.open_lanes(node.node_id))
        return Grant(state.config.lease_ms, node.orders_revision, lanes)

    def may_register(self, state: State, node_id: str, now_ms: float) -> bool:
        """Whether the registered incarnation was heard within a lease: for Register.heard."""
        self._lease_ms = state.config.lease_ms
        node = state.nodes.get(node_id)
        return node is not None and self.was_heard(node_id, node.incarnation, now_ms)

    def inventory(self, state: State, now_ms: float) -> Inventory:
        """Every registered node, as seen now. Also keeps the time since when each has been well."""
        return {node_id: self._view(state, node_id, now_ms) for node_id in sorted(state.nodes)}

    def _view(self, state: State, node_id: str, now_ms: float) -> NodeView:
        node, config = state.nodes[node_id], state.config
        silent = self.silence_ms(node_id, node.incarnation, now_ms)
        memory = self._nodes[node_id]
        why = _unwell(memory.beat, config.unwell_ms)
        doubtful = bool(_unwell(memory.beat, config.unwell_ms / 2))
        beat = memory.beat if memory.beat and memory.beat.incarnation == node.incarnation else None
        up = node.status is NodeStatus.UP and silent < config.lease_ms
        if not up or why:
            memory.well_since_ms = None
        elif memory.well_since_ms is None:
            memory.well_since_ms = now_ms
        since = memory.well_since_ms
        settled = since is not None and now_ms - since >= config.settle_ms
        lanes = [lane.index for lane in state.open_lanes(node_id)]
        opened = {h.index for h in beat.lanes if h.open} if beat else set()
        # Where no beat came here yet, regions in its lanes say that they are open.
        opening = up and not opened.issuperset(lanes) and (beat is not None or not state.node_region_count(node_id))
        if beat and beat.lanes:
            good = {h.index for h in beat.lanes if h.open and h.append_age_ms < config.unwell_ms}
            lanes = [i for i in lanes if i in good]
        unflushed = beat.unflushed_bytes if beat else 0
        hung = _hung(beat, config) if beat and not why else ()
        return NodeView(
            node_id, silent, memory.known, not why, settled, tuple(lanes), why, unflushed, hung, doubtful, opening
        )


def _unwell(beat: Beat | None, unwell_ms: float) -> str:
    """Why the node's own proof of work condemns it, or "" (T5, T6, T7). A lane without an OPEN yet proves nothing."""
    if beat is None:
        return ""
    if beat.store_probe_age_ms >= unwell_ms:
        return f"its last good object-store probe is {beat.store_probe_age_ms:,} ms old"
    opened = [h for h in beat.lanes if h.open]
    if opened and min(h.append_age_ms for h in opened) >= unwell_ms:
        return f"no append on any lane became durable for {min(h.append_age_ms for h in opened):,} ms"
    return ""


def _hung(beat: Beat, config: Config) -> tuple[int, ...]:
    return tuple(h.index for h in beat.lanes if h.open and h.append_age_ms >= config.unwell_ms)
