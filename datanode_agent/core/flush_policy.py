"""Which regions to flush now, and why: size, age, the replay objective, memory, a takeover, or a trim held back.

The replay objective is the user's: replaying a lane must not take longer. A replay reads the lane from the lowest
position that any region still needs, so what counts is the span of the lane behind that position, and the way to
shorten it is to flush the region that reaches back furthest, over and over.
"""

from collections.abc import Sequence
from typing import NamedTuple

# A flush takes time, and writes go on meanwhile: begin before the objective is reached.
OBJECTIVE_SHARE = 0.7


class RegionLoad(NamedTuple):
    """One serving region. Positions are those of its lane."""

    region_id: int
    lane_index: int
    unflushed_bytes: int
    oldest_age_ms: float  # of the oldest row in the memtable; 0 when empty
    covered: int  # of its own stay, in its newest manifest
    closed_stays: bool  # its manifest still names stays in other lanes
    last_commit_age_ms: float


class LaneLoad(NamedTuple):
    """One lane of this node."""

    lane_index: int
    end: int  # positions below it are in memtables
    spans: Sequence[tuple[int, int]]  # (position, bytes appended below it), both ascending


class Limits(NamedTuple):
    """The user's settings, and what was measured."""

    flush_bytes: int
    flush_age_ms: float
    settle_ms: float  # after a takeover, what was replayed is flushed: the next replay shall not reach back so far
    replay_objective_ms: float
    replay_bytes_per_ms: float
    memory_pressed: bool


class Flush(NamedTuple):
    """Flush this region, for this reason."""

    region_id: int
    reason: str  # size, age, objective, memory, takeover, trim


def span_bytes(lane: LaneLoad, covered: int) -> int:
    """Bytes of the lane at or above a position, as far back as is remembered."""
    if not lane.spans:
        return 0
    low, high = 0, len(lane.spans)
    while low < high:
        middle = (low + high) // 2
        if lane.spans[middle][0] <= covered:
            low = middle + 1
        else:
            high = middle
    before = lane.spans[low - 1][1] if low else 0
    return lane.spans[-1][1] - before


def replay_ms(lane: LaneLoad, covered: int, limits: Limits) -> float:
    """How long a replay of the lane would take if its lowest needed position were `covered`."""
    return span_bytes(lane, covered) / max(limits.replay_bytes_per_ms, 1e-9)


def choose(lanes: Sequence[LaneLoad], regions: Sequence[RegionLoad], limits: Limits) -> list[Flush]:
    """The regions to flush now, most urgent first; each at most once."""
    chosen: dict[int, str] = {}
    if limits.memory_pressed:
        largest = sorted((r for r in regions if r.unflushed_bytes), key=lambda r: -r.unflushed_bytes)
        for region in largest[: max(1, len(largest) // 4)]:
            chosen[region.region_id] = "memory"
    for lane in lanes:
        mine = sorted((r for r in regions if r.lane_index == lane.lane_index and r.covered < lane.end), key=_reach)
        for region in mine:
            if replay_ms(lane, region.covered, limits) <= OBJECTIVE_SHARE * limits.replay_objective_ms:
                break
            chosen.setdefault(region.region_id, "objective")
    for region in regions:
        if region.unflushed_bytes >= limits.flush_bytes:
            chosen.setdefault(region.region_id, "size")
        elif region.unflushed_bytes and region.oldest_age_ms >= limits.flush_age_ms:
            chosen.setdefault(region.region_id, "age")
        elif region.closed_stays and region.last_commit_age_ms >= limits.settle_ms:
            chosen.setdefault(region.region_id, "takeover")
    ends = {lane.lane_index: lane.end for lane in lanes}
    for region in regions:
        idle = not region.unflushed_bytes and region.covered < ends.get(region.lane_index, 0)
        if idle and region.last_commit_age_ms >= limits.flush_age_ms:
            chosen.setdefault(region.region_id, "trim")
    return [Flush(region_id, reason) for region_id, reason in chosen.items()]


def _reach(region: RegionLoad) -> tuple[int, int]:
    return region.covered, -region.unflushed_bytes
