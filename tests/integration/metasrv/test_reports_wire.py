"""Reports from the wire."""

from groundwork.core.ids import Lane
from groundwork.core.wire import lane_to_wire
from metasrv.adapters.reports import reports_from_wire
from metasrv.core.commands import RegionFailed
from protos.metasrv.v1 import nodes_pb2, types_pb2


def test_a_failure_brings_its_lane_stay_and_position_where_they_are_known() -> None:
    """An absent position is not position 0: that would throw the stay's entries away."""
    request = nodes_pb2.ReportRequest(sender=types_pb2.Sender(node_id="dn-1", incarnation=7))
    plain = request.regions.add(region_id=1, epoch=9)
    plain.failed.kind = "fenced"
    whole = request.regions.add(region_id=2, epoch=9)
    whole.failed.kind, whole.failed.stay_epoch, whole.failed.position = "fenced", 8, 17
    whole.failed.lane.CopyFrom(lane_to_wire(Lane("dn-1", 7, 1)))
    assert reports_from_wire(request) == [
        RegionFailed("dn-1", 7, 1, 9, "fenced"),
        RegionFailed("dn-1", 7, 2, 9, "fenced", lane=Lane("dn-1", 7, 1), stay_epoch=8, closed_position=17),
    ]
