"""The program: `datanode-agent --config FILE` serves; `datanode-agent release --config FILE` witnesses a death.

Exit statuses: 0 stopped; 1 a defect; 2 bad input or configuration, one line on stderr; 3 another process took the
node id over, do not start again.
"""

import asyncio
from pathlib import Path

import click
import uvloop
from prometheus_client import disable_created_metrics

from datanode_agent.config import DatanodeConfig, load
from datanode_agent.service import Agent, release
from groundwork.adapters.config import exit_with
from groundwork.adapters.defects import end_on_violation
from groundwork.adapters.logs import configure_logs
from groundwork.core.errors import BadInput, ForeignCluster, MetasrvError

CONFIG = click.option("--config", "path", type=click.Path(path_type=Path), help="The TOML file of this datanode.")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@CONFIG
@click.option("--fast", is_flag=True, help="On SIGTERM flush and release, without moving regions away first.")
@click.option("--takeover", is_flag=True, help="Take the node id over from a live process with another data folder.")
@click.pass_context
def cli(context: click.Context, path: Path | None, fast: bool, takeover: bool) -> None:
    """Serve table regions as one datanode, under leases of metasrv."""
    if context.invoked_subcommand is None:
        _serve(_load(path), fast, takeover)


@cli.command("release")
@CONFIG
def release_command(path: Path | None) -> None:
    """Give the lease back when every process of this datanode is gone (ExecStopPost= of its unit)."""
    config = _load(path)
    try:
        print(asyncio.run(release(config)))
    except (MetasrvError, OSError) as error:
        exit_with(str(error))


def _load(path: Path | None) -> DatanodeConfig:
    if path is None:
        exit_with("--config: name the TOML file of this datanode")
    try:
        return load(path)
    except BadInput as error:
        exit_with(error)


def _serve(config: DatanodeConfig, fast: bool, takeover: bool) -> None:
    configure_logs(config.node_id, config.log_level)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library forgot its types
    end_on_violation()

    async def serve() -> int:
        return await Agent(config, fast, takeover).run()

    try:
        status = uvloop.run(serve())
    except (BadInput, ForeignCluster) as error:
        exit_with(str(error))
    raise SystemExit(status)


def main() -> None:
    """The console script."""
    cli()
