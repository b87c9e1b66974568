"""A datanode whose lanes were all ended, and which is then lost: it is ended like any other."""

from groundwork.core.ids import Lane
from metasrv.core import commands as c
from metasrv.core.records import NodeStatus
from tests.core.metasrv.world import World


def test_a_lost_datanode_without_an_open_lane_can_be_forgotten() -> None:
    """No command was made for it, so it stayed suspect for ever, and only a lost one can be taken off the books."""
    world = World()
    for n, place in enumerate(("site-1/zone-a", "site-1/zone-b")):
        world.add(f"dn-{n + 1}", place)
    world.run(600)
    world.create_table("cpu", 2)
    world.run(300)
    lane, other = (Lane(name, world.agents[name].incarnation, 0) for name in ("dn-1", "dn-2"))
    assert not world.propose(c.Failover(lanes=(lane,), moves=(c.Move(lane, other),))).refused
    world.agents["dn-1"].running = False
    world.run(5_000)
    node = world.machine.state.nodes["dn-1"]
    assert node.status is NodeStatus.LOST, node
    assert any(e.kind == "failover" and "dn-1" in e.node_ids for e in world.log[-3:])
    assert not world.propose(c.Forget(node_id="dn-1")).refused


def test_a_failover_that_changes_something_is_not_refused() -> None:
    """What is refused must have changed nothing; and the same again, which changes nothing, is."""
    world = World()
    world.add("dn-1", "site-1/zone-a")
    world.run(600)
    incarnation = world.agents["dn-1"].incarnation
    assert not world.propose(c.Failover(lanes=(Lane("dn-1", incarnation, 0),))).refused
    again = c.Failover(ended=(c.Ended("dn-1", incarnation, "unwell"),))
    assert not world.propose(again).refused
    assert world.machine.state.nodes["dn-1"].status is NodeStatus.LOST
    assert "nothing left" in world.propose(again).refused
