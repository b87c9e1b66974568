"""What every home of the consensus port does: the twin in memory and the embedded one, by the same tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from groundwork.core.errors import BadInput, NotLeader, Unknown
from metasrv.core.ports import Applied, Consensus, Leadership
from metasrv.sim.solo import SoloConsensus
from tests.integration.raft.cluster import Cluster, Ledger, leader_of, propose_somewhere

COMMAND_BYTES_MAX = 1000


class Home:
    """All replicas of one home, with their machines. Which of them leads may change at any time."""

    def __init__(self, replicas: list[Consensus], machines: list[Ledger], repeated: set[bytes]) -> None:
        self.replicas, self._machines, self._repeated = replicas, machines, repeated

    async def leader(self) -> Consensus:
        """The one that leads now; it is certain until the next await."""
        return await leader_of(self.replicas)

    async def propose(self, command: bytes) -> tuple[Applied, Ledger]:
        """Commit through whoever leads; the answer, and the machine of the one that gave it."""
        applied, leader = await propose_somewhere(self.replicas, command, self._repeated)
        return applied, self._machines[self.replicas.index(leader)]


@asynccontextmanager
async def solo(folder: Path) -> AsyncIterator[Home]:
    """The twin in memory."""
    machine = Ledger()
    consensus = SoloConsensus(machine, command_bytes_max=COMMAND_BYTES_MAX)
    await consensus.start()
    yield Home([consensus], [machine], set())
    await consensus.stop()


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Home]:
    """Three real replicas on loopback."""
    cluster = Cluster(folder, command_bytes_max=COMMAND_BYTES_MAX)
    try:
        await cluster.start_all()
        yield Home(list(cluster.nodes.values()), list(cluster.machines.values()), cluster.repeated)
    finally:
        await cluster.stop_all()


Open = Callable[[Path], "asynccontextmanager[Home]"]
homes = pytest.mark.parametrize("home", [solo, embedded])


def tell(home: Open, folder: Path, story: Callable[[Home], Awaitable[None]]) -> None:
    """Open a home and tell the story."""

    async def told() -> None:
        async with home(folder) as opened:
            await story(opened)

    asyncio.run(told())


@homes
def test_a_proposal_is_applied_with_its_outcome(home: Open, tmp_path: Path) -> None:
    """propose() returns what the machine returned, once it is applied here; revisions only grow."""

    async def story(opened: Home) -> None:
        first, machine = await opened.propose(b"one")
        assert first.outcome == (b"outcome of", b"one")
        assert (first.revision, b"one") in machine.entries
        second, machine = await opened.propose(b"two")
        assert second.outcome == (b"outcome of", b"two")
        assert (second.revision, b"two") in machine.entries
        assert 0 < first.revision < second.revision
        assert machine.commands == [b"one", b"two"]

    tell(home, tmp_path, story)


@homes
def test_concurrent_proposals_each_get_their_own_outcome(home: Open, tmp_path: Path) -> None:
    """Two hundred at once: each caller gets the outcome of its own command, and each revision once."""

    async def story(opened: Home) -> None:
        commands = [b"%d" % number for number in range(200)]
        answers = await asyncio.gather(*(opened.propose(command) for command in commands))
        assert [applied.outcome for applied, _ in answers] == [(b"outcome of", command) for command in commands]
        assert len({applied.revision for applied, _ in answers}) == len(commands)
        for (applied, machine), command in zip(answers, commands, strict=True):
            assert (applied.revision, command) in machine.entries

    tell(home, tmp_path, story)


@homes
def test_too_large_a_command_is_refused(home: Open, tmp_path: Path) -> None:
    """BadInput names the limit, and nothing is applied."""

    async def story(opened: Home) -> None:
        leader = await opened.leader()
        with pytest.raises(BadInput, match="1000"):
            await leader.propose(bytes(COMMAND_BYTES_MAX + 1))
        _, machine = await opened.propose(bytes(COMMAND_BYTES_MAX))
        assert machine.commands == [bytes(COMMAND_BYTES_MAX)]

    tell(home, tmp_path, story)


@homes
def test_confirm_returns_the_term(home: Open, tmp_path: Path) -> None:
    """P2: confirm() proves the term that leadership() claims, for any number of callers."""

    async def story(opened: Home) -> None:
        answered = 0
        while answered < 50:
            leader = await opened.leader()
            claimed = leader.leadership()
            answers = await asyncio.gather(*(leader.confirm() for _ in range(50)), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, NotLeader):
                    assert leader.leadership() != claimed, "it leads as before and says that it does not"
                else:
                    assert answer == claimed.term
            answered = sum(isinstance(answer, int) for answer in answers)

    tell(home, tmp_path, story)


@homes
def test_a_confirm_was_helped_by_followers_that_heard_the_leader_after_it_was_called(
    home: Open, tmp_path: Path
) -> None:
    """P5: enough others for a quorum heard the leader since the call began: what a new leader relies on (0007)."""

    async def story(opened: Home) -> None:
        clock, term = asyncio.get_running_loop().time, None
        while term is None:
            leader = await opened.leader()
            leader_id, began_s = leader.leadership().leader_id, clock()
            with contextlib.suppress(NotLeader):
                term = await leader.confirm()
        heard = [replica.led_ago_ms() for replica in opened.replicas if replica is not leader]
        since_began_ms = (clock() - began_s) * 1000
        helped = [ago for ago in heard if leader_id in ago and ago[leader_id] <= since_began_ms]
        assert len(helped) >= len(opened.replicas) // 2

    tell(home, tmp_path, story)


@homes
def test_only_a_leader_answers(home: Open, tmp_path: Path) -> None:
    """A replica that does not lead raises NotLeader from every call that needs the leader."""

    async def story(opened: Home) -> None:
        leader = await opened.leader()
        if isinstance(leader, SoloConsensus):
            leader.set_leader(False, "metasrv-9")
        for call in (_proposes, _confirms, _transfers):
            refused = 0
            while not refused:
                followers = [replica for replica in opened.replicas if not replica.leadership().is_leader]
                for replica in followers:
                    refused += await _refuses(replica, call)

    tell(home, tmp_path, story)


async def _proposes(replica: Consensus) -> object:
    return await replica.propose(b"x")


async def _confirms(replica: Consensus) -> object:
    return await replica.confirm()


async def _transfers(replica: Consensus) -> object:
    return await replica.transfer("metasrv-2")


async def _refuses(replica: Consensus, call: Callable[[Consensus], Awaitable[object]]) -> bool:
    """Whether it raised NotLeader. Whoever answers otherwise must have become the leader in between."""
    before = replica.leadership()
    try:
        await call(replica)
    except NotLeader:
        return True
    except Unknown:
        pass  # it became the leader, and lost it again
    assert replica.leadership() != before, f"{before} and yet it answered"
    return False


@homes
def test_an_unknown_replica_cannot_take_over(home: Open, tmp_path: Path) -> None:
    """transfer() to a name that is no replica is BadInput, and the leader stays."""

    async def story(opened: Home) -> None:
        leader = await opened.leader()
        before = leader.leadership()
        with pytest.raises(BadInput):
            await leader.transfer("metasrv-9")
        assert leader.leadership() == before, "it is refused at once: nothing else can have happened meanwhile"

    tell(home, tmp_path, story)


@homes
def test_changes_of_leadership_are_told(home: Open, tmp_path: Path) -> None:
    """Callbacks see every change, the last one being what leadership() says."""

    async def story(opened: Home) -> None:
        leader = await opened.leader()
        told: list[Leadership] = []
        leader.on_leadership(told.append)
        await leader.stop()
        assert told
        assert not told[-1].is_leader
        assert told[-1] == leader.leadership()

    tell(home, tmp_path, story)
