"""`metasrv-frontend --config FILE`."""

import asyncio
import signal
from pathlib import Path

import click
import uvloop
from prometheus_client import disable_created_metrics

from groundwork.adapters.config import exit_with, load_config
from groundwork.adapters.defects import end_on_violation
from groundwork.adapters.logs import configure_logs
from groundwork.core.errors import BadInput
from metasrv_frontend.config import FrontendConfig, check_config
from metasrv_frontend.service import Frontend


@click.command()
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="The TOML configuration file.")
def main(path: Path) -> None:
    """Serve SQL and InfluxDB line protocol over HTTP, by writing to and reading from the owners of the regions."""
    try:
        config = check_config(load_config(path, FrontendConfig))
        configure_logs(config.node_id, config.log_level)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library forgot its types
        end_on_violation()
        uvloop.run(_serve(config))
    except BadInput as error:
        exit_with(error)


async def _serve(config: FrontendConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    frontend = Frontend(config)
    await frontend.start()
    ends = [asyncio.create_task(stopping.wait()), asyncio.create_task(frontend.failed())]
    done, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await frontend.stop()
    for task in done:
        task.result()


if __name__ == "__main__":
    main()
