"""`metactl`: look at a cluster, change it, run one on this machine, and drill it.

Exit codes: 0 done, 1 the drill found a loss or the operator said no, 2 bad input or refused, 3 metasrv is unreachable.
"""

import sys
from typing import Any

import click

from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import BadInput, ForeignCluster, MetasrvError, Refused
from metactl.asking import DEADLINE_S, Unreachable
from metactl.commands import change, local, look
from metactl.context import Settings

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


class Metactl(click.Group):
    """The group of all commands: turns our typed errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (BadInput, Refused, ForeignCluster) as error:
            _end(str(error), EXIT_BAD_INPUT)
        except Unreachable as error:
            _end(str(error), EXIT_UNREACHABLE)
        except MetasrvError as error:
            _end(str(error), EXIT_FAILED)
        except KeyboardInterrupt:
            _end("interrupted: everything that was started here is ended", EXIT_INTERRUPTED)


def _end(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(cls=Metactl, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--metasrv", envvar="METASRV_ADDR", default="", metavar="ADDR[,ADDR]", help="Replicas to ask.")
@click.option("--cluster-id", envvar="METASRV_CLUSTER_ID", default="", help="Refuse to talk to any other cluster.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="For people or programs.")
@click.option("--deadline", "deadline_s", type=click.FloatRange(0.1, 600), default=DEADLINE_S, show_default=True,
              help="Seconds to wait for an answer.")  # fmt: skip
@click.option("--tls-certificate", default="", help="PEM file; with --tls-key and --tls-authority.")
@click.option("--tls-key", default="", help="PEM file.")
@click.option("--tls-authority", default="", help="PEM file.")
@click.version_option(package_name="metasrv")
@click.pass_context
def cli(ctx: click.Context, metasrv: str, cluster_id: str, output: str, deadline_s: float, tls_certificate: str,
        tls_key: str, tls_authority: str) -> None:  # fmt: skip
    """Operate a metasrv cluster: look at it, move its regions, explain it, and drill it.

    Shell completion: eval "$(_METACTL_COMPLETE=bash_source metactl)"
    """
    given = (tls_certificate, tls_key, tls_authority)
    if any(given) and not all(given):
        raise BadInput("--tls-certificate", "certificate, key and authority go together")
    tls = TlsConfig(*given) if all(given) else None
    ctx.obj = Settings(metasrv, cluster_id, output, deadline_s, tls)


for _command in (*look.COMMANDS, *change.COMMANDS, *local.COMMANDS):
    cli.add_command(_command)


def main() -> None:
    """The console script."""
    try:
        sys.exit(cli(prog_name="metactl", standalone_mode=False))
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "metactl"
        _end(f"{error.format_message()} (see {command} --help)", EXIT_BAD_INPUT)
    except click.Abort:
        _end("nothing was changed", EXIT_FAILED)


if __name__ == "__main__":
    main()
