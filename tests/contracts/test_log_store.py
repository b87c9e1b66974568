"""The contract of the LogStore port, on every home of it and on the twin."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.file import FileLog
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.lanes.places import Limits
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.errors import LaneError, Sealed, StoreUnavailable, Trimmed
from groundwork.core.ids import Lane, first_token
from groundwork.core.ports import Chunk, LogStore
from groundwork.sim.clock import SimClock, run_sim
from groundwork.sim.objects import Bucket, Faults, SimObjectStore
from groundwork.sim.workers import InlineWorkers

LANE = Lane("dn-1", first_token(1) + 4, 0)
OTHER = Lane("dn-1", first_token(1) + 9, 1)
Scenario = Callable[[Callable[[], LogStore]], Awaitable[None]]
Run = Callable[[Scenario], None]
LIMITS = Limits(object_bytes=1000, append_ms=60_000, settle_ms=60_000)  # no scenario waits: a slow disk is no failure


@pytest.fixture(params=["objects-directory", "objects-sim", "file"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario; what it calls makes one more process's view of the same lanes."""

    def go(scenario: Scenario) -> None:
        if request.param == "objects-sim":
            bucket = Bucket()
            seeds = iter(range(1000))

            def view() -> LogStore:
                store = SimObjectStore(bucket, Faults(latency_ms=(0.1, 5)), seed=next(seeds))
                return ObjectsLog(store, SimClock(), InlineWorkers(), LIMITS)

            run_sim(_main(scenario, view))
            return
        workers = ThreadWorkers("lanes", 4)

        def real() -> LogStore:
            if request.param == "file":
                return FileLog(tmp_path, SystemClock(), workers, LIMITS, segment_bytes=2_000)
            return ObjectsLog(DirectoryStore(tmp_path, workers), SystemClock(), workers, LIMITS)

        asyncio.run(_main(scenario, real))
        workers.close()

    return go


async def _main(scenario: Scenario, view: Callable[[], LogStore]) -> None:
    await scenario(view)


async def _all(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in chunks]


class _Sink:
    """What reached the sink, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []

    def __call__(self, position: int, entries: Sequence[bytes]) -> None:
        self.seen += [(position, bytes(e)) for e in entries]


def test_what_was_appended_is_read_back_in_order(run: Run) -> None:
    """An append returns its position; a reader finds exactly those entries there, in lane order; so did the sink."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        sink = _Sink()
        writer = await view().open_writer(LANE, sink)
        writer.admit()
        entries = [f"entry {n:03d} ".encode() * 8 for n in range(100)]
        positions = await asyncio.gather(*(writer.append(e) for e in entries))
        await writer.close()
        assert sorted(positions) == positions
        assert [e for _, e in sink.seen] == entries
        assert [p for p, _ in sink.seen] == positions
        chunks = await _all(view().read(LANE, 0, None))
        assert b"".join(bytes(c.body) for c in chunks) == b"".join(entries)
        assert [c.position for c in chunks] == sorted(set(positions))
        assert all(c.damage is None for c in chunks)
        assert len(chunks) > 5  # a group commit has a limit

    run(scenario)


def test_nothing_is_acknowledged_before_the_grant(run: Run) -> None:
    """Appends wait for admit(): a lane that is over may not learn it otherwise."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        sink = _Sink()
        writer = await view().open_writer(LANE, sink)
        append = asyncio.ensure_future(writer.append(b"early"))
        done, _ = await asyncio.wait([append], timeout=0.05)
        assert not done
        assert not sink.seen
        assert await _all(view().read(LANE, 0, None)) == []
        writer.admit()
        assert await append >= 1
        await writer.close()

    run(scenario)


def test_a_sealed_lane_takes_nothing(run: Run) -> None:
    """P2: after seal returned, no append is acknowledged, and whoever seals again gets the same end."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        sink = _Sink()
        writer = await view().open_writer(LANE, sink)
        writer.admit()
        last = await writer.append(b"last")
        await writer.close()
        end = await view().seal(LANE)
        assert end > last
        assert await view().seal(LANE) == end
        for log in (view(), view()):
            assert await asyncio.gather(*(log.seal(LANE) for _ in range(3))) == [end] * 3
        with pytest.raises(LaneError):
            await view().open_writer(LANE, sink)
        assert [bytes(c.body) for c in await _all(view().read(LANE, 0, end))] == [b"last"]
        assert [bytes(c.body) for c in await _all(view().read(LANE, 0, None))] == [b"last"]

    run(scenario)


def test_a_lane_that_was_never_opened_can_be_sealed(run: Run) -> None:
    """Hole 1: OPEN and SEAL compete for names, so a late opener finds that its lane is over."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        end = await view().seal(LANE)
        assert await view().seal(LANE) == end
        with pytest.raises(Sealed):
            await view().open_writer(LANE, _Sink())
        assert await _all(view().read(LANE, 0, end)) == []

    run(scenario)


def test_lanes_do_not_mix(run: Run) -> None:
    """Hole 14: a seal names its victim; the lane of the next incarnation goes on."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        log = view()
        one, two = await log.open_writer(LANE, _Sink()), await log.open_writer(OTHER, _Sink())
        one.admit()
        two.admit()
        await asyncio.gather(one.append(b"one"), two.append(b"two"))
        await one.close()
        await view().seal(LANE)
        await two.append(b"three")
        await two.close()
        assert [bytes(c.body) for c in await _all(view().read(OTHER, 0, None))] == [b"two", b"three"]

    run(scenario)


def test_a_read_begins_and_ends_where_it_is_told(run: Run) -> None:
    """[start, end): positions between two appends belong to the later one."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        writer = await view().open_writer(LANE, _Sink())
        writer.admit()
        at = [await writer.append(f"{n}".encode()) for n in range(6)]
        end = writer.next_position
        await writer.close()

        async def found(start: int, stop: int | None) -> list[bytes]:
            return [bytes(c.body) for c in await _all(view().read(LANE, start, stop))]

        assert await found(at[2], at[4]) == [b"2", b"3"]
        assert await found(at[2] + 1, end) == [b"3", b"4", b"5"]
        assert await found(at[5], None) == [b"5"]
        assert await found(end, None) == []
        assert await found(at[3], at[3]) == []

    run(scenario)


def test_a_tail_sees_what_came_since(run: Run) -> None:
    """A standby reads a live lane again and again from where it stopped."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        log = view()
        writer = await log.open_writer(LANE, _Sink())
        writer.admit()
        at, seen = 0, list[bytes]()
        for n in range(5):
            for _ in range(n):
                await writer.append(f"{n}".encode())
            for chunk in await _all(log.read(LANE, at, None)):
                at = chunk.position + 1
                seen.append(bytes(chunk.body))
        await writer.close()
        assert seen == [f"{n}".encode() for n in range(5) for _ in range(n)]

    run(scenario)


def test_below_the_trim_point_is_trimmed_never_skipped(run: Run) -> None:
    """Below the trim point a reader raises Trimmed; at it and above it reads on; the end stays what it is."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        writer = await view().open_writer(LANE, _Sink())
        writer.admit()
        at = [await writer.append(bytes([n]) * 900) for n in range(8)]
        await writer.close()
        await view().trim(LANE, at[4])
        await view().trim(LANE, at[2])  # an older order comes late: the trim point only grows
        for start in (0, at[0], at[3]):
            with pytest.raises(Trimmed):
                await _all(view().read(LANE, start, None))
        assert [bytes(c.body)[0] for c in await _all(view().read(LANE, at[4], None))] == [4, 5, 6, 7]
        end = await view().seal(LANE)
        await view().trim(LANE, end)
        assert await view().seal(LANE) == end
        assert await _all(view().read(LANE, end, end)) == []
        with pytest.raises(LaneError):
            await view().open_writer(LANE, _Sink())

    run(scenario)


def test_a_closed_writer_says_so(run: Run) -> None:
    """An append after close is refused; close may be called twice."""

    async def scenario(view: Callable[[], LogStore]) -> None:
        writer = await view().open_writer(LANE, _Sink())
        writer.admit()
        await asyncio.gather(*(writer.append(b"x" * 300) for _ in range(30)), writer.close())
        await writer.close()
        with pytest.raises(StoreUnavailable):
            await writer.append(b"y")

    run(scenario)
