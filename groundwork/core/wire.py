"""Between protobuf messages and our own records, for what several programs exchange: tables, lanes."""

from typing import cast

from groundwork.core.errors import BadInput
from groundwork.core.ids import Lane
from groundwork.core.table import COLUMN_TYPES, Column, ColumnType, Role, Schema, TableInfo
from protos.metasrv.v1 import types_pb2

_ROLES = frozenset(int(role) for role in Role)


def lane_to_wire(lane: Lane) -> types_pb2.Lane:
    """A lane for the wire."""
    return types_pb2.Lane(node_id=lane.node_id, incarnation=lane.incarnation, index=lane.index)


def lane_from_wire(lane: types_pb2.Lane) -> Lane:
    """A lane from the wire."""
    return Lane(lane.node_id, lane.incarnation, lane.index)


def column_to_wire(column: Column) -> types_pb2.Column:
    """A column for the wire."""
    return types_pb2.Column(
        name=column.name,
        type=column.type,
        role=cast(types_pb2.ColumnRole.ValueType, int(column.role)),
        since_version=column.since_version,
    )


def column_from_wire(column: types_pb2.Column) -> Column:
    """A column from the wire. Raises BadInput for a type or role that this program does not know."""
    if column.type not in COLUMN_TYPES:
        raise BadInput(f"column {column.name}", f"type {column.type!r} is not one of {', '.join(COLUMN_TYPES)}")
    if int(column.role) not in _ROLES:
        raise BadInput(f"column {column.name}", f"role {column.role} is not one of TAG, TIME, FIELD")
    return Column(column.name, cast(ColumnType, column.type), Role(column.role), column.since_version or 1)


def table_to_wire(table: TableInfo, priority: int = 0) -> types_pb2.Table:
    """A table for the wire."""
    return types_pb2.Table(
        table_id=table.table_id,
        name=table.name,
        schema_version=table.schema.version,
        columns=[column_to_wire(c) for c in table.schema.columns],
        partition_columns=table.partition_columns,
        region_ids=table.region_ids,
        priority=priority,
    )


def table_from_wire(table: types_pb2.Table) -> TableInfo:
    """A table from the wire."""
    schema = Schema(table.schema_version, tuple(column_from_wire(c) for c in table.columns))
    return TableInfo(table.table_id, table.name, schema, tuple(table.partition_columns), tuple(table.region_ids))
