"""What a beat says: proof of work, not only of life.

Ages are read when the beat leaves. So when the loop, a lane or the store hangs while the network lives, nobody has to
notice: the ages grow by themselves (T5, T6, T7).
"""

from typing import NamedTuple

from protos.metasrv.v1 import heartbeat_pb2, types_pb2

_UINT32_MAX = (1 << 32) - 1


class LaneVital(NamedTuple):
    """One lane of this incarnation."""

    lane: int
    open: bool  # its OPEN mark is durable
    append_age_ms: float  # since its last append became durable, or since it should have been opened


class Vitals(NamedTuple):
    """How the datanode is, now."""

    lanes: tuple[LaneVital, ...] = ()
    store_probe_age_ms: float = 0.0
    unflushed_bytes: int = 0
    memory_bytes: int = 0
    write_rows_per_s: int = 0

    @property
    def open_lanes(self) -> frozenset[int]:
        """The lanes whose OPEN mark was durable when this was read."""
        return frozenset(v.lane for v in self.lanes if v.open)


def beat_request(
    sender: types_pb2.Sender, beat: int, applied_revision: int, vitals: Vitals
) -> heartbeat_pb2.BeatRequest:
    """The message of one beat."""
    return heartbeat_pb2.BeatRequest(
        sender=sender,
        beat=beat,
        applied_revision=applied_revision,
        lanes=[
            heartbeat_pb2.LaneHealth(index=v.lane, open=v.open, append_age_ms=_uint32(v.append_age_ms))
            for v in vitals.lanes
        ],
        store_probe_age_ms=_uint32(vitals.store_probe_age_ms),
        unflushed_bytes=max(0, vitals.unflushed_bytes),
        memory_bytes=max(0, vitals.memory_bytes),
        write_rows_per_s=_uint32(vitals.write_rows_per_s),
    )


def _uint32(value: float) -> int:
    return int(min(max(0.0, value), _UINT32_MAX))
