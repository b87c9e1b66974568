"""What a heartbeat is answered, when leadership or the state changes between its arrival and its answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from groundwork.core.errors import NotLeader
from groundwork.sim.clock import SimClock, run_sim
from metasrv.adapters.judge import LeaseJudge
from metasrv.adapters.metrics import Metrics
from metasrv.core import commands as c
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from metasrv.sim.solo import SoloConsensus
from protos.metasrv.v1 import heartbeat_pb2, types_pb2

CLUSTER = "c" * 32


async def _judge() -> tuple[LeaseJudge, SoloConsensus, heartbeat_pb2.BeatRequest]:
    machine = Machine()
    consensus = SoloConsensus(machine)
    await consensus.start()
    await consensus.propose(c.encode(c.Bootstrap(cluster_id=CLUSTER, generation=1)))
    register = c.Register(
        node_id="dn-1", folder_id="f", locality="site-1/zone-a", address="dn-1:1", lanes=1, capacity_regions=10
    )
    incarnation = (await consensus.propose(c.encode(register))).outcome.value  # type: ignore[attr-defined]
    book = LeaseBook("metasrv-1")
    book.elected(0.0)
    judge = LeaseJudge(
        clock=SimClock(), consensus=consensus, machine=machine, book=book, metrics=Metrics(),
        address="metasrv-1:1", poke=lambda: None,
    )  # fmt: skip
    sender = types_pb2.Sender(cluster_id=CLUSTER, node_id="dn-1", incarnation=incarnation)
    beat = heartbeat_pb2.BeatRequest(sender=sender, beat=1)
    judge.note(beat, 0.0)
    return judge, consensus, beat


def _tell(
    story: Callable[[LeaseJudge, SoloConsensus, heartbeat_pb2.BeatRequest], Awaitable[None]],
) -> None:
    async def told() -> None:
        await story(*await _judge())

    run_sim(told())


def test_a_leader_grants_after_a_confirmed_round() -> None:
    """§5: a registered node that was heard gets a grant of the confirmed term."""

    async def story(judge: LeaseJudge, consensus: SoloConsensus, beat: heartbeat_pb2.BeatRequest) -> None:
        reply = await judge.answer(beat)
        assert reply.HasField("grant")
        assert reply.term == consensus.leadership().term

    _tell(story)


def test_p2_a_follower_grants_nothing() -> None:
    """P2: a replica that does not lead answers no grant, whatever it has heard."""

    async def story(judge: LeaseJudge, consensus: SoloConsensus, beat: heartbeat_pb2.BeatRequest) -> None:
        consensus.set_leader(False, "metasrv-2")
        with pytest.raises(NotLeader):
            await judge.answer(beat)

    _tell(story)


def test_t4_a_leader_that_is_deposed_before_its_round_ends_grants_nothing() -> None:
    """T4, P2: the old leader wakes with a beat in its hands; the round that it must win tells it that it lost."""

    async def story(judge: LeaseJudge, consensus: SoloConsensus, beat: heartbeat_pb2.BeatRequest) -> None:
        answer = asyncio.ensure_future(judge.answer(beat))
        await asyncio.sleep(0)
        assert not answer.done(), "nothing is granted before the round"
        consensus.set_leader(False, "metasrv-2")
        with pytest.raises(NotLeader):
            await answer

    _tell(story)


def test_t2_what_is_committed_during_the_round_counts() -> None:
    """T2, P2: the node is suspected while its beat waits for the round: no grant goes to a suspect."""

    async def story(judge: LeaseJudge, consensus: SoloConsensus, beat: heartbeat_pb2.BeatRequest) -> None:
        suspect = c.Suspect(node_id="dn-1", incarnation=beat.sender.incarnation, silent_ms=3_000)
        reply, _ = await asyncio.gather(judge.answer(beat), consensus.propose(c.encode(suspect)))
        assert not reply.HasField("grant")

    _tell(story)
