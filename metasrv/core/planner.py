"""Plans: pure functions of the state and what the leader sees of the nodes. A plan leaves nothing to decide later.

Every plan has a sentence with figures, its steps for `--dry-run`, what could not be placed and why, and the command that
commits it (None: nothing to do). Every plan is checked by metasrv.core.linter before it is given out.
"""

from collections.abc import Sequence

from msgspec import Struct

from groundwork.core.ids import Lane
from metasrv.core.commands import AnyCommand, Ended
from metasrv.core.leases import Inventory
from metasrv.core.state import State


class PlanStep(Struct, frozen=True):
    """metasrv.v1.PlanStep, one per region (or per lane: region_id 0, in failovers)."""

    region_id: int
    from_node: str
    to_node: str
    why: str = ""
    regions: int = 1


class Plan(Struct, frozen=True):
    """See the module docstring."""

    sentence: str
    command: AnyCommand | None = None
    steps: tuple[PlanStep, ...] = ()
    unplaced: int = 0
    why_unplaced: str = ""


def plan_failover(
    state: State, inventory: Inventory, ended: Sequence[Ended] = (), lanes: Sequence[Lane] = (), why: str = "",
    wall_ms: int = 0,
) -> Plan:  # fmt: skip
    """One command for all regions of all lanes that are over, or that `ended` and `lanes` end with it."""
    raise NotImplementedError


def plan_table(state: State, inventory: Inventory, partitions: int) -> tuple[tuple[Lane, ...], tuple[int, ...]]:
    """For CreateTable: lanes, and for each partition an index into them. Raises BadInput when no node can take them."""
    raise NotImplementedError


def plan_migration(
    state: State, inventory: Inventory, region_ids: Sequence[int], to_node: str = "", who: str = "", why: str = "",
    wall_ms: int = 0, request_id: str = "",
) -> Plan:  # fmt: skip
    """Move regions as an operator asked. Raises BadInput for what cannot be moved, with the reason."""
    raise NotImplementedError


def plan_drain(
    state: State, inventory: Inventory, node_id: str, who: str = "", wall_ms: int = 0, request_id: str = "",
    by_node: bool = False,
) -> Plan:  # fmt: skip
    """What a drain will do. Its command only begins it; the moves follow in batches, replanned as nodes come and go."""
    raise NotImplementedError
