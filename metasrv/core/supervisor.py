"""The leader's judgement of datanodes: silent, suspect, failed over; or not, and why not.

step() is pure in what it is given, but remembers (in memory, lost with the leader, rebuilt by the next) when it began to
doubt itself and what it said last, so that nothing is said twice.
"""

from collections.abc import Sequence

from metasrv.core.decisions import Decision
from metasrv.core.leases import LeaseBook
from metasrv.core.state import State


class Supervisor:
    """One per term of leadership: make a new one when this replica is elected."""

    def __init__(self, replica_id: str, replicas: Sequence[str]) -> None:
        """All replicas' node ids, this one included."""
        raise NotImplementedError

    def step(self, now_ms: float, wall_ms: int, state: State, book: LeaseBook) -> list[Decision]:
        """What to do now. Call every config.tick_ms while leading, and again at once after any proposal was applied."""
        raise NotImplementedError
