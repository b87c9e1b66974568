"""The consensus port: a totally ordered, durable log of commands, with a leader.

Homes: the embedded one on pysyncobj (metasrv/adapters/raft), and a single-replica twin in memory (metasrv/sim) for
tests. One contract suite runs on every home: tests/contracts/test_consensus.py.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol


class Applied(NamedTuple):
    """A command that a quorum holds durably and that is applied here. `outcome` is what the machine returned."""

    revision: int
    outcome: object


class Leadership(NamedTuple):
    """Who leads, as this replica knows. `is_leader` is true only once the leader's own first entry is applied here."""

    term: int
    leader_id: str | None
    is_leader: bool


class StateMachine(Protocol):
    """What consensus drives. Deterministic: `apply` raises for no bytes but those of a newer release (NewerFormat).

    That ends the replica: to skip what the others apply would make it another state.
    """

    def apply(self, revision: int, command: bytes) -> object:
        """Apply one committed command. Revisions grow by at least one from call to call, the same on every replica."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """The state as of this call, in slices; applies may go on between two slices without showing in them."""
        ...

    def restore(self, slices: Iterable[bytes]) -> None:
        """Replace the state by a snapshot's."""
        ...


class Consensus(Protocol):
    """See the module docstring."""

    async def start(self) -> None:
        """Recover from disk and join. Raises Damaged with what to do when the disk cannot be trusted."""
        ...

    async def stop(self) -> None:
        """Leave cleanly: hand leadership over where there is a follower to take it."""
        ...

    async def propose(self, command: bytes, deadline_ms: float = 5_000) -> Applied:
        """Commit one command. Raises NotLeader, Unknown (also at the deadline), BadInput when it is too large."""
        ...

    def leadership(self) -> Leadership:
        """Who leads, as known here now. Possibly stale: only propose() and confirm() prove it."""
        ...

    async def confirm(self) -> int:
        """The term, once a quorum has answered a round that began after this call. Raises NotLeader.

        Rounds are shared: any number of callers cost one round in flight and one waiting.
        """
        ...

    def led_ago_ms(self) -> dict[str, float]:
        """How long ago this replica last heard each other one as the leader, since this process began.

        A leader whose confirm() this replica helped to answer was heard here after that confirm() was called.
        """
        ...

    async def transfer(self, to: str) -> None:
        """Hand leadership to a follower. Raises NotLeader, BadInput for an unknown replica."""
        ...

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """Call back on the loop at every change of leadership()."""
        ...
