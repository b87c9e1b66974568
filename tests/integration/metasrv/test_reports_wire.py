"""Reports from the wire."""

from groundwork.core.ids import Lane
from groundwork.core.wire import lane_to_wire
from metasrv.adapters.reports import reports_from_wire
from metasrv.core.commands import Closed, RegionFailed, Reports, decode, encode
from protos.metasrv.v1 import nodes_pb2, types_pb2


def test_a_failure_brings_its_lane_stay_and_position_where_they_are_known() -> None:
    """An absent position is not position 0: that would throw the stay's entries away."""
    request = nodes_pb2.ReportRequest(sender=types_pb2.Sender(node_id="dn-1", incarnation=7))
    plain = request.regions.add(region_id=1, epoch=9)
    plain.failed.kind = "fenced"
    whole = request.regions.add(region_id=2, epoch=9)
    whole.failed.kind, whole.failed.stay_epoch, whole.failed.position = "fenced", 8, 17
    whole.failed.lane.CopyFrom(lane_to_wire(Lane("dn-1", 7, 1)))
    assert reports_from_wire(request)[0] == [
        RegionFailed("dn-1", 7, 1, 9, "fenced"),
        RegionFailed("dn-1", 7, 2, 9, "fenced", lane=Lane("dn-1", 7, 1), stay_epoch=8, closed_position=17),
    ]


def test_what_a_newer_agent_says_is_answered_and_holds_nothing_else_back() -> None:
    """A report of a kind that is not known here is refused by index, with its field; those around it count."""
    request = nodes_pb2.ReportRequest(sender=types_pb2.Sender(node_id="dn-1", incarnation=7))
    newer = nodes_pb2.RegionReport(region_id=(3 << 32) + 1, epoch=9).SerializeToString() + b"\x7a\x00"  # field 15
    for region_id in (5, 6):
        request.regions.add(region_id=region_id, epoch=9).closed.SetInParent()
    request.regions.insert(1, nodes_pb2.RegionReport.FromString(newer))
    known, [refused] = reports_from_wire(nodes_pb2.ReportRequest.FromString(request.SerializeToString()))
    assert known == [Closed("dn-1", 7, 5, 9), Closed("dn-1", 7, 6, 9)]
    assert (refused.index, refused.kind) == (1, "unknown_report")
    assert "region 3.1 says field 15" in refused.message


def test_a_report_that_no_replica_would_read_holds_nothing_else_back() -> None:
    """One number out of bounds made the command garbage, and with it the reports of all other datanodes."""
    request = nodes_pb2.ReportRequest(sender=types_pb2.Sender(node_id="dn-1", incarnation=7))
    request.regions.add(region_id=1, epoch=9).covered.manifest_epoch = 2**64 - 1
    request.regions.add(region_id=2, epoch=9).closed.SetInParent()
    known, [refused] = reports_from_wire(request)
    assert known == [Closed("dn-1", 7, 2, 9)]
    assert (refused.index, refused.kind) == (0, "bad_report")
    assert "region 0.1 says what is out of bounds" in refused.message
    assert decode(encode(Reports(items=tuple(known)))) == Reports(items=tuple(known))
