"""Scans against a dictionary: whatever was written, flushed, merged, widened, lost and reopened in between."""

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwork.core.ids import Lane
from groundwork.sim.objects import Bucket
from tests.integration.engine.cluster import QUIET, V1, V2, Node, R, Row, simulate

CONFIG = msgspec.structs.replace(QUIET, files_max=1, delete_grace_ms=0, manifests_kept=2)
Key = tuple[str, int, str]

hosts = st.sampled_from(["", "h1", "h2", "ü"])
times = st.integers(-3, 6)
v1_row = st.tuples(hosts, times, st.one_of(st.none(), st.integers(0, 99).map(float)))
v2_row = st.tuples(
    hosts, times, st.integers(0, 99).map(float), st.sampled_from([None, "n"]), st.sampled_from(["", "r1"])
)
operation = st.one_of(
    st.tuples(st.just("v1"), st.lists(v1_row, min_size=1, max_size=6)),
    st.tuples(st.just("v2"), st.lists(v2_row, min_size=1, max_size=6)),
    st.tuples(st.sampled_from(["flush", "compact", "crash", "move"]), st.none()),
    st.tuples(st.just("scan"), st.tuples(times, times, st.integers(1, 5))),
)


class Model:
    """The dictionary."""

    def __init__(self) -> None:
        self.rows: dict[Key, tuple[Any, Any]] = {}

    def put(self, rows: list[Row]) -> None:
        """The last write wins."""
        for row in rows:
            host, ts, value, note, rack = row if len(row) == 5 else (*row, None, "")
            self.rows[host, ts, rack] = (value, note)

    def all(self, low: int | None = None, high: int | None = None) -> list[Row]:
        """What a scan must find."""
        found = [
            (host, ts, value, note, rack)
            for (host, ts, rack), (value, note) in self.rows.items()
            if low is None or high is None or low <= ts < high
        ]
        return sorted(found, key=repr)


class World:
    """One region, and whoever owns it now."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket, self.token, self.epoch, self.model = bucket, 0, 100, Model()
        self.over: list[Lane] = []

    async def begin(self) -> None:
        """The next incarnation."""
        self.token += 1
        self.node = await Node(self.bucket, "a", self.token, CONFIG).start(lanes=2)
        await self.claim()

    async def claim(self, ends: tuple[tuple[Lane, int, int], ...] = ()) -> None:
        """The region moves to it, or to its other lane."""
        self.epoch += 2
        await self.node.open(self.epoch, over=self.over, ends=ends, schema=V2, lane_index=self.epoch // 2 % 2)

    async def step(self, what: str, argument: Any) -> None:
        """Carry out one operation."""
        engine = self.node.engine
        if what in ("v1", "v2"):
            await self.node.put(self.epoch, argument, schema=V1 if what == "v1" else V2)
            self.model.put(argument)
        elif what == "flush":
            await engine.flush([])
        elif what == "compact":
            await engine._orders.flusher.compact(engine._regions[R])
            await engine._orders.flusher.clean(engine._regions[R])
        elif what == "crash":
            await self.node.kill()
            self.over += [Lane("a", self.token, 0), Lane("a", self.token, 1)]
            await self.begin()
        elif what == "move":
            await self.claim()  # to the other lane of the same node, by its own last position
        else:
            low, high, limit = argument
            if (low, high) != (0, 0):
                await self.compare(low, high)
            some = await self.node.rows(self.epoch, limit=limit)
            assert len(some) == min(limit, len(self.model.rows)) and set(some) <= set(self.model.all())

    async def compare(self, low: int | None = None, high: int | None = None) -> None:
        """A scan against the dictionary."""
        bounds = {} if low is None else {"from_ns": low, "to_ns": high}
        got = await self.node.rows(self.epoch, **bounds)
        assert got == self.model.all(low, high)
        narrow = await self.node.rows(self.epoch, columns=["value"], **bounds)
        assert narrow == sorted([(row[2],) for row in self.model.all(low, high)], key=repr)


@given(st.lists(operation, max_size=14))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None)
def test_scans_agree_with_a_dictionary(operations: list[tuple[str, Any]]) -> None:
    """After any operations, in any order, a scan finds exactly the last write of each key and time."""

    async def main(bucket: Bucket) -> None:
        world = World(bucket)
        await world.begin()
        for what, argument in operations:
            await world.step(what, argument)
        await world.compare()
        await world.node.kill()
        assert world.node.engine.memory_bytes() == 0

    simulate(main)
