"""What counts as kept."""

import pytest

from metasrv_frontend.core.outcomes import AFTER, Then, refusal_of
from protos.datanode.v1 import datanode_pb2 as wire


@pytest.mark.parametrize("outcome", sorted(AFTER), ids=wire.Outcome.Name)
def test_p1_only_done_is_done(outcome: wire.Outcome.ValueType) -> None:
    """P1: no other answer is told to a client as success, least of all one whose outcome is not known."""
    refusal = refusal_of(wire.RegionOutcome(outcome=outcome))
    assert (refusal is None) == (outcome == wire.DONE)
    assert refusal is None or refusal.then is not Then.DONE
