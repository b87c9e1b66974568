"""The result of a drill: for programs (one JSON object), for people (tables), and the figures' meaning."""

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from metactl.context import called
from metactl.timeline import Ack, Fault, Happening, percentile, phases_ms, replayed_entries, rto_by_region
from metactl.verify import Verdict

BAR_CELLS = 40


class Result(msgspec.Struct, frozen=True):
    """The one JSON object of `metactl demo --json`.

    acked: rows acknowledged at least once. lost, wrong: rows, see verify.py. regions: how many the fault took from
    their owners. rto_ms_*: over those regions, from the first signal to the first ack by a new owner.
    phases_ms: milliseconds from the fault to the end of each phase.
    """

    acked: int
    lost: int
    wrong: int
    regions: int
    rto_ms_p50: float
    rto_ms_p99: float
    rto_ms_max: float
    lease_ms: int
    replayed_entries: int
    phases_ms: Mapping[str, float]
    fault: str = ""
    moved: int = 0
    zombie_acks: int = 0

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return self.lost == 0 and self.wrong == 0 and self.zombie_acks == 0


def result(verdict: Verdict, acks: Sequence[Ack], happenings: Sequence[Happening], fault: Fault, lease_ms: int,
           moved: int, zombie_acks: int = 0) -> Result:  # fmt: skip
    """Put the figures of one drill together."""
    rto = list(rto_by_region(acks, fault).values())
    return Result(
        acked=verdict.acked,
        lost=verdict.lost,
        wrong=verdict.wrong,
        regions=len(fault.regions),
        rto_ms_p50=round(percentile(rto, 0.50), 1),
        rto_ms_p99=round(percentile(rto, 0.99), 1),
        rto_ms_max=round(max(rto, default=0.0), 1),
        lease_ms=lease_ms,
        replayed_entries=replayed_entries(happenings, fault),
        phases_ms=phases_ms(acks, happenings, fault),
        fault=fault.name,
        moved=moved,
        zombie_acks=zombie_acks,
    )


def to_json(outcome: Result) -> str:
    """The JSON object, on one line."""
    return msgspec.json.encode(outcome).decode()


def show(console: Console, outcome: Result, verdict: Verdict) -> None:
    """The table of results, and what is wrong, if anything is."""
    good, bad = "bold green", "bold red"
    table = Table(title=f"fault: {outcome.fault}", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("meaning", style="dim")
    table.add_row("regions hit", f"{outcome.regions}", "their owner was taken from them")
    table.add_row("regions moved", f"{outcome.moved}", "they have another owner, or a new life of the old one, now")
    table.add_row("entries replayed", f"{outcome.replayed_entries:,}", "read back from the lanes by the new owners")
    table.add_row("rows acknowledged", f"{outcome.acked:,}", f"of {verdict.read:,} rows read back")
    table.add_row(
        "rows lost", str(outcome.lost), "acknowledged, and not there: RPO", style=bad if outcome.lost else good
    )
    table.add_row("rows wrong", str(outcome.wrong), "an older value, a double, or never written",
                  style=bad if outcome.wrong else good)  # fmt: skip
    if outcome.fault == "pause":
        table.add_row("zombie acks", str(outcome.zombie_acks), "writes that the woken datanode acknowledged",
                      style=bad if outcome.zombie_acks else good)  # fmt: skip
    table.add_row("RTO p50", f"{outcome.rto_ms_p50:,.0f} ms", "from the fault to the first ack of a row of a region")
    table.add_row("RTO p99", f"{outcome.rto_ms_p99:,.0f} ms", "")
    table.add_row("RTO max", f"{outcome.rto_ms_max:,.0f} ms", f"lease {outcome.lease_ms:,} ms + "
                  f"{outcome.rto_ms_max - outcome.lease_ms:,.0f} ms")  # fmt: skip
    table.add_row("RPO", "0 rows" if not outcome.lost else f"{outcome.lost} rows", "what a disaster costs")
    console.print(table)
    for example in verdict.examples:
        console.print(example, style=bad, markup=False)


def show_phases(console: Console, outcome: Result) -> None:
    """When each phase was over and how long it took, as bars that begin where the phase before ended."""
    longest = max(outcome.phases_ms.values(), default=1.0) or 1.0
    table = Table(title="time line, from the fault to the end of each phase", title_justify="left", box=None)
    for name in ("phase", "over at", "took"):
        table.add_column(name, justify="left" if name == "phase" else "right", style="" if name != "took" else "dim")
    table.add_column("")
    before = 0.0
    for phase, at_ms in outcome.phases_ms.items():
        began, ended = (round(BAR_CELLS * max(ms, 0.0) / longest) for ms in (before, at_ms))
        began = min(began, BAR_CELLS - 1)
        bar = " " * began + "█" * max(1, ended - began)
        took = "" if phase == "last_ack" else f"{max(0.0, at_ms - before):,.0f} ms"
        table.add_row(phase, f"{at_ms:+,.0f} ms", took, f"[cyan]{bar}[/cyan]")
        before = max(before, at_ms)
    console.print(table)


NEXT = {
    "site": ("a stopped process that wakes and must not acknowledge", "pause"),
    "pause": ("the leader and a datanode at once", "leader"),
    "leader": ("a datanode that is killed and comes back at once", "restart"),
    "restart": ("one datanode, gone for good", "node"),
    "node": ("a whole site with the leader in it", "site"),
}


def show_next(console: Console, fault: str) -> None:
    """What to try next."""
    console.print("next:", style="bold")
    what, other = NEXT[fault]
    console.print(f"  {what}: {called()} demo --fault={other}", markup=False, highlight=False, soft_wrap=True)
    me = called()
    console.print(f"  a cluster to play with: {me} dev up --detach; {me} status; {me} --help",
                  markup=False, highlight=False, soft_wrap=True)  # fmt: skip
