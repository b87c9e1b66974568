"""Whose fault an outage is while faults overlap: each stage of it has a bound, and conditions that excuse it.

An outage of a region is a chain: somebody leads; a silent owner is noticed and failed over; what is lost gets an owner;
the owner opens the region; the frontend finds it. Ten times a virtual second each stage that somebody is in is looked
at. Its time counts from when it began, or from when the last of those that it needs became well again, whichever is
later: what it waited for before that is the faults' doing. So faults elsewhere excuse nothing, and a stage that stands
still with everything that it needs well is blamed, whatever else is broken. See docs/simulation.md for each bound.
"""

import math
from typing import TYPE_CHECKING

from groundwork.sim.network import KEEPALIVE_S
from groundwork.sim.processes import RUNNING
from metasrv.core.procedures import wait_ms
from metasrv.core.records import NodeStatus, Phase
from metasrv.core.state import State
from tests.sim.hosts import TIMING, DatanodeHost, Host, MetasrvHost

if TYPE_CHECKING:
    from tests.sim.world import World

LOOK_S = 0.1
DRIFT = 1.011  # on a clock that is slow by 1 %
TICK_S, BEAT_S, LEASE_S = TIMING.tick_ms / 1000, TIMING.beat_ms / 1000, TIMING.lease_ms / 1000
BACKOFF_S = 2.0  # the longest that anybody waits before it connects again
STALL_S = 3.0  # the longest that anybody listens to a stream that says nothing
ELECTED_S = 2 * 2.0 * DRIFT + 1.0  # a vote may be split; and a second for connections
ASKED_S = (
    0.3 + TICK_S
)  # a leader that doubts itself asks the others, again for each datanode that it has not asked about
SILENT_S = LEASE_S * DRIFT + TICK_S + 1.0  # and a second for two commits and what was on its way
PLACED_S = 2 * BEAT_S * DRIFT + TICK_S + 1.0  # a new leader judges nobody for two beats while a replica is dead
OPENED_S = STALL_S + BACKOFF_S + 1.0  # the order is found on another stream; then seal, claim, replay
STOPPED_S = 2.0 * DRIFT + TICK_S + 1.0  # stop_deadline_ms, then the move is cancelled
FOUND_S = STALL_S + BACKOFF_S + 1.0  # routes come on another stream, the owner is reached again
# Once all that it takes has been well for so long, nobody listens to a dead stream or waits to connect any more.
CONNECTED_S = STALL_S + BACKOFF_S
STOPPED_SOON_S = 1.0  # what is under way becomes durable, and the report is committed
OPENED_SOON_S = 2.0  # P3's second, and one more for who has to ask for the store's answer again
FOUND_SOON_S = 2.0  # a write's pause between two tries, and a second
SETTLED_S = 1.0 + BACKOFF_S + BEAT_S + 1.0  # a datanode has started, registered, opened its lanes, and was heard


class Outages:
    """See the module docstring."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._well_s: dict[str, float] = {}  # machine -> since when it has been well
        self._silent_s: dict[str, float] = {}  # datanode -> since when none of its beats can arrive
        self._dead_s: dict[str, float] = {}  # replica -> since when it has no process
        self._cut_s: dict[tuple[str, str], float] = {}  # link -> when it was last seen blocked
        self._starts: dict[str, int] = {}
        self._began_s: dict[tuple[object, ...], float] = {}  # stage -> since when it lasts
        self._seen: set[tuple[object, ...]] = set()
        self._blamed: set[tuple[object, ...]] = set()
        self._reset_s = 0.0
        self._now_s = 0.0
        self.writing: dict[str, tuple[str, int, float]] = {}  # key -> (frontend, region, since when)
        self.longest_s: dict[str, float] = {}  # stage -> the longest that none of its excuses explains

    def start(self) -> None:
        """Look from now on."""
        self._world.later(LOOK_S, self._look)

    def connections_reset(self) -> None:
        """Everybody may have to connect again."""
        self._reset_s = self._world.loop.time()

    # ---------------------------------------------------------------- who is well, and since when

    def _is_well(self, host: Host) -> bool:
        process, faults = host.process, host.faults
        if process is None or process.state != RUNNING or not 0.98 < host.clock.rate < 1.02:
            return False
        if host.holds is not None or host.away or host.name in self._world.fabric.slow_s:
            return False
        if isinstance(host, MetasrvHost):
            return hasattr(host, "disk") and not (host.disk.full or host.disk.fail_syncs or host.disk.hang_s)
        if not isinstance(host, DatanodeHost):
            return True
        troubled = faults.unreachable or faults.hang or faults.unavailable or faults.lost_reply
        return not (troubled or faults.lose_replies or faults.late_puts) and faults.latency_ms == self._world.latency_ms

    def _note_machines(self) -> None:
        now_s, world = self._now_s, self._world
        for link in world.fabric.blocked_links():
            self._cut_s[link] = now_s
        for host in world.machines:
            name = host.name
            if host.starts != self._starts.get(name):
                self._starts[name] = host.starts
                self._well_s.pop(name, None)
            if not self._is_well(host):
                self._well_s.pop(name, None)
            else:
                self._well_s.setdefault(name, now_s)
        for replica in world.metasrvs:
            if replica.up:
                self._dead_s.pop(replica.name, None)
            else:
                self._dead_s.setdefault(replica.name, now_s)
        for node in world.datanodes:
            running = node.process is not None and node.process.state == RUNNING
            if running and not all(self._cut_s.get((node.name, r.name)) == now_s for r in world.metasrvs):
                self._silent_s.pop(node.name, None)
            else:
                self._silent_s.setdefault(node.name, now_s)

    def _since(self, *names: str) -> float:
        """Since when all of these have been well, and linked with each other; inf where they are not."""
        since = max([self._reset_s, *(self._well_s.get(name, math.inf) for name in names)])
        for (source, target), at_s in self._cut_s.items():
            if at_s > since and source in names and target in names:
                since = at_s
        return since

    def _replicas(self) -> tuple[str, ...]:
        """Those that are well, if all others are dead, and known to be; none where they are no majority."""
        world = self._world
        well = tuple(r.name for r in world.metasrvs if r.name in self._well_s)
        dead = [r for r in world.metasrvs if self._now_s - self._dead_s.get(r.name, math.inf) > _known_s(r)]
        return well if 2 * len(well) > len(world.metasrvs) == len(well) + len(dead) else ()

    # ---------------------------------------------------------------- stages

    def _look(self) -> None:
        world = self._world
        if not world.trace.open:
            return
        self._now_s = world.loop.time()
        self._note_machines()
        replicas = self._replicas()
        if replicas and world.clients.table is not None:  # how a cluster begins has a bound of its own
            self._judge(replicas)
        began, self._seen = self._seen, set()
        self._began_s = {stage: at_s for stage, at_s in self._began_s.items() if stage in began}
        world.later(LOOK_S, self._look)

    def _lasts(self, *stage: object) -> float:
        """Since when this stage lasts; it is another one as soon as anything of it changes."""
        self._seen.add(stage)
        return self._began_s.setdefault(stage, self._now_s)

    def _hold(self, bound_s: float, since_s: float, told: str, *stage: object) -> None:
        took_s = self._now_s - since_s
        name = str(stage[0])
        if took_s > self.longest_s.get(name, 0.0):
            self.longest_s[name] = took_s
        if took_s > bound_s and stage not in self._blamed:
            self._blamed.add(stage)
            self._world.fail(f"{told} for {took_s:.1f} s, all that it takes being well; bound {bound_s:.1f}")

    def _hold_both(
        self, bounds_s: tuple[float, float], well_s: float, since_s: float, told: str, *stage: object
    ) -> None:
        """Within the first bound once all that it takes is well; within the second where it has been for long."""
        self._hold(bounds_s[0], max(well_s, since_s), told, *stage)
        told = f"{told}, everybody being connected,"
        self._hold(bounds_s[1], max(well_s + CONNECTED_S, since_s), told, f"{stage[0]} soon", *stage[1:])

    def _judge(self, replicas: tuple[str, ...]) -> None:
        world, control_s = self._world, self._since(*replicas)
        leaders = [
            (h.service.consensus.leadership().term, h)
            for h in world.metasrvs
            if h.name in replicas and hasattr(h, "service") and h.service.consensus.leadership().is_leader
        ]
        if not leaders:
            if not (world.trace.faults["disk_lost"] or world.trace.faults["bit_flip"]):  # who rejoins has no vote
                since_s = max(control_s, self._lasts("led"))
                self._hold(ELECTED_S, since_s, "nobody leads", "led")
            return
        term, leader = max(leaders, key=lambda found: found[0])
        state = leader.service.machine.state
        led_s = max(control_s, self._lasts("leads", leader.name, term))
        settled_s = min(
            (self._since(h.name, *replicas) for h in world.datanodes if _has_room(state, h.name)), default=math.inf
        )
        self._silence(state, max(led_s, settled_s + SETTLED_S))
        self._regions(state, led_s, max(led_s, settled_s + SETTLED_S), replicas)
        self._routes(state, led_s, replicas)

    def _silence(self, state: State, ready_s: float) -> None:
        for name, silent_s in self._silent_s.items():
            node = state.nodes.get(name)
            if node is None or node.status > NodeStatus.SUSPECT or not state.node_region_count(name):
                continue
            since_s = max(ready_s, silent_s, self._lasts("silent", name, node.incarnation))
            bound_s = SILENT_S + len(state.nodes) * ASKED_S
            self._hold(bound_s, since_s, f"{name} was silent and not failed over", "silent", name, node.incarnation)

    def _regions(self, state: State, led_s: float, ready_s: float, replicas: tuple[str, ...]) -> None:
        for region_id, region in state.regions.items():
            phase, owner = state.phase_of(region), region.lane.node_id
            migration = state.migrations.get(region_id)
            told = f"region {region_id:#x}"
            if phase is Phase.LOST:
                stage: tuple[object, ...] = ("lost", region_id, region.epoch)
                bound_s = PLACED_S + len(state.nodes) * ASKED_S
                self._hold(bound_s, max(ready_s, self._lasts(*stage)), f"{told} was lost and given to nobody", *stage)
            elif phase is Phase.OPENING:
                failure = state.failures.get(region_id)
                stage = ("opening", region_id, region.epoch, failure.times if failure else 0)
                waits_s = wait_ms(region, failure) / 1000 * DRIFT + TICK_S if failure else 0.0
                bounds_s = (OPENED_S + waits_s, OPENED_SOON_S + waits_s)
                well_s = max(led_s, self._since(owner, *replicas))
                self._hold_both(bounds_s, well_s, self._lasts(*stage), f"{told} was opening on {owner}", *stage)
            elif migration is not None and migration.stopping:
                stage = ("stopping", region_id, migration.attempt)
                since_s, told = self._lasts(*stage), f"{told} was stopped for a move"
                self._hold(STOPPED_S, max(led_s, since_s), told, *stage)  # whatever becomes of its owner
                well_s = max(led_s, self._since(owner, *replicas)) + CONNECTED_S
                self._hold(
                    STOPPED_SOON_S, max(well_s, since_s), f"{told}, {owner} being well,", "stopping soon", *stage
                )

    def _routes(self, state: State, led_s: float, replicas: tuple[str, ...]) -> None:
        for key, (frontend, region_id, began_s) in self.writing.items():
            region = state.regions.get(region_id)
            if region is None or state.phase_of(region) is not Phase.SERVING or region_id in state.migrations:
                continue
            owner = region.lane.node_id
            stage = ("found", key, region_id, region.epoch)
            well_s = max(led_s, self._since(frontend, owner, *replicas))
            since_s = max(began_s, self._lasts(*stage))
            told = f"{key} took no write through {frontend} though {owner} serves it"
            self._hold_both((FOUND_S, FOUND_SOON_S), well_s, since_s, told, *stage, frontend, began_s)


def _known_s(replica: MetasrvHost) -> float:
    """After how long its peers know that it is dead: where its machine lost power nobody tells them."""
    return 1.0 + (KEEPALIVE_S if replica.power_lost else 0.0)


def _has_room(state: State, node_id: str) -> bool:
    """Whether it can be given every region that there is."""
    node = state.nodes.get(node_id)
    return node is not None and node_id not in state.drains and node.capacity_regions >= len(state.regions)
