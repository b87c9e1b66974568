"""Checkers of the replicated state, on every seed."""

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from datanode_agent.core.region_state import State as RegionState
from metasrv.core.events import Outcome
from metasrv.core.machine import Machine
from metasrv.core.records import NodeStatus, Phase
from metasrv.core.state import State
from tests.sim.agreement import Agreement
from tests.sim.hosts import TIMING

if TYPE_CHECKING:
    from tests.sim.world import World


# Whom a failover's sentence names: silent; unwell, restarted, or with appends that hang.
SILENT = re.compile(r"(dn-\d+)(?: \([^)]*\))? silent")
BLAMED = re.compile(r"(dn-\d+)(?: \([^)]*\))? (?:is unwell|restarted)|of (dn-\d+) hang")
BEATS_S = 1.0  # after that answer: a beat is heard, and what was decided before it is committed
PLANNED = ("Failover", "StartMigration", "CreateTable")


class Checks:
    """Watches every replica's machine."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._commands: dict[int, str] = {}
        self._seen: set[int] = set()
        self.failovers = 0
        self.agreement = Agreement(world)

    def restored(self, revision: int) -> None:
        """All replicas begin again from what was applied up to there: another history follows."""
        self._commands = {r: digest for r, digest in self._commands.items() if r <= revision}
        self._seen = {r for r in self._seen if r <= revision}
        self.agreement.begin_again()

    def watch(self, name: str, machine: Any) -> None:
        """Hold each apply of this replica against what the others applied."""
        assert isinstance(machine, Machine)
        apply = machine.apply
        self.agreement.watch(name, machine)
        highest = {"token": 0, "revision": 0}
        epochs: dict[int, int] = {}

        def checked(revision: int, command: bytes) -> Outcome:
            digest = hashlib.sha256(command).hexdigest()[:16]
            if self._commands.setdefault(revision, digest) != digest:
                self._world.fail(f"{name} applied another command at revision {revision} than a replica before it")
            if revision <= highest["revision"]:
                self._world.fail(f"{name} applied revision {revision} after {highest['revision']}")
            outcome = apply(revision, command)
            self.agreement.applied(name, machine, outcome, command)
            highest["revision"] = revision
            state = machine.state
            if state.next_token < highest["token"]:
                self._world.fail(f"{name}: the next token went from {highest['token']} to {state.next_token}")
            highest["token"] = state.next_token
            for region_id in outcome.regions:
                region = state.regions.get(region_id)
                if region is None:
                    continue
                if region.epoch < epochs.get(region_id, 0):
                    self._world.fail(f"{name}: the epoch of region {region_id:#x} went back")
                epochs[region_id] = region.epoch
            if revision not in self._seen:
                self._seen.add(revision)
                self._first(outcome, state)
            return outcome

        machine.apply = checked  # type: ignore[method-assign]

    def _first(self, outcome: Outcome, state: State) -> None:
        """A command applied anywhere for the first time."""
        world = self._world
        world.trace.note("cluster", "applied", revision=outcome.revision, kind=outcome.kind, refused=outcome.refused)
        for event in outcome.events:
            if event.kind == "suspect":
                self._named_cause(self._beating(event.node_ids))
            if event.kind == "failover":
                self.failovers += 1
                self._named_cause(self._beating(SILENT.findall(event.sentence)))
                self._named_cause(sorted(set().union(*BLAMED.findall(event.sentence)) - {""}))
        if outcome.kind in PLANNED and not outcome.refused:
            self._placed(outcome, state)

    def _placed(self, outcome: Outcome, state: State) -> None:
        """What a plan did once it was committed; that it holds its rules when it is made, the linter requires."""
        given = {i: m.target for i, m in state.migrations.items() if m.attempt == outcome.value}
        if outcome.kind != "StartMigration":
            owned = {i: state.regions[i] for i in outcome.regions}
            given = {i: r.lane for i, r in owned.items() if r.epoch == outcome.value or outcome.kind == "CreateTable"}
        for region_id, lane in given.items():
            node = state.nodes.get(lane.node_id)
            told = f"{outcome.kind} at {outcome.revision} gives region {region_id:#x} to {lane}"
            if state.is_over(lane):
                self._world.fail(f"{told}, which is over")
            if node is None or node.status is not NodeStatus.UP or node.incarnation != lane.incarnation:
                self._world.fail(f"{told}, which is not up")

    def _beating(self, node_ids: Iterable[str]) -> list[str]:
        """Those that can be blamed for silence: metasrv does not owe them the answer to their registration."""
        known = {h.name for h in self._world.datanodes if h.beats_for_s() > BEATS_S}
        return [node_id for node_id in node_ids if node_id in known]

    def _named_cause(self, node_ids: Iterable[str]) -> None:
        for node_id in node_ids:
            if not self._world.nemesis.had_cause(node_id):
                self._world.fail(f"{node_id} is suspected or failed over, and nothing had befallen it")

    def at_the_end(self) -> None:
        """Everything has healed: replicas agree, every region serves on a node that is up."""
        world = self._world
        machines = [h.service.machine for h in world.metasrvs if h.up]
        if len(machines) < len(world.metasrvs):
            world.fail("not every replica is up at the end")
        by_revision: dict[int, bytes] = {}
        for machine in machines:
            state = machine.state
            told = b"".join(machine.snapshot())
            if by_revision.setdefault(state.revision, told) != told:
                world.fail(f"replicas differ at revision {state.revision}")
        for told in self._unwell():
            world.fail(f"{told} at the end")

    def converged(self) -> bool:
        """Every replica is up, and every region serves on a node that is up."""
        return all(h.up and hasattr(h, "service") for h in self._world.metasrvs) and not self._unwell()

    def all_registered(self) -> bool:
        """The leader knows of open lanes of every datanode."""
        leader = self._world.nemesis.leader()
        if not leader.up or not hasattr(leader, "service"):
            return False
        service = leader.service
        heard = service.book.inventory(service.machine.state, service.clock.now_ms())
        return all(h.name in heard and heard[h.name].open_lanes for h in self._world.datanodes)

    def all_well(self) -> bool:
        """Converged, and the leader hears every datanode, which is up, works, and is neither drained nor moved from."""
        world = self._world
        if not self.converged():
            return False
        service = world.nemesis.leader().service
        state, now_ms = service.machine.state, service.clock.now_ms()
        heard = service.book.inventory(state, now_ms)
        replicas = [h.name for h in world.metasrvs]
        return (
            service.consensus.leadership().is_leader
            and service.book.may_judge(now_ms, state.config, replicas)
            and not (state.drains or state.migrations)
            and all(h.up and h.name in state.nodes for h in world.datanodes)
            and all(state.nodes[h.name].status is NodeStatus.UP for h in world.datanodes)
            and all(heard[h.name].well and heard[h.name].silent_ms < 2 * TIMING.beat_ms for h in world.datanodes)
        )

    def _unwell(self) -> list[str]:
        newest = self._newest()
        found = self.astray()
        for region_id, region in newest.regions.items():
            node = newest.nodes.get(region.lane.node_id)
            if region.phase is not Phase.SERVING or node is None or node.status is not NodeStatus.UP:
                found.append(f"region {region_id:#x} is {region.phase.name} on {region.lane}")
        return found

    def _newest(self) -> State:
        return max((h.service.machine.state for h in self._world.metasrvs if h.up), key=lambda s: s.revision)

    def astray(self) -> list[str]:
        """What a datanode holds that the state gives to nobody or another, or does not serve though it is given it.

        Wait for it to be empty: orders and reports are on their way. The target of a move may hold what it prepares.
        """
        state, found = self._newest(), []
        for host in self._world.datanodes:
            if not host.up or host.engine is None:
                continue  # what a process holds goes with it
            held = {info.region_id: (info.state, info.epoch, info.lane) for info in host.engine.regions()}
            given = {i: r for i, r in state.regions.items() if r.lane.node_id == host.name}
            for region_id in sorted(held.keys() - given.keys()):
                move = state.migrations.get(region_id)
                if move is None or move.target.node_id != host.name:
                    found.append(f"{host.name} holds region {region_id:#x}, {held[region_id][0]}, and does not own it")
            for region_id, region in given.items():
                wanted = (RegionState.SERVING.value, region.epoch, str(region.lane))
                if region.phase is Phase.SERVING and held.get(region_id) != wanted:
                    has = "nothing of it" if region_id not in held else " ".join(map(str, held[region_id]))
                    found.append(f"{host.name} should serve region {region_id:#x}, {wanted}, and holds {has}")
        return found
