"""The Catalog service: tables are made, widened and dropped by the leader; any replica lists them."""

from typing import Any

from groundwork.core.errors import BadInput, Refused, Unknown
from groundwork.core.table import Column, Role, check_columns, check_new_columns, check_partitions
from groundwork.core.wire import column_from_wire
from metasrv.adapters.forward import Forwarder
from metasrv.adapters.proposing import Proposer
from metasrv.adapters.to_wire import route_to_wire, tables_to_wire
from metasrv.core import commands
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.placement import silent_for_now
from metasrv.core.planner import plan_table
from metasrv.core.records import Table
from metasrv.core.routes import live_tables, table_routes
from protos.metasrv.v1 import catalog_pb2, types_pb2
from protos.metasrv.v1.catalog_pb2_grpc import CatalogServicer, CatalogStub

NAME_BYTES_MAX = 255


class Catalog(CatalogServicer):
    """See the module docstring."""

    def __init__(self, machine: Machine, proposer: Proposer, forwarder: Forwarder, book: LeaseBook) -> None:
        self._machine = machine
        self._proposer = proposer
        self._forwarder = forwarder
        self._book = book

    async def CreateTable(self, request: catalog_pb2.CreateTableRequest, context: Any) -> catalog_pb2.TableReply:
        """A new table."""
        return await self._forwarder.run(request, context, self._create, lambda c: CatalogStub(c).CreateTable)

    async def WidenTable(self, request: catalog_pb2.WidenTableRequest, context: Any) -> catalog_pb2.TableReply:
        """More columns."""
        return await self._forwarder.run(request, context, self._widen, lambda c: CatalogStub(c).WidenTable)

    async def DropTable(self, request: catalog_pb2.DropTableRequest, context: Any) -> catalog_pb2.TableReply:
        """Drop it for good."""
        return await self._forwarder.run(request, context, self._drop, lambda c: CatalogStub(c).DropTable)

    async def ListTables(self, request: catalog_pb2.ListTablesRequest, context: Any) -> catalog_pb2.ListTablesReply:
        """All tables."""
        state = self._machine.state
        return catalog_pb2.ListTablesReply(revision=state.revision, tables=tables_to_wire(state, live_tables(state)))

    async def _create(self, request: catalog_pb2.CreateTableRequest) -> catalog_pb2.TableReply:
        state = self._machine.state
        answered = state.answers.get(request.request_id) if request.request_id else None
        if answered is not None:
            return self._reply(state.tables.get(answered.value), request.name)
        held = state.table_named(request.name)
        if held is not None:
            return self._existing(held, request)
        columns = _columns(request.columns, version=1)
        check_columns(columns)
        partitions = request.partitions or 1
        _check_create(request, columns, partitions)
        inventory = self._book.inventory(state, self._proposer.clock.now_ms())
        try:
            lanes, placement = plan_table(state, inventory, partitions)
        except BadInput as error:
            unheard = silent_for_now(state, inventory)
            if unheard:  # as after a restart of all replicas: whoever asks waits for them, within its deadline
                raise Unknown(f"{error}; not heard for a moment, and not given up: {', '.join(unheard[:5])}") from error
            raise Refused("no_capacity", str(error)) from error
        outcome = await self._proposer.propose(
            commands.CreateTable(
                request_id=request.request_id,
                wall_ms=self._proposer.clock.wall_ms(),
                name=request.name,
                columns=columns,
                partition_columns=tuple(request.partition_columns),
                partitions=partitions,
                priority=request.priority,
                lanes=lanes,
                placement=placement,
            )
        )
        if outcome.refused:
            held = self._machine.state.table_named(request.name)
            if held is not None:
                return self._existing(held, request)
            # A lane of the plan was lost between planning and committing: the next plan does without it.
            raise Unknown(outcome.refused)
        return self._reply(self._machine.state.tables.get(outcome.value), request.name)

    def _existing(self, held: Table, request: catalog_pb2.CreateTableRequest) -> catalog_pb2.TableReply:
        if request.if_not_exists or (request.request_id and held.request_id == request.request_id):
            return self._reply(held, request.name)
        raise Refused("exists", f"there is a table {request.name!r} already, with id {held.table_id}")

    async def _widen(self, request: catalog_pb2.WidenTableRequest) -> catalog_pb2.TableReply:
        table = self._named(request.name)
        columns = _columns(request.columns, version=table.schema.version + 1)
        for column in columns:
            held = table.schema.column(column.name)
            if held is not None and (held.type, held.role) != (column.type, column.role):
                raise BadInput(
                    f"column {column.name}",
                    f"it is a {held.role.name.lower()} of type {held.type} in {request.name!r}, "
                    f"not a {column.role.name.lower()} of type {column.type}",
                )
            if column.role is Role.TIME and held is None:
                raise BadInput(f"column {column.name}", f"{request.name!r} has a time column already")
        if all(table.schema.column(c.name) is not None for c in columns):
            return self._reply(table, request.name)
        check_columns([*table.schema.columns, *(c for c in columns if table.schema.column(c.name) is None)])
        outcome = await self._proposer.commit(
            commands.WidenTable(
                request_id=request.request_id,
                wall_ms=self._proposer.clock.wall_ms(),
                name=request.name,
                columns=columns,
            )
        )
        return self._reply(self._machine.state.tables.get(outcome.value), request.name)

    async def _drop(self, request: catalog_pb2.DropTableRequest) -> catalog_pb2.TableReply:
        table = self._machine.state.table_named(request.name)
        revision = self._machine.state.revision
        if table is None:
            known = request.request_id and request.request_id in self._machine.state.answers
            if request.if_exists or known:
                return catalog_pb2.TableReply(revision=revision)
            raise Refused("not_found", f"there is no table {request.name!r}")
        if not request.dry_run:
            outcome = await self._proposer.commit(
                commands.DropTable(
                    request_id=request.request_id, wall_ms=self._proposer.clock.wall_ms(), name=request.name
                )
            )
            revision = outcome.revision
        gone = types_pb2.Table(table_id=table.table_id, name=table.name, region_ids=table.region_ids)
        return catalog_pb2.TableReply(revision=revision, table=gone)

    def _named(self, name: str) -> Table:
        table = self._machine.state.table_named(name)
        if table is None:
            raise Refused("not_found", f"there is no table {name!r}")
        return table

    def _reply(self, table: Table | None, name: str) -> catalog_pb2.TableReply:
        if table is None or table.dropping:
            raise Refused("not_found", f"the table {name!r} was dropped meanwhile")
        state = self._machine.state
        return catalog_pb2.TableReply(
            revision=state.revision,
            table=tables_to_wire(state, [table.info()])[0],
            routes=map(route_to_wire, table_routes(state, table.table_id)),
        )


def _columns(columns: Any, version: int) -> tuple[Column, ...]:
    found = [column_from_wire(c) for c in columns]
    check_new_columns(found)
    return tuple(Column(c.name, c.type, c.role, version) for c in found)


def _check_create(request: catalog_pb2.CreateTableRequest, columns: tuple[Column, ...], partitions: int) -> None:
    if not 0 < len(request.name.encode()) <= NAME_BYTES_MAX:
        raise BadInput("name", f"the name {request.name!r} is not 1 to {NAME_BYTES_MAX} bytes long")
    check_partitions(partitions)
    tags = {c.name for c in columns if c.role is Role.TAG}
    for name in request.partition_columns:
        if name not in tags:
            raise BadInput("partition_columns", f"{name!r} is not a tag; tags: {', '.join(sorted(tags)) or 'none'}")
