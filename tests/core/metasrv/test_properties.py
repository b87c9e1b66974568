"""What holds for every sequence of commands, sensible or not."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwork.core.ids import Lane
from groundwork.core.table import Column
from metasrv.core import commands as c
from metasrv.core.events import Outcome
from metasrv.core.leases import Beat, LaneHealth, LeaseBook
from metasrv.core.linter import check_failover
from metasrv.core.machine import Machine
from metasrv.core.orders import Order, OrderKind, orders_for, orders_of
from metasrv.core.planner import plan_failover
from metasrv.core.records import Phase, Region
from metasrv.core.routes import route_of
from metasrv.core.state import State
from tests.core.metasrv.world import COLUMNS

NODES = ("dn-1", "dn-2", "dn-3")
SMALL = st.integers(0, 7)
Draw = Callable[[int], int]


def _lane(state: State, pick: Draw) -> Lane:
    live = [lane for lane in sorted(state.lanes) if not state.is_over(lane)]
    known = (live if pick(5) else []) or sorted(state.lanes) or [Lane("dn-1", 1, 0)]
    return known[pick(len(known))]


def _region(state: State, pick: Draw) -> tuple[int, Region | None]:
    known = sorted(state.regions.items())
    return known[pick(len(known))] if known else (1 << 32, None)


def _register(state: State, pick: Draw) -> c.AnyCommand:
    name = NODES[pick(3)]
    node = state.nodes.get(name)
    if node and state.is_alive(name, node.incarnation) and pick(4):
        return _migration(state, pick)
    return c.Register(
        node_id=name, folder_id=f"f{pick(2)}", locality=f"site-{pick(2)}/z", address="a:1", lanes=1 + pick(2),
        capacity_regions=3 + pick(4), replaces=node.incarnation if node else 0, heard=bool(pick(2)),
        takeover=bool(pick(2)),
    )  # fmt: skip


def _about_node(state: State, pick: Draw) -> c.AnyCommand:
    name = NODES[pick(3)]
    node = state.nodes.get(name)
    incarnation = node.incarnation if node else 5
    return (
        c.Suspect(node_id=name, incarnation=incarnation, silent_ms=3000),
        c.Suspect(node_id=name, incarnation=incarnation, silent_ms=3000),
        c.Clear(node_id=name, incarnation=incarnation),
        c.Release(node_id=name, incarnation=incarnation),
        c.Forget(node_id=name),
        c.Undrain(node_id=name) if name in state.drains else c.Drain(node_id=name, by_node=bool(pick(2))),
    )[pick(6)]


def _table(state: State, pick: Draw) -> c.AnyCommand:
    name = f"t{pick(2)}"
    if pick(5) == 0:
        return c.DropTable(name=name)
    partitions = 1 + pick(4)
    return c.CreateTable(
        name=name, columns=COLUMNS, partitions=partitions, priority=pick(3), lanes=(_lane(state, pick),),
        placement=(0,) * partitions,
    )  # fmt: skip


def _failover(state: State, pick: Draw) -> c.AnyCommand:
    """A real plan of the present state, or anything at all."""
    ended = [
        c.Ended(n.node_id, n.incarnation, ("silent", "unwell")[pick(2)]) for n in state.nodes.values() if pick(3) == 0
    ]
    if pick(3):
        book = LeaseBook("m")
        for node in state.nodes.values():
            lanes = tuple(LaneHealth(i, True, 0) for i in range(node.lanes))
            book.heard(Beat(node.node_id, node.incarnation, lanes), 0.0)
        alive = [e for e in ended if state.is_alive(e.node_id, e.incarnation)]
        plan = plan_failover(state, book.inventory(state, 1.0), alive)
        if isinstance(plan.command, c.Failover):
            assert not check_failover(state, plan.command, plan.unplaced)
            return plan.command
    return c.Failover(ended=tuple(ended), moves=(c.Move(_lane(state, pick), _lane(state, pick)),))


def _migration(state: State, pick: Draw) -> c.AnyCommand:
    region_id, _ = _region(state, pick)
    if pick(8) == 0:
        attempts = sorted({m.attempt for m in state.migrations.values()}) or [7]
        return c.CancelMigration(attempt=attempts[pick(len(attempts))])
    serving = [r for r, x in sorted(state.regions.items()) if x.phase is Phase.SERVING and not state.is_over(x.lane)]
    chosen = serving[pick(len(serving))] if serving and pick(8) else region_id
    return c.StartMigration(moves=(c.Placement(chosen, _lane(state, pick)),))


def _report(state: State, pick: Draw) -> c.AnyCommand:
    region_id, region = _region(state, pick)
    moving = sorted(state.migrations)
    if moving and pick(2):
        region_id = moving[pick(len(moving))]
        region = state.regions[region_id]
    migration = state.migrations.get(region_id)
    lane = region.lane if region and pick(4) else _lane(state, pick)
    epoch = region.epoch if region and pick(4) else 3
    attempt = migration.attempt if migration else 9
    me = (lane.node_id, lane.incarnation)
    stays = tuple(
        c.CoveredStay(s.lane, s.epoch, s.covered + pick(20), pick(3) == 0)
        for s in (region.stays if region else ())
        if pick(4)
    )
    target = migration.target if migration else lane
    serving, prepared = (
        c.Serving(*me, region_id, epoch),
        c.Prepared(target.node_id, target.incarnation, region_id, attempt),
    )
    stopped = c.Stopped(*me, region_id, epoch, attempt, lane, region.stay_epoch if region else 1, 40 + pick(9))
    covered = c.Covered(*me, region_id, epoch, 1, stays)
    failed = c.RegionFailed(*me, region_id, epoch, "fenced", closed_position=pick(9) if pick(2) else None)
    likely: tuple[c.Report, ...] = (covered, serving)
    if region and region.phase is Phase.DROPPING:
        likely = (c.Closed(*me, region_id, epoch),)
    elif region and region.phase is Phase.STOPPING:
        likely = (stopped,)
    elif migration:
        likely = (prepared,)
    if pick(3) == 0:
        likely = (serving, prepared, stopped, covered, failed, c.Closed(*me, region_id, epoch))
    return c.Reports(items=(likely[pick(len(likely))], likely[pick(len(likely))]))


def _other(state: State, pick: Draw) -> c.AnyCommand:
    region_id, _ = _region(state, pick)
    return (
        c.Reopen(region_ids=(region_id,)),
        c.Trim(points=(c.TrimPoint(_lane(state, pick), pick(60)),)),
        c.Bootstrap(cluster_id="c", generation=1 + pick(2) * pick(2) * pick(2) * pick(9)),
        c.Pause(scope="cluster", expires_wall_ms=pick(9)),
        c.WidenTable(name="t0", columns=(Column("extra", "int64", COLUMNS[2].role),)),
    )[pick(5)]


MAKERS = (_register, _about_node, _table, _failover, _migration, _migration, *(_report,) * 7, _other)


def _fixed(value: int, sides: int) -> int:
    return value % sides


def _roll(dice: Iterator[int], sides: int) -> int:
    return next(dice) % sides


class Checked:
    """Two machines that must agree, and one view of orders per node that is fed with nothing but deltas."""

    def __init__(self) -> None:
        self.one, self.two = Machine(), Machine()
        self.views: dict[str, dict[int, Order]] = {}
        self.revision = 0

    def apply(self, raw: bytes) -> Outcome:
        """Apply on both, and check everything."""
        self.revision += 1
        state = self.one.state
        before = state.next_token
        owners = dict(state.regions.items())
        over = {lane for lane in state.lanes if state.is_over(lane)}
        outcome = self.one.apply(self.revision, raw)
        assert outcome == self.two.apply(self.revision, raw), "apply is not deterministic"
        assert state.next_token >= before, "a token went back"
        for region_id, region in state.regions.items():
            old = owners.get(region_id)
            if old is None or old.epoch != region.epoch:
                assert region.epoch >= before, "an epoch that was not fresh"
            if old and old.lane != region.lane:
                assert old.epoch < region.epoch
                assert region.lane not in over, "a lane that is over took a region"
                left = old.lane in over or state.is_over(old.lane) or old.phase is Phase.STOPPING
                assert left, "a region left a lane that is not over, without a last position"
            assert any((s.lane, s.epoch) == (region.lane, region.stay_epoch) for s in region.stays), "not in the index"
        if outcome.refused:
            assert not outcome.regions and not outcome.orders
        self._check_orders(outcome)
        self._check_indexes(state)
        return outcome

    def _check_orders(self, outcome: Outcome) -> None:
        state = self.one.state
        owners: dict[int, str] = {}
        for node_id in state.nodes:
            view = self.views.setdefault(node_id, {})
            for order in orders_for(state, node_id, outcome.orders.get(node_id, ())):
                view[order.region_id] = order
                route = route_of(state, order.region_id)
                moved = order.kind is OrderKind.CLOSE and route is not None and route.phase is not Phase.LOST
                assert order.moved_to == (route if moved else None), "who lost a region knows where it is"
            for gone in [r for r, o in view.items() if o.kind is OrderKind.CLOSE]:
                del view[gone]
            whole = {o.region_id: o for o in orders_of(state, node_id)}
            assert _gist(view) == _gist(whole), "the deltas do not add up to the snapshot"
            for region_id, order in whole.items():
                if order.kind is not OrderKind.PREPARE:
                    assert region_id not in owners, "two owners"
                    owners[region_id] = node_id

    def _check_indexes(self, state: State) -> None:
        staying = {lane: set(regions) for lane, regions in state.staying.items() if regions}
        census = {lane: list(counts) for lane, counts in state.census.items() if any(counts)}
        state.reindex()
        assert staying == {lane: s for lane, s in state.staying.items() if s}
        assert census == {lane: n for lane, n in state.census.items() if any(n)}
        assert all(m.source == state.regions[r].lane for r, m in state.migrations.items())
        assert not any(state.is_over(m.source) or state.is_over(m.target) for m in state.migrations.values())


def _gist(orders: dict[int, Order]) -> dict[int, tuple[object, ...]]:
    """What an agent acts on; `over` and `ends` matter only while a region opens, and may be trimmed later."""
    return {r: (o.kind, o.epoch, o.attempt, o.lane_index) for r, o in orders.items()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(MAKERS) - 1), st.lists(SMALL, min_size=12, max_size=12)), max_size=40))
def test_every_sequence_of_commands(steps: list[tuple[int, list[int]]]) -> None:
    """P2: tokens grow, replicas agree, one owner, no ended lane takes a region, none leaves one without an end."""
    checked = Checked()
    checked.apply(c.encode(c.Bootstrap(cluster_id="c", generation=1)))
    for name in NODES[:2]:
        pick = partial(_fixed, NODES.index(name))
        checked.apply(c.encode(_register(checked.one.state, pick)))
    for kind, dice in steps:
        checked.apply(c.encode(MAKERS[kind](checked.one.state, partial(_roll, iter(dice * 40)))))
    slices = list(checked.one.snapshot())
    again = Machine()
    again.restore(slices)
    assert list(again.snapshot()) == slices, "a snapshot does not come back as it was"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    """Whatever the bytes are, they are refused with a reason, and the state is as before."""
    machine = Machine()
    before = list(machine.snapshot())[1:]
    for bytes_ in (raw, b"\x01" + raw):
        if bytes_[:1] <= b"\x01":
            outcome = machine.apply(0, bytes_)
            assert outcome.refused
    assert list(machine.snapshot())[1:] == before


@given(st.sampled_from([b"", b"\x00\x80", b"\x01\xc1", b"\x01" + msgspec.msgpack.encode({"type": "Suspect"})]))
def test_known_garbage_is_refused(raw: bytes) -> None:
    """Empty, of no level, not msgpack, and a command without its fields."""
    assert Machine().apply(1, raw).refused


def test_a_repeated_request_id_gets_the_first_answer() -> None:
    """A command that was applied under a request id is applied once; its repeat gets the same value."""
    machine = Machine()
    machine.apply(1, c.encode(c.Bootstrap(cluster_id="c", generation=1)))
    command = c.Register(
        request_id="r1", node_id="dn-1", folder_id="f", locality="s/z", address="a", lanes=1, capacity_regions=1
    )
    first, again = machine.apply(2, c.encode(command)), machine.apply(3, c.encode(command))
    assert again.duplicate and again.value == first.value and not again.events
    assert machine.state.nodes["dn-1"].incarnation == first.value


def test_a_snapshot_shows_nothing_that_came_later() -> None:
    """Applies between two slices do not show: the slices are those of the state when it was asked for."""
    machine = Machine()
    machine.apply(1, c.encode(c.Bootstrap(cluster_id="c", generation=1)))
    machine.apply(
        2, c.encode(c.Register(node_id="dn-1", folder_id="f", locality="s/z", address="a", lanes=1, capacity_regions=9))
    )
    lane = machine.state.open_lanes("dn-1")[0]
    create = c.CreateTable(name="t", columns=COLUMNS, partitions=50, lanes=(lane,), placement=(0,) * 50)
    machine.apply(3, c.encode(create))
    whole = list(machine.snapshot())
    lazily = machine.snapshot()
    head = next(lazily)
    regions = [(r, x.epoch) for r, x in machine.state.regions.items()]
    items = tuple(c.Serving("dn-1", lane.incarnation, r, epoch) for r, epoch in regions)
    machine.apply(4, c.encode(c.Reports(items=items)))
    assert [head, *lazily] == whole
    assert machine.state.phases()[Phase.SERVING] == 50
