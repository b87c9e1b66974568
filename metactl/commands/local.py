"""Commands that run a cluster on this machine: demo, and dev up, status and down."""

import signal
import sys
from pathlib import Path

import click

from metactl.context import console, settings
from metactl.layout import Timing
from metactl.waiting import interrupt

FAULTS = ("site", "node", "leader", "pause", "restart")


@click.command()
@click.option("--fault", type=click.Choice(FAULTS), default="site", show_default=True, help="What is done to it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line; the story goes to stderr.")
@click.option("--regions", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--rows", "rows_max", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True,
              help="At most so many files are loaded.")  # fmt: skip
@click.option("--writers", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--interval", "interval_s", type=click.FloatRange(0.05, 60), default=1.0, show_default=True,
              help="Seconds between two samples of a writer.")  # fmt: skip
@click.option("--duration", "duration_s", type=click.FloatRange(0, 3600), default=8.0, show_default=True,
              help="Seconds of live writes around the outage, half before and half after.")  # fmt: skip
@click.option("--lease-ms", type=click.IntRange(200, 600_000), default=3000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Which rows are overwritten.")
@click.option("--input", "input_folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              default=Path("/usr"), show_default=True, help="The folder whose files are the bulk load.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default=None,
              help="Where the cluster lives; kept afterwards. Without it: a temporary folder.")  # fmt: skip
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/demo.svg"),
              show_default=True, help="Where the picture goes.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the cluster's folder, with its logs.")
@click.pass_context
def demo(ctx: click.Context, fault: str, as_json: bool, regions: int, rows_max: int, writers: int, interval_s: float,
         duration_s: float, lease_ms: int, seed: int, input_folder: Path, folder: Path | None, picture: Path,
         keep: bool) -> None:  # fmt: skip
    """Run a cluster of three sites here, lose a part of it under load, and prove that nothing acknowledged is lost."""
    from groundwork.adapters.logs import configure_logs  # what a drill needs is slow to load, and the others need none
    from metactl.demo import Drill, Options
    from metactl.report import to_json

    configure_logs("metactl", "warning")

    for number in (signal.SIGINT, signal.SIGTERM):  # either way everything is ended and cleaned up
        signal.signal(number, interrupt)
    as_json = as_json or settings(ctx).output == "json"
    options = Options(
        fault=fault, regions=regions, rows_max=rows_max, writers=writers, interval_s=interval_s, duration_s=duration_s,
        seed=seed, timing=Timing(lease_ms=lease_ms, beat_ms=min(500, lease_ms // 6)), input_folder=input_folder,
        folder=folder, picture=picture, keep=keep,
    )  # fmt: skip
    outcome = Drill(options, console(stderr=as_json)).run()
    if as_json:
        click.echo(to_json(outcome))
    sys.exit(0 if outcome.clean else 1)


@click.group()
def dev() -> None:
    """A cluster on this machine to play with."""


dir_option = click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path),
                          default=Path(".metasrv-dev"), show_default=True, help="Where it lives.")  # fmt: skip


@dev.command()
@dir_option
@click.option("--detach", is_flag=True, help="Go on in the background; end it by `metactl dev down`.")
@click.option("--lease-ms", type=click.IntRange(200, 600_000), default=3000, show_default=True)
@click.option("--pid", type=click.IntRange(1), default=None, help="End it when that process ends, as tail --pid does.")
def up(folder: Path, detach: bool, lease_ms: int, pid: int | None) -> None:
    """Start it, or start it again with the data that it had; Ctrl-C ends it."""
    from metactl import dev as machinery

    timing = Timing(lease_ms=lease_ms, beat_ms=min(500, lease_ms // 6))
    owner = machinery.process_of(pid) if pid is not None else None
    if detach:
        machinery.detach(folder, lease_ms, console(), pid)
    else:
        machinery.run(folder, timing, console(), owner)


@dev.command("status")
@dir_option
def dev_status(folder: Path) -> None:
    """What runs, and how to talk to it."""
    from metactl import dev as machinery

    machinery.status(folder, console())


@dev.command()
@dir_option
@click.option("--wipe", is_flag=True, help="Delete its data too.")
def down(folder: Path, wipe: bool) -> None:
    """End it; its data stays unless --wipe."""
    from metactl import dev as machinery

    machinery.down(folder, wipe, console())


COMMANDS = (demo, dev)
