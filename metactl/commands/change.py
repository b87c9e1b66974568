"""Commands that change: migrate, drain, pause, resume, cancel, accept-loss, leader transfer; each shows a plan."""

import getpass
import re
import sys
import uuid
from collections.abc import Callable

import click

from groundwork.core.errors import BadInput
from metactl import render
from metactl.asking import Metasrv
from metactl.context import called, connected, console, settings
from protos.metasrv.v1 import admin_pb2

STEPS_SHOWN_MAX = 20
_DURATION = re.compile(r"(\d+)(ms|s|m|h)")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
Propose = Callable[[Metasrv, bool], admin_pb2.PlanReply]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """--dry-run and --yes, on every change."""
    command = click.option("--dry-run", is_flag=True, help="Show the plan and stop.")(command)
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def _change(ctx: click.Context, propose: Propose, dry_run: bool, yes: bool) -> None:
    """Show the plan; unless it is a dry run ask where a person is, then do it."""
    output = settings(ctx).output
    with connected(ctx) as client:
        plan = propose(client, True)
        if dry_run:
            _show_plan(output, plan)
            return
        if output != "json":
            _show_plan(output, plan)
        if not yes and sys.stdin.isatty():
            click.confirm("do it?", abort=True)
        done = propose(client, False)
        if output == "json":
            click.echo(render.as_json(done))
        else:
            click.echo(_said(done))


def _said(done: admin_pb2.PlanReply) -> str:
    """What became of it. A procedure has only begun: metasrv carries it on by itself."""
    if not done.committed:
        return done.summary
    if not done.procedure_id:
        return f"done: {done.summary}"
    follow = f"{called()} procedures --watch"
    return f"begun: {done.summary} (procedure {done.procedure_id:#x}; to follow it: {follow})"


def _show_plan(output: str, plan: admin_pb2.PlanReply) -> None:
    rows = [(render.show_region(s.region_id), s.from_node, s.to_node, s.why) for s in plan.steps[:STEPS_SHOWN_MAX]]
    more = f" (the first {STEPS_SHOWN_MAX} of {len(plan.steps)} steps)" if len(plan.steps) > STEPS_SHOWN_MAX else ""
    shown = [f"plan: {plan.summary}{more}"]
    if rows:
        render.emit(console(), output, plan, *shown, render.grid("", ["region", "from", "to", "why"], rows))
    else:
        render.emit(console(), output, plan, *shown)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def duration_ms(text: str) -> int:
    """`90s`, `10m`, `2h`, `500ms` in milliseconds. Raises BadInput."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadInput("--for", f"{text!r} is not a number with a unit: 500ms, 90s, 10m, 2h")
    return int(found[1]) * _UNITS_MS[found[2]]


@click.command()
@click.argument("regions", nargs=-1, required=True, metavar="TABLE_ID.PARTITION...")
@click.option("--to", "to_node", default="", help="The datanode to move them to; without it the planner chooses.")
@_options
@click.pass_context
def migrate(ctx: click.Context, regions: tuple[str, ...], to_node: str, dry_run: bool, yes: bool) -> None:
    """Move regions: planned, with writes refused for a few milliseconds (P4)."""
    region_ids, request_id = [render.parse_region(text) for text in regions], uuid.uuid4().hex

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.MigrateRequest(
            sender=client.sender, region_ids=region_ids, to_node=to_node, dry_run=dry, who=_who(),
            request_id="" if dry else request_id,
        )  # fmt: skip
        return client.ask(lambda r: r.admin.Migrate, request)

    _change(ctx, propose, dry_run, yes)


@click.command()
@click.argument("node_id")
@click.option("--undo", is_flag=True, help="Let it have regions again.")
@_options
@click.pass_context
def drain(ctx: click.Context, node_id: str, undo: bool, dry_run: bool, yes: bool) -> None:
    """Move all regions away from a datanode, and give it none until --undo."""
    request_id = uuid.uuid4().hex

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.DrainRequest(
            sender=client.sender, node_id=node_id, undo=undo, dry_run=dry, who=_who(),
            request_id="" if dry else request_id,
        )  # fmt: skip
        return client.ask(lambda r: r.admin.Drain, request)

    _change(ctx, propose, dry_run, yes)


@click.command()
@click.argument("scope")
@click.option(
    "--for", "for_text", required=True, metavar="DURATION", help="It ends by itself after this: 90s, 10m, 2h."
)
@click.option("--reason", default="", help="For those who come after you.")
@_options
@click.pass_context
def pause(ctx: click.Context, scope: str, for_text: str, reason: str, dry_run: bool, yes: bool) -> None:
    """Maintenance: no failover in SCOPE (cluster, site/NAME, node/NAME, table/NAME) for a time."""
    for_ms, request_id = duration_ms(for_text), uuid.uuid4().hex

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.PauseRequest(
            sender=client.sender, scope=scope, for_ms=for_ms, reason=reason, dry_run=dry, who=_who(),
            request_id="" if dry else request_id,
        )  # fmt: skip
        return client.ask(lambda r: r.admin.Pause, request)

    _change(ctx, propose, dry_run, yes)


@click.command()
@click.argument("scope")
@_options
@click.pass_context
def resume(ctx: click.Context, scope: str, dry_run: bool, yes: bool) -> None:
    """End the maintenance of SCOPE now."""
    request_id = uuid.uuid4().hex

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.ResumeRequest(
            sender=client.sender, scope=scope, dry_run=dry, who=_who(), request_id="" if dry else request_id
        )
        return client.ask(lambda r: r.admin.Resume, request)

    _change(ctx, propose, dry_run, yes)


@click.command()
@click.argument("procedure")
@_options
@click.pass_context
def cancel(ctx: click.Context, procedure: str, dry_run: bool, yes: bool) -> None:
    """Cancel a PROCEDURE (its id) that has not passed its point of no return."""
    procedure_id, request_id = render.parse_token(procedure, "procedure"), uuid.uuid4().hex

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.CancelRequest(
            sender=client.sender, procedure_id=procedure_id, dry_run=dry, who=_who(),
            request_id="" if dry else request_id,
        )  # fmt: skip
        return client.ask(lambda r: r.admin.Cancel, request)

    _change(ctx, propose, dry_run, yes)


@click.command("accept-loss")
@click.argument("region", metavar="TABLE_ID.PARTITION")
@_options
@click.pass_context
def accept_loss(ctx: click.Context, region: str, dry_run: bool, yes: bool) -> None:
    """Give up the damaged entries of a read-only region for good: it serves without them. See `explain` first."""
    region_id, request_id = render.parse_region(region), uuid.uuid4().hex

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.AcceptLossRequest(
            sender=client.sender, region_id=region_id, dry_run=dry, who=_who(), request_id="" if dry else request_id
        )
        return client.ask(lambda r: r.admin.AcceptLoss, request)

    _change(ctx, propose, dry_run, yes)


@click.group()
def leader() -> None:
    """The leadership of metasrv."""


@leader.command()
@click.argument("to")
@_options
@click.pass_context
def transfer(ctx: click.Context, to: str, dry_run: bool, yes: bool) -> None:
    """Hand leadership to the replica TO."""

    def propose(client: Metasrv, dry: bool) -> admin_pb2.PlanReply:
        request = admin_pb2.TransferLeaderRequest(sender=client.sender, to=to, dry_run=dry, who=_who())
        return client.ask(lambda r: r.admin.TransferLeader, request)

    _change(ctx, propose, dry_run, yes)


COMMANDS = (migrate, drain, pause, resume, cancel, accept_loss, leader)
