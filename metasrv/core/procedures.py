"""Planned work: migrations, drains, drops, rebalancing, trims. What to propose next, from the state alone and the time.

Deadlines count on the leader's clock from when it first saw the step; a new leader counts anew.
"""

from msgspec import Struct

from metasrv.core.decisions import Decision
from metasrv.core.leases import LeaseBook
from metasrv.core.state import State


class Procedures:
    """One per term of leadership, like the supervisor."""

    def __init__(self) -> None:
        raise NotImplementedError

    def step(self, now_ms: float, wall_ms: int, state: State, book: LeaseBook) -> list[Decision]:
        """What to propose now. Call after Supervisor.step, under the same rules."""
        raise NotImplementedError


class ProcedureView(Struct, frozen=True):
    """metasrv.v1.Procedure, one per region of a migration and one per drain, drop or failover."""

    procedure_id: int
    kind: str
    state: str
    region_id: int = 0
    from_node: str = ""
    to_node: str = ""
    why: str = ""
    started_wall_ms: int = 0
    ended_wall_ms: int = 0


def running(state: State) -> list[ProcedureView]:
    """Every procedure in flight, oldest first."""
    raise NotImplementedError


def ended(state: State) -> list[ProcedureView]:
    """Those that ended, as far as the audit trail remembers."""
    raise NotImplementedError
