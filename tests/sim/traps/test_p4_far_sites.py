"""P4 between far sites: what a move costs there is the way to the leader and one commit, and nothing is waited for."""

from metasrv.core.events import Outcome
from tests.sim.traps.stage import Stage
from tests.sim.traps.told import told

ROUND_TRIP_S = 0.040
DRAINED_S = 30.0


@told(datanodes=(1, 2, 2), keys=24, regions=24)
async def test_p4_a_stopped_owner_waits_for_no_other_report(stage: Stage) -> None:
    """P4: 40 ms between all, many regions drained: each is handed over half a round trip and a commit after it stopped.

    Nothing is waited for: not the reports of other regions that are under way, not their commits.
    """
    stage.fabric.delay_s = (0.45 * ROUND_TRIP_S, 0.5 * ROUND_TRIP_S)
    victim = stage.an_owner()
    regions = stage.regions_on(victim)
    handed_over_s: dict[int, float] = {}

    def applied(revision: int, outcome: Outcome) -> None:
        if any(event.kind == "handover" for event in outcome.events):
            handed_over_s.update((r, stage.loop.time()) for r in outcome.regions if r in regions)

    stage.leader.service.machine.subscribe(applied)
    stage.befalls("drain", victim)
    await stage.asks(stage.operators.admin.drain(victim.name))
    await stage.until(lambda: not stage.regions_on(victim), DRAINED_S, "it is drained")

    stopped_s = {
        int(word.removeprefix("region_id=")): float(line.split()[0])
        for line in stage.said("region_stopped", victim)
        for word in line.split()
        if word.startswith("region_id=")
    }
    waits_s = {r: handed_over_s[r] - stopped_s[r] for r in regions}
    assert len(waits_s) >= 6, "enough regions that their reports meet"
    assert max(waits_s.values()) < 1.6 * ROUND_TRIP_S, waits_s
