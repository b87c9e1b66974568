"""T9: what may happen to one region at a time."""

import asyncio

from tests.sim.hosts import RESTART_S
from tests.sim.traps.stage import HAND_OFF_S, Stage
from tests.sim.traps.told import told

MOVED_S = 3.0  # a move of a small region: its target tails, its owner stops, the hand-over, and what the agents report
RESTARTED_S = RESTART_S + HAND_OFF_S


@told(datanodes=4)
async def test_t09_two_procedures_for_one_region(stage: Stage) -> None:
    """T9: two procedures for one region: a second move waits, a drain leaves it alone, and a failover ends it."""
    owner = stage.an_owner()
    region_id, admin = next(iter(stage.regions_on(owner))), stage.operators.admin
    first, second = [h for h in stage.datanodes if h is not owner][:2]

    # Everybody wants the region moved at the same moment: to two places, and away.
    first.faults.latency_ms = second.faults.latency_ms = (100.0, 200.0)  # so that the target tails for a while
    answers = await asyncio.gather(
        stage.asks(admin.migrate([region_id], first.name, request_id="to-the-first")),
        stage.asks(admin.migrate([region_id], second.name, request_id="to-the-second")),
        return_exceptions=True,
    )
    [refused] = [answer for answer in answers if isinstance(answer, Exception)]
    assert "is being moved already" in str(refused)
    attempt = stage.state.migrations[region_id].attempt
    target = stage.node(stage.state.migrations[region_id].target.node_id)
    await stage.asks(admin.drain(owner.name, request_id="away"))
    assert stage.state.migrations[region_id].attempt == attempt
    await stage.asks(admin.drain(owner.name, undo=True, request_id="no"))
    stage.store_heals()
    await stage.until(lambda: not stage.state.migrations, MOVED_S, "the one move ends, and those of the drain")
    await stage.until(lambda: stage.serves(region_id), MOVED_S, "it serves")
    assert region_id in stage.regions_on(target)

    # Its new owner dies just when it has stopped for the next move, and is back before that move is given up.
    other = second if target is first else first
    keys, before = stage.keys_on(target), stage.state.regions[region_id]
    stage.trace.on_line["region_stopped"] = lambda: stage.kill(target, again=True)
    await stage.asks(admin.migrate([region_id], other.name, request_id="on"))
    await stage.until(lambda: not target.up, MOVED_S, "its owner dies when it has stopped")
    assert region_id in stage.state.migrations
    await stage.writes_go_on(RESTARTED_S, keys, "an owner had died within a hand-over, and was started again")
    await stage.until(lambda: stage.serves(region_id), HAND_OFF_S, "its owner says that it serves")
    after = stage.state.regions[region_id]
    assert stage.events("failover") != []
    assert stage.events("cancel") == [], "the failover ended the move"
    assert region_id not in stage.state.migrations
    assert after.epoch > before.epoch
