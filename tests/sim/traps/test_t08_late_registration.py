"""A registration that comes late, behind the one that its own process sent after it."""

from tests.sim.traps.stage import Stage
from tests.sim.traps.told import told


@told(datanodes=3)
async def test_t08_a_registration_delayed_in_forwarding_ends_no_successor(stage: Stage) -> None:
    """T8's neighbour: a follower forwards it late; the datanode registered elsewhere, and keeps that incarnation."""
    asked_first = stage.metasrvs[0]
    if stage.leader is asked_first:
        await stage.asks(stage.operators.admin.transfer_leader(stage.followers[0].name))
        await stage.elected(but=[asked_first])
    leader, victim = stage.leader, stage.an_owner()
    before = stage.state.nodes[victim.name].incarnation

    stage.cut(asked_first, leader, both=False)
    stage.kill(victim, again=True)
    await stage.until(lambda: stage.state.nodes[victim.name].incarnation > before, 8.0, "it registers elsewhere")
    registered = stage.state.nodes[victim.name].incarnation
    stage.mend_links()
    await stage.passes(3.0)

    assert len(stage.said("registered", victim)) == 1
    assert stage.state.nodes[victim.name].incarnation == registered
