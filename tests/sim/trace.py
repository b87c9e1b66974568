"""What happened in one run: a running hash, the last lines for people, errors, faults and marks."""

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import structlog

from groundwork.core.marks import watch_marks
from groundwork.sim.processes import current_process

LINES_KEPT = 4_000
_LEVELS = ("error", "critical", "exception")
# Libraries' own words for what the simulator did to the loop on purpose.
_EXPECTED = ("Task was destroyed but it is pending",)


class Trace:
    """Every event of every process goes through here while `capture()` holds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._hash = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.events = 0
        self.errors: list[str] = []
        self.marks: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.on_line: dict[str, Callable[[], None]] = {}  # what to do when such a line is logged next
        self.open = True
        self.folder = "~"  # of the run's files: its name is not part of the history

    def note(self, who: str, what: str, /, **fields: Any) -> None:
        """One event."""
        if not self.open:
            return
        line = f"{self._now_s():10.4f} {who:<11} {what} " + " ".join(f"{k}={v}" for k, v in fields.items())
        line = line.replace(self.folder, "~")
        self._hash.update(line.encode())
        self.lines.append(line)
        self.events += 1

    def error(self, who: str, what: str) -> None:
        """A line that must not be there."""
        if self.open:
            self.note(who, f"ERROR {what}")
            self.errors.append(f"{self._now_s():.4f} {who}: {what}")

    def fault(self, kind: str, target: str, /, **fields: Any) -> None:
        """The nemesis did something."""
        self.faults[kind] += 1
        self.note("nemesis", kind, on=target, **fields)

    @property
    def digest(self) -> str:
        """The hash of everything that happened."""
        return self._hash.hexdigest()[:16]

    # ---------------------------------------------------------------- structlog and logging

    def capture(self) -> None:
        """Take all log lines and marks of this interpreter."""
        structlog.configure(
            processors=[self._processed],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        watch_marks(self._marked)
        logger = logging.getLogger("asyncio")
        logger.handlers = [_Handler(self)]
        logger.propagate = False

    def release(self) -> None:
        """Let go of them."""
        self.open = False
        watch_marks(None)
        structlog.reset_defaults()
        logger = logging.getLogger("asyncio")
        logger.handlers = []
        logger.propagate = True

    def _processed(self, _: Any, method: str, event: dict[str, Any]) -> str:
        process = current_process()
        who = process.name if process is not None else "world"
        what = str(event.pop("event"))
        error = event.pop("exc_info", None)
        self.note(who, what, **event)
        if what in self.on_line:
            self.on_line.pop(what)()
        if what in RARE:
            self.marks[what] += 1
        if method in _LEVELS and what not in ALLOWED_ERRORS:
            told = _told(error)
            if not (what == "raft_turn_failed" and told.rstrip().endswith("[Errno 5] Input/output error")):
                self.error(who, f"{what} {event} {told}")
        raise structlog.DropEvent

    def _marked(self, name: str) -> None:
        if self.open:
            self.marks[name] += 1


# Log lines that tell of rare situations: they count as marks.
RARE = frozenset(
    {
        "incarnation_over", "disk_full", "disk_has_space_again",
        "canary_failed",
        "snapshot_installed", "snapshot_taken", "flush_put_off", "breaker_decided", "transfer_decided", "clear_decided",
        "credit_decided", "lanes_not_opened", "orders_switch", "orphans_deleted", "region_compacted", "drained",
        "bootstrap_waits", "routes_watch_stalled", "report_rejected", "not_all_flushed", "decision_not_committed",
        "lease_lost", "not_failed_over_decided", "reports_left", "command_refused", "region_failed",
    }
)  # fmt: skip
# Error-level lines that tell an operator of a fault which the nemesis made.
ALLOWED_ERRORS = frozenset({"raft_fatal", "taken_over"})


def _told(error: Any) -> str:
    import sys
    import traceback

    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        return "".join(traceback.format_exception(error))[-1500:]
    return ""


class _Handler(logging.Handler):
    """asyncio's complaints: a task that failed and that nobody asked."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        """One complaint."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING and not text.startswith(_EXPECTED):
            told = _told(record.exc_info[1]) if record.exc_info else ""
            self._trace.error("asyncio", f"{text} {told}")
