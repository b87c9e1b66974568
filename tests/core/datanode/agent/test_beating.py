"""The bookkeeping of beats on a clock in hand."""

from datanode_agent.adapters.beating import Beating
from datanode_agent.core.beats import LaneVital, Vitals
from protos.metasrv.v1 import heartbeat_pb2

LEASE_MS = 3_000


def _reply(beat: int, revision: int = 0) -> heartbeat_pb2.BeatReply:
    grant = heartbeat_pb2.Grant(lease_ms=LEASE_MS, assignment_revision=revision, lanes=[0])
    return heartbeat_pb2.BeatReply(beat=beat, grant=grant)


def test_p2_the_lease_is_counted_from_the_sending_of_the_beat() -> None:
    """P2: however long the grant was under way, the lease ends a lease after its beat left, not after it came."""
    now_ms = [10_000.0]
    beating = Beating("c" * 32, "dn-1", lambda: now_ms[0])
    lease = beating.enrol(7, LEASE_MS, 500, Vitals)
    assert beating.enrolled is not None
    request = beating.next_beat(beating.enrolled)
    now_ms[0] += 2_900
    beating.answered("metasrv-1", _reply(request.beat))
    assert lease.left_ms() == 100
    now_ms[0] += 100
    assert not lease.valid()


def test_a_grant_that_took_longer_than_the_lease_is_worth_nothing() -> None:
    """P2: a zombie that wakes and reads an old grant from its socket has no lease by it."""
    now_ms = [0.0]
    beating = Beating("c" * 32, "dn-1", lambda: now_ms[0])
    lease = beating.enrol(7, LEASE_MS, 500, Vitals)
    assert beating.enrolled is not None
    request = beating.next_beat(beating.enrolled)
    now_ms[0] = 30_000
    heard = beating.answered("metasrv-1", _reply(request.beat))
    assert heard is not None and heard.granted
    assert not lease.valid()


def test_a_lane_that_opens_after_the_beat_left_is_not_admitted_by_its_answer() -> None:
    """HOLES 3: the grant must be asked for after OPEN was durable, as the beat itself said."""
    vitals = [Vitals((LaneVital(0, False, 0.0),))]
    beating = Beating("c" * 32, "dn-1", lambda: 0.0)
    beating.enrol(7, LEASE_MS, 500, lambda: vitals[0])
    assert beating.enrolled is not None
    early = beating.next_beat(beating.enrolled)
    vitals[0] = Vitals((LaneVital(0, True, 0.0),))
    late = beating.next_beat(beating.enrolled)
    heard = beating.answered("metasrv-1", _reply(early.beat))
    assert heard is not None and heard.admitted == frozenset()
    heard = beating.answered("metasrv-1", _reply(late.beat))
    assert heard is not None and heard.admitted == {0}
