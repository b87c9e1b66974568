"""A small cluster in virtual time: the real machine, lease books, supervisor and procedures, around agents that only
beat, obey orders and report. One machine stands for what all replicas have applied; each has a memory of its own.
"""

from collections.abc import Callable

from groundwork.core.ids import Lane
from groundwork.core.table import Column, Role
from metasrv.core import commands as c
from metasrv.core.decisions import Decision
from metasrv.core.events import Event, Outcome
from metasrv.core.leases import Beat, Grant, LaneHealth, LeaseBook, Past, Refusal
from metasrv.core.machine import Machine
from metasrv.core.orders import Order, OrderKind, orders_of
from metasrv.core.planner import plan_table
from metasrv.core.procedures import Procedures
from metasrv.core.records import Config, Phase
from metasrv.core.supervisor import Supervisor

STEP_MS = 10
COLUMNS = (
    Column("greptime_timestamp", "timestamp_ns", Role.TIME),
    Column("host", "string", Role.TAG),
    Column("usage", "float64", Role.FIELD),
)


class Agent:
    """What stands for a datanode: beats, orders, reports. It opens a region in `open_ms`."""

    def __init__(self, world: "World", node_id: str, locality: str, lanes: int, capacity: int, folder: str) -> None:
        self.world, self.node_id, self.locality, self.folder = world, node_id, locality, folder
        self.lanes, self.capacity = lanes, capacity
        self.incarnation = 0
        self.running = True
        self.obeys = True
        self.open_ms = 50
        self.cut: set[str] = set()  # replicas that do not hear it
        self.append_age_ms = self.probe_age_ms = 0
        self.lane_age_ms: dict[int, int] = {}
        self.lease_until_ms = 0.0
        self.next_beat_ms = 0.0
        self.began: dict[tuple[int, int, int], float] = {}
        self.done: set[tuple[int, int, int, int]] = set()
        self.position = 100

    def register(self, takeover: bool = False) -> Outcome:
        """A new process: a new incarnation."""
        state, now = self.world.machine.state, self.world.now_ms
        old = state.nodes.get(self.node_id)
        heard = self.world.book.may_register(state, self.node_id, now)
        outcome = self.world.propose(
            c.Register(
                node_id=self.node_id, folder_id=self.folder, locality=self.locality, address=f"{self.node_id}:1",
                lanes=self.lanes, capacity_regions=self.capacity, replaces=old.incarnation if old else 0,
                takeover=takeover, heard=heard, wall_ms=self.world.wall,
            )
        )  # fmt: skip
        if not outcome.refused:
            self.incarnation = outcome.value
            self.world.book.registered(self.node_id, outcome.value, now)
            self.began.clear()
            self.done.clear()
            self.next_beat_ms = now
        return outcome

    def beat(self) -> Beat:
        """Proof of work."""
        health = tuple(LaneHealth(i, True, self.lane_age_ms.get(i, self.append_age_ms)) for i in range(self.lanes))
        return Beat(self.node_id, self.incarnation, health, self.probe_age_ms)

    def tick(self) -> None:
        """Beat when it is time, and carry out the orders."""
        world = self.world
        if not self.running:
            return
        if world.now_ms >= self.next_beat_ms:
            self.next_beat_ms = world.now_ms + world.machine.state.config.beat_ms
            answer = world.deliver(self)
            if isinstance(answer, Grant):
                self.lease_until_ms = world.now_ms + answer.lease_ms
            elif answer is Refusal.SUPERSEDED and self.node_id in world.reregister:
                self.register()
        state = world.machine.state
        if self.obeys and state.is_alive(self.node_id, self.incarnation) and world.leader:
            reports = [r for o in orders_of(state, self.node_id) if (r := self.carry_out(o))]
            if reports:
                world.propose(c.Reports(items=tuple(reports), wall_ms=world.wall))

    def carry_out(self, order: Order) -> c.Report | None:
        """The report that ends an order, once it is due; each is sent once."""
        key = (order.region_id, order.epoch, order.attempt)
        since = self.began.setdefault(key, self.world.now_ms)
        if self.world.now_ms - since < (self.open_ms if order.kind is OrderKind.OPEN else 10):
            return None
        if (*key, order.kind) in self.done:
            return None
        self.done.add((*key, order.kind))
        me, region, epoch = (self.node_id, self.incarnation), order.region_id, order.epoch
        if order.kind is OrderKind.PREPARE:
            return c.Prepared(*me, region, order.attempt)
        if order.kind is OrderKind.STOP:
            self.position += 1
            stay = self.world.machine.state.regions[region].stay_epoch
            lane = Lane(self.node_id, self.incarnation, order.lane_index)
            return c.Stopped(*me, region, epoch, order.attempt, lane, stay, self.position)
        if order.kind is OrderKind.DROP:
            return c.Closed(*me, region, epoch)
        return c.Serving(*me, region, epoch)


class World:
    """See the module docstring."""

    def __init__(self, replicas: int = 3, config: Config | None = None, cluster_id: str = "c1") -> None:
        self.machine = Machine()
        self.now_ms, self.revision = 1_000.0, 0
        self.wall = 1_000
        self.replica_ids = [f"metasrv-{i + 1}" for i in range(replicas)]
        self.books = {r: LeaseBook(r, self.replica_ids) for r in self.replica_ids}
        self.led_until_ms: dict[str, float] = {}  # replica -> when the others last heard it as the leader
        self.term = 0
        self.deaf: set[str] = set()  # replicas that are down
        self.relays = True  # followers pass on to the leader what they hear
        self.leader = ""
        self.agents: dict[str, Agent] = {}
        self.zombies: list[Agent] = []
        self.reregister: set[str] = set()
        self.asleep_until_ms = 0.0
        self.next_tick_ms = 0.0
        self.log: list[Event] = []
        self.outcomes: list[Outcome] = []
        self.times: list[tuple[float, str]] = []  # when each command was applied, by kind
        self.each_step: Callable[[], None] = lambda: None
        self.before_decision: Callable[[], None] = lambda: None
        self.after_command: Callable[[], None] = lambda: None
        self.propose(c.Bootstrap(cluster_id=cluster_id, generation=1, config=config or Config()))
        self.elect(self.replica_ids[0])

    @property
    def book(self) -> LeaseBook:
        """The leader's memory."""
        return self.books[self.leader or self.replica_ids[0]]

    def propose(self, command: c.AnyCommand) -> Outcome:
        """Commit and apply."""
        self.revision += 1
        outcome = self.machine.apply(self.revision, c.encode(command))
        self.log += outcome.events
        self.outcomes.append(outcome)
        if not outcome.refused:
            self.times.append((self.now_ms, outcome.kind))
            self.after_command()
        return outcome

    def elect(self, replica_id: str) -> None:
        """Another leader, with nothing but its own memory."""
        if self.leader:
            self.led_until_ms[self.leader] = self.now_ms
        for book in self.books.values():
            book.led_by(replica_id)
        self.leader = replica_id
        self.term += 1
        self.books[replica_id].elected(self.now_ms, self.past(replica_id))
        self.supervisor = Supervisor(replica_id, self.replica_ids)
        self.procedures = Procedures()
        self.next_tick_ms = self.now_ms

    def kill_leader(self) -> None:
        """The leader dies, its memory with it; nobody leads until elect()."""
        self.deaf.add(self.leader)
        self.led_until_ms[self.leader] = self.now_ms
        self.books[self.leader] = LeaseBook(self.leader, self.replica_ids)
        self.leader = ""

    def past(self, replica_id: str) -> Past:
        """What a replica knows of the leaders before: it heard each of them until the end."""
        ended = {r: self.now_ms - at_ms for r, at_ms in self.led_until_ms.items() if r != replica_id}
        return Past(self.term, ended)

    def add(self, node_id: str, locality: str, lanes: int = 1, capacity: int = 1_000, folder: str = "") -> Agent:
        """Start a datanode. One of the same id that runs already goes on beside it, as a zombie."""
        if node_id in self.agents:
            self.zombies.append(self.agents[node_id])
        agent = self.agents[node_id] = Agent(self, node_id, locality, lanes, capacity, folder or f"folder-{node_id}")
        agent.register()
        return agent

    def deliver(self, agent: Agent) -> Grant | Refusal:
        """A beat to every replica that hears this agent; followers relay what they hear."""
        beat = agent.beat()
        heard_by = [r for r in self.replica_ids if r not in agent.cut and r not in self.deaf]
        for replica_id in heard_by:
            self.books[replica_id].heard(beat, self.now_ms)
        if not self.leader or not heard_by or self.now_ms < self.asleep_until_ms:
            return Refusal.NOT_LEADER
        if self.leader not in heard_by and not self.relays:
            return Refusal.NOT_LEADER
        self.books[self.leader].heard(beat, self.now_ms)
        return self.books[self.leader].decide(self.machine.state, beat)

    def lead(self) -> None:
        """One tick of the leader: decide, propose, decide again until there is nothing left to do now."""
        for _ in range(20):
            if not self.leader:
                return
            state, book = self.machine.state, self.books[self.leader]
            done = self.supervisor.step(self.now_ms, self.wall, state, book)
            if not self.carry_out(done):
                break
        if self.leader:
            state = self.machine.state
            self.carry_out(self.procedures.step(self.now_ms, self.wall, state, self.books[self.leader]))

    def carry_out(self, decisions: list[Decision]) -> bool:
        """Whether any command was applied, or answers came."""
        changed = False
        for decision in decisions:
            self.before_decision()
            if not self.leader:
                return False
            if decision.ask_replicas:
                for replica_id in self.replica_ids:
                    if replica_id != self.leader and replica_id not in self.deaf:
                        answer = self.books[replica_id].memory(self.now_ms)
                        self.books[self.leader].reported(replica_id, answer, self.now_ms, self.past(replica_id))
                changed = True
            if decision.transfer_to:
                self.elect(decision.transfer_to)
                return True
            if decision.command is not None:
                changed = not self.propose(decision.command).refused or changed
        return changed

    def run(self, ms: float) -> None:
        """Let virtual time pass."""
        until = self.now_ms + ms
        while self.now_ms < until:
            self.now_ms += STEP_MS
            self.wall += STEP_MS
            for agent in (*self.agents.values(), *self.zombies):
                agent.tick()
            if self.leader and self.now_ms >= max(self.next_tick_ms, self.asleep_until_ms):
                self.next_tick_ms = self.now_ms + self.machine.state.config.tick_ms
                self.lead()
            self.each_step()

    def create_table(self, name: str, partitions: int, priority: int = 0) -> Outcome:
        """As the Catalog service does it."""
        state = self.machine.state
        lanes, placement = plan_table(state, self.book.inventory(state, self.now_ms), partitions)
        return self.propose(
            c.CreateTable(
                name=name, columns=COLUMNS, partitions=partitions, priority=priority, lanes=lanes, placement=placement,
                wall_ms=self.wall,
            )
        )  # fmt: skip

    def serving(self) -> int:
        """How many regions serve."""
        return self.machine.state.phases()[Phase.SERVING]

    def all_serve(self) -> bool:
        """Every region serves, on a lane that takes appends, of a datanode that runs."""
        state = self.machine.state
        return all(
            state.phase_of(r) is Phase.SERVING
            and (agent := self.agents[r.lane.node_id]).running
            and agent.incarnation == r.lane.incarnation
            for _, r in state.regions.items()
        )


def three_nodes() -> World:
    """Three datanodes in two sites, and table cpu of one region; nothing is moved or trimmed unasked."""
    world = World(config=Config(settle_ms=10_000_000, trim_every_ms=10_000_000))
    for n, place in enumerate(("site-1/zone-a", "site-1/zone-b", "site-2/zone-a")):
        world.add(f"dn-{n + 1}", place)
    world.run(600)
    world.create_table("cpu", 1)
    world.run(300)
    return world


def lane_of(world: World, node_id: str) -> Lane:
    """The first lane of a node's present incarnation."""
    return Lane(node_id, world.agents[node_id].incarnation, 0)
