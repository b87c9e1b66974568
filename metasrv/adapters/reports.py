"""Agents' reports from the wire into commands."""

import msgspec
from google.protobuf.unknown_fields import UnknownFieldSet

from groundwork.core.ids import region_text
from groundwork.core.wire import lane_from_wire
from metasrv.core import commands
from protos.metasrv.v1 import nodes_pb2

REPORTS_MAX = 2_000  # in one command
TEXT_BYTES_MAX = (
    500  # so that the longest reports fit in one command: one that is too large is refused with all of them
)
NAME_MAX = 64
_WRITER = msgspec.msgpack.Encoder()
_READER: msgspec.msgpack.Decoder[commands.Report] = msgspec.msgpack.Decoder(commands.Report)


def reports_from_wire(
    request: nodes_pb2.ReportRequest,
) -> tuple[list[commands.Report], list[nodes_pb2.ReportRefused]]:
    """Those of one request that this release knows, and its answer to each of the others (a newer agent's).

    What is not known never gets into the log, so no replica has to stop for it (0009).
    """
    node_id, incarnation = request.sender.node_id, request.sender.incarnation
    known, refused = [], []
    for index, told in enumerate(request.regions):
        report = _one(node_id, incarnation, told)
        wrong = _wrong_in(report) if report is not None else ""
        if report is not None and not wrong:
            known.append(report)
            continue
        newer = UnknownFieldSet(told)
        what = f"field {newer[0].field_number}, which this release does not know" if len(newer) else "nothing"
        message = f"the report of region {region_text(told.region_id)} says {wrong or what}: it counts for nothing"
        kind = "bad_report" if wrong else "unknown_report"
        refused.append(nodes_pb2.ReportRefused(index=index, kind=kind, message=message))
    return known, refused


def _wrong_in(report: commands.Report) -> str:
    """What no replica would read in it, or an empty string: in a command it would take all others down with it."""
    try:
        _READER.decode(_WRITER.encode(report))
    except msgspec.MsgspecError as error:
        return f"what is out of bounds ({error})"
    return ""


def _one(node_id: str, incarnation: int, report: nodes_pb2.RegionReport) -> commands.Report | None:
    region_id, epoch = report.region_id, report.epoch
    which = report.WhichOneof("what")
    if which == "serving":
        s = report.serving
        return commands.Serving(
            node_id, incarnation, region_id, epoch, s.replayed_entries, s.seal_ms, s.claim_ms, s.replay_ms
        )
    if which == "prepared":
        p = report.prepared
        return commands.Prepared(node_id, incarnation, region_id, p.attempt, p.position, p.lag_entries)
    if which == "stopped":
        t = report.stopped
        lane = lane_from_wire(t.lane)
        return commands.Stopped(node_id, incarnation, region_id, epoch, t.attempt, lane, t.stay_epoch, t.position)
    if which == "covered":
        return _covered(node_id, incarnation, region_id, report.covered)
    if which == "failed":
        return _failed(node_id, incarnation, region_id, epoch, report.failed)
    if which == "closed":
        return commands.Closed(node_id, incarnation, region_id, epoch)
    return None


def _failed(
    node_id: str, incarnation: int, region_id: int, epoch: int, f: nodes_pb2.RegionReport.Failed
) -> commands.RegionFailed:
    lane = lane_from_wire(f.lane) if f.HasField("lane") else None
    position = f.position if f.HasField("position") else None
    kind, message = _short(f.kind, NAME_MAX), _short(f.message, TEXT_BYTES_MAX)
    return commands.RegionFailed(
        node_id, incarnation, region_id, epoch, kind, message, f.read_only, lane, f.stay_epoch, position
    )


def _covered(node_id: str, incarnation: int, region_id: int, c: nodes_pb2.RegionReport.Covered) -> commands.Covered:
    stays = tuple(commands.CoveredStay(lane_from_wire(s.lane), s.stay_epoch, s.covered, s.done) for s in c.stays)
    return commands.Covered(node_id, incarnation, region_id, c.manifest_epoch, c.manifest_version, stays, c.sst_bytes)


def _short(text: str, bytes_max: int) -> str:
    return text.encode()[:bytes_max].decode(errors="ignore")
