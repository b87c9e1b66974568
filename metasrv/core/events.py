"""What applying a command gives back: one outcome, with sentences for people and lists of what it touched."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

EVENT_REGIONS_MAX = 16


class Event(Struct, frozen=True, array_like=True, gc=False):
    """One entry of the audit trail. `token` is what the command took: a region's epoch leads back to its reason."""

    revision: int
    wall_ms: int
    kind: str  # suspect, clear, failover, serving, migration, handover, cancel, register, release, ...
    sentence: str
    node_ids: tuple[str, ...] = ()
    region_ids: tuple[int, ...] = ()  # at most EVENT_REGIONS_MAX of them
    token: int = 0
    fields: dict[str, str] = {}


class Outcome(Struct, frozen=True, gc=False):
    """Of one command. `refused` is empty when it was applied; `value` is what it made (an incarnation, table id...)."""

    revision: int
    kind: str
    value: int = 0
    refused: str = ""
    duplicate: bool = False  # a repeat of a request id: value is the first answer
    events: tuple[Event, ...] = ()
    orders: Mapping[str, tuple[int, ...]] = {}  # node id -> regions whose order on that node may have changed
    trims: tuple[str, ...] = ()  # node ids that have new trim orders
    regions: tuple[int, ...] = ()  # routes that changed
    nodes: tuple[str, ...] = ()  # node records that changed
    tables: tuple[int, ...] = ()  # tables new, changed or dropped
    rejected: tuple[tuple[int, str], ...] = ()  # of Reports: (index, reason)


Subscriber = Callable[[int, Outcome], None]


SAID_MAX = 8


def listed(parts: Sequence[str], joint: str = ", ") -> str:
    """The first few of a list, and how many more: a sentence stays one, whatever happened to however many."""
    more = f" and {len(parts) - SAID_MAX:,} more" if len(parts) > SAID_MAX else ""
    return joint.join(parts[:SAID_MAX]) + more


def regions_said(count: int) -> str:
    """A number of regions in words that read well."""
    return f"{count:,} region" if count == 1 else f"{count:,} regions"
