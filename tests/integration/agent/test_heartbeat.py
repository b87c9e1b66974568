"""Beats on their threads, against the real Heartbeat service of one replica and against addresses that are dead."""

import asyncio
import threading
import time

from datanode_agent.adapters.beating import Heard, Lease
from datanode_agent.adapters.heartbeat import Heartbeats
from datanode_agent.core.beats import LaneVital, Vitals
from datanode_agent.core.lease import Refusal, Standing
from groundwork.adapters.clock import SystemClock
from groundwork.core.errors import MetasrvError
from tests.integration.agent.harness import CLUSTER_ID, hung_server
from tests.integration.agent.replica import Replica, replica, until
from tests.ports import free_ports

OPEN = Vitals((LaneVital(0, True, 1.0), LaneVital(1, True, 1.0)))


class _Agent:
    """Heartbeats of one node and what they brought to the loop."""

    def __init__(self, *addresses: str, cluster_id: str = CLUSTER_ID) -> None:
        self.heard: list[Heard] = []
        self.crashes: list[BaseException] = []
        loop = asyncio.get_running_loop()
        self.beats = Heartbeats(addresses, None, cluster_id, "dn-1", loop, self.heard.append, self.crashes.append)
        self.beats.start()

    def enrol(self, incarnation: int, lease_ms: float, beat_ms: float, vitals: Vitals = OPEN) -> Lease:
        return self.beats.enrol(incarnation, lease_ms, beat_ms, lambda: vitals)

    async def stop(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.beats.stop)


async def _enrolled(one: Replica, *addresses: str) -> tuple[_Agent, Lease]:
    incarnation = await one.register("dn-1")
    agent = _Agent(*(addresses or (one.address,)))
    lease = agent.enrol(incarnation, one.config.lease_ms, one.config.beat_ms)
    lease.applied(one.machine.state.revision)
    return agent, lease


def _block_the_loop(until_beat: int, beats: Heartbeats) -> None:
    give_up = time.monotonic() + 20
    while beats.beats_sent < until_beat and time.monotonic() < give_up:
        time.sleep(0.01)


def test_a_lease_is_granted_and_renewed() -> None:
    """Beats bring a lease that is counted from their send time, admit the lanes and name the leader."""

    async def story() -> None:
        async with replica() as one:
            agent, lease = await _enrolled(one)
            try:
                assert not lease.valid(), "T8: no lease before the first grant"
                await until(lease.valid, one.clock, "the first grant")
                assert lease.left_ms() <= one.config.lease_ms
                await until(lambda: len(agent.heard) >= 5, one.clock, "answers")
                last = agent.heard[-1]
                assert (last.leader_address, last.standing) == (one.address, Standing.REGISTERED)
                assert last.admitted == {0, 1}
            finally:
                await agent.stop()

    asyncio.run(story())


def test_dead_and_hung_replicas_delay_nobody() -> None:
    """One replica refuses connections and one accepts and says nothing: the third is beaten all the same."""

    async def story() -> None:
        dead = f"127.0.0.1:{free_ports(1)[0]}"
        with hung_server() as hung:
            async with replica(lease_ms=60_000) as one:
                agent, lease = await _enrolled(one, dead, hung, one.address)
                try:
                    await until(lease.valid, one.clock, "the first grant")
                    answered = len(agent.heard)
                    await until(lambda: len(agent.heard) >= answered + 20, one.clock, "twenty answers")
                    assert lease.valid()
                    assert {h.replica for h in agent.heard} == {one.address}
                finally:
                    await agent.stop()

    asyncio.run(story())


def test_p7_without_metasrv_the_lease_ends_and_comes_back() -> None:
    """P7: the replica goes away, the lease runs out, the replica returns: the same incarnation serves again."""

    async def story() -> None:
        async with replica(lease_ms=300) as one:
            agent, lease = await _enrolled(one)
            try:
                await until(lease.valid, one.clock, "the first grant")
                await one.stop()
                await until(lambda: not lease.valid(), one.clock, "the end of the lease")
                assert lease.keeper.standing is Standing.REGISTERED
                await one.start()
                await until(lease.valid, one.clock, "the renewal")
            finally:
                await agent.stop()

    asyncio.run(story())


def test_a_hung_loop_does_not_stop_the_beats() -> None:
    """Data work that blocks the loop does not make the node look dead: ten more beats leave meanwhile."""

    async def story() -> None:
        async with replica(lease_ms=60_000) as one:
            agent, lease = await _enrolled(one)
            try:
                await until(lease.valid, one.clock, "the first grant")
                sent = agent.beats.beats_sent
                _block_the_loop(sent + 10, agent.beats)
                assert agent.beats.beats_sent >= sent + 10
            finally:
                await agent.stop()

    asyncio.run(story())


def test_superseded_ends_the_lease_at_once() -> None:
    """T8, zombies: a newer incarnation is registered, and the older one stops serving with the next answer."""

    async def story() -> None:
        async with replica(lease_ms=60_000) as one:
            agent, lease = await _enrolled(one)
            try:
                await until(lease.valid, one.clock, "the first grant")
                newer = await one.register("dn-1")
                await until(lambda: lease.keeper.standing is Standing.REGISTER_AGAIN, one.clock, "the refusal")
                assert not lease.valid()
                again = agent.enrol(newer, 60_000, 50)
                assert not again.valid(), "a new incarnation has no lease before its own first grant"
                again.applied(one.machine.state.revision)
                await until(again.valid, one.clock, "a grant to the new incarnation")
                assert not lease.valid()
            finally:
                await agent.stop()

    asyncio.run(story())


def test_a_follower_gives_no_lease() -> None:
    """Not the leader: heard, but nothing is granted, and the registration stands."""

    async def story() -> None:
        async with replica(lease_ms=200) as one:
            agent, lease = await _enrolled(one)
            try:
                one.consensus.set_leader(False)
                await until(lambda: any(h.refusal is Refusal.NOT_LEADER for h in agent.heard), one.clock, "a refusal")
                await until(lambda: not lease.valid(), one.clock, "the end of the lease")
                assert lease.keeper.standing is Standing.REGISTERED
                one.consensus.set_leader(True)
                await until(lease.valid, one.clock, "the renewal")
            finally:
                await agent.stop()

    asyncio.run(story())


def test_a_foreign_cluster_is_noticed() -> None:
    """T20: replicas of another cluster never grant, and after a lease the agent knows why."""

    async def story() -> None:
        async with replica(cluster_id=CLUSTER_ID[::-1]) as one:
            agent = _Agent(one.address)
            try:
                lease = agent.enrol(5, 200, 50)
                await until(lambda: lease.keeper.standing is Standing.FOREIGN, one.clock, "the refusal")
                assert not lease.valid()
            finally:
                await agent.stop()

    asyncio.run(story())


def test_a_lane_is_admitted_only_by_beats_after_its_open_mark() -> None:
    """Beats that left before OPEN was durable admit nothing, however late their answers come."""

    async def story() -> None:
        async with replica() as one:
            incarnation = await one.register("dn-1")
            agent = _Agent(one.address)
            vitals = [Vitals((LaneVital(0, True, 0.0), LaneVital(1, False, 0.0)))]
            try:
                lease = agent.beats.enrol(incarnation, 1_000, 50, lambda: vitals[0])
                lease.applied(one.machine.state.revision)
                await until(lease.valid, one.clock, "the first grant")
                assert lease.keeper.admitted == {0}
                vitals[0] = OPEN
                agent.beats.nudge()
                await until(lambda: lease.keeper.admitted == {0, 1}, one.clock, "the second lane")
            finally:
                await agent.stop()

    asyncio.run(story())


def test_a_defect_on_the_thread_is_not_silent() -> None:
    """Beats that crash end the process; it must not live on looking dead."""

    def broken() -> Vitals:
        raise MetasrvError("broken on purpose")

    async def story() -> None:
        crashed: list[object] = []
        hook, threading.excepthook = threading.excepthook, lambda args: crashed.append(args.exc_value)
        agent = _Agent(f"127.0.0.1:{free_ports(1)[0]}")
        try:
            agent.beats.enrol(5, 1_000, 50, broken)
            await until(lambda: bool(agent.crashes and crashed), SystemClock(), "the crash")
        finally:
            await agent.stop()
            threading.excepthook = hook

    asyncio.run(story())
