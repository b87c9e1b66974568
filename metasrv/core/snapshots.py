"""Snapshots: a header and then sections, each slice small enough that encoding it stalls nobody.

Slice 0 is the magic and the format version; every other slice is msgpack [section, payload], the last ["end", count].
Records that may be many are copied shallowly (or shared, copy on write) when the snapshot is asked for, so what is
applied between two slices does not show.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from groundwork.core.errors import Damaged
from groundwork.core.ids import Lane
from metasrv.core.events import Event
from metasrv.core.records import Config, Drain, Failure, LaneState, Migration, Node, Pause, Region, Table
from metasrv.core.state import AUDIT_MAX, Answer, State

MAGIC = b"metasrv-state"
FORMAT_VERSION = 1
SLICE_ITEMS_MAX = 1_000


class _Scalars(Struct, frozen=True):
    cluster_id: str
    generation: int
    next_token: int
    next_table_id: int
    revision: int
    config: Config


_LISTS: dict[str, Any] = {
    "nodes": Node,
    "tables": Table,
    "lanes": tuple[Lane, LaneState],
    "regions": tuple[int, Region],
    "migrations": tuple[int, Migration],
    "drains": tuple[str, Drain],
    "pauses": Pause,
    "failures": tuple[int, Failure],
    "answers": tuple[str, Answer],
    "audit": Event,
}
_DECODERS: dict[str, msgspec.msgpack.Decoder[list[Any]]] = {
    name: msgspec.msgpack.Decoder(list.__class_getitem__(kind)) for name, kind in _LISTS.items()
}
_SCALARS = msgspec.msgpack.Decoder(_Scalars)
_ENVELOPE = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_ENCODER = msgspec.msgpack.Encoder()


def encode(state: State) -> Iterator[bytes]:
    """The slices of the state as of this call."""
    scalars = _Scalars(
        state.cluster_id, state.generation, state.next_token, state.next_table_id, state.revision, state.config
    )
    lists: dict[str, list[Any]] = {
        "nodes": list(state.nodes.values()),
        "tables": list(state.tables.values()),
        "lanes": list(state.lanes.items()),
        "migrations": list(state.migrations.items()),
        "drains": list(state.drains.items()),
        "pauses": list(state.pauses.values()),
        "failures": list(state.failures.items()),
        "answers": list(state.answers.items()),
        "audit": list(state.audit),
    }
    return _slices(scalars, lists, state.regions.frozen())


def _slices(scalars: _Scalars, lists: dict[str, list[Any]], regions: list[dict[int, Region]]) -> Iterator[bytes]:
    yield MAGIC + bytes((FORMAT_VERSION,))
    yield _ENCODER.encode(("scalars", scalars))
    count = 2
    for name, items in lists.items():
        for at in range(0, len(items), SLICE_ITEMS_MAX):
            yield _ENCODER.encode((name, items[at : at + SLICE_ITEMS_MAX]))
            count += 1
    batch: list[tuple[int, Region]] = []
    for shard in filter(None, regions):
        batch.extend(shard.items())
        if len(batch) >= SLICE_ITEMS_MAX:
            yield _ENCODER.encode(("regions", batch))
            batch = []
            count += 1
    if batch:
        yield _ENCODER.encode(("regions", batch))
        count += 1
    yield _ENCODER.encode(("end", count))


def decode(slices: Iterable[bytes]) -> State:
    """The inverse of encode. Raises Damaged."""
    source = iter(slices)
    head = next(source, b"")
    if head[:-1] != MAGIC:
        raise Damaged("these slices are no snapshot of metasrv's state: the file is another's, or damaged")
    if head[-1] > FORMAT_VERSION:
        raise Damaged(f"the snapshot has format version {head[-1]}; this program knows {FORMAT_VERSION}: upgrade it")
    found: dict[str, list[Any]] = {name: [] for name in _LISTS}
    scalars: _Scalars | None = None
    count, ended = 1, False
    try:
        for raw in source:
            name, payload = _ENVELOPE.decode(raw)
            if name == "end":
                ended = msgspec.msgpack.decode(payload, type=int) == count
                break
            count += 1
            if name == "scalars":
                scalars = _SCALARS.decode(payload)
            else:
                found[name].extend(_DECODERS[name].decode(payload))
    except (msgspec.MsgspecError, KeyError) as error:
        raise Damaged(f"slice {count} of the snapshot cannot be read: {error}") from None
    if scalars is None or not ended:
        raise Damaged(f"the snapshot is cut short after {count} slices")
    return _build(scalars, found)


def _build(scalars: _Scalars, found: dict[str, list[Any]]) -> State:
    state = State()
    state.cluster_id, state.generation = scalars.cluster_id, scalars.generation
    state.next_token, state.next_table_id = scalars.next_token, scalars.next_table_id
    state.revision, state.config = scalars.revision, scalars.config
    state.nodes = {n.node_id: n for n in found["nodes"]}
    state.tables = {t.table_id: t for t in found["tables"]}
    state.lanes = dict(found["lanes"])
    for region_id, region in found["regions"]:
        state.regions[region_id] = region
    state.migrations = dict(found["migrations"])
    state.drains = dict(found["drains"])
    state.pauses = {p.scope: p for p in found["pauses"]}
    state.failures = dict(found["failures"])
    state.answers = dict(found["answers"])
    state.audit = deque(found["audit"], maxlen=AUDIT_MAX)
    state.reindex()
    return state
