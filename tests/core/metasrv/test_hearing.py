"""What a new leader knows by itself, where nobody can tell it: each memory counts, and so does a committed Suspect."""

from metasrv.core import commands as c
from metasrv.core.leases import Beat, Heard, LeaseBook
from metasrv.core.records import Config, NodeStatus
from tests.core.metasrv.world import World

REPLICAS = ("m1", "m2", "m3")


def test_t21_what_a_new_leader_heard_as_a_follower_counts() -> None:
    """T21, T1: the node reaches this replica only. The leader before reports it as long silent, and is not believed."""
    book = LeaseBook("m2", REPLICAS)
    book.led_by("m1")
    book.heard(Beat("dn-1", 7), 4_000.0)
    book.elected(5_000.0)
    book.reported("m1", [Heard("dn-1", 7, 9_000.0)], 5_500.0)
    book.reported("m3", [], 5_500.0)
    assert book.silence_ms("dn-1", 7, 5_500.0) == 1_500.0
    assert book.was_heard("dn-1", 7, 5_500.0)


def test_t2_a_suspect_needs_no_second_lease_under_a_leader_that_remembers_nothing() -> None:
    """T2: Suspect is committed, then all memory is gone. The next leader fails it over as soon as it may judge."""
    world = World(config=Config(settle_ms=10_000_000))
    for n, place in enumerate(("site-1/zone-a", "site-1/zone-b", "site-2/zone-a")):
        world.add(f"dn-{n + 1}", place)
    world.run(600)
    world.create_table("cpu", 3)
    world.run(300)
    agent = world.agents["dn-1"]
    agent.running = False
    world.propose(c.Suspect(node_id="dn-1", incarnation=agent.incarnation, silent_ms=3_000))
    world.kill_leader()
    world.books = {name: LeaseBook(name, world.replica_ids) for name in world.replica_ids}
    world.elect("metasrv-2")
    elected_ms = world.now_ms
    lost = c.Failover.__name__
    while lost not in [kind for at, kind in world.times if at > elected_ms]:
        assert world.now_ms - elected_ms < 1_500, "a second lease was waited for"
        world.run(100)
    assert world.machine.state.nodes["dn-1"].status is NodeStatus.LOST
    world.run(200)
    assert world.all_serve()


def test_t21_a_relayed_beat_counts_from_when_the_follower_heard_it() -> None:
    """T21: the leader hears a node through a follower only; the age on the way is counted, and it is alive."""
    book = LeaseBook("m1", REPLICAS)
    book.elected(1_000.0)
    book.heard(Beat("dn-1", 7), 5_000.0, age_ms=400.0)
    assert book.silence_ms("dn-1", 7, 5_000.0) == 400.0
    assert book.was_heard("dn-1", 7, 5_000.0)
