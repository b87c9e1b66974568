"""A violated invariant ends the process, whatever task, thread or RPC met it: no handler may go on behind it."""

import os
import sys
import traceback

import structlog

from groundwork.core.check import on_violation

log = structlog.get_logger()
EXIT_DEFECT = 1
FRAMES_MAX = 12


def end_on_violation() -> None:
    """From now on. Called once by each program's main."""
    on_violation(_end)


def _end(message: str) -> None:
    frames = traceback.format_stack(limit=FRAMES_MAX)[:-2]
    log.critical("invariant_violated", why=message, means="a defect: this process ends now", stack="".join(frames))
    sys.stderr.flush()
    os._exit(EXIT_DEFECT)
