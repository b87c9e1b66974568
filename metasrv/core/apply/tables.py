"""Tables: create, widen, drop. Ids are never used again; a name is free once the drop is confirmed by every region."""

from msgspec.structs import replace

from groundwork.core.table import NAME_BYTES_MAX, Column, Role, Schema, check_columns
from metasrv.core.commands import CreateTable, DropTable, WidenTable
from metasrv.core.events import regions_said
from metasrv.core.records import NodeStatus, Phase, Table
from metasrv.core.transaction import Refused, Transaction

REGIONS_MAX = 4_000_000


def create(tx: Transaction, cmd: CreateTable) -> int:
    """All regions are assigned by this very command: a node that dies before its first report is failed over (T19)."""
    state = tx.state
    if not 0 < len(cmd.name.encode()) <= NAME_BYTES_MAX:
        raise Refused(f"the name {cmd.name!r} is not 1 to {NAME_BYTES_MAX} bytes long")
    taken = state.tables.get(state.names.get(cmd.name, 0))
    if taken:
        raise Refused(f"table {cmd.name} {'is being dropped' if taken.dropping else 'exists'} (id {taken.table_id})")
    columns = tuple(Column(c.name, c.type, c.role) for c in cmd.columns)
    check_columns(columns)
    tags = tuple(c.name for c in columns if c.role is Role.TAG)
    if not set(cmd.partition_columns) <= set(tags) or len(set(cmd.partition_columns)) < len(cmd.partition_columns):
        raise Refused("partition columns are distinct tags of the table")
    _check_placement(tx, cmd)
    if len(state.regions) + cmd.partitions > REGIONS_MAX:
        raise Refused(f"the cluster would have more than {REGIONS_MAX:,} regions")
    table = Table(
        state.next_table_id, cmd.name, Schema(1, columns), cmd.partition_columns or tags, cmd.partitions, cmd.priority,
        remaining=cmd.partitions, request_id=cmd.request_id,
    )  # fmt: skip
    state.next_table_id += 1
    tx.set_table(table)
    for region, at in zip(table.region_ids, cmd.placement, strict=True):
        tx.assign(region, cmd.lanes[at])
    nodes = sorted({lane.node_id for lane in cmd.lanes})
    said = f"table {cmd.name} was created with {regions_said(cmd.partitions)} on {', '.join(nodes)}"
    tx.event("create_table", said, nodes, table.region_ids[:16], table_id=table.table_id)
    return table.table_id


def _check_placement(tx: Transaction, cmd: CreateTable) -> None:
    if len(cmd.placement) != cmd.partitions or any(not 0 <= at < len(cmd.lanes) for at in cmd.placement):
        raise Refused("the placement does not name one lane per partition")
    for lane in cmd.lanes:
        node = tx.state.nodes.get(lane.node_id)
        if tx.state.is_over(lane) or node is None or node.status is not NodeStatus.UP:
            raise Refused(f"{lane.node_id} cannot take regions on lane {lane} any more: plan again")


def widen(tx: Transaction, cmd: WidenTable) -> int:
    """One new version for all new columns. What partitions a table is fixed, so a new tag moves no row."""
    table = tx.state.table_named(cmd.name)
    if table is None:
        raise Refused(f"there is no table {cmd.name}")
    fresh: list[Column] = []
    version = table.schema.version + 1
    for column in cmd.columns:
        known = table.schema.column(column.name)
        if known and (known.type, known.role) != (column.type, column.role):
            raise Refused(
                f"column {column.name} of {cmd.name} is a {known.role.name.lower()} of type {known.type}, "
                f"not a {column.role.name.lower()} of type {column.type}"
            )
        if not known:
            fresh.append(Column(column.name, column.type, column.role, version))
    if not fresh:
        return table.table_id
    if table.partitions > 1 and not table.partition_columns and any(c.role is Role.TAG for c in fresh):
        raise Refused(
            f"{cmd.name} was created without tags in {table.partitions} partitions: a tag would move its rows"
        )
    columns = (*table.schema.columns, *fresh)
    check_columns(columns)
    tx.set_table(replace(table, schema=Schema(version, columns)))
    names = ", ".join(c.name for c in fresh)
    tx.event("widen_table", f"table {cmd.name} has version {version} with {names}", table_id=table.table_id)
    return table.table_id


def drop(tx: Transaction, cmd: DropTable) -> int:
    """Every owner is to write a tombstone under a new epoch. Migrations of its regions end here (T9)."""
    table = tx.state.table_named(cmd.name)
    if table is None:
        raise Refused(f"there is no table {cmd.name}")
    token = tx.epoch()
    for region_id in table.region_ids:
        region = tx.state.regions[region_id]
        if region_id in tx.state.migrations:
            tx.end_migration(region_id, resume=False)
        tx.set_region(region_id, replace(region, epoch=token, phase=Phase.DROPPING))
    tx.set_table(replace(table, dropping=token))
    said = f"{cmd.who or 'somebody'} drops table {cmd.name}: {regions_said(table.remaining)} to confirm"
    tx.event("drop_table", said, regions=table.region_ids[:16], table_id=table.table_id)
    return token
