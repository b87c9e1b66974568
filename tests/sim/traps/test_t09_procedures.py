"""T9: what may happen to one region at a time."""

import pytest

from groundwork.core.errors import BadInput
from metasrv.core.records import NodeStatus, Phase
from tests.sim.traps.stage import DRIFT, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

MOVED_S = 3.0  # a move of a small region: its target tails, its owner stops, the hand-over, and what the agents report
ONE_NODE_S = DRIFT * LEASE_S + TICK_S + HAND_OFF_S  # P3


@told(datanodes=4)
async def test_t09_two_procedures_for_one_region(stage: Stage) -> None:
    """T9: two procedures for one region: a second move waits, a drain leaves it alone, and a failover ends it."""
    owner = stage.an_owner()
    region_id, admin = next(iter(stage.regions_on(owner))), stage.operators.admin
    first, second = (h for h in stage.datanodes[:3] if h is not owner)

    # Everybody wants the region moved at the same moment: to two places, and away.
    first.faults.latency_ms = second.faults.latency_ms = (100.0, 200.0)  # so that the target tails for a while
    await stage.asks(admin.migrate([region_id], first.name, request_id="to-the-first"))
    attempt = stage.state.migrations[region_id].attempt
    with pytest.raises(BadInput, match="is being moved already"):
        await stage.asks(admin.migrate([region_id], second.name, request_id="to-the-second"))
    await stage.asks(admin.drain(owner.name, request_id="away"))
    assert stage.state.migrations[region_id].attempt == attempt
    await stage.asks(admin.drain(owner.name, undo=True, request_id="no"))
    stage.store_heals()
    await stage.until(lambda: region_id not in stage.state.migrations, MOVED_S, "the one move ends")
    await stage.until(lambda: stage.serves(region_id), MOVED_S, "it serves")
    assert region_id in stage.regions_on(first)

    # Its new owner dies just when it has stopped for the next move: the failover comes first, and ends that move.
    keys = stage.keys_on(first)
    before = stage.state.regions[region_id]
    stage.trace.on_line["region_stopped"] = lambda: stage.power_off(first)
    await stage.asks(admin.migrate([region_id], second.name, request_id="on"))
    await stage.writes_go_on(ONE_NODE_S, keys, "an owner had died within a hand-over")
    after = stage.state.regions[region_id]
    assert not first.up
    assert stage.status(first) is NodeStatus.LOST
    assert region_id not in stage.state.migrations
    assert stage.state.phase_of(after) is Phase.SERVING
    assert after.epoch > before.epoch
    assert stage.events("handover")[-1].revision < stage.events("failover")[-1].revision
