"""Reports at their worst: what one batch of them may weigh, and what comes when something newer was said."""

from metasrv.adapters.raft.config import RaftLimits
from metasrv.adapters.reports import REPORTS_MAX, reports_from_wire
from metasrv.core import commands as c
from protos.metasrv.v1 import nodes_pb2, types_pb2


def test_the_longest_reports_fit_in_one_command() -> None:
    """A command that is too large is refused for good, and with it every report of the batch: it must never be."""
    request = nodes_pb2.ReportRequest(sender=types_pb2.Sender(node_id="n" * 255, incarnation=1 << 62))
    for n in range(REPORTS_MAX):
        report = request.regions.add(region_id=(1 << 62) + n, epoch=1 << 62)
        report.failed.kind, report.failed.message = "internal", "\u6f22" * 5_000
    items = tuple(reports_from_wire(request)[0])
    assert len(c.encode(c.Reports(items=items))) <= RaftLimits().command_bytes_max
