"""What every home of the consensus port does: the twin in memory and the embedded one, by the same tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from groundwork.core.errors import BadInput, NotLeader
from metasrv.core.ports import Consensus, Leadership
from metasrv.sim.solo import SoloConsensus
from tests.integration.raft.cluster import Cluster, Ledger, leader_of

COMMAND_BYTES_MAX = 1000


class Home(NamedTuple):
    """All replicas of one home, with their machines."""

    replicas: list[Consensus]
    machines: list[Ledger]


@asynccontextmanager
async def solo(folder: Path) -> AsyncIterator[Home]:
    """The twin in memory."""
    machine = Ledger()
    consensus = SoloConsensus(machine, command_bytes_max=COMMAND_BYTES_MAX)
    await consensus.start()
    yield Home([consensus], [machine])
    await consensus.stop()


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Home]:
    """Three real replicas on loopback."""
    cluster = Cluster(folder, command_bytes_max=COMMAND_BYTES_MAX)
    try:
        await cluster.start_all()
        yield Home(list(cluster.nodes.values()), list(cluster.machines.values()))
    finally:
        await cluster.stop_all()


Open = Callable[[Path], "asynccontextmanager[Home]"]
homes = pytest.mark.parametrize("home", [solo, embedded])


def tell(home: Open, folder: Path, story: Callable[[Home, Consensus], Awaitable[None]]) -> None:
    """Open a home, wait for its leader, and tell the story."""

    async def told() -> None:
        async with home(folder) as opened:
            await story(opened, await leader_of(opened.replicas))

    asyncio.run(told())


@homes
def test_a_proposal_is_applied_with_its_outcome(home: Open, tmp_path: Path) -> None:
    """propose() returns what the machine returned, once it is applied here; revisions only grow."""

    async def story(opened: Home, leader: Consensus) -> None:
        machine = opened.machines[opened.replicas.index(leader)]
        first, second = await leader.propose(b"one"), await leader.propose(b"two")
        assert first.outcome == (b"outcome of", b"one")
        assert 0 < first.revision < second.revision
        assert machine.entries == [(first.revision, b"one"), (second.revision, b"two")]

    tell(home, tmp_path, story)


@homes
def test_concurrent_proposals_each_get_their_own_outcome(home: Open, tmp_path: Path) -> None:
    """Two hundred at once: each caller gets the outcome of its own command, and each revision once."""

    async def story(opened: Home, leader: Consensus) -> None:
        commands = [b"%d" % number for number in range(200)]
        results = await asyncio.gather(*(leader.propose(command) for command in commands))
        assert [result.outcome for result in results] == [(b"outcome of", command) for command in commands]
        assert len({result.revision for result in results}) == len(commands)

    tell(home, tmp_path, story)


@homes
def test_too_large_a_command_is_refused(home: Open, tmp_path: Path) -> None:
    """BadInput names the limit, and nothing is applied."""

    async def story(opened: Home, leader: Consensus) -> None:
        with pytest.raises(BadInput, match="1000"):
            await leader.propose(bytes(COMMAND_BYTES_MAX + 1))
        await leader.propose(bytes(COMMAND_BYTES_MAX))
        assert len(opened.machines[opened.replicas.index(leader)].entries) == 1

    tell(home, tmp_path, story)


@homes
def test_confirm_returns_the_term(home: Open, tmp_path: Path) -> None:
    """P2: confirm() proves the term that leadership() claims, for any number of callers."""

    async def story(opened: Home, leader: Consensus) -> None:
        terms = await asyncio.gather(*(leader.confirm() for _ in range(50)))
        assert set(terms) == {leader.leadership().term}

    tell(home, tmp_path, story)


@homes
def test_a_confirm_was_helped_by_followers_that_heard_the_leader_after_it_was_called(
    home: Open, tmp_path: Path
) -> None:
    """P5: enough others for a quorum heard this leader since the call began (what a new leader relies on)."""

    async def story(opened: Home, leader: Consensus) -> None:
        clock, leader_id = asyncio.get_running_loop().time, leader.leadership().leader_id
        began_s = clock()
        await leader.confirm()
        heard = [replica.led_ago_ms() for replica in opened.replicas if replica is not leader]
        since_began_ms = (clock() - began_s) * 1000
        helped = [ago for ago in heard if leader_id in ago and ago[leader_id] <= since_began_ms]
        assert len(helped) >= len(opened.replicas) // 2

    tell(home, tmp_path, story)


@homes
def test_only_a_leader_answers(home: Open, tmp_path: Path) -> None:
    """A replica that does not lead raises NotLeader from every call that needs the leader."""

    async def story(opened: Home, leader: Consensus) -> None:
        if isinstance(leader, SoloConsensus):
            leader.set_leader(False, "metasrv-9")
        for replica in opened.replicas:
            if not replica.leadership().is_leader:
                for call in (replica.propose(b"x"), replica.confirm(), replica.transfer("metasrv-2")):
                    with pytest.raises(NotLeader):
                        await call

    tell(home, tmp_path, story)


@homes
def test_an_unknown_replica_cannot_take_over(home: Open, tmp_path: Path) -> None:
    """transfer() to a name that is no replica is BadInput, and the leader stays."""

    async def story(opened: Home, leader: Consensus) -> None:
        with pytest.raises(BadInput):
            await leader.transfer("metasrv-9")
        assert leader.leadership().is_leader

    tell(home, tmp_path, story)


@homes
def test_changes_of_leadership_are_told(home: Open, tmp_path: Path) -> None:
    """Callbacks see every change, the last one being what leadership() says."""

    async def story(opened: Home, leader: Consensus) -> None:
        told: list[Leadership] = []
        leader.on_leadership(told.append)
        await leader.stop()
        assert told
        assert not told[-1].is_leader
        assert told[-1] == leader.leadership()

    tell(home, tmp_path, story)
