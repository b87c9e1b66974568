"""The manifest of a region: its SSTs, and its stays that they do not cover yet. One small JSON file a version.

    {"format": 1, "crc": "9a0c11ef", "manifest": {...}}

The rules by which one version follows another are pure functions here (docs/lanes.md says why each is needed):

    claim    a new owner, under a higher epoch; closes every open stay and opens its own
    flush    the owner's SSTs now cover its stays up to a position
    compact  SSTs replaced by SSTs
    drop     a tombstone under a higher epoch, which stays for ever

Each version is created by put-if-absent under exactly the next number; the nonce says afterwards whose it is.
"""

import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from groundwork.core.check import require
from groundwork.core.errors import Damaged, NewerFormat
from groundwork.core.ids import Lane, partition_of, table_of
from groundwork.core.table import Schema

FORMAT_VERSION = 1
Order = tuple[int, int]  # (epoch, sequence) of a row: the last write wins by it
StayKey = tuple[Lane, int]  # a stay is named by its lane and the epoch of the claim that began it


class Sst(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One SST with the statistics that opening and planning need, so that neither reads a data file."""

    key: str
    rows: int
    bytes: int
    min_ts: int  # ns
    max_ts: int  # ns, inclusive
    min_order: Order
    max_order: Order
    level: int = 0
    epoch: int = 0  # under which it was written


class Stay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region's time in a lane: positions [start, end), end None while open; those below `covered` are in SSTs."""

    lane: Lane
    epoch: int  # of the claim that began it: a region may come back to a lane that it left
    start: int = msgspec.field(name="from")
    end: int | None = msgspec.field(name="to")
    covered: int

    @property
    def key(self) -> StayKey:
        """What names this stay in the trim index and in committed hand-over positions."""
        return (self.lane, self.epoch)

    @property
    def done(self) -> bool:
        """Closed, and covered up to its end: nothing of it needs the lane any more."""
        return self.end is not None and self.covered >= self.end


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version. What the catalog needs to be rebuilt from the object store alone is in here too."""

    region: int
    table: int
    version: int
    epoch: int
    owner: str  # node id
    nonce: str  # of the attempt that made this version
    schema: Schema
    table_name: str = ""
    partition_columns: tuple[str, ...] = ()
    partitions: int = 1
    highest: Order = (0, 0)  # of all rows in the SSTs
    ssts: tuple[Sst, ...] = ()
    stays: tuple[Stay, ...] = ()
    tombstone: bool = False


class NeedSeal(NamedTuple):
    """Seal this lane (it is committed as over), add its end to `sealed`, read the manifest again and claim again."""

    lane: Lane


class Stop(NamedTuple):
    """This claim may not go on. `kind` is that of RegionReport.Failed; `reason` is for people; `stay` is in its way."""

    kind: str
    reason: str
    stay: StayKey | None = None


class Claim(NamedTuple):
    """What a claimant brings. `position` is its own lane's next position, read after the OPEN mark was durable."""

    epoch: int
    owner: str
    nonce: str
    lane: Lane
    position: int
    ends: Mapping[StayKey, int]  # committed hand-over positions
    over: Collection[Lane]  # lanes that are committed as over
    sealed: Mapping[Lane, int]  # ends of lanes that have been sealed


class Origin(NamedTuple):
    """What the first version of a region is made of."""

    region: int
    schema: Schema
    table_name: str = ""
    partition_columns: tuple[str, ...] = ()
    partitions: int = 1


def manifest_folder(region: int) -> str:
    """Where a region's manifest versions are."""
    return f"regions/{table_of(region)}/{partition_of(region):06d}/manifest/"


def manifest_key(region: int, version: int) -> str:
    """The object of one version."""
    return f"{manifest_folder(region)}{version:020d}"


def version_of(key: str) -> int:
    """The version that a manifest key names."""
    return int(key.rpartition("/")[2])


def sst_folder(region: int) -> str:
    """Where a region's SSTs are."""
    return f"regions/{table_of(region)}/{partition_of(region):06d}/sst/"


def sst_key(region: int, epoch: int, uid: str) -> str:
    """The object of one SST: it names the epoch, since an owner may only clean up below its own claim."""
    return f"{sst_folder(region)}{epoch:016x}-{uid}.parquet"


DROPS_FOLDER = "drops/"


def drop_marker_key(region: int) -> str:
    """Says that a dropped region's files are still to be deleted."""
    return f"{DROPS_FOLDER}{region:016x}"


def region_of_drop(key: str) -> int:
    """The region that a drop's marker names."""
    return int(key.removeprefix(DROPS_FOLDER), 16)


# ---------------------------------------------------------------- rules


def claim(current: Manifest | None, c: Claim, origin: Origin) -> Manifest | NeedSeal | Stop:
    """The version that makes `c.owner` the owner under `c.epoch`, or what is in its way.

    Every open stay is closed: at the committed hand-over position of that very stay, else at the end of its sealed
    lane; a lane that is not committed as over is never sealed. The claimant's own stay is open from the start, so
    that its lane is named before the first append.
    """
    if c.lane in c.over or c.lane in c.sealed:
        return Stop("lane_over", f"this node's own lane {c.lane} is over: register again for a new incarnation")
    own = Stay(c.lane, c.epoch, c.position, None, c.position)
    if current is None:
        return Manifest(
            region=origin.region, table=table_of(origin.region), version=1, epoch=c.epoch, owner=c.owner,
            nonce=c.nonce, schema=origin.schema, table_name=origin.table_name,
            partition_columns=origin.partition_columns, partitions=origin.partitions, stays=(own,),
        )  # fmt: skip
    refused = _fenced(current, c.epoch)
    if refused:
        return refused
    stays: list[Stay] = []
    for stay in current.stays:
        closed = _close(stay, c)
        if not isinstance(closed, Stay):
            return closed
        if not closed.done:
            stays.append(closed)
    # The schema is the newer of the two: a flush of the last owner may know columns that this order does not.
    schema = max(current.schema, origin.schema, key=lambda s: s.version)
    return msgspec.structs.replace(
        current, version=current.version + 1, epoch=c.epoch, owner=c.owner, nonce=c.nonce, schema=schema,
        stays=(*stays, own),
    )  # fmt: skip


def drop(current: Manifest | None, epoch: int, owner: str, nonce: str, origin: Origin) -> Manifest | Stop:
    """The tombstone. It stays for ever; region ids are never used again. Stop("dropped") where it is there already."""
    if current is None:
        return Manifest(
            region=origin.region, table=table_of(origin.region), version=1, epoch=epoch, owner=owner, nonce=nonce,
            schema=origin.schema, table_name=origin.table_name, partition_columns=origin.partition_columns,
            partitions=origin.partitions, tombstone=True,
        )  # fmt: skip
    return _fenced(current, epoch) or msgspec.structs.replace(
        current, version=current.version + 1, epoch=epoch, owner=owner, nonce=nonce, ssts=(), stays=(), tombstone=True
    )  # fmt: skip


def flushed(
    current: Manifest, epoch: int, nonce: str, added: tuple[Sst, ...], covered: int, schema: Schema | None = None
) -> Manifest:
    """The owner's frozen memtables are in `added`, and with them all of its own stay below `covered`.

    Closed stays were replayed into the memtable before this epoch served, so the first flush covers them whole.
    Without SSTs it is the advanced position of an idle region, which may only be committed when nothing is unflushed.
    `epoch` is the owner's: higher than the claim's after a cancelled migration.
    """
    require(epoch >= current.epoch, f"a flush under epoch {epoch} follows a manifest of epoch {current.epoch}")
    require(not current.tombstone, "a dropped region takes no flush")
    stays = tuple(_cover(s, covered) for s in current.stays if s.end is None)
    return msgspec.structs.replace(
        current, version=current.version + 1, epoch=epoch, nonce=nonce, stays=stays, schema=schema or current.schema,
        ssts=current.ssts + added, highest=max([current.highest, *(s.max_order for s in added)]),
    )  # fmt: skip


def compacted(current: Manifest, epoch: int, nonce: str, removed: Collection[str], added: tuple[Sst, ...]) -> Manifest:
    """`added` holds the rows of `removed`. Only what this very version removes may be deleted after its commit."""
    require(epoch >= current.epoch, f"a compaction under epoch {epoch} follows a manifest of epoch {current.epoch}")
    require(set(removed) <= {s.key for s in current.ssts}, "a compaction removes SSTs that the manifest does not name")
    kept = tuple(s for s in current.ssts if s.key not in removed)
    return msgspec.structs.replace(
        current, version=current.version + 1, epoch=epoch, nonce=nonce, ssts=kept + added
    )  # fmt: skip


def _fenced(current: Manifest, epoch: int) -> Stop | None:
    if current.tombstone:
        return Stop("dropped", f"the region was dropped under epoch {current.epoch}")
    if current.epoch >= epoch:
        return Stop("newer_epoch", f"the manifest has epoch {current.epoch}, not below this claim's {epoch}")
    return None


def _close(stay: Stay, c: Claim) -> Stay | NeedSeal | Stop:
    if stay.end is not None:
        return stay
    end = c.ends.get(stay.key)
    if end is None:
        end = c.sealed.get(stay.lane)
    if end is not None:
        return msgspec.structs.replace(stay, end=max(end, stay.start))
    if stay.lane not in c.over:
        return Stop(
            "lane_not_over",
            f"the stay in lane {stay.lane} since epoch {stay.epoch} is open, without a committed hand-over position,"
            " and the lane is not committed as over",
            stay.key,
        )
    return NeedSeal(stay.lane)


def _cover(stay: Stay, covered: int) -> Stay:
    require(covered >= stay.covered, f"covered goes back from {stay.covered} to {covered}")
    return msgspec.structs.replace(stay, covered=covered)


# ---------------------------------------------------------------- codec


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    crc: str
    manifest: msgspec.Raw


class _Format(msgspec.Struct):
    format: int


_file = msgspec.json.Decoder(_File)
_format = msgspec.json.Decoder(_Format)
_manifest = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """The body of a version's object."""
    raw = msgspec.json.encode(manifest)
    return msgspec.json.encode(_File(FORMAT_VERSION, f"{zlib.crc32(raw):08x}", msgspec.Raw(raw)))


def decode_manifest(body: bytes, region: int, version: int) -> Manifest:
    """The inverse. Raises Damaged for anything that is not this region's version, NewerFormat for a newer release's."""
    name = f"manifest {version} of region {region}"
    try:
        found = _format.decode(body).format
        if found > FORMAT_VERSION:
            raise NewerFormat(
                f"{name} has format {found}, and this release knows {FORMAT_VERSION}: run the newer release"
            )
        file = _file.decode(body)
        if f"{zlib.crc32(file.manifest):08x}" != file.crc:
            raise Damaged(f"{name} fails its checksum")
        manifest = _manifest.decode(file.manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{name} is damaged: {error}") from error
    if (manifest.region, manifest.version) != (region, version):
        raise Damaged(f"{name} holds version {manifest.version} of region {manifest.region}: it was moved or copied")
    return manifest
