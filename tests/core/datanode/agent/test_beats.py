"""What a beat says."""

from datanode_agent.core.beats import LaneVital, Vitals, beat_request
from protos.metasrv.v1 import types_pb2

SENDER = types_pb2.Sender(cluster_id="c", node_id="dn-1", incarnation=7)


def test_a_beat_is_proof_of_work() -> None:
    """It carries the age of each lane's last append and of the last answer of the store (T5, T6, T7)."""
    vitals = Vitals((LaneVital(0, True, 12.7), LaneVital(1, False, 9_000.0)), 1_500.4, 10, 20, 30)
    beat = beat_request(SENDER, 3, 42, vitals)
    assert [(x.index, x.open, x.append_age_ms) for x in beat.lanes] == [(0, True, 12), (1, False, 9_000)]
    assert (beat.store_probe_age_ms, beat.beat, beat.applied_revision) == (1_500, 3, 42)
    assert (beat.unflushed_bytes, beat.memory_bytes, beat.write_rows_per_s) == (10, 20, 30)
    assert vitals.open_lanes == {0}


def test_absurd_ages_fit_the_wire() -> None:
    """A lane that hangs for two months, or a clock read out of order, must not stop the beats."""
    beat = beat_request(SENDER, 1, 0, Vitals((LaneVital(0, True, 1e12), LaneVital(1, True, -5.0)), float("1e13")))
    assert beat.lanes[0].append_age_ms == beat.store_probe_age_ms == (1 << 32) - 1
    assert beat.lanes[1].append_age_ms == 0
