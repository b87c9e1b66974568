"""Commands that only look: status, nodes, tables, routes, procedures, explain, events."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table

from groundwork.core.errors import BadInput
from metactl import render
from metactl.asking import Metasrv
from metactl.context import connected, console, settings
from protos.metasrv.v1 import admin_pb2, catalog_pb2, routes_pb2, types_pb2

WATCH_S = 1.0
Answer = tuple[Any, list[Table]]


def _look(ctx: click.Context, ask: Callable[[Metasrv], Answer], watch: bool) -> None:
    """Ask and show once, or every second until Ctrl-C."""
    output = settings(ctx).output
    with connected(ctx) as client:
        if not watch:
            message, tables = ask(client)
            render.emit(console(), output, message, *tables)
            return
        if output == "json":
            while True:
                click.echo(render.as_json(ask(client)[0]))
                time.sleep(WATCH_S)
        with Live(console=console(), screen=False, auto_refresh=False) as live:
            while True:
                live.update(Group(*ask(client)[1]), refresh=True)
                time.sleep(WATCH_S)


watch_option = click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")


@click.command()
@watch_option
@click.pass_context
def status(ctx: click.Context, watch: bool) -> None:
    """The cluster at a glance: replicas, nodes, regions by phase, pauses."""

    def ask(client: Metasrv) -> Answer:
        reply = client.status()
        replicas = [
            (r.node_id, r.locality, r.address, "leader" if r.leader else "", "yes" if r.reachable else "no",
             r.applied_revision) for r in reply.replicas
        ]  # fmt: skip
        phases = ", ".join(f"{count} {phase}" for phase, count in sorted(reply.regions_by_phase.items()))
        title = (
            f"cluster {reply.cluster_id}: {reply.tables} tables, {reply.regions} regions ({phases or 'none'}), "
            f"lease {reply.lease_ms} ms, term {reply.term}, revision {reply.revision}"
        )
        shown = [
            render.grid(
                title, ["replica", "locality", "address", "role", "reachable", "revision"], replicas, ["revision"]
            ),
            _nodes_table(reply),
        ]
        if reply.pauses:
            pauses = [(p.scope, p.reason, p.who, _when(p.expires_wall_ms)) for p in reply.pauses]
            shown.append(render.grid("pauses", ["scope", "reason", "who", "until"], pauses))
        return reply, shown

    _look(ctx, ask, watch)


@click.command()
@watch_option
@click.pass_context
def nodes(ctx: click.Context, watch: bool) -> None:
    """The datanodes: status, silence, regions, unflushed bytes."""

    def ask(client: Metasrv) -> Answer:
        reply = client.status()
        return reply, [_nodes_table(reply)]

    _look(ctx, ask, watch)


def _nodes_table(reply: admin_pb2.StatusReply) -> Table:
    rows = [
        (n.node_id, n.locality, n.address, render.styled(n.status), f"{n.silent_ms} ms",
         f"{n.regions}/{n.capacity_regions}", render.bytes_text(n.unflushed_bytes), f"{n.incarnation:#x}")
        for n in sorted(reply.nodes, key=lambda n: (n.locality, n.node_id))
    ]  # fmt: skip
    columns = ["datanode", "locality", "address", "status", "silent", "regions", "unflushed", "incarnation"]
    return render.grid("datanodes", columns, rows, ["silent", "regions", "unflushed"])


@click.command()
@watch_option
@click.pass_context
def tables(ctx: click.Context, watch: bool) -> None:
    """The tables: columns, partition rule, regions."""

    def ask(client: Metasrv) -> Answer:
        reply = client.ask(lambda r: r.catalog.ListTables, catalog_pb2.ListTablesRequest(sender=client.sender))
        rows = [
            (t.table_id, t.name, len(t.region_ids), ", ".join(t.partition_columns) or "all tags", t.schema_version,
             ", ".join(f"{c.name} {c.type} {types_pb2.ColumnRole.Name(c.role).lower()}" for c in t.columns))
            for t in reply.tables
        ]  # fmt: skip
        columns = ["id", "table", "regions", "hash of", "version", "columns"]
        return reply, [render.grid("tables", columns, rows, ["id", "regions", "version"])]

    _look(ctx, ask, watch)


@click.command()
@click.argument("table", required=False, default="")
@click.option("--region", "regions", multiple=True, metavar="TABLE_ID.PARTITION", help="Only these regions.")
@watch_option
@click.pass_context
def routes(ctx: click.Context, table: str, regions: tuple[str, ...], watch: bool) -> None:
    """Where the regions of a TABLE, or some regions, are."""
    if bool(table) == bool(regions):
        raise BadInput("table", "name one table, or regions by --region")
    region_ids = [render.parse_region(text) for text in regions]

    def ask(client: Metasrv) -> Answer:
        reply = client.routes(table, region_ids)
        rows = [
            (render.show_region(r.region_id), r.node_id, r.locality, r.address,
             render.styled(types_pb2.Phase.Name(r.phase)), f"{r.epoch:#x}") for r in reply.routes
        ]  # fmt: skip
        title = f"{len(rows)} regions at revision {reply.revision}: {_spread(reply)}"
        return reply, [render.grid(title, ["region", "datanode", "locality", "address", "phase", "epoch"], rows)]

    _look(ctx, ask, watch)


def _spread(reply: routes_pb2.RoutesReply) -> str:
    counts: dict[str, int] = {}
    for route in reply.routes:
        counts[route.node_id or "no owner"] = counts.get(route.node_id or "no owner", 0) + 1
    return ", ".join(f"{count} at {node}" for node, count in sorted(counts.items()))


@click.command()
@click.option("--all", "everything", is_flag=True, help="With those that have ended.")
@watch_option
@click.pass_context
def procedures(ctx: click.Context, everything: bool, watch: bool) -> None:
    """What metasrv is doing: failovers, migrations, drains, drops."""

    def ask(client: Metasrv) -> Answer:
        request = admin_pb2.ProceduresRequest(sender=client.sender, all=everything)
        reply = client.ask(lambda r: r.admin.Procedures, request)
        rows = [
            (f"{p.procedure_id:#x}", p.kind, render.styled(p.state),
             render.show_region(p.region_id) if p.region_id else "", p.from_node, p.to_node,
             _when(p.started_wall_ms), _when(p.ended_wall_ms), p.why)
            for p in reply.procedures
        ]  # fmt: skip
        columns = ["id", "kind", "state", "region", "from", "to", "started", "ended", "why"]
        return reply, [render.grid("procedures", columns, rows, ["id"])]

    _look(ctx, ask, watch)


@click.command()
@click.argument("subject")
@click.pass_context
def explain(ctx: click.Context, subject: str) -> None:
    """Why SUBJECT (a datanode, or a region as TABLE_ID.PARTITION) is where and how it is."""
    is_region = subject.replace(".", "").isdecimal() or subject.startswith("0x")
    with connected(ctx) as client:
        request = admin_pb2.ExplainRequest(
            sender=client.sender, node_id="" if is_region else subject,
            region_id=render.parse_region(subject) if is_region else 0,
        )  # fmt: skip
        reply = client.ask(lambda r: r.admin.Explain, request)
        render.emit(console(), settings(ctx).output, reply, *reply.sentences)


@click.command()
@click.option("--since", "since", type=click.IntRange(0), default=0, help="Only those after this revision.")
@click.option("-f", "--follow", "--watch", is_flag=True, help="Go on as they happen, until Ctrl-C.")
@click.pass_context
def events(ctx: click.Context, since: int, follow: bool) -> None:
    """What happened and was decided, in order."""
    with connected(ctx) as client:
        for event in client.events(since, follow):
            if settings(ctx).output == "json":
                click.echo(render.as_json(event, indent=None))
            else:
                click.echo(f"{_when(event.wall_ms)}  r{event.revision:<6} {event.kind:<12} {event.sentence}")


def _when(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if wall_ms else ""


COMMANDS = (status, nodes, tables, routes, procedures, explain, events)
