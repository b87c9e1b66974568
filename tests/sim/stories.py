"""Faults in several steps, for situations that single ones meet once in a thousand histories."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.nemesis import Nemesis


class Stories:
    """Each is a kind of fault to the nemesis."""

    def __init__(self, nemesis: "Nemesis") -> None:
        self._nemesis = nemesis
        self._world = nemesis.world
        self._chance = nemesis.chance
        self.kinds: list[Callable[[], None]] = [
            self.stops_in_trouble, self.cancels, self.silence, self.brief_cut, self.slow_opening, self.late_sealer,
            self.with_old_leader,
        ]  # fmt: skip
        self.told = [*self.kinds, self.stops_in_trouble, self.silence]  # twice what seldom comes to its point
        self._busy_until_s = 0.0

    def _one_at_a_time(self, for_s: float) -> bool:
        """Several of them at once undo each other."""
        now_s = self._world.loop.time()
        if now_s < self._busy_until_s:
            return False
        self._busy_until_s = now_s + for_s
        return True

    def _cut(self, host: "Host", replicas: list[str], whole: bool = True) -> None:
        for name in replicas:
            if whole:
                self._world.fabric.block(host.name, name)
                self._world.fabric.block(name, host.name)
            else:
                self._world.fabric.unblock(host.name, name)
                self._world.fabric.unblock(name, host.name)

    def _replicas(self) -> list[str]:
        return [h.name for h in self._world.metasrvs]

    # ---------------------------------------------------------------- stories

    def stops_in_trouble(self) -> None:
        """SIGTERM to a datanode that cannot flush, or cannot tell metasrv: it ends at its deadlines."""
        nemesis, host = self._nemesis, self._nemesis.owner()
        if not host.up or not hasattr(host, "agent") or host.process is None or not self._one_at_a_time(9.0):
            return
        trouble = self._chance.choice(("store", "once it drains", "once it drains", "both", "both"))
        nemesis.fault("stops_in_trouble", host.name, 9.0, trouble=trouble)
        if trouble == "once it drains":  # regions are on their way when the link goes, and it has things to report
            after_s = self._chance.choice((0.0, 0.0, 0.1)) * self._chance.random()
            self._world.trace.on_line["draining"] = lambda: nemesis.later(after_s, self._cut, host, self._replicas())
        elif trouble != "store":
            self._cut(host, self._replicas())
        if trouble in ("store", "both"):
            host.faults.hang = True
            nemesis.later(8.0, nemesis.store.heal, host)
        nemesis.later(9.0, self._world.fabric.unblock_all)
        nemesis.later(self._chance.choice((0.0, 0.5)), host.process.call, host.agent.stop)

    def cancels(self) -> None:
        """An operator has regions moved, and cancels that at any moment, or in a race with the hand-over."""
        self._world.trace.fault("cancels", "regions")
        after_s = self._chance.choice((0.0, 0.05, 0.2)) * self._chance.random()
        race = self._chance.random() < 0.5
        self._world.operators.migrate_and_cancel(after_s, race)

    def silence(self) -> None:
        """Most datanodes are silent at once, and then heard again by the followers only: the leader doubts itself."""
        nemesis, chance = self._nemesis, self._chance
        lease_s = self._world.lease_s
        for_s = lease_s + chance.uniform(1.0, 3.0)
        if not self._one_at_a_time(for_s):
            return
        leader = nemesis.leader()
        followers = [name for name in self._replicas() if name != leader.name]
        hosts = self._world.datanodes if chance.random() < 0.7 else self._world.datanodes[:2]  # of two sites
        for host in hosts:
            nemesis.fault("silence", host.name, for_s, leader=leader.name)
            self._cut(host, self._replicas())

        def heard_again() -> None:
            for host in hosts:
                self._cut(host, followers, False)

        if chance.random() < 0.7:  # what the followers relay is on its way while the leader asks them
            self._world.fabric.slow_s[leader.name] = 0.1
            nemesis.later(for_s, self._world.fabric.slow_s.pop, leader.name, 0.0)
        how = chance.choice(("in time", "when it asks", "when it asks", "never"))
        if how == "in time":
            nemesis.later(lease_s + chance.uniform(0.0, 0.4), heard_again)
        elif how == "when it asks":
            self._world.trace.on_line["breaker_decided"] = lambda: self._one_hears_more(hosts)
        nemesis.later(for_s, self._world.fabric.unblock_all)

    def _one_hears_more(self, hosts: Sequence["Host"]) -> None:
        """A follower hears the datanodes just now; its relays and its answer reach the leader late, in any order."""
        leader, fabric = self._nemesis.leader().name, self._world.fabric
        name = self._chance.choice([other for other in self._replicas() if other != leader])
        for host in hosts:
            self._cut(host, [name], False)
        fabric.slow_s.pop(leader, None)
        fabric.block(name, leader)
        late_s = self._chance.uniform(0.1, 0.25)  # behind the question; the leader waits 0.3 s for its answer
        self._nemesis.later(late_s, fabric.unblock, name, leader)

    def brief_cut(self) -> None:
        """P2: an owner with a slow store and a slow clock is cut off until about when it is failed over, and no longer.

        So it hears that it is out while appends that became durable below the seal are still on their way back.
        """
        nemesis, chance = self._nemesis, self._chance
        for_s = self._world.lease_s + chance.uniform(-0.2, 0.8)
        if not self._one_at_a_time(for_s + 1.0):
            return
        host = nemesis.owner()
        nemesis.fault("brief_cut", host.name, for_s + 1.0)
        self._world.clocks_lie = True
        host.clock.set_rate(0.02)
        host.faults.latency_ms = (200.0, chance.choice((500.0, 1_200.0)))
        self._cut(host, self._replicas())
        nemesis.later(for_s, self._world.fabric.unblock_all)
        nemesis.later(for_s + 1.0, host.clock.set_rate, 1.0)
        nemesis.later(for_s + 1.0, nemesis.store.heal, host)

    def with_old_leader(self) -> None:
        """T4, P2: the leader is cut off from the other replicas, and some datanodes reach nobody but it.

        They go on asking for leases of one who may not grant any more, while the next leader counts their silence.
        """
        nemesis, chance = self._nemesis, self._chance
        for_s = self._world.lease_s + chance.uniform(1.0, 3.0)
        if not self._one_at_a_time(for_s):
            return
        leader = nemesis.leader()
        others = [name for name in self._replicas() if name != leader.name]
        owner = nemesis.owner()
        hosts = [h for h in self._world.datanodes if h is owner or chance.random() < 0.3]
        self._world.trace.fault("with_old_leader", leader.name, for_s=round(for_s, 3))
        self._cut(leader, others)
        if chance.random() < 0.7:  # it hears the old leader only, and keeps the old routes
            self._cut(chance.choice(self._world.frontends), others)
        self._world.clients.looks(for_s)
        for host in hosts:
            nemesis.befell(host.name, for_s)
            self._cut(host, others)
        if chance.random() < 0.3:  # its answers are late, too
            self._world.fabric.slow_s[leader.name] = chance.uniform(0.1, 0.8)
            nemesis.later(for_s, self._world.fabric.slow_s.pop, leader.name, 0.0)
        nemesis.later(for_s, self._world.fabric.unblock_all)

    def slow_opening(self) -> None:
        """An owner is failed over to nodes whose store is slow, down, or loses replies while they seal and claim."""
        nemesis, chance = self._nemesis, self._chance
        if not self._one_at_a_time(6.0):
            return
        owner = nemesis.owner()
        nemesis.fault("slow_opening", owner.name, 6.0)
        how = chance.choice(("slow", "loses", "down"))
        for host in self._world.datanodes:
            if how == "slow" and host is not owner:
                host.faults.latency_ms = (50.0, 700.0)
            elif how == "loses":
                host.faults.lost_reply = 0.5
            elif host is not owner:
                nemesis.later(chance.uniform(0.0, self._world.lease_s), setattr, host.faults, "unavailable", 1.0)
            nemesis.later(6.0, nemesis.store.heal, host)
        nemesis.befell("*", 6.0)
        if chance.random() < 0.5:
            owner.crash(chance.random() < 0.5)
        else:  # it goes on, and commits what it flushed meanwhile
            self._cut(owner, self._replicas())
            nemesis.later(self._world.lease_s + 1.0, self._world.fabric.unblock_all)

    def late_sealer(self) -> None:
        """HOLES: a sealer sleeps between looking for a lane's end and its SEAL, while others seal, replay and trim it.

        The owner is a zombie that goes on writing for those with an old route. The first that is to take over is held
        before its SEAL, and is failed over itself; it wakes when the second one has had the lane trimmed. The name that
        it wanted is free again by then, and below the trim marker.
        """
        nemesis, world = self._nemesis, self._world
        if not self._one_at_a_time(11.0):
            return
        owner, lease_s = nemesis.owner(), world.lease_s
        nemesis.fault("late_sealer", owner.name, 11.0)
        world.clocks_lie = True
        owner.clock.set_rate(0.02)
        nemesis.later(11.0, owner.clock.set_rate, 1.0)
        for cut in (owner, *world.frontends):
            self._cut(cut, self._replicas())
        for frontend in world.frontends:  # until the owner has written more
            nemesis.later(2 * lease_s - 0.5, self._cut, frontend, self._replicas(), False)
        others = [host for host in world.datanodes if host is not owner]

        def held(sealer: "Host") -> None:
            for host in others:
                host.holds = None
            sealer.holds = _held  # until its store heals: it is not well
            nemesis.fault("held_before_its_seal", sealer.name, 8.0)
            self._cut(sealer, self._replicas())
            on_line = world.trace.on_line
            nemesis.later(lease_s, on_line.__setitem__, "lane_trimmed", lambda: nemesis.store.heal(sealer))
            nemesis.later(lease_s + 4.0, nemesis.store.heal, sealer)

        for host in others:
            host.holds = functools.partial(_before_a_seal, host, f"lanes/{owner.name}/", held)
        nemesis.later(11.0, world.fabric.unblock_all)


async def _held(operation: str, key: str, when: str) -> None:
    """What else it asks of the store goes on."""


async def _before_a_seal(
    host: "Host", under: str, held: Callable[["Host"], None], operation: str, key: str, when: str
) -> None:
    if operation == "create" and when == "before" and key.startswith(under) and "/trim/" not in key:
        host.faults.healed.clear()
        held(host)
        await host.faults.healed.wait()
