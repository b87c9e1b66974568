"""Following metasrv's events during a drill, and telling them as they come."""

import textwrap
import threading
from collections.abc import Callable

import structlog
from rich.console import Console

from groundwork.adapters.clock import boottime_ms, wall_ms
from groundwork.core.errors import MetasrvError
from metactl.asking import Metasrv
from metactl.timeline import (
    IN_FLIGHT_MS,
    Ack,
    Fault,
    Happening,
    last_ack_ms,
    replayed_entries,
    rto_by_region,
    serving_events,
)

log = structlog.get_logger()
PHASE_STYLES = {
    "fault": "bold red", "suspect": "yellow", "failover": "bold magenta", "serving": "cyan", "first ack": "green",
    "register": "blue", "last ack": "red", "migration": "blue", "handover": "blue",
}  # fmt: skip
INDENT = 23
QUIET_KINDS = frozenset({"serving", "covered", "trim", "table", "create_table"})


class Follower:
    """A thread that keeps metasrv's events of one drill, on the drill's own clock."""

    def __init__(self, metasrv: Metasrv) -> None:
        self.happenings: list[Happening] = []
        self._metasrv = metasrv
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)
        self._stopping = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the channels must be closed afterwards, which ends the stream."""
        self._stopping = True

    def _follow(self) -> None:
        try:
            for event in self._metasrv.events(follow=True):
                at_ms = boottime_ms() - (wall_ms() - event.wall_ms)
                self.happenings.append(Happening(at_ms, event.kind, event.sentence, dict(event.fields)))
                if self._stopping:
                    return
        except (MetasrvError, ValueError) as error:
            if not self._stopping:  # a closed channel raises ValueError
                log.warning("events_lost", reason=str(error))


class Narrator:
    """Prints what happens since the fault, one line a moment; what is a region's own is summed up."""

    def __init__(self, console: Console, say_ms: Callable[[], float] = boottime_ms) -> None:
        self._console = console
        self._now_ms = say_ms
        self._told = 0
        self._acked = 0
        self._served = 0
        self._last_told = False
        self.origin_ms = say_ms()

    def line(self, phase: str, text: str, at_ms: float | None = None) -> None:
        """One line of the time line."""
        since_s = ((at_ms if at_ms is not None else self._now_ms()) - self.origin_ms) / 1000
        style = PHASE_STYLES.get(phase, "white")
        self._console.print(f"[dim]{since_s:+8.3f} s[/dim]  [{style}]{phase:<10}[/{style}] ", end="")
        if self._console.is_terminal:  # else whole lines, for grep
            text = textwrap.fill(text, max(40, self._console.width - INDENT), break_on_hyphens=False)
        self._console.print(text.replace("\n", "\n" + " " * INDENT), markup=False, highlight=False, soft_wrap=True)

    def skip(self, happenings: list[Happening]) -> None:
        """What happened until now belongs to the set-up."""
        self._told = len(happenings)

    def catch_up(self, happenings: list[Happening], acks: list[Ack], fault: Fault) -> None:
        """Tell what is new."""
        if not self._last_told and self._now_ms() > fault.ended_ms + IN_FLIGHT_MS:
            self._last_told = True
            last = last_ack_ms(list(acks), fault)
            if last is not None:
                self.line("last ack", "of a region that was hit, by its old owner", fault.began_ms + last)
        fresh = happenings[self._told :]
        self._told += len(fresh)
        for h in fresh:
            if h.kind not in QUIET_KINDS:
                self.line(h.kind, h.sentence, h.at_ms)
        mine = serving_events(fresh, fault)
        if mine:
            self._served += sum(int(h.number("count")) for h in mine)
            worst = ", ".join(f"{step} {max(h.number(f'{step}_ms') for h in mine):,.0f} ms"
                              for step in ("seal", "claim", "replay"))  # fmt: skip
            entries = replayed_entries(mine, fault)
            text = f"{self._served} regions sealed, claimed, replayed (+{entries:,} entries; {worst})"
            self.line("serving", text, mine[-1].at_ms)
        rto = rto_by_region(list(acks), fault)
        if len(rto) > self._acked:
            self._acked = len(rto)
            self.line("first ack", f"{len(rto)} of {len(fault.regions)} regions take writes again",
                      fault.began_ms + max(rto.values()))  # fmt: skip
