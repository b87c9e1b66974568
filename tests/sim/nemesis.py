"""Who makes the faults: what, to whom and when, drawn from the seed.

A run has a mood: most draw from a few kinds only, so that rare combinations come up; some draw from all.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.hosts import Host, MetasrvHost
    from tests.sim.world import World

REMEMBERED_S = 14.0  # how long after its end a fault may still be the cause of a suspicion
FRONTEND = "frontend-1"
ALL = "*"


class Nemesis:
    """Acts between start() and stop(); then everything heals."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed}/nemesis")
        self._until_s = 0.0
        self._causes: list[tuple[str, float]] = []  # (node or ALL, until when it explains)
        kinds: list[Callable[[], None]] = [
            self.kill, self.kill, self.power_loss, self.crash_at_an_effect, self.pause, self.stop_gracefully,
            self.kill_leader, self.kill_together, self.pause_leader, self.kill_all_replicas, self.site_lost,
            self.partition_node, self.one_way, self.partition_leader, self.flap, self.reset_connections,
            self.slow_links,
            self.store_slow, self.store_refuses, self.store_unreachable, self.store_loses_replies, self.store_puts_late,
            self.store_hangs, self.disk_full, self.disk_fails, self.transfer, self.migrate,
            self.migrate, self.drain, self.clock_jumps, self.zombie,
        ]  # fmt: skip
        mood = self._chance.random()
        self._kinds = kinds if mood < 0.3 else self._chance.sample(kinds, self._chance.choice((1, 2, 3, 5)))
        self._rate = self._chance.choice((0.3, 0.6, 1.0))
        self._zombie_until_s = 0.0
        self.about_zombies = self._chance.random() < 0.2
        if self.about_zombies:
            self._kinds = self._chance.sample(kinds, self._chance.choice((0, 1, 2))) or [self.migrate]
            self._rate = 0.3

    def start(self, active_s: float) -> None:
        """Begin."""
        self._until_s = self._world.loop.time() + active_s
        self._next()
        if self.about_zombies:
            self._later(self._chance.uniform(0.0, 1.0), self.zombie)

    def stop(self) -> None:
        """Heal everything, and start what is down."""
        self._until_s = 0.0
        world = self._world
        world.trace.note("nemesis", "heals")
        world.fabric.unblock_all()
        world.fabric.slow_s.clear()
        for host in world.hosts:
            self._heal_store(host)
            host.clock.set_rate(1.0)
            if host.process is not None:
                host.process.crash_after = None
                host.process.resume()
            host.start()
        for replica in world.metasrvs:
            self._heal_disk(replica)
        for host in world.datanodes:
            world.operators.undrain(host.name)

    def had_cause(self, node_id: str) -> bool:
        """Whether something that could silence a datanode happened to it lately."""
        now_s = self._world.loop.time()
        return any(who in (node_id, ALL) and until_s >= now_s for who, until_s in self._causes)

    # ---------------------------------------------------------------- helpers

    def _befell(self, who: str, for_s: float = 0.0) -> None:
        self._causes.append((who, self._world.loop.time() + for_s + REMEMBERED_S))

    def _next(self) -> None:
        self._world.later(self._chance.expovariate(self._rate), self._act)

    def _act(self) -> None:
        if self._active:
            self._chance.choice(self._kinds)()
            self._next()

    @property
    def _active(self) -> bool:
        return self._world.loop.time() < self._until_s

    def _later(self, seconds: float, action: Callable[..., None], *args: object) -> None:
        """While the nemesis is at work: afterwards everything is healed already."""
        self._world.later(seconds, lambda: action(*args) if self._active else None)

    def _datanode(self) -> "Host":
        return self._chance.choice(self._world.datanodes)

    def _any(self) -> "Host":
        return self._chance.choice(self._world.hosts)

    def _leader(self) -> "MetasrvHost":
        world = self._world
        for host in world.metasrvs:
            if host.up and hasattr(host, "service") and host.service.consensus.leadership().is_leader:
                return host
        return self._chance.choice(world.metasrvs)

    def _fault(self, kind: str, target: str, for_s: float = 0.0, **fields: object) -> None:
        self._world.trace.fault(kind, target, for_s=round(for_s, 3), **fields)
        if target.startswith("dn-") or target == ALL:
            self._befell(target, for_s)

    def _for_s(self) -> float:
        """Shorter than a lease, longer than one, or longer than the keep-alive."""
        return self._chance.choice(
            (self._chance.uniform(0.05, 1), self._chance.uniform(1, 4), self._chance.uniform(3, 9))
        )

    # ---------------------------------------------------------------- processes

    def kill(self) -> None:
        """kill -9, and started again by its service manager, soon or late."""
        self._kill("kill", self._any(), False)

    def power_loss(self) -> None:
        """The machine loses its power: nobody is told, and what was not synced is gone."""
        self._kill("power_loss", self._any(), True)

    def _kill(self, kind: str, host: "Host", power_lost: bool) -> None:
        if not host.up:
            return
        down_s = self._chance.choice((0.0, 0.0, self._for_s()))
        self._fault(kind, host.name, down_s)
        if down_s:
            host.wanted = False
            self._later(down_s, host.start)
        host.crash(power_lost)

    def crash_at_an_effect(self) -> None:
        """It crashes before one of its next effects on a disk, a store or the network."""
        host = self._any()
        if host.process is not None and host.up:
            after = self._chance.choice((self._chance.randint(0, 20), self._chance.randint(0, 300)))
            self._fault("crash_at_an_effect", host.name, 10.0, after=after)
            host.process.crash_after = after

    def pause(self) -> None:
        """SIGSTOP and SIGCONT: a zombie where it lasts longer than a lease."""
        self._pause("pause", self._any())

    def pause_leader(self) -> None:
        """T3, T4: the leader sleeps and wakes."""
        self._pause("pause_leader", self._leader())

    def _pause(self, kind: str, host: "Host") -> None:
        process = host.process
        if process is None or process.state != "running":
            return
        for_s = self._for_s()
        self._fault(kind, host.name, for_s)
        process.pause()
        self._world.fabric.hangs(process)
        self._later(for_s, process.resume)

    def zombie(self) -> None:
        """P2: an owner whose beats and orders are cut while the store and those who write to it are not.

        Its clock may all but stand still, so that its lease runs on: only the seal is between it and its writers. Its
        puts are held back about when its lanes are failed over, and land, or are tried again, behind the seal.
        """
        chance, world = self._chance, self._world
        if self._zombie_until_s > world.loop.time():
            return  # one at a time: somebody has to take over
        host = self._owner()
        for_s = chance.uniform(6, 11)
        slow = chance.random() < 0.8
        self._zombie_until_s = world.loop.time() + for_s
        self._fault("zombie", host.name, for_s, slow_clock=slow)
        if slow:
            world.clocks_lie = True
            host.clock.set_rate(0.02)
            self._later(for_s, host.clock.set_rate, 1.0)
        names = [host.name] if chance.random() < 0.15 else [host.name, FRONTEND]
        for replica in world.metasrvs:
            for name in names:
                world.fabric.block(name, replica.name)
                world.fabric.block(replica.name, name)
        self._later(for_s, world.fabric.unblock_all)
        at_s = chance.uniform(2.5, 5.5)  # about when a silent node is failed over
        hold = chance.choice(("no", "hang", "late", "slow", "pause"))
        if hold == "hang":
            self._later(at_s, setattr, host.faults, "hang", True)
        elif hold == "late":
            host.faults.late_ms = chance.uniform(200, 3_000)
            self._later(at_s, setattr, host.faults, "late_puts", chance.randint(1, 6))
        elif hold == "slow":
            host.faults.latency_ms = (50.0, 900.0)
        elif hold == "pause" and host.process is not None:
            self._later(at_s - chance.uniform(0, 2), host.process.pause)
            self._later(at_s + chance.uniform(0.2, 2), host.process.resume)
        self._later(at_s + chance.uniform(0.2, 3), self._heal_store, host)

    def _owner(self) -> "Host":
        """A datanode that has regions which are written to."""
        clients, leader = self._world.clients, self._leader()
        if clients.table is None or not hasattr(leader, "service"):
            return self._datanode()
        written = {clients.table.region_of({"key": key}) for key in clients.keys}
        regions = leader.service.machine.state.regions
        names = {region.lane.node_id for region_id, region in regions.items() if region_id in written}
        hosts = [h for h in self._world.datanodes if h.name in names]
        return self._chance.choice(hosts or self._world.datanodes)

    def stop_gracefully(self) -> None:
        """SIGTERM to a datanode: it drains, flushes, releases; started again later."""
        host = self._chance.choice(self._world.datanodes)
        if host.up and hasattr(host, "agent") and host.process is not None:
            self._fault("stop_gracefully", host.name, 10.0)
            host.process.call(host.agent.stop)

    def kill_leader(self) -> None:
        """The leader dies."""
        self._kill("kill_leader", self._leader(), self._chance.random() < 0.5)

    def kill_together(self) -> None:
        """T1: the leader and a datanode die together."""
        self._kill("kill_together", self._leader(), False)
        self._kill("kill_together", self._datanode(), self._chance.random() < 0.5)

    def kill_all_replicas(self) -> None:
        """P7, T23: all of metasrv restarts at once."""
        power_lost = self._chance.random() < 0.5
        for host in self._world.metasrvs:
            if host.up:
                self._fault("kill_all_replicas", host.name)
                host.crash(power_lost)

    def site_lost(self) -> None:
        """T18: a whole site, its metasrv included."""
        site = self._chance.choice(("site-1", "site-2"))
        for host in self._world.hosts:
            if self._world.locality(host.name).startswith(site):
                self._kill("site_lost", host, True)

    # ---------------------------------------------------------------- network

    def partition_node(self) -> None:
        """A datanode is cut off from some or all others, in both directions."""
        host = self._datanode()
        others = [h.name for h in self._world.hosts if h is not host] + [FRONTEND]
        self._cut("partition_node", host.name, self._chance.sample(others, self._chance.randint(1, len(others))), True)

    def one_way(self) -> None:
        """T21: packets from one host to some others are lost, and not the other way round."""
        host = self._any()
        others = [h.name for h in self._world.hosts if h is not host] + [FRONTEND]
        self._cut("one_way", host.name, self._chance.sample(others, self._chance.randint(1, len(others))), False)

    def partition_leader(self) -> None:
        """The leader is cut off from the other replicas, and perhaps from the datanodes."""
        leader = self._leader()
        others = [h.name for h in self._world.metasrvs if h is not leader]
        if self._chance.random() < 0.5:
            others += [h.name for h in self._world.datanodes]
        self._cut("partition_leader", leader.name, others, True)

    def flap(self) -> None:
        """A link that comes and goes."""
        host, other = self._chance.sample(self._world.hosts, 2)
        for _ in range(self._chance.randint(2, 5)):
            self._later(self._chance.uniform(0, 5), self._cut, "flap", host.name, [other.name], True)

    def _cut(self, kind: str, name: str, others: list[str], both: bool) -> None:
        for_s = self._for_s()
        self._fault(kind, name, for_s, others=others)
        for other in others:
            if other.startswith("dn-"):
                self._befell(other, for_s)
            self._world.fabric.block(name, other)
            if both:
                self._world.fabric.block(other, name)
        self._later(for_s, self._world.fabric.unblock_all)

    def reset_connections(self) -> None:
        """Some connections break; nothing else does."""
        share = self._chance.choice((0.1, 0.5, 1.0))
        self._fault("reset_connections", "links", share=share)
        self._world.fabric.break_some(share)

    def slow_links(self) -> None:
        """Everything from and to one host takes longer."""
        host = self._any()
        for_s, by_s = self._for_s(), self._chance.choice((0.02, 0.2, 0.6))
        self._fault("slow_links", host.name, for_s, by_s=by_s)
        if host in self._world.metasrvs and by_s > 0.3:
            self._befell(ALL, for_s)
        self._world.fabric.slow_s[host.name] = by_s
        self._later(for_s, self._world.fabric.slow_s.pop, host.name, 0.0)

    # ---------------------------------------------------------------- store

    def _store(self, kind: str, **values: object) -> None:
        hosts = [self._any()] if self._chance.random() < 0.7 else self._world.hosts
        for_s = self._for_s()
        for host in hosts:
            self._fault(kind, host.name, for_s)
            for name, value in values.items():
                setattr(host.faults, name, value)
            self._later(for_s, self._heal_store, host)
        if len(hosts) > 1:
            self._befell(ALL, for_s)

    def _heal_store(self, host: "Host") -> None:
        latency = self._world.latency_ms
        host.faults.heal()
        host.faults.latency_ms = latency

    def store_slow(self) -> None:
        """Every call takes long."""
        self._store("store_slow", latency_ms=(20.0, self._chance.choice((100.0, 800.0))))

    def store_refuses(self) -> None:
        """503 for some of the calls."""
        self._store("store_refuses", unavailable=self._chance.choice((0.1, 0.5, 1.0)))

    def store_unreachable(self) -> None:
        """T6: unreachable from one node, or from all."""
        self._store("store_unreachable", unreachable=True)

    def store_loses_replies(self) -> None:
        """Puts take effect and their callers do not learn it."""
        self._store("store_loses_replies", lost_reply=self._chance.choice((0.05, 0.3)))

    def store_puts_late(self) -> None:
        """Puts are reported as failed and take effect a while later."""
        self._store("store_puts_late", late_puts=self._chance.randint(1, 4), late_ms=self._chance.uniform(5, 6_000))

    def store_hangs(self) -> None:
        """T5: calls wait."""
        self._store("store_hangs", hang=True)

    # ---------------------------------------------------------------- disks, clocks, operators

    def disk_full(self) -> None:
        """T10: a replica's disk is full for a while."""
        host = self._chance.choice((self._leader(), self._chance.choice(self._world.metasrvs)))
        if host.up:
            self._fault("disk_full", host.name)
            host.disk.full = True
            self._later(self._for_s(), self._heal_disk, host)

    def disk_fails(self) -> None:
        """A sync fails: the replica ends itself."""
        host = self._chance.choice(self._world.metasrvs)
        if host.up:
            self._fault("disk_fails", host.name)
            host.disk.fail_syncs = True

    def _heal_disk(self, host: "MetasrvHost") -> None:
        if hasattr(host, "disk"):
            host.disk.full = host.disk.fail_syncs = False

    def clock_jumps(self) -> None:
        """The wall clock of a machine is set; its other clock was never anybody else's."""
        host = self._any()
        self._world.trace.fault("clock_jumps", host.name)
        host.clock.set_wall(10**12 + self._chance.randint(-(10**9), 10**9))

    def transfer(self) -> None:
        """An operator hands leadership over."""
        to = self._chance.choice(self._world.metasrvs).name
        self._world.trace.fault("transfer", to)
        self._world.operators.transfer(to)

    def migrate(self) -> None:
        """An operator moves a region or two (P4)."""
        self._world.trace.fault("migrate", "regions")
        self._world.operators.migrate()

    def drain(self) -> None:
        """An operator has all regions of a node moved away (P4), and takes it back a little later."""
        host = self._datanode()
        self._world.trace.fault("drain", host.name)
        self._world.operators.drain(host.name)
        self._later(self._chance.uniform(1, 6), self._world.operators.undrain, host.name)
