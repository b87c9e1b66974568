"""The commands that the replicated log holds: tagged records in msgpack behind one byte, the feature level they need.

`request_id`, where not empty, makes a command apply once: a repeat gets the first answer. `wall_ms` is for people.
A command whose preconditions no longer hold is refused by the machine, with a reason; so are bytes that are no command.
One of a newer release is neither applied nor skipped, which would tear the replicas apart: that one stops (0009).
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from groundwork.core.errors import BadInput, NewerFormat
from groundwork.core.ids import Lane
from groundwork.core.table import PARTITIONS_KEPT_MAX, Column
from metasrv.core.records import LANES_MAX, TEXT_CHARS_MAX, Config, Count, Name, RegionId, Text, Token

FEATURE_LEVEL = 1  # the highest that this program can apply; any change of a command or of what it does raises it


class Command(Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What all commands carry."""

    request_id: Annotated[str, Meta(max_length=100)] = ""
    wall_ms: Count = 0


# --- the cluster


class Bootstrap(Command, frozen=True, kw_only=True):
    """Begin the cluster, or (a higher generation) begin again from a backup: then every incarnation is over."""

    cluster_id: Name
    generation: Annotated[int, Meta(ge=1, le=2**20)]
    config: Config = Config()


class SetConfig(Command, frozen=True, kw_only=True):
    """Replace the configuration."""

    config: Config
    who: Name = ""


class Pause(Command, frozen=True, kw_only=True):
    """Begin or prolong maintenance of a scope: cluster, site/NAME, node/NAME, table/NAME."""

    scope: Name
    reason: Text = ""
    who: Name = ""
    expires_wall_ms: Count


class Resume(Command, frozen=True, kw_only=True):
    """End maintenance of a scope."""

    scope: Name
    who: Name = ""


class Note(Command, frozen=True, kw_only=True):
    """Put a decision that changes nothing (such as not to fail over) in the audit trail."""

    kind: Name
    sentence: Text
    node_id: Name = ""


# --- datanodes


class Register(Command, frozen=True, kw_only=True):
    """A new incarnation of a node id; the value is its token. `replaces`: the incarnation that the leader saw, or 0."""

    node_id: Name
    folder_id: Name
    locality: Name
    address: Name
    lanes: Annotated[int, Meta(ge=1, le=LANES_MAX)]
    capacity_regions: Annotated[int, Meta(ge=0, le=10_000_000)]
    replaces: Token = 0
    takeover: bool = False
    heard: bool = False  # the leader heard the one that it replaces within a lease


class Release(Command, frozen=True, kw_only=True):
    """Every process of this incarnation is gone, says the witness: its lanes are over at once."""

    node_id: Name
    incarnation: Token
    witness: Name = ""


class Suspect(Command, frozen=True, kw_only=True):
    """Silent for a lease: no grant before Clear."""

    node_id: Name
    incarnation: Token
    silent_ms: Count
    sentence: Text = ""


class Clear(Command, frozen=True, kw_only=True):
    """Heard again before it was failed over."""

    node_id: Name
    incarnation: Token
    sentence: Text = ""


class Forget(Command, frozen=True, kw_only=True):
    """Take a datanode that is gone for good off the books. Refused while it owns regions."""

    node_id: Name
    who: Name = ""


# --- tables


class CreateTable(Command, frozen=True, kw_only=True):
    """A new table, its regions placed: partition p goes to lanes[placement[p]]. The value is the table id."""

    name: Name
    columns: tuple[Column, ...]
    partition_columns: tuple[Name, ...] = ()  # empty: all tags
    partitions: Annotated[int, Meta(ge=1, le=PARTITIONS_KEPT_MAX)] = 1
    priority: Annotated[int, Meta(ge=0, le=2**31)] = 0
    lanes: tuple[Lane, ...]
    placement: tuple[int, ...]


class WidenTable(Command, frozen=True, kw_only=True):
    """Append columns. Those there already with the same type and role are fine. The value is the table id."""

    name: Name
    columns: tuple[Column, ...]


class DropTable(Command, frozen=True, kw_only=True):
    """Drop a table. Its name is free once every region is confirmed as dropped. The value is the drop's token."""

    name: Name
    who: Name = ""


# --- ownership


class Ended(Struct, frozen=True, array_like=True):
    """An incarnation that a failover ends. `silent` needs it to be suspect still; `unwell` and `operator` do not."""

    node_id: str
    incarnation: Token
    cause: str = "silent"


class Move(Struct, frozen=True, array_like=True):
    """Regions of a lane that is over, to one lane of a survivor. No ids: all that the lane owns when it is applied."""

    source: Lane
    target: Lane
    region_ids: tuple[RegionId, ...] | None = None


class Failover(Command, frozen=True, kw_only=True):
    """End incarnations and single lanes, and give their regions to survivors, under one new epoch: the value."""

    ended: tuple[Ended, ...] = ()
    lanes: tuple[Lane, ...] = ()
    moves: tuple[Move, ...] = ()
    sentence: Text = ""


class Reopen(Command, frozen=True, kw_only=True):
    """New epoch for regions that failed to open where they are (their own claim never became the newest manifest)."""

    region_ids: tuple[RegionId, ...]
    sentence: Text = ""


class Placement(Struct, frozen=True, array_like=True):
    """One region of a StartMigration."""

    region_id: RegionId
    target: Lane


class AcceptLoss(Command, frozen=True, kw_only=True):
    """A region that its owner opened read-only, for damaged entries, is to serve without them. The value: its epoch."""

    region_id: RegionId
    who: Name = ""


class StartMigration(Command, frozen=True, kw_only=True):
    """Targets begin to tail. All regions share one attempt token: the value. Those that cannot move are left out."""

    moves: tuple[Placement, ...]
    who: Name = ""
    why: Text = ""


class CancelMigration(Command, frozen=True, kw_only=True):
    """Give up an attempt: its regions, or only some. An owner that was told to stop resumes under a new epoch."""

    attempt: Token
    region_ids: tuple[RegionId, ...] | None = None
    who: Name = ""
    why: Text = ""


class Drain(Command, frozen=True, kw_only=True):
    """All regions are to leave the node. The value is the procedure id."""

    node_id: Name
    who: Name = ""
    by_node: bool = False


class Undrain(Command, frozen=True, kw_only=True):
    """The node may be given regions again."""

    node_id: Name
    who: Name = ""


class TrimPoint(Struct, frozen=True, array_like=True):
    """A computed trim point; refused when a stay needs what lies below it."""

    lane: Lane
    below: Count


class Trim(Command, frozen=True, kw_only=True):
    """Commit trim points that the leader computed."""

    points: tuple[TrimPoint, ...]


# --- reports of agents, coalesced over regions and nodes


class Serving(Struct, frozen=True, tag=True):
    """The owner serves the region under `epoch`."""

    node_id: Name
    incarnation: Token
    region_id: RegionId
    epoch: Token
    replayed_entries: Count = 0
    seal_ms: Count = 0
    claim_ms: Count = 0
    replay_ms: Count = 0


class Prepared(Struct, frozen=True, tag=True):
    """The target tails closely: the owner is told to stop."""

    node_id: Name
    incarnation: Token
    region_id: RegionId
    attempt: Token
    position: Count = 0
    lag_entries: Count = 0


class Stopped(Struct, frozen=True, tag=True):
    """The owner stopped, its last append's outcome known: this commits the hand-over, unless a cancel came first."""

    node_id: Name
    incarnation: Token
    region_id: RegionId
    epoch: Token
    attempt: Token
    lane: Lane
    stay_epoch: Token
    position: Count


class CoveredStay(Struct, frozen=True, array_like=True):
    """One stay that a committed manifest names, or (done) that it has covered to its end and names no longer."""

    lane: Lane
    stay_epoch: Token
    covered: Count
    done: bool = False


class Covered(Struct, frozen=True, tag=True):
    """A committed manifest: every stay that it names. May come late, twice, and from a former owner."""

    node_id: Name
    incarnation: Token
    region_id: RegionId
    manifest_epoch: Token
    manifest_version: Count = 0
    stays: tuple[CoveredStay, ...] = ()
    sst_bytes: Count = 0


class RegionFailed(Struct, frozen=True, tag=True):
    """The owner could not open, or had to close, the region. `closed_position` is where its stay there ended, if known.

    `lane` is the lane that a claim would have had to seal and may not (kind lane_not_over), with its stay's epoch; with
    `closed_position` it is the owner's own.
    """

    node_id: Name
    incarnation: Token
    region_id: RegionId
    epoch: Token
    kind: Name
    message: Text = ""
    read_only: bool = False
    lane: Lane | None = None
    stay_epoch: Token = 0
    closed_position: Count | None = None


class Closed(Struct, frozen=True, tag=True):
    """The owner wrote the tombstone of a dropped region and closed it."""

    node_id: Name
    incarnation: Token
    region_id: RegionId
    epoch: Token


Report = Serving | Prepared | Stopped | Covered | RegionFailed | Closed


class Reports(Command, frozen=True, kw_only=True):
    """Reports of any nodes, in order. Each is judged alone; Outcome.rejected says which did not count and why."""

    items: tuple[Report, ...]


AnyCommand = (
    Bootstrap | SetConfig | Pause | Resume | Note | Register | Release | Suspect | Clear | Forget
    | CreateTable | WidenTable | DropTable | Failover | Reopen | AcceptLoss | StartMigration | CancelMigration
    | Drain | Undrain | Trim | Reports
)  # fmt: skip

_UPGRADE = "the log is not damaged; run the release that the other replicas run"
_FIELDS = {kind.__name__: frozenset(kind.__struct_encode_fields__) for kind in AnyCommand.__args__}
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)


def encode(command: AnyCommand) -> bytes:
    """The bytes that are proposed. A sentence is for people: a long one is cut, or the command would be refused."""
    sentence = getattr(command, "sentence", "")
    if len(sentence) > TEXT_CHARS_MAX:
        command = msgspec.structs.replace(command, sentence=f"{sentence[: TEXT_CHARS_MAX - 3]}...")
    return bytes((FEATURE_LEVEL,)) + _ENCODER.encode(command)


def decode(raw: bytes) -> AnyCommand:
    """The inverse of encode. Raises BadInput for what no release wrote, NewerFormat for what a newer one did."""
    if not raw or not raw[0]:
        raise BadInput("command", "no bytes, or no feature level before them")
    if raw[0] > FEATURE_LEVEL:
        raise NewerFormat(f"a command of feature level {raw[0]}; this program knows {FEATURE_LEVEL}: {_UPGRADE}")
    try:
        return _DECODER.decode(memoryview(raw)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, ValueError) as error:
        unknown = _unknown_in(raw)
        if unknown:
            raise NewerFormat(f"a command {unknown}, which this program does not know: {_UPGRADE}") from None
        raise BadInput("command", f"not a command: {error}") from None


def _unknown_in(raw: bytes) -> str:
    """What only a newer release can have written, where it did not raise the level: a kind, or a field of a kind."""
    try:
        found = msgspec.msgpack.decode(memoryview(raw)[1:], type=dict[str, msgspec.Raw])
        kind = msgspec.msgpack.decode(found.pop("type"), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return ""
    if kind not in _FIELDS:
        return f"of kind {kind[:64]!r}"
    return next((f"{kind} with a field {name[:64]!r}" for name in sorted(found) if name not in _FIELDS[kind]), "")
