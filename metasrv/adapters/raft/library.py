"""The only door to pysyncobj: checked on entry, its clock and chance replaceable, its log lines sent to ours."""

import logging
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import pysyncobj.syncobj as _library
import structlog
from pysyncobj.journal import Journal as LibraryJournal
from pysyncobj.node import Node
from pysyncobj.syncobj import SyncObj, SyncObjConf
from pysyncobj.transport import Transport

from metasrv.adapters.raft import guard

__all__ = [
    "LibraryJournal",
    "Peer",
    "SyncObj",
    "SyncObjConf",
    "Transport",
    "named",
    "now_s",
    "use_clock",
    "use_random",
]

log = structlog.get_logger()
guard.check_source(Path(_library.__file__).parent)
guard.check_class(SyncObj)

_create_journal = _library.createJournal


def _journal_or_file(journal: Any = None) -> Any:
    """The library has no way to hand it a journal: its factory gets one (journal.py of the library, line 291)."""
    return journal if isinstance(journal, LibraryJournal) else _create_journal(journal)


_library.createJournal = _journal_or_file


def _boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Dice:
    """What the library takes from the module `random`."""

    def __init__(self, source: random.Random) -> None:
        self.random = source.random


def use_clock(now_s: Callable[[], float] = _boottime_s) -> None:
    """Give the library (every replica in this process) another clock, in seconds. Default: CLOCK_BOOTTIME."""
    _library.monotonicTime = now_s


def use_random(source: random.Random) -> None:
    """Give the library (every replica in this process) another source of chance for its election time-outs."""
    _library.random = _Dice(source)


def now_s() -> float:
    """Seconds on the clock that the library goes by."""
    return float(_library.monotonicTime())


class Peer(Node):  # type: ignore[misc]
    """A replica's name in the core. Its hash is the same in every process, so that sets of peers have one order."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = crc32(name.encode())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and bool(self.id == other.id)


@cache
def named(name: str) -> Peer:
    """The peer of that name: there are few, and every message names one."""
    return Peer(name)


class _ToStructlog(logging.Handler):
    """The library's log lines as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one line, but for the alarm that deferred truncation makes untrue (journal.py)."""
        message = record.getMessage()
        if not message.startswith("truncating already-applied"):
            log.warning("raft_library", message=message)


_logger = logging.getLogger("pysyncobj")
_logger.handlers = [_ToStructlog()]
_logger.propagate = False
use_clock()
use_random(random.Random())  # noqa: S311  election time-outs are no secrets
