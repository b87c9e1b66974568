"""A random world for three replicas: one thread, a virtual clock, links that break, machines that lose power.

The same world drives the hardened replica and the stock library (stock.py), so the comparison is fair.
"""

import random
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasrv.adapters.raft.library import use_clock, use_random
from tests.sim.raft.crashing_disk import CrashingDisk, PowerLost
from tests.sim.raft.node import Node

NAMES = ("r-1", "r-2", "r-3")
PAIRS = tuple((a, b) for a in NAMES for b in NAMES if a != b)
SERVE_S = 30.0
"""Within this time, virtual, two replicas must serve once nothing disturbs them: fifteen of the longest time-outs."""


@dataclass
class Machine:
    """A state machine that checks, at every apply, that all replicas see the same command at the same index."""

    world: "World"
    state: dict[bytes, int] = field(default_factory=dict)
    last: int = 0

    def apply(self, revision: int, command: bytes) -> int:
        """Check and remember."""
        if revision <= self.last:
            self.world.fail(f"index {revision} applied after {self.last}")
        known = self.world.applied.setdefault(revision, command)
        if known != command:
            self.world.fail(f"index {revision}: {command!r} here and {known!r} elsewhere")
        self.last = revision
        self.state[command] = revision
        return revision

    def snapshot(self) -> Iterator[bytes]:
        """The whole state, frozen."""
        frozen = [*self.state.items(), (b"", self.last)]
        return (revision.to_bytes(8, "big") + command for command, revision in frozen)

    def restore(self, slices: Iterable[bytes]) -> None:
        """Take over a snapshot."""
        self.state = {piece[8:]: int.from_bytes(piece[:8], "big") for piece in slices}
        self.last = self.state.pop(b"", self.last)


Build = Callable[["World", str, Machine, CrashingDisk, bool], Node]


@dataclass
class Faults:
    """How often what happens, as weights."""

    power: float = 0.004
    cut: float = 0.015
    isolate: float = 0.003
    heal: float = 0.02
    full: float = 0.0
    wipe: float = 0.0
    hand_over: float = 0.0


class World:
    """One run. `run()` returns what went wrong, as sentences; empty is good."""

    def __init__(self, seed: int, folder: Path, build: Build, faults: Faults, *, apart: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self._ends = random.Random(f"ends of {seed}")
        self._apart = apart
        self._doomed: tuple[str, int] | None = None
        self._lost: set[str] = set()
        self.hand_overs = self.twos = 0
        self.longest_s = 0.0
        self.folder, self.faults = folder, faults
        self._build = build
        self.now = 1000.0
        self.failures: list[str] = []
        self.applied: dict[int, bytes] = {}
        self.acked: dict[bytes, int] = {}
        self.newest_acked_term = 0
        self.leaders: dict[int, str] = {}
        self.confirmed = self.crashes = self.wipes = self.refused = 0
        self.nodes: dict[str, Node | None] = {}
        self.machines: dict[str, Machine] = {}
        self.disks: dict[str, CrashingDisk] = {}
        self.queues: dict[tuple[str, str], deque[Any]] = {pair: deque() for pair in PAIRS}
        self.up: set[tuple[str, str]] = set()
        self.cut: set[tuple[str, str]] = set()
        self._proposed = 0
        self.stop_early = True
        self.clock_step_s = 1e-5 if apart else 0.0  # the stock library spins until time has passed
        use_clock(self._clock)
        use_random(random.Random(seed))
        self.settings = {
            "command_bytes_max": self.chance.choice([64, 200, 1 << 16]),
            "journal_entries_max": self.chance.choice([12, 40, 1 << 20]),
            "journal_tail_entries": self.chance.choice([0, 5]),
            "apply_turn_max": self.chance.choice([3, 1000]),
            "in_flight_max": self.chance.choice([4, 4096]),
            "chunk_bytes": self.chance.choice([64, 700]),
            "peer_window_bytes": self.chance.choice([200, 1 << 20]),
        }
        for name in NAMES:
            self.boot(name)

    def _clock(self) -> float:
        self.now += self.clock_step_s
        return self.now

    def fail(self, sentence: str) -> None:
        """Note what went wrong, once."""
        if sentence not in self.failures:
            self.failures.append(sentence)

    # ---------------------------------------------------------------- machines and links

    def boot(self, name: str, rejoin: bool = False) -> None:
        """Start a replica on what its disk holds."""
        self.machines[name] = Machine(self)
        self.disks[name] = CrashingDisk(self.chance)
        self.nodes[name] = self._build(self, name, self.machines[name], self.disks[name], rejoin)

    def crash(self, name: str) -> None:
        """Power off: links drop, unsynced bytes may be lost."""
        self.crashes += 1
        self.abandon(name)
        for pair in PAIRS:
            if name in pair:
                self.disconnect(pair)
        self.disks[name].lose_unsynced()

    def abandon(self, name: str) -> None:
        """Take a process away."""
        node, self.nodes[name] = self.nodes[name], None
        if node is not None:
            node.abandon()

    def wipe(self, name: str) -> None:
        """A disk is replaced by an empty one."""
        self.wipes += 1
        self._lost.add(name)
        if self.nodes[name] is not None:
            self.crash(name)
        shutil.rmtree(self.folder / name)

    def connect(self, pair: tuple[str, str]) -> None:
        """Bring a link up where both ends live and nothing cuts it."""
        node = self.nodes[pair[0]]
        if pair not in self.up and pair not in self.cut and node is not None and self.nodes[pair[1]] is not None:
            self.up.add(pair)
            node.link(pair[1])

    def disconnect(self, pair: tuple[str, str]) -> None:
        """Break a link and lose what is on it."""
        self.queues[pair].clear()
        node = self.nodes[pair[0]]
        if pair in self.up:
            self.up.discard(pair)
            if node is not None:
                node.unlink(pair[1])

    def send(self, sender: str, peer: str, parcel: Any) -> None:
        """Put a parcel on a link."""
        if (sender, peer) in self.up:
            self.queues[sender, peer].append(parcel)

    # ---------------------------------------------------------------- steps

    def turn(self, name: str) -> None:
        """Let one replica work; the power may go meanwhile."""
        node = self.nodes[name]
        if node is None:
            return
        try:
            node.turn()
        except PowerLost:
            self.crash(name)
            return
        self._check_leader(name, node)

    def deliver(self, pair: tuple[str, str]) -> None:
        """Let the next parcel of a link arrive."""
        node = self.nodes[pair[1]]
        if node is not None and self.queues[pair]:
            node.deliver(pair[0], self.queues[pair].popleft())
            self.turn(pair[1])

    def propose(self, name: str) -> None:
        """A few writes through whoever says that it leads."""
        node = self.nodes[name]
        if node is None or not node.leads():
            return
        for _ in range(self.chance.randint(1, 6)):
            self._proposed += 1
            command = b"w%d " % self._proposed + b"x" * 30

            def acked(index: int, command: bytes = command, node: Node = node) -> None:
                self.acked[command] = index
                self.newest_acked_term = max(self.newest_acked_term, node.term())

            node.propose(command, acked)

    def confirm(self, name: str) -> None:
        """A round, and what its success must mean."""
        node = self.nodes[name]
        if node is None or not node.leads():
            return
        term, acked = self.newest_acked_term, max(self.acked.values(), default=0)

        def answer(confirmed: bool) -> None:
            if not confirmed:
                self.refused += 1
                return
            self.confirmed += 1
            if node.term() < term:
                self.fail(f"{name} confirmed term {node.term()}; a leader of {term} had acknowledged before it asked")
            if self.machines[name].last < acked and self.nodes[name] is node:
                self.fail(f"{name} confirmed without having applied index {acked}, acknowledged before it asked")

        node.confirm(answer)

    def _check_leader(self, name: str, node: Node) -> None:
        if node.leads():
            first = self.leaders.setdefault(node.term(), name)
            if first != name:
                self.fail(f"{first} and {name} both led term {node.term()}")

    # ---------------------------------------------------------------- the run

    def run(self, steps: int) -> list[str]:
        """So many random steps, then calm."""
        if self._ends.random() < self._apart:
            late = self._ends.choice(NAMES)  # the other two meet first
            self.cut = {pair for pair in PAIRS if late in pair}
        for pair in PAIRS:
            self.connect(pair)
        for _ in range(steps):
            if self.failures and self.stop_early:
                return self.failures
            self.now += self.chance.expovariate(1 / 0.02)
            self._random_step()
        self._calm_down()
        return self.failures

    def _random_step(self) -> None:
        self._doom()
        dice = self.chance.random()
        if dice < 0.25:
            self.turn(self.chance.choice(NAMES))
        elif dice < 0.8:
            busy = [pair for pair in PAIRS if self.queues[pair]]
            if busy:
                self.deliver(self.chance.choice(busy))
        elif dice < 0.88:
            self.propose(self.chance.choice(NAMES))
        elif dice < 0.9:
            self.confirm(self.chance.choice(NAMES))
        elif dice < 0.93:
            for pair in PAIRS:
                self.connect(pair)
        else:
            self._fault()

    def _fault(self) -> None:
        faults = self.faults
        kinds = ("none", *vars(faults))
        rest = max(0.0, 0.07 - sum(vars(faults).values()))
        kind = self.chance.choices(kinds, [rest, *vars(faults).values()])[0]
        name, pair = self.chance.choice(NAMES), self.chance.choice(PAIRS)
        if kind == "power":
            self._power(name)
        elif kind == "cut":
            self.disconnect(pair)
            if self.chance.random() < 0.3:
                self.cut.add(pair)  # one way only, until healed
        elif kind == "isolate":
            self.cut = {pair for pair in PAIRS if name in pair}
            for lost in self.cut:
                self.disconnect(lost)
        elif kind == "heal":
            self.cut.clear()
        elif kind == "full":
            self.disks[name].full = not self.disks[name].full and self.chance.random() < 0.4
        elif kind == "wipe" and not self._without_disk() - {name}:
            # One disk at a time: a second one is lost only after the first replica has caught up.
            self.wipe(name)
            self.boot(name, rejoin=self.chance.random() < 0.5)
        elif kind == "hand_over":
            self._hand_over()

    def _without_disk(self) -> set[str]:
        """The replicas whose disk was lost and that do not count again, yet."""
        for name in NAMES:
            node = self.nodes[name]
            if node is not None and node.settled():
                self._lost.discard(name)
        return self._lost

    def _hand_over(self) -> None:
        """The leader names another one, and as often as not loses power within the next steps."""
        for name, node in self.nodes.items():
            if (
                node is not None
                and node.leads()
                and node.hand_over(self.chance.choice([n for n in NAMES if n != name]))
            ):
                self.hand_overs += 1
                self.turn(name)
                if self.chance.random() < 0.7:
                    self._doomed = (name, self.chance.randint(0, 12))

    def _doom(self) -> None:
        if self._doomed is not None:
            name, steps = self._doomed
            self._doomed = (name, steps - 1) if steps else None
            if not steps and self.nodes[name] is not None:
                self.crash(name)

    def _power(self, name: str) -> None:
        """Off, now or within the next steps of the disk; or on again. Now and then for all at once."""
        for target in NAMES if self.chance.random() < 0.1 else (name,):
            if self.nodes[target] is None:
                self.boot(target)
            elif self.chance.random() < 0.5:
                self.crash(target)
                if self.chance.random() < 0.7:
                    self.boot(target)
            else:
                self.disks[target].steps_left = self.chance.randint(0, 8)

    def _calm_down(self) -> None:
        """No more faults: two serve without the third, and all come back with everything that was acknowledged."""
        self.cut.clear()
        for name in NAMES:
            self.disks[name].steps_left, self.disks[name].full = None, False
        self._two_serve()
        for name in NAMES:
            if self.nodes[name] is None:
                self.boot(name)
        for round_ in range(900):
            self._round()
            if round_ > 60 and self._converged():
                break
        else:
            self.fail("did not converge")
        for name in NAMES:
            lost = [command for command in self.acked if command not in self.machines[name].state]
            if lost:
                self.fail(f"{len(lost)} of {len(self.acked)} acknowledged writes are lost on {name}")

    def _converged(self) -> bool:
        leaders = [name for name, node in self.nodes.items() if node is not None and node.leads()]
        applied = {node.applied() for node in self.nodes.values() if node is not None}
        return len(leaders) == 1 and len(applied) == 1

    def _two_serve(self) -> None:
        """Liveness: where a leader was ever told, and no disk is missing, any two replicas elect one that commits."""
        if not self.leaders or self._without_disk():
            return
        leading = [name for name, node in self.nodes.items() if node is not None and node.leads()]
        absent = self._ends.choice(leading or NAMES)
        for name in NAMES:
            if name == absent and self.nodes[name] is not None:
                self.crash(name)
            elif name != absent and self.nodes[name] is None:
                self.boot(name)
        began_s, served = self.now, False

        def acked(index: int) -> None:
            nonlocal served
            self.acked[b"two serve"], served = index, True

        while not served and self.now - began_s < SERVE_S:
            self._round()
            for node in self.nodes.values():
                if node is not None and node.leads():
                    node.propose(b"two serve", acked)
        if not served:
            self.fail(f"without {absent} nothing was committed within {SERVE_S:.0f} s")
        self.twos, self.longest_s = self.twos + 1, max(self.longest_s, self.now - began_s)

    def _round(self) -> None:
        """Time passes, and everything arrives."""
        self.now += 0.06
        for pair in PAIRS:
            self.connect(pair)
        for name in NAMES:
            self.turn(name)
        for pair in PAIRS:
            for _ in range(len(self.queues[pair])):
                self.deliver(pair)
