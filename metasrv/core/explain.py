"""Why things are as they are: sentences with figures, from the state and its audit trail (P6)."""

from metasrv.core.leases import NodeView
from metasrv.core.state import State


def explain_node(state: State, node_id: str, view: NodeView | None = None) -> list[str]:
    """What the node is now, then what happened to it, oldest first. `view` is what the leader sees, where known."""
    raise NotImplementedError


def explain_region(state: State, region_id: int) -> list[str]:
    """Where the region is and why, then what happened to it, oldest first."""
    raise NotImplementedError
