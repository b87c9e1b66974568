"""What one datanode process stands on besides its configuration: clock, folder, threads of beats, pages.

The program makes them for the machine it runs on; a simulator brings its own, and everything else stays as it is.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette

from datanode_agent.adapters.beating import Beats, Heard
from datanode_agent.adapters.folder import DataFolder
from datanode_agent.adapters.heartbeat import Heartbeats
from datanode_agent.config import DatanodeConfig
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.http import HttpFace, HttpServer
from groundwork.core.ports import Clock

BeatsFactory = Callable[[Callable[[Heard], None], Callable[[BaseException], None]], Beats]


@dataclass(frozen=True)
class Surroundings:
    """See the module docstring. `beats` is called on the loop with what to do about an answer, and about a defect."""

    clock: Clock
    folder: DataFolder
    beats: BeatsFactory
    http: Callable[[Starlette, str], HttpFace]
    random_id: Callable[[], str]


def of_this_machine(config: DatanodeConfig) -> Surroundings:
    """The real ones."""

    def beats(on_heard: Callable[[Heard], None], on_crash: Callable[[BaseException], None]) -> Beats:
        loop = asyncio.get_running_loop()
        return Heartbeats(config.metasrv, config.tls, config.cluster_id, config.node_id, loop, on_heard, on_crash)

    folder = DataFolder(Path(config.data_dir), config.cluster_id, config.node_id)
    return Surroundings(SystemClock(), folder, beats, HttpServer, lambda: secrets.token_hex(16))
