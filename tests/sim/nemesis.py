"""Who makes the faults: what, to whom and when, drawn from the seed.

A run has a mood: most draw from a few kinds only, so that rare combinations come up; some draw from all.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.disk_faults import DiskFaults
from tests.sim.store_faults import StoreFaults
from tests.sim.stories import Stories

if TYPE_CHECKING:
    from tests.sim.hosts import Host, MetasrvHost
    from tests.sim.world import World

REMEMBERED_S = 14.0  # how long after its end a fault may still be the cause of a suspicion
ALL = "*"


class Nemesis:
    """Acts between start() and rest() or stop(); then everything heals."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.chance = random.Random(f"{world.seed}/nemesis")
        self.disks, self.store, self.stories = DiskFaults(self), StoreFaults(self), Stories(self)
        self._until_s = 0.0
        self._round = 0  # what was planned before a rest does not happen after it
        self._causes: list[tuple[str, float]] = []  # (node or ALL, until when it explains)
        kinds: list[Callable[[], None]] = [
            self.kill, self.kill, self.power_loss, self.crash_at_an_effect, self.pause, self.stop_gracefully,
            self.kill_leader, self.kill_together, self.pause_leader, self.kill_all_replicas, self.site_lost,
            self.partition_node, self.one_way, self.partition_leader, self.flap, self.reset_connections,
            self.slow_links,
            *self.store.kinds, *self.disks.kinds, *self.stories.kinds,
            self.transfer, self.migrate, self.migrate, self.drain, self.clock_jumps, self.zombie,
        ]  # fmt: skip
        mood = self.chance.random()
        self._kinds = kinds if mood < 0.3 else self.chance.sample(kinds, self.chance.choice((1, 2, 3, 5)))
        self._rate = self.chance.choice((0.3, 0.6, 1.0))
        self.tells_a_story = 0.3 <= mood < 0.5
        if self.tells_a_story:
            self._kinds = [self.chance.choice(self.stories.told)] * 3 + self.chance.sample(kinds, 1)
        self._zombie_until_s = 0.0
        self.about_zombies = not self.tells_a_story and self.chance.random() < 0.2
        if self.about_zombies:
            self._kinds = self.chance.sample(kinds, self.chance.choice((0, 1, 2))) or [self.migrate]
            self._rate = 0.3
        self.about_something = self.tells_a_story or self.about_zombies

    def start(self, active_s: float) -> None:
        """Begin, or go on."""
        self._until_s = self.world.loop.time() + active_s
        self._next()
        if self.about_zombies:
            self.later(self.chance.uniform(0.0, 1.0), self.zombie)

    def rest(self) -> None:
        """Heal everything, and start what is down: from now on nobody has an excuse."""
        self._until_s = 0.0
        self._round += 1
        world = self.world
        world.trace.note("nemesis", "heals")
        world.fabric.unblock_all()
        world.fabric.slow_s.clear()
        for host in world.machines:
            self.store.heal(host)
            host.clock.set_rate(1.0)
            if host.process is not None:
                host.process.crash_after = None
                host.process.resume()
            host.start()
        for replica in world.metasrvs:
            self.disks.heal(replica)
        for host in world.datanodes:
            world.operators.undrain(host.name)

    def had_cause(self, node_id: str) -> bool:
        """Whether something that could silence a datanode happened to it lately."""
        now_s = self.world.loop.time()
        return any(who in (node_id, ALL) and until_s >= now_s for who, until_s in self._causes)

    # ---------------------------------------------------------------- helpers

    def befell(self, who: str, for_s: float = 0.0) -> None:
        """Something that may silence a datanode, or all of them, goes on for so long."""
        self._causes.append((who, self.world.loop.time() + for_s + REMEMBERED_S))

    def _next(self) -> None:
        self.later(self.chance.expovariate(self._rate), self._act)

    def _act(self) -> None:
        self.chance.choice(self._kinds)()
        self._next()

    def later(self, seconds: float, action: Callable[..., object], *args: object) -> None:
        """While the nemesis is at work: once it rests, everything is healed already."""
        begun = self._round
        self.world.later(
            seconds, lambda: action(*args) if begun == self._round and self.world.loop.time() < self._until_s else None
        )

    def _datanode(self) -> "Host":
        return self.chance.choice(self.world.datanodes)

    def any(self) -> "Host":
        """Any machine of metasrv or of a datanode."""
        return self.chance.choice(self.world.hosts)

    def any_machine(self) -> "Host":
        """Any machine, a frontend's too."""
        return self.chance.choice(self.world.machines)

    def leader(self) -> "MetasrvHost":
        """Who leads, or any replica."""
        world = self.world
        for host in world.metasrvs:
            if host.up and hasattr(host, "service") and host.service.consensus.leadership().is_leader:
                return host
        return self.chance.choice(world.metasrvs)

    def fault(self, kind: str, target: str, for_s: float = 0.0, **fields: object) -> None:
        """Count it and tell the trace."""
        self.world.trace.fault(kind, target, for_s=round(for_s, 3), **fields)
        if target.startswith("dn-") or target == ALL:
            self.befell(target, for_s)

    def for_s(self) -> float:
        """Shorter than a lease, longer than one, or longer than the keep-alive."""
        return self.chance.choice((self.chance.uniform(0.05, 1), self.chance.uniform(1, 4), self.chance.uniform(3, 9)))

    # ---------------------------------------------------------------- processes

    def kill(self) -> None:
        """kill -9, and started again by its service manager, soon or late."""
        self._kill("kill", self.any_machine(), False)

    def power_loss(self) -> None:
        """The machine loses its power: nobody is told, and what was not synced is gone."""
        self._kill("power_loss", self.any_machine(), True)

    def _kill(self, kind: str, host: "Host", power_lost: bool) -> None:
        if not host.up:
            return
        down_s = self.chance.choice((0.0, 0.0, self.for_s()))
        self.fault(kind, host.name, down_s)
        if down_s:
            host.wanted = False
            self.later(down_s, host.start)
        host.crash(power_lost)

    def crash_at_an_effect(self) -> None:
        """It crashes before one of its next effects on a disk, a store or the network."""
        host = self.any_machine()
        if host.process is not None and host.up:
            after = self.chance.choice((self.chance.randint(0, 20), self.chance.randint(0, 300)))
            self.fault("crash_at_an_effect", host.name, 10.0, after=after)
            host.process.crash_after = after

    def pause(self) -> None:
        """SIGSTOP and SIGCONT: a zombie where it lasts longer than a lease."""
        self._pause("pause", self.any_machine())

    def pause_leader(self) -> None:
        """T3, T4: the leader sleeps and wakes."""
        self._pause("pause_leader", self.leader())

    def _pause(self, kind: str, host: "Host") -> None:
        process = host.process
        if process is None or process.state != "running":
            return
        for_s = self.for_s()
        self.fault(kind, host.name, for_s)
        process.pause()
        self.world.fabric.hangs(process)
        self.later(for_s, process.resume)

    def zombie(self) -> None:
        """P2: an owner whose beats and orders are cut while the store and those who write to it are not.

        Its clock may all but stand still, so that its lease runs on: only the seal is between it and its writers. Its
        puts are held back about when its lanes are failed over, and land, or are tried again, behind the seal.
        """
        chance, world = self.chance, self.world
        if self._zombie_until_s > world.loop.time():
            return  # one at a time: somebody has to take over
        host = self.owner()
        for_s = chance.uniform(6, 11)
        slow = chance.random() < 0.8
        self._zombie_until_s = world.loop.time() + for_s
        self.fault("zombie", host.name, for_s, slow_clock=slow)
        if slow:
            world.clocks_lie = True
            host.clock.set_rate(0.02)
            self.later(for_s, host.clock.set_rate, 1.0)
        names = [host.name]
        if chance.random() < 0.85:  # one that still has the old route, or both
            names += [f.name for f in chance.sample(world.frontends, chance.choice((1, 2)))]
        world.clients.looks(for_s)
        for replica in world.metasrvs:
            for name in names:
                world.fabric.block(name, replica.name)
                world.fabric.block(replica.name, name)
        self.later(for_s, world.fabric.unblock_all)
        at_s = chance.uniform(2.5, 5.5)  # about when a silent node is failed over
        hold = chance.choice(("no", "hang", "late", "slow", "pause"))
        if hold == "hang":
            self.later(at_s, setattr, host.faults, "hang", True)
        elif hold == "late":
            host.faults.late_ms = chance.uniform(200, 3_000)
            self.later(at_s, setattr, host.faults, "late_puts", chance.randint(1, 6))
        elif hold == "slow":
            host.faults.latency_ms = (50.0, 900.0)
        elif hold == "pause" and host.process is not None:
            self.later(at_s - chance.uniform(0, 2), host.process.pause)
            self.later(at_s + chance.uniform(0.2, 2), host.process.resume)
        self.later(at_s + chance.uniform(0.2, 3), self.store.heal, host)

    def owner(self) -> "Host":
        """A datanode that has regions which are written to."""
        clients, leader = self.world.clients, self.leader()
        if clients.table is None or not hasattr(leader, "service"):
            return self._datanode()
        written = {clients.table.region_of({"key": key}) for key in clients.keys}
        regions = leader.service.machine.state.regions
        names = {region.lane.node_id for region_id, region in regions.items() if region_id in written}
        hosts = [h for h in self.world.datanodes if h.name in names]
        return self.chance.choice(hosts or self.world.datanodes)

    def dies_for_good(self) -> tuple["Host", bool]:
        """P3, P5: a datanode with regions dies while all else is well, and is not started again; the leader with it?"""
        host, leader = self.owner(), self.leader()
        with_leader = self.chance.random() < 0.3 and all(self.disks.whole(h) for h in self.world.metasrvs)
        self.fault("dies_for_good", host.name, with_leader=with_leader)
        host.wanted = False
        host.crash(self.chance.random() < 0.5)
        if with_leader:
            leader.crash(self.chance.random() < 0.5)
        return host, with_leader

    def stop_gracefully(self) -> None:
        """SIGTERM to a datanode: it drains, flushes, releases; started again later."""
        host = self.chance.choice(self.world.datanodes)
        if host.up and hasattr(host, "agent") and host.process is not None:
            self.fault("stop_gracefully", host.name, 10.0)
            host.process.call(host.agent.stop)

    def kill_leader(self) -> None:
        """The leader dies."""
        self._kill("kill_leader", self.leader(), self.chance.random() < 0.5)

    def kill_together(self) -> None:
        """T1: the leader and a datanode die together."""
        self._kill("kill_together", self.leader(), False)
        self._kill("kill_together", self._datanode(), self.chance.random() < 0.5)

    def kill_all_replicas(self) -> None:
        """P7, T23: all of metasrv restarts at once."""
        power_lost = self.chance.random() < 0.5
        for host in self.world.metasrvs:
            if host.up:
                self.fault("kill_all_replicas", host.name)
                host.crash(power_lost)

    def site_lost(self) -> None:
        """T18: a whole site, its metasrv and its frontend included."""
        site = self.chance.choice(("site-1", "site-2"))
        for host in self.world.machines:
            if self.world.locality(host.name).startswith(site):
                self._kill("site_lost", host, True)

    # ---------------------------------------------------------------- network

    def partition_node(self) -> None:
        """A datanode is cut off from some or all others, in both directions."""
        host = self._datanode()
        others = [h.name for h in self.world.machines if h is not host]
        self._cut("partition_node", host.name, self.chance.sample(others, self.chance.randint(1, len(others))), True)

    def one_way(self) -> None:
        """T21: packets from one host to some others are lost, and not the other way round."""
        host = self.any_machine()
        others = [h.name for h in self.world.machines if h is not host]
        self._cut("one_way", host.name, self.chance.sample(others, self.chance.randint(1, len(others))), False)

    def partition_leader(self) -> None:
        """The leader is cut off from the other replicas, and perhaps from the datanodes."""
        leader = self.leader()
        others = [h.name for h in self.world.metasrvs if h is not leader]
        if self.chance.random() < 0.5:
            others += [h.name for h in self.world.datanodes]
        self._cut("partition_leader", leader.name, others, True)

    def flap(self) -> None:
        """A link that comes and goes."""
        host, other = self.chance.sample(self.world.machines, 2)
        for _ in range(self.chance.randint(2, 5)):
            self.later(self.chance.uniform(0, 5), self._cut, "flap", host.name, [other.name], True)

    def _cut(self, kind: str, name: str, others: list[str], both: bool) -> None:
        for_s = self.for_s()
        self.fault(kind, name, for_s, others=others)
        for other in others:
            if other.startswith("dn-"):
                self.befell(other, for_s)
            self.world.fabric.block(name, other)
            if both:
                self.world.fabric.block(other, name)
        self.later(for_s, self.world.fabric.unblock_all)

    def reset_connections(self) -> None:
        """Some connections break; nothing else does."""
        share = self.chance.choice((0.1, 0.5, 1.0))
        self.fault("reset_connections", "links", share=share)
        self.world.fabric.break_some(share)
        self.world.outages.connections_reset()

    def slow_links(self) -> None:
        """Everything from and to one host takes longer."""
        host = self.any_machine()
        for_s, by_s = self.for_s(), self.chance.choice((0.02, 0.2, 0.6))
        self.fault("slow_links", host.name, for_s, by_s=by_s)
        if host in self.world.metasrvs and by_s > 0.3:
            self.befell(ALL, for_s)
        self.world.fabric.slow_s[host.name] = by_s
        self.later(for_s, self.world.fabric.slow_s.pop, host.name, 0.0)

    # ---------------------------------------------------------------- clocks, operators

    def clock_jumps(self) -> None:
        """The wall clock of a machine is set; its other clock was never anybody else's."""
        host = self.any_machine()
        self.world.trace.fault("clock_jumps", host.name)
        host.clock.set_wall(10**12 + self.chance.randint(-(10**9), 10**9))

    def transfer(self) -> None:
        """An operator hands leadership over."""
        to = self.chance.choice(self.world.metasrvs).name
        self.world.trace.fault("transfer", to)
        self.world.operators.transfer(to)

    def migrate(self) -> None:
        """An operator moves a region or two (P4)."""
        self.world.trace.fault("migrate", "regions")
        self.world.operators.migrate()

    def drain(self) -> None:
        """An operator has all regions of a node moved away (P4), and takes it back a little later."""
        host = self._datanode()
        self.world.trace.fault("drain", host.name)
        self.world.operators.drain(host.name)
        self.later(self.chance.uniform(1, 6), self.world.operators.undrain, host.name)
