"""P2, looked at directly: behind a seal, or behind the end that the next owner gave a stay, nobody acknowledges.

The store tells every put at the moment it takes effect; the engine tells every acknowledgement at the moment it is
decided. Either may come first: whichever comes second finds the contradiction, whether or not a client reads the row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from groundwork.adapters.lanes.format import ObjectKind, decode_object
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.lanes.writer import ObjectsWriter
from groundwork.core.entry import BadEntry, Kind, iter_entries
from groundwork.core.ids import Lane, region_id
from groundwork.core.manifest import Manifest, StayKey, decode_manifest
from groundwork.core.marks import listen
from groundwork.core.ports import Sink

if TYPE_CHECKING:
    from tests.sim.world import World


class Owners:
    """Of all regions and lanes of one run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._seals: dict[Lane, int] = {}  # the lowest that was at or above the trim marker when it was put
        self._markers: dict[Lane, int] = {}
        self._durable: dict[Lane, int] = {}  # the highest position that a writer took for durable
        self._newest: dict[int, Manifest] = {}
        self._ends: dict[tuple[int, StayKey], int] = {}
        self._acked: dict[tuple[int, StayKey], int] = {}  # the highest acknowledged position of a stay
        self.acknowledged = self.late = 0

    def watch(self) -> None:
        """Hold every put and every acknowledgement against each other from now on."""
        self._world.bucket.on_put = self._put
        listen(self._told)

    def release(self) -> None:
        """Let go."""
        self._world.bucket.on_put = None
        listen(None)

    # ---------------------------------------------------------------- what the store took

    def _put(self, key: str, body: bytes) -> None:
        parts = key.split("/")
        if parts[0] == "lanes" and parts[-2] == "trim":
            lane = Lane.parse("/".join(parts[1:-2]))
            self._markers[lane] = max(self._markers.get(lane, 0), int(parts[-1]))
        elif parts[0] == "lanes":
            self._lane_object(Lane.parse("/".join(parts[1:-1])), int(parts[-1]), body)
        elif parts[0] == "regions" and parts[3] == "manifest":
            region = region_id(int(parts[1]), int(parts[2]))
            self._manifest(decode_manifest(body, region, int(parts[-1])))

    def _lane_object(self, lane: Lane, seq: int, body: bytes) -> None:
        # A seal that lands below the trim marker took a name that was freed: it ends nothing, and is tried again.
        if decode_object(body, lane, seq).kind is not ObjectKind.SEAL or seq < self._markers.get(lane, 0):
            return
        self._seals[lane] = min(seq, self._seals.get(lane, seq))
        if self._durable.get(lane, 0) >= seq:
            self._world.fail(f"P2: lane {lane} is sealed at {seq}, its writer has {self._durable[lane]} as durable")

    def _manifest(self, manifest: Manifest) -> None:
        before = self._newest.get(manifest.region)
        if before is not None and before.version >= manifest.version:
            return  # void: a version counts only while none is above it
        self._newest[manifest.region] = manifest
        for stay in manifest.stays:
            if stay.end is not None:
                self._ended(manifest, stay.key, stay.end)
        if before is not None and not manifest.tombstone:
            kept = {stay.key for stay in manifest.stays}
            for stay in before.stays:
                if stay.end is None and stay.key not in kept:  # closed where it was covered
                    self._ended(manifest, stay.key, stay.covered)

    def _ended(self, manifest: Manifest, stay: StayKey, end: int) -> None:
        name = (manifest.region, stay)
        known = self._ends.setdefault(name, end)
        if known != end:
            self._world.fail(f"P2: the end of {_text(name)} went from {known} to {end}")
        acked = self._acked.get(name, -1)
        if acked >= end:
            self._world.fail(
                f"P2: {manifest.owner} claims under epoch {manifest.epoch} with the end {end} of {_text(name)}, "
                f"and its writer has acknowledged {acked}"
            )

    # ---------------------------------------------------------------- what writers decided

    def durable(self, lane: Lane, position: int, entries: Sequence[bytes]) -> None:
        """A lane's writer takes a position for durable: every append and barrier of it succeeds."""
        self._durable[lane] = max(position, self._durable.get(lane, 0))
        if position >= self._seals.get(lane, position + 1):
            kinds = [e.kind for b in entries for e in iter_entries(b) if not isinstance(e, BadEntry)]
            told = ", ".join(Kind(k).name for k in kinds)
            self._world.fail(f"P2: {lane} took {told} at {position}, and it is sealed at {self._seals[lane]}")

    def _told(self, what: str, region: int, epoch: int, stay: StayKey, position: int) -> None:
        assert what == "write_acknowledged"
        name = (region, stay)
        self.acknowledged += 1
        self._world.leases.acknowledged(region)
        self._acked[name] = max(position, self._acked.get(name, -1))
        newest = self._newest[region]
        end = self._ends.get(name)
        if end is not None and position >= end:
            self._world.fail(
                f"P2: {stay[0].node_id} acknowledges {position} under epoch {epoch} for {_text(name)}, which ended at "
                f"{end}; {newest.owner} has epoch {newest.epoch}"
            )
        elif end is not None:
            self.late += 1
            self._world.trace.marks["acknowledged_below_the_end"] += 1
        elif stay not in {s.key for s in newest.stays}:
            self._world.fail(f"P2: an acknowledgement at {position} for {_text(name)}, which no manifest names")


def _text(name: tuple[int, StayKey]) -> str:
    region, (lane, epoch) = name
    return f"region {region:#x}'s stay in {lane} since epoch {epoch}"


class WatchedLog(ObjectsLog):
    """The lanes of one process; what its writers take for durable is told to the checker first."""

    owners: Owners

    async def open_writer(self, lane: Lane, sink: Sink) -> ObjectsWriter:
        """See ObjectsLog."""

        def watched(position: int, entries: Sequence[bytes]) -> None:
            self.owners.durable(lane, position, entries)
            sink(position, entries)

        return await super().open_writer(lane, watched)
