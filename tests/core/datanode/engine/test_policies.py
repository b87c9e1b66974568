"""When to flush, what to merge, what memory allows, and what a replay keeps."""

from datanode_agent.core import compaction
from datanode_agent.core.flush_policy import Flush, LaneLoad, Limits, RegionLoad, choose, replay_ms, span_bytes
from datanode_agent.core.memory import MemoryBudget
from datanode_agent.core.replay import Demux, Digest, Found, Row, digest, unbroken
from datanode_agent.engine.warm import Warm
from groundwork.core.entry import Entry, Kind, encode
from groundwork.core.ids import Lane
from groundwork.core.manifest import Sst
from groundwork.core.ports import Chunk

LANE = Lane("a", 1, 0)
LIMITS = Limits(1_000, 10_000, 500, 1_000, 10.0, False)


def load(
    region: int, size: int = 10, age: float = 0, covered: int = 0, closed: bool = False, commit: float = 0
) -> RegionLoad:
    """One region's load in lane 0."""
    return RegionLoad(region, 0, size, age, covered, closed, commit)


def test_replay_objective_flushes_what_reaches_back_furthest() -> None:
    """The lane is 10,000 bytes, 1,000 ms to replay: regions are flushed, oldest first, until 700 ms are left."""
    lane = LaneLoad(0, 101, [(n, n * 100) for n in range(1, 101)])
    regions = [load(1, covered=80), load(2, covered=10), load(3, covered=25), load(4, covered=60)]
    assert span_bytes(lane, 10) == 9_000 and span_bytes(lane, 0) == 10_000
    assert replay_ms(lane, 10, LIMITS) == 900
    assert choose([lane], regions, LIMITS) == [Flush(2, "objective"), Flush(3, "objective")]


def test_each_reason_to_flush() -> None:
    """Size, age, a takeover, an idle region that holds a trim back, and memory, each at most once a region."""
    lane = LaneLoad(0, 50, [])
    regions = [
        load(1, size=1_000), load(2, age=10_000), load(3, size=0, closed=True, commit=500),
        load(4, size=0, commit=10_000), load(5), load(6, size=0, covered=50, commit=99_999),
    ]  # fmt: skip
    assert choose([lane], regions, LIMITS) == [
        Flush(1, "size"), Flush(2, "age"), Flush(3, "takeover"), Flush(4, "trim"),
    ]  # fmt: skip
    assert choose([lane], [load(1), load(2, size=90)], LIMITS._replace(memory_pressed=True)) == [Flush(2, "memory")]


def test_memory_budget() -> None:
    """A budget admits up to its limit, one large write when it is empty, and says when to try again."""
    budget = MemoryBudget(1_000)
    assert budget.admits(5_000)
    budget.take(900)
    assert not budget.admits(200) and budget.admits(100) and budget.pressed
    assert 10 <= budget.retry_after_ms(200) <= 5_000
    budget.give(900)
    assert budget.used_bytes == 0 and not budget.pressed


def sst(name: str, size: int, order: int) -> Sst:
    """A file of a size."""
    return Sst(key=name, rows=1, bytes=size, min_ts=0, max_ts=0, min_order=(1, order), max_order=(1, order))


def test_compaction_merges_full_tiers_oldest_first() -> None:
    """A tier over its limit is merged, small tiers first; large files are left alone."""
    small = [sst(f"s{n}", 1_000, 9 - n) for n in range(4)]
    large = [sst(f"l{n}", 3 << 20, n) for n in range(3)]
    assert compaction.choose([*small, *large], 4, 1 << 30) == []
    assert [f.key for f in compaction.choose([*small, *large], 3, 1 << 30)] == ["s3", "s2", "s1", "s0"]
    assert len(compaction.choose(large, 2, 8 << 20)) == 2
    assert compaction.choose(large, 2, 2 << 20) == []


def chunk(position: int, *entries: tuple[int, int, int], damage: str | None = None) -> Chunk:
    """A chunk of (region, sequence, rows)."""
    body = b"".join(encode(Entry(Kind.DATA, r, 5, s, n, 1, b"payload"), LANE) for r, s, n in entries)
    return Chunk(position, body, damage)


def test_demux_skips_what_is_covered_and_not_wanted() -> None:
    """Each region gets its own entries from its own position on, in order."""
    demux = Demux({1: 2, 2: 0})
    for position in range(4):
        demux.feed(chunk(position, (1, position * 2, 2), (2, position, 1), (3, 0, 1)))
    assert demux.start == 0
    assert [r.position for r in demux.take(1, 2, 99).rows] == [2, 3]
    assert [r.position for r in demux.take(2, 1, 3).rows] == [1, 2]
    assert digest(demux.take(1, 0, 99).rows).highest == (5, 7) and digest([]) == Digest()


def test_warm_rows_are_told_without_a_look_at_each() -> None:
    """All of them with the digest that was kept; a part of them with a digest of its own."""
    budget = MemoryBudget(1_000)
    warm = Warm(1, 9, budget)
    for positions in ((1, 2, 2), (5, 8)):
        warm.take(Found([Row(p, 7, p * 10, 2, p, b"xyz") for p in positions], []))
    assert warm.between(1, 9) == (warm.rows, digest(warm.rows)) == (warm.rows, Digest((7, 81), 8, 15))
    assert warm.between(2, 8) == (warm.rows[1:4], Digest((7, 51), 5, 9))
    assert warm.between(9, 9) == ([], Digest())


def test_damage_is_cleared_only_by_an_unbroken_sequence() -> None:
    """A region that runs on across the damage lost nothing there; at its end, or across a gap, it may have."""
    demux = Demux({1: 0, 2: 0, 3: 0})
    demux.feed(chunk(1, (1, 1, 1), (2, 1, 1), (3, 1, 1)))
    demux.feed(Chunk(2, b"", "bad checksum"))
    demux.feed(chunk(3, (1, 2, 1), (2, 3, 1)))
    assert demux.take(1, 0, 99).damage == []
    assert len(demux.take(2, 0, 99).damage) == 1, "sequence 2 is missing"
    assert len(demux.take(3, 0, 99).damage) == 1, "nobody knows"
    assert demux.take(3, 0, 2).damage == [], "the damage lies behind its stay"
    assert not unbroken([Row(1, 5, 1, 1, 1, b"")], 2)
