"""One command's writes: keeps the indexes, the audit trail and the lists of what it touched.

A handler judges first and writes afterwards: it raises Refused only before its first write.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from groundwork.core.check import require
from groundwork.core.ids import Lane
from metasrv.core.events import EVENT_REGIONS_MAX, Event, Outcome
from metasrv.core.records import LaneState, Migration, Node, NodeStatus, Phase, Region, Stay, StayEnd, Table
from metasrv.core.state import State


class Refused(Exception):
    """The command does not hold any more. The text is for people."""


class Transaction:
    """See the module docstring."""

    def __init__(self, state: State, revision: int, wall_ms: int) -> None:
        self.state, self.revision, self.wall_ms = state, revision, wall_ms
        self.rejected: list[tuple[int, str]] = []
        self._events: list[Event] = []
        self._orders: dict[str, set[int]] = {}
        self._nodes: set[str] = set()
        self._regions: set[int] = set()
        self._tables: set[int] = set()
        self._trims: set[str] = set()
        self._epoch = 0
        self.expired: set[str] = set()  # scopes whose pause ended by itself with this very command
        self._expire_pauses()

    def _expire_pauses(self) -> None:
        for pause in [p for p in self.state.pauses.values() if 0 < p.expires_wall_ms <= self.wall_ms]:
            del self.state.pauses[pause.scope]
            self.expired.add(pause.scope)
            self.event("resume", f"the pause of {pause.scope} ({pause.reason or 'no reason given'}) expired")

    # --- tokens

    def token(self) -> int:
        """The next token. Tokens only grow."""
        taken = self.state.next_token
        require(taken > 0, "a token was asked for before the bootstrap")
        self.state.next_token = taken + 1
        return taken

    def epoch(self) -> int:
        """The one token that all regions assigned by this command share."""
        self._epoch = self._epoch or self.token()
        return self._epoch

    # --- nodes and lanes

    def set_node(self, node: Node) -> None:
        """Write a node record."""
        self.state.nodes[node.node_id] = node
        self._nodes.add(node.node_id)
        self._orders.setdefault(node.node_id, set())

    def add_lane(self, lane: Lane) -> None:
        """A lane of a new incarnation."""
        require(lane not in self.state.lanes, f"lane {lane} would be used twice")
        self.state.lanes[lane] = LaneState(changed=self.revision)
        self.state.index_lane(lane)

    def end_lanes(self, lanes: Iterable[Lane]) -> None:
        """These lanes are over: their regions are lost, and migrations to or from them end here."""
        state = self.state
        fresh = [lane for lane in lanes if not state.is_over(lane)]
        for lane in fresh:
            state.lanes[lane] = replace(state.lanes[lane], over=True)
            owned = [r for r in state.staying.get(lane, ()) if state.regions[r].lane == lane]
            self._regions.update(owned)
            self._orders.setdefault(lane.node_id, set()).update(owned)
        ended = set(fresh)
        for region_id, migration in list(state.migrations.items()) if ended else ():
            if migration.source in ended or migration.target in ended:
                self.end_migration(region_id)

    def end_incarnation(self, node: Node, status: NodeStatus, why: str) -> None:
        """The incarnation is over, and all its lanes with it."""
        self.end_lanes(
            lane for lane in self.state.lanes_of.get(node.node_id, ()) if lane.incarnation == node.incarnation
        )
        self.set_node(replace(node, status=status, why=why))

    def cover_lane(self, lane: Lane, position: int) -> None:
        """Some report covered the lane up to here."""
        record = self.state.lanes.get(lane)
        if record:
            reached = max(record.reached, position)
            self.state.lanes[lane] = replace(record, reached=reached, changed=self.revision)

    def set_trim(self, lane: Lane, below: int, trimmer: str | None) -> None:
        """Commit a trim point. Where a report raised the limit meanwhile it is not the last: it is looked at again."""
        record = self.state.lanes[lane]
        computed = self.revision if below == self.state.trim_limit(lane) else record.computed
        self.state.lanes[lane] = replace(record, trim=max(record.trim, below), computed=computed)
        if below > record.trim and trimmer:
            self._trims.add(trimmer)

    # --- regions

    def set_region(self, region_id: int, new: Region | None) -> None:
        """Write, or with None remove, a region."""
        state = self.state
        old = state.regions.get(region_id)
        if old is not None and new is not None and new.epoch < old.epoch:
            require(False, f"the epoch of region {region_id} would go back")
        state.index_region(region_id, old, new)
        if new is None:
            del state.regions[region_id]
            state.failures.pop(region_id, None)
        else:
            state.regions[region_id] = new
        if old and new and old.phase is new.phase and old.epoch == new.epoch and old.lane == new.lane:
            return
        self._regions.add(region_id)
        if old and new and _same_order(old, new):
            return
        for region in (old, new):
            if region:
                self._orders.setdefault(region.lane.node_id, set()).add(region_id)

    def assign(self, region_id: int, target: Lane, ends: tuple[StayEnd, ...] = ()) -> None:
        """A new owner under the command's epoch: it enters the trim index here, not at its first report.

        Hand-over positions committed earlier go along until their stay is covered: nobody may have claimed yet.
        """
        state, epoch = self.state, self.epoch()
        if state.is_over(
            target
        ):  # the message is made only where it is needed: thousands of regions are assigned at once
            require(False, f"region {region_id} would go to {target}, which is over")
        old = state.regions.get(region_id)
        stays = old.stays if old else ()
        carried = (*old.ends, *ends) if old else ends
        if carried:
            named = {(s.lane, s.epoch) for s in stays}
            carried = tuple(e for e in carried if (e.lane, e.stay_epoch) in named)
        phase = Phase.DROPPING if old and old.phase is Phase.DROPPING else Phase.OPENING
        failure = state.failures.get(region_id)
        if failure is not None and not failure.accepted:
            del state.failures[region_id]
        self.set_region(region_id, Region(target, epoch, phase, epoch, (*stays, Stay(target, epoch)), carried))
        record = state.lanes[target]
        if record.changed != self.revision:
            state.lanes[target] = replace(record, changed=self.revision)

    def set_migration(self, region_id: int, migration: Migration) -> None:
        """Write a migration."""
        self.state.migrations[region_id] = migration
        self._orders.setdefault(migration.target.node_id, set()).add(region_id)

    def end_migration(self, region_id: int, resume: bool = True) -> None:
        """Forget a migration; an owner that was told to stop resumes, under a new epoch, in the stay it has."""
        migration = self.state.migrations.pop(region_id)
        self._orders.setdefault(migration.target.node_id, set()).add(region_id)
        region = self.state.regions[region_id]
        if resume and region.phase is Phase.STOPPING and not self.state.is_over(region.lane):
            self.set_region(region_id, replace(region, epoch=self.epoch(), phase=Phase.SERVING))

    def set_table(self, table: Table | None, table_id: int = 0) -> None:
        """Write a table, or with None remove the one of `table_id`, which frees its name."""
        if table is None:
            gone = self.state.tables.pop(table_id)
            del self.state.names[gone.name]
        else:
            table_id = table.table_id
            self.state.tables[table_id] = table
            self.state.names[table.name] = table_id
        self._tables.add(table_id)

    # --- what is told

    def event(
        self, kind: str, sentence: str, nodes: Iterable[str] = (), regions: Iterable[int] = (), token: int = 0,
        **fields: object,
    ) -> None:  # fmt: skip
        """Add to the audit trail."""
        first = tuple(sorted(regions)[:EVENT_REGIONS_MAX])
        texts = {k: str(v) for k, v in fields.items()}
        names = tuple(dict.fromkeys(nodes))
        entry = Event(self.revision, self.wall_ms, kind, sentence, names, first, token or self._epoch, texts)
        self._events.append(entry)
        self.state.audit.append(entry)

    def reject(self, index: int, reason: str) -> None:
        """One report of many does not count."""
        self.rejected.append((index, reason))

    def told(self) -> tuple[Event, ...]:
        """The entries of the audit trail so far."""
        return tuple(self._events)

    def outcome(self, kind: str, value: int) -> Outcome:
        """Everything that was touched; bumps the orders revision of each node whose orders may have changed."""
        nodes = self.state.nodes
        for node_id in self._orders:
            if node_id in nodes:
                nodes[node_id] = replace(nodes[node_id], orders_revision=self.revision)
        orders = {n: tuple(sorted(self._orders[n])) for n in sorted(self._orders)}
        return Outcome(
            self.revision, kind, value, events=self.told(), orders=orders, trims=tuple(sorted(self._trims)),
            regions=tuple(sorted(self._regions)), nodes=tuple(sorted(self._nodes)), tables=tuple(sorted(self._tables)),
            rejected=tuple(self.rejected),
        )  # fmt: skip


def _same_order(old: Region, new: Region) -> bool:
    """Opening and serving under the same epoch are the same order."""
    steady = (Phase.OPENING, Phase.SERVING)
    return (old.lane, old.epoch) == (new.lane, new.epoch) and old.phase in steady and new.phase in steady
