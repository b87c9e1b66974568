"""The route cache keeps the newest answer about each region, whoever answers and however late."""

from groundwork.core.ids import region_id
from groundwork.core.route_cache import Phase, RouteCache
from protos.metasrv.v1 import routes_pb2, types_pb2


def _table(table_id: int, name: str = "cpu", version: int = 1) -> types_pb2.Table:
    columns = [
        types_pb2.Column(name="host", type="string", role=types_pb2.TAG, since_version=1),
        types_pb2.Column(name="ts", type="timestamp_ns", role=types_pb2.TIME, since_version=1),
    ]
    regions = [region_id(table_id, 0)]
    return types_pb2.Table(table_id=table_id, name=name, schema_version=version, columns=columns, region_ids=regions)


def _route(
    table_id: int, epoch: int, node: str = "dn-1", phase: types_pb2.Phase.ValueType = types_pb2.SERVING
) -> types_pb2.Route:
    return types_pb2.Route(
        region_id=region_id(table_id, 0), table_id=table_id, node_id=node, epoch=epoch, phase=phase, address="a:1"
    )


def _event(revision: int, *routes: types_pb2.Route, **more: object) -> routes_pb2.RoutesEvent:
    return routes_pb2.RoutesEvent(revision=revision, routes=routes, **more)  # type: ignore[arg-type]


def _held(cache: RouteCache, table_id: int = 1) -> str:
    route = cache.route(region_id(table_id, 0))
    assert route is not None
    return f"{route.node_id} {route.epoch} {route.phase.name}"


def test_newer_epochs_win_whatever_their_order() -> None:
    """An answer under an older epoch never replaces a newer one, also at a higher revision of its own replica."""
    cache = RouteCache()
    cache.apply_event(_event(5, _route(1, 10), snapshot=True, tables=[_table(1)]))
    assert cache.apply_event(_event(6, _route(1, 12, "dn-2"))) == {region_id(1, 0)}
    assert cache.apply_event(_event(7, _route(1, 10))) == set()
    assert _held(cache) == "dn-2 12 SERVING"


def test_phases_of_one_epoch_follow_the_revision() -> None:
    """Under one epoch the later revision tells the phase; the same answer twice is no news."""
    cache = RouteCache()
    cache.merge(9, [_table(1)], [_route(1, 10, phase=types_pb2.SERVING)])
    assert cache.merge(8, [], [_route(1, 10, phase=types_pb2.OPENING)]) == set()
    assert _held(cache) == "dn-1 10 SERVING"
    assert cache.merge(9, [], [_route(1, 10, phase=types_pb2.SERVING)]) == set()
    assert cache.merge(10, [], [_route(1, 10, phase=types_pb2.STOPPING)]) == {region_id(1, 0)}


def test_a_lagging_snapshot_drops_nothing_newer() -> None:
    """A table that one made oneself stays when a replica that has not heard of it sends a snapshot."""
    cache = RouteCache()
    cache.apply_event(_event(3, snapshot=True))
    cache.merge(8, [_table(1)], [_route(1, 10)])
    cache.apply_event(_event(5, snapshot=True))
    assert cache.table("cpu") is not None
    cache.apply_event(_event(9, snapshot=True))
    assert cache.table("cpu") is None
    assert cache.route(region_id(1, 0)) is None


def test_a_dropped_table_does_not_come_back_late() -> None:
    """Ids are never used again: a late answer about a dropped table is ignored; its name may be a new table's."""
    cache = RouteCache()
    cache.apply_event(_event(3, _route(1, 10), snapshot=True, tables=[_table(1)]))
    cache.apply_event(_event(4, dropped_table_ids=[1]))
    cache.merge(3, [_table(1)], [_route(1, 10)])
    assert cache.table("cpu") is None
    assert cache.route(region_id(1, 0)) is None
    cache.apply_event(_event(6, _route(2, 20), tables=[_table(2)]))
    table = cache.table("cpu")
    assert table is not None
    assert table.table_id == 2


def test_schemas_only_widen() -> None:
    """An answer with an older schema version does not narrow a table."""
    cache = RouteCache()
    cache.merge(3, [_table(1, version=2)])
    cache.merge(4, [_table(1, version=1)])
    table = cache.table("cpu")
    assert table is not None
    assert table.schema.version == 2
    assert cache.tables() == [table]


def test_a_lost_region_is_not_owned() -> None:
    """T22: while LOST the route names the node that was lost; nobody is to be asked there."""
    cache = RouteCache()
    cache.merge(3, [_table(1)], [_route(1, 10, phase=types_pb2.LOST)])
    route = cache.route(region_id(1, 0))
    assert route is not None
    assert route.phase is Phase.LOST
    assert not route.owned


def test_a_start_from_backup_is_followed() -> None:
    """Once every replica is behind what is held, a snapshot of any revision replaces the tables."""
    cache = RouteCache()
    cache.apply_event(_event(100, _route(1, 10), snapshot=True, tables=[_table(1)]))
    cache.reset_revision()
    cache.apply_event(_event(40, _route(2, 2 << 40), snapshot=True, tables=[_table(2, "mem")]))
    assert cache.table("cpu") is None
    assert cache.table("mem") is not None
    assert cache.revision == 40


def test_a_revision_is_reached_with_its_last_slice() -> None:
    """A snapshot that comes in slices counts once it is whole: a stream that breaks before begins it again."""
    cache = RouteCache()
    cache.apply_event(_event(7, _route(1, 10), snapshot=True, tables=[_table(1), _table(2, "mem")], more=True))
    assert cache.revision == 0
    cache.apply_event(_event(7, _route(2, 11)))
    assert cache.revision == 7
    assert _held(cache) == "dn-1 10 SERVING"
    assert _held(cache, 2) == "dn-1 11 SERVING"
