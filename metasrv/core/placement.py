"""Which lane of which datanode takes what: the room that is left, and the order in which it is given away.

Spread is by load against stated capacity, so that what a site loses ends up on all others alike; a node that settled
comes before one that has just returned (T16), and one that works before one that may be the next to be given up (T17);
a datanode that has not been heard for a while takes nothing (T18).
"""

from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heapreplace

from groundwork.core.ids import Lane, Locality
from metasrv.core.leases import Inventory
from metasrv.core.records import NodeStatus, Pause
from metasrv.core.state import State

UNLIMITED = 10_000_000


def dubious_ms(state: State) -> float:
    """A datanode that is silent for so long is given nothing: it may be the next to be lost."""
    return max(2.5 * state.config.beat_ms, state.config.lease_ms / 2)


def silent_for_now(state: State, inventory: Inventory) -> list[str]:
    """Datanodes that take nothing for their silence only, and are not suspected for it yet: they may be heard again."""
    up = [n.node_id for n in state.nodes.values() if n.status is NodeStatus.UP]
    return sorted(n for n in up if inventory[n].silent_ms >= dubious_ms(state))


def pause_of(state: State, wall_ms: int, node_id: str = "", table: str = "") -> Pause | None:
    """The pause that covers a node or a table now. An expired one does not count, whether or not it is tidied up."""
    node = state.nodes.get(node_id)
    scopes = ["cluster"]
    if node:
        scopes += [f"site/{Locality.parse(node.locality).site}", f"node/{node_id}"]
    if table:
        scopes.append(f"table/{table}")
    for scope in scopes:
        pause = state.pauses.get(scope)
        if pause and (not wall_ms or pause.expires_wall_ms > wall_ms):
            return pause
    return None


class Pool:
    """The lanes that may take regions now, and how many more."""

    def __init__(
        self, state: State, inventory: Inventory, without: Collection[Lane] = (), without_nodes: Collection[str] = ()
    ) -> None:
        """`without`: lanes and nodes that are about to be ended."""
        self._free: dict[str, int] = {}
        self._capacity: dict[str, int] = {}
        self._settled: dict[str, bool] = {}
        self._doubtful: dict[str, bool] = {}
        self._heard: dict[str, bool] = {}
        self._lanes: dict[str, dict[Lane, int]] = {}
        inbound: dict[str, int] = {}
        for migration in state.migrations.values():
            inbound[migration.target.node_id] = inbound.get(migration.target.node_id, 0) + 1
        for node in sorted(state.nodes.values(), key=lambda n: n.node_id):
            view = inventory.get(node.node_id)
            if node.status is not NodeStatus.UP or node.node_id in without_nodes or node.node_id in state.drains:
                continue
            if view is None or not view.well or view.silent_ms >= dubious_ms(state):
                continue
            lanes = [Lane(node.node_id, node.incarnation, i) for i in view.open_lanes]
            usable = {x: state.owned(x) for x in lanes if x not in without and not state.is_over(x)}
            if not usable:
                continue
            # What its lost lanes own has to be given away itself: at home it takes the room that it had.
            kept = sum(state.owned(x) for x in state.open_lanes(node.node_id) if x not in without)
            used = kept + inbound.get(node.node_id, 0)
            self._capacity[node.node_id] = node.capacity_regions or UNLIMITED
            self._free[node.node_id] = max(0, self._capacity[node.node_id] - used)
            self._settled[node.node_id] = view.settled
            self._doubtful[node.node_id] = view.doubtful
            self._heard[node.node_id] = view.known
            self._lanes[node.node_id] = usable

    def nodes(self) -> list[str]:
        """Datanodes that may take regions, whether or not they have room."""
        return list(self._free)

    def free(self) -> int:
        """Regions that fit in all."""
        return sum(self._free.values())

    def load(self, node_id: str, more: int = 0) -> float:
        """The share of its capacity that a node would use with `more` regions on top."""
        capacity = self._capacity[node_id]
        return (capacity - self._free[node_id] + more) / capacity

    def take(self, count: int, home: str = "", only: Iterable[str] | None = None) -> Lane | None:
        """The best lane with room for `count` regions, which it then has no more. `home`: the node that had them.

        A restarted home gets its own back before its first beat; what others lost it gets only once it was heard.
        """
        names = self._free if only is None else [n for n in only if n in self._free]
        fitting = [n for n in names if self._free[n] >= count and (self._heard[n] or n == home or not home)]
        if not fitting:
            return None
        best = min(fitting, key=lambda n: (n != home, self._doubtful[n], not self._settled[n], self.load(n, count), n))
        return self.put(best, count)

    def spread(self, regions: int) -> list[Lane]:
        """As take(1) so many times, until nothing has room; one step costs the same however many nodes there are."""

        def rank(node_id: str) -> tuple[bool, bool, float, str]:
            return self._doubtful[node_id], not self._settled[node_id], self.load(node_id, 1), node_id

        heap = [rank(n) for n, free in self._free.items() if free]
        heapify(heap)
        taken: list[Lane] = []
        while heap and len(taken) < regions:
            node_id = heap[0][-1]
            taken.append(self.put(node_id, 1))
            if self._free[node_id]:
                heapreplace(heap, rank(node_id))
            else:
                heappop(heap)
        return taken

    def put(self, node_id: str, count: int) -> Lane:
        """Count `count` regions on the emptiest lane of a node."""
        lanes = self._lanes[node_id]
        lane = min(lanes, key=lambda x: (lanes[x], x))
        lanes[lane] += count
        self._free[node_id] -= count
        return lane

    def roomiest(self, only: Iterable[str] | None = None) -> tuple[str, int] | None:
        """The node with the most room, and how much; None when nothing fits anywhere."""
        names = [n for n in (self._free if only is None else only) if n in self._free and self._heard[n]]
        best = max(names, key=lambda n: (not self._doubtful[n], self._settled[n], self._free[n], n), default=None)
        best = best if best and self._free[best] else max(names, key=lambda n: (self._free[n], n), default=None)
        return (best, self._free[best]) if best and self._free[best] else None

    def fingerprint(self) -> tuple[tuple[str, int, int, bool], ...]:
        """Equal when a plan would meet the same room, open to the same regions."""
        return tuple((n, self._free[n], len(self._lanes[n]), self._heard[n]) for n in self._free)
