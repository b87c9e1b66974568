"""The stage of a story: a whole simulated cluster to which nothing happens but what the story says.

Users write and read every key all the time, and every checker of the simulator is on: who acknowledges (P2), what
reads show (P1), what replicas apply, error lines, suspicions without a cause, and that all converges in the end.
"""

import asyncio
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from groundwork.adapters.lanes.places import Limits
from groundwork.core.errors import ConsensusError, StoreUnavailable
from groundwork.core.manifest import StayKey
from groundwork.sim.objects import SimObjectStore
from groundwork.sim.processes import Crashed, SimProcess
from metasrv.adapters.raft import RaftLimits
from metasrv.adapters.raft.replica import Replica
from metasrv.core.commands import AnyCommand
from metasrv.core.events import Event
from metasrv.core.records import NodeStatus, Phase, Region
from metasrv.core.state import State
from tests.sim.history import Bound
from tests.sim.hosts import POLICY, TIMING, DatanodeHost, Host, MetasrvHost
from tests.sim.owners import Owners
from tests.sim.world import World

T = TypeVar("T")
Story = Callable[["Stage"], Awaitable[None]]

FRONTEND = "frontend-1"
LEASE_S = TIMING.lease_ms / 1000
BEAT_S = TIMING.beat_ms / 1000
TICK_S = TIMING.tick_ms / 1000
ELECTION_S = TIMING.election_ms_max / 1000  # the longest that one takes from its beginning, where no vote is split
DRIFT = 1.011  # what runs on a clock that is slow by 1 %, as some are, takes so much longer
HAND_OFF_S = 1.0  # P3's second: two commits, seal, claim, replay and the new route
ALL_WELL_S = 8.0
WAITED_FOR_S = 0.02
STORY_S_MAX = 120.0
LANES = ("lanes/",)  # the log
NO_LANES = ("regions/", "probes/", "cluster/")  # all else that is in the store


class StagedDatanode(DatanodeHost):
    """A datanode that may reach a part of the object store only."""

    away: tuple[str, ...] = ()  # prefixes of keys that are unreachable from here: LANES, NO_LANES

    def store(self, process: SimProcess) -> SimObjectStore:
        """See Host."""
        store = super().store(process)
        gate = store.gate
        assert gate is not None

        async def parted(operation: str, key: str, when: str) -> None:
            await gate(operation, key, when)
            if key.startswith(self.away):
                raise StoreUnavailable(f"{operation} {key}: this part of the store is unreachable from here")

        store.gate = parted
        return store


class CountingOwners(Owners):
    """Counts whose acknowledgements there were, besides holding them against the seals."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.by: Counter[str] = Counter()

    def _told(self, what: str, region: int, epoch: int, stay: StayKey, position: int) -> None:
        self.by[stay[0].node_id] += 1
        super()._told(what, region, epoch, stay, position)


class Stage(World):
    """See the module docstring. `tell(story)` once; `datanodes` is how many, or the number of the site of each."""

    def __init__(
        self, seed: int = 1, *, datanodes: int | tuple[int, ...] = 3, keys: int = 4, regions: int = 4, lanes: int = 1,
        capacity: int = 10_000, proof_ms: float = 1_000, unwell_ms: int = 2_500,
    ) -> None:  # fmt: skip
        super().__init__(seed, active_s=0.0)
        sites = datanodes if isinstance(datanodes, tuple) else tuple(1 + n % 3 for n in range(datanodes))
        self._sites = {f"dn-{n}": site for n, site in enumerate(sites, 1)}
        self.datanodes = [StagedDatanode(self, f"dn-{n}", n) for n in range(1, len(sites) + 1)]
        for datanode in self.datanodes:
            datanode.capacity_regions = capacity
        self.regions, self.lanes = regions, lanes
        self.clients.keys = [f"key-{n}" for n in range(keys)]
        self.fabric.delay_s = (0.001, 0.003)
        self.latency_ms = (1.0, 3.0)
        for host in self.hosts:
            host.faults.latency_ms = self.latency_ms
        self.sizes.raft = RaftLimits(journal_entries_max=60, journal_tail_entries=10, chunk_bytes=2_000)
        self.sizes.engine = replace(self.sizes.engine, canary_ms=proof_ms, probe_ms=proof_ms)
        self.sizes.rough_start_s, self.sizes.stop_deadline_ms, self.sizes.lanes = 0.0, 1_000, Limits()
        self.sizes.policy = replace(POLICY, unwell_ms=unwell_ms)
        self.calm_at, self.one_dead = 1.0, False
        self.owners: CountingOwners = CountingOwners(self)
        self.trace.lines = deque(maxlen=200_000)
        self._story: Story | None = None
        self._said_from = 0
        self.told_from = 0  # the revision at which the story began

    def locality(self, name: str) -> str:
        """A metasrv in each of three sites; datanodes as the story has them."""
        return f"site-{self._sites.get(name) or name.rpartition('-')[2]}/zone-a"

    # ---------------------------------------------------------------- telling

    def tell(self, story: Story) -> "Stage":
        """Begin the cluster, run the story once all is well, heal everything, and check all that is to be checked."""
        self._story = story
        self.run()
        return self

    async def _what_happens(self) -> None:
        assert self._story is not None
        try:
            await self.until(self.checks.all_well, ALL_WELL_S, "all is well before the story begins")
            self.clients.calm.set()  # users are busy all the time
            self._said_from, self.told_from = len(self.trace.lines), self.state.revision
            self.trace.note("story", "begins")
            async with asyncio.timeout(STORY_S_MAX):
                await self._story(self)
        except Exception as error:  # noqa: BLE001  it is what the story found; the checks still have their say
            self.fail("the story: " + "".join(traceback.format_exception(error))[-2_500:])

    async def until(self, holds: Callable[[], bool], within_s: float, what: str) -> float:
        """Wait until it holds; how many virtual seconds that took. Fails the story when it takes too long."""
        began_s = self.loop.time()
        while not holds():
            waited_s = self.loop.time() - began_s
            assert waited_s <= within_s, f"within {within_s:.1f} s: {what}; not after {waited_s:.1f} s"
            await asyncio.sleep(WAITED_FOR_S)
        return self.loop.time() - began_s

    async def hears(self, line: str, within_s: float) -> None:
        """Until somebody logs a line of that name; the story goes on before anything else happens to who logged it."""
        heard = asyncio.Event()
        self.trace.on_line[line] = heard.set
        async with asyncio.timeout(within_s):
            await heard.wait()

    async def passes(self, seconds: float) -> None:
        """Time passes."""
        await asyncio.sleep(seconds)

    # ---------------------------------------------------------------- who and what

    @property
    def state(self) -> State:
        """The newest replicated state that any replica has applied."""
        states = [h.service.machine.state for h in self.metasrvs if h.up and hasattr(h, "service")]
        return max(states, key=lambda state: state.revision)

    def leads(self, host: MetasrvHost) -> bool:
        """Whether it takes itself for the leader."""
        return host.up and hasattr(host, "service") and host.service.consensus.leadership().is_leader

    @property
    def leader(self) -> MetasrvHost:
        """The replica that leads: of several that think so, the one with the highest term."""
        found = [h for h in self.metasrvs if self.leads(h)]
        assert found, "somebody leads"
        return max(found, key=lambda h: h.service.consensus.leadership().term)

    @property
    def followers(self) -> list[MetasrvHost]:
        """All other replicas."""
        return self.followers_of(self.leader)

    def followers_of(self, leader: Host) -> list[MetasrvHost]:
        """All replicas but one."""
        return [h for h in self.metasrvs if h is not leader]

    async def elected(self, but: Iterable[Host] = (), within_s: float = 2 * ELECTION_S) -> MetasrvHost:
        """A leader other than these, as soon as there is one."""
        others = [h for h in self.metasrvs if h not in list(but)]
        await self.until(lambda: any(self.leads(h) for h in others), within_s, "another leader is elected")
        return max((h for h in others if self.leads(h)), key=lambda h: h.service.consensus.leadership().term)

    def raft(self, host: MetasrvHost) -> Replica:
        """The replica inside a metasrv, to look at."""
        replica = host.service.consensus._replica  # type: ignore[attr-defined]
        assert isinstance(replica, Replica)
        return replica

    def leaders_named(self) -> dict[str, set[str]]:
        """Who took itself for the leader since the story began, by term."""
        found: dict[str, set[str]] = {}
        for line in self.said("leadership"):
            _, who, _, term, _, mine = line.split()
            if mine == "mine=True":
                found.setdefault(term, set()).add(who)
        return found

    def node(self, name: str) -> StagedDatanode:
        """A datanode's machine by name."""
        return next(h for h in self.datanodes if h.name == name)

    def regions_on(self, host: Host) -> dict[int, Region]:
        """The regions that a datanode owns, by id."""
        return {i: r for i, r in self.state.regions.items() if r.lane.node_id == host.name}

    def region_of(self, key: str) -> int:
        """The region that a key is in."""
        assert self.clients.table is not None
        return self.clients.table.region_of({"key": key})

    def keys_on(self, host: Host) -> list[str]:
        """The keys whose region a datanode owns."""
        owned = self.regions_on(host)
        return [key for key in self.clients.keys if self.region_of(key) in owned]

    def an_owner(self, but: Iterable[Host] = ()) -> StagedDatanode:
        """A datanode that owns a region which is written to."""
        return next(h for h in self.datanodes if h not in list(but) and self.keys_on(h))

    def status(self, host: Host) -> NodeStatus:
        """What is committed about a datanode."""
        return self.state.nodes[host.name].status

    def acked_by(self, host: Host) -> int:
        """How many writes this datanode has acknowledged."""
        return self.owners.by[host.name]

    def lease_left_s(self, host: StagedDatanode) -> float:
        """How long its agent takes itself for entitled, on its own clock."""
        return host.agent._lease.left_ms() / 1000

    def serves(self, region_id: int, but: Iterable[Host] = ()) -> bool:
        """Whether it serves, on a datanode that is up and none of these."""
        state = self.state
        region = state.regions[region_id]
        node_id = region.lane.node_id
        up = state.nodes[node_id].status is NodeStatus.UP and self.node(node_id).up
        return state.phase_of(region) is Phase.SERVING and up and node_id not in {h.name for h in but}

    def events(self, *kinds: str) -> list[Event]:
        """The audit trail of the story: what was committed since it began, of some kinds or all."""
        return [e for e in self.state.audit if e.revision > self.told_from and (not kinds or e.kind in kinds)]

    def said(self, what: str, by: Host | None = None) -> list[str]:
        """The log lines of that name since the story began."""
        lines = list(self.trace.lines)[self._said_from :]
        return [line for line in lines if line.split()[2] == what and (by is None or line.split()[1] == by.name)]

    # ---------------------------------------------------------------- users

    async def writes_go_on(
        self, within_s: float, keys: Iterable[str] | None = None, since: str = "the faults"
    ) -> float:
        """Each key takes a write that began after this moment within so long; how long the slowest took."""
        history, began_s = self.clients.history, self.loop.time()
        history.calm(list(self.clients.keys if keys is None else keys), Bound(within_s, since, True))
        await self.until(lambda: not history.waited_for, within_s, f"{sorted(history.waited_for)} take writes again")
        return self.loop.time() - began_s

    async def reads(self, key: str) -> bool:
        """A user reads the region of a key, strongly, and holds it against the history; whether there was an answer."""
        assert self.clients.table is not None
        return await self.clients._read(self.clients.table, key, strong=True)

    async def asks(self, asked: Awaitable[T]) -> T:
        """An operator asks for something (of `self.operators.admin`), and waits for the answer."""

        async def work() -> T:
            return await asked

        return await self.operators.spawn(work())

    async def proposes(self, host: MetasrvHost, command: AnyCommand, deadline_ms: float = 5_000) -> bool:
        """A replica proposes a command as its own leader's loop does; whether it was told that it is committed."""
        assert host.process is not None
        asked = host.process.spawn(host.service._proposer.propose(command, deadline_ms))
        try:
            await asked
        except ConsensusError:
            return False
        return True

    # ---------------------------------------------------------------- what befalls them

    def befalls(self, kind: str, *hosts: Host, silent_s: float = 0.0) -> None:
        """Note a fault; the datanodes among them may be suspected for it until a little after `silent_s`."""
        for host in hosts:
            self.nemesis.fault(kind, host.name, silent_s)

    def power_off(self, *hosts: Host) -> None:
        """Their machines lose power at once, un-synced bytes with it, and stay off; nobody is told."""
        self._end_processes("power_off", hosts, True)

    def kill(self, *hosts: Host, again: bool = False) -> None:
        """kill -9 at once; their service managers start them again a second later, or not."""
        self._end_processes("kill", hosts, False, again)

    def _end_processes(self, kind: str, hosts: Iterable[Host], power_lost: bool, again: bool = False) -> None:
        for host in hosts:
            self.befalls(kind, host)
            host.wanted = again
        for host in hosts:
            host.crash(power_lost)

    def loses_power_in_its_vote(self, host: MetasrvHost, died: list[MetasrvHost]) -> None:
        """It loses power between a vote for another replica and the sync of that vote; only the first of those told."""
        disk, journal, sync = host.disk, self.raft(host).journal, host.disk.sync
        term = journal.getCurrentTerm()

        def synced(descriptor: int) -> None:
            voted = journal.getVotedForNodeId() not in (None, host.name) and journal.getCurrentTerm() > term
            if voted and not died:
                died.append(host)
                self.befalls("power_lost_in_its_vote", host)
                self._context.copy().run(host.crash, True)  # what its peers notice later is no callback of its own
                raise Crashed(host.name)
            sync(descriptor)

        disk.sync = synced  # type: ignore[method-assign]

    def pause(self, host: Host) -> None:
        """SIGSTOP."""
        assert host.process is not None
        self.befalls("pause", host, silent_s=60.0)
        host.process.pause()
        self.fabric.hangs(host.process)

    def resume(self, host: Host) -> None:
        """SIGCONT."""
        assert host.process is not None
        host.process.resume()

    def cut(self, host: Host, *others: Host | str, both: bool = True) -> None:
        """Nothing from `host` reaches the others any more, nor the other way round unless one way only."""
        self.befalls("cut", host, *(o for o in others if isinstance(o, Host)), silent_s=60.0)
        for other in others:
            name = other if isinstance(other, str) else other.name
            self.fabric.block(host.name, name)
            if both:
                self.fabric.block(name, host.name)

    def mend_links(self) -> None:
        """Every link is whole again."""
        self.fabric.unblock_all()

    def store_heals(self, *hosts: Host) -> None:
        """The object store is well again as seen from there."""
        for host in hosts or self.hosts:
            self.nemesis.store.heal(host)
