"""Table schemas and the partition rule, as every program must agree on them.

Columns are only ever appended, so the schema of version v is the leading columns whose `since_version` is at most v,
and a batch written under an older version is a prefix of a newer one, padded with nulls when read.
"""

import enum
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from groundwork.core.errors import BadInput

ColumnType = Literal["string", "float64", "int64", "uint64", "bool", "timestamp_ns"]
COLUMN_TYPES: tuple[str, ...] = get_args(ColumnType)
PARTITIONS_MAX = 4_000  # of a new table: all of it is made, and dropped, in one apply, which stalls all else (0008)
PARTITIONS_KEPT_MAX = 10_000  # of one that was made when more were allowed
COLUMNS_MAX = 1_000
NAME_BYTES_MAX = 255
RESERVED_PREFIX = "_metasrv_"  # of the columns that datanodes add to each row: its place in the order of writes


def check_partitions(partitions: int) -> None:
    """Raises BadInput for what a new table cannot have."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise BadInput(
            "partitions",
            f"{partitions:,} is not 1 to {PARTITIONS_MAX:,}: a table is made and dropped in one step, and more would"
            " hold up leases and failovers meanwhile; some for each datanode are enough, else make several tables",
        )


class Role(enum.IntEnum):
    """What a column is for. Values are those of the wire (metasrv.v1.ColumnRole)."""

    TAG = 1
    TIME = 2
    FIELD = 3


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column. A table has exactly one TIME column, of type timestamp_ns; tags are strings."""

    name: str
    type: ColumnType
    role: Role
    since_version: int = 1


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of a table up to one version, in order of creation."""

    version: int
    columns: tuple[Column, ...]

    def at(self, version: int) -> "Schema":
        """This schema as it was at an older version."""
        return Schema(version, tuple(c for c in self.columns if c.since_version <= version))

    @property
    def tags(self) -> tuple[Column, ...]:
        """The primary key, in order of creation."""
        return tuple(c for c in self.columns if c.role is Role.TAG)

    @property
    def time(self) -> Column:
        """The one time column."""
        return next(c for c in self.columns if c.role is Role.TIME)

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((c for c in self.columns if c.name == name), None)


class TableInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client needs to know of a table."""

    table_id: int
    name: str
    schema: Schema
    partition_columns: tuple[str, ...]  # empty: all tags
    region_ids: tuple[int, ...]  # in partition order

    def region_of(self, tags: Mapping[str, str]) -> int:
        """The region of one key."""
        names = self.partition_columns or tuple(c.name for c in self.schema.tags)
        return self.region_ids[partition_of_key((tags.get(n, "") for n in names), len(self.region_ids))]


def partition_of_key(values: Iterable[str], partitions: int) -> int:
    """HASH partitioning: CRC-32 over the length-prefixed UTF-8 of each partition value, modulo the partitions.

    Stable for ever: it decides where rows are. An absent tag is the empty string, as in line protocol.
    """
    crc = 0
    for value in values:
        raw = value.encode()
        crc = zlib.crc32(raw, zlib.crc32(len(raw).to_bytes(4, "little"), crc))
    return crc % partitions


def check_columns(columns: Sequence[Column]) -> None:
    """Raise BadInput unless these can be the columns of a new table."""
    names = [c.name for c in columns]
    if len(columns) > COLUMNS_MAX:
        raise BadInput("columns", f"{len(columns)} columns; at most {COLUMNS_MAX}")
    for c in columns:
        if not 0 < len(c.name.encode()) <= NAME_BYTES_MAX:
            raise BadInput("columns", f"the name {c.name!r} is not 1 to {NAME_BYTES_MAX} bytes long")
        if c.type not in COLUMN_TYPES:
            raise BadInput(f"column {c.name}", f"type {c.type!r} is not one of {', '.join(COLUMN_TYPES)}")
        if c.role is Role.TAG and c.type != "string":
            raise BadInput(f"column {c.name}", f"a tag is a string, not {c.type}")
    if len(set(names)) < len(names):
        raise BadInput("columns", f"{next(n for n in names if names.count(n) > 1)!r} is named twice")
    times = [c for c in columns if c.role is Role.TIME]
    if len(times) != 1 or times[0].type != "timestamp_ns":
        raise BadInput("columns", "a table has exactly one time column, of type timestamp_ns")


def check_new_columns(columns: Iterable[Column]) -> None:
    """Raise BadInput unless columns may be added: for those who ask, not for what replicas have committed."""
    for c in columns:
        if c.name.startswith(RESERVED_PREFIX):
            raise BadInput(f"column {c.name}", f"names that begin with {RESERVED_PREFIX} are the datanodes' own")
