"""The drill of `metactl demo`: a cluster, real input, a fault, and the proof that nothing acknowledged is lost."""

import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from groundwork.adapters.clock import boottime_ms
from groundwork.core.errors import MetasrvError
from groundwork.core.table import TableInfo
from groundwork.core.wire import table_from_wire
from metactl import picture, report
from metactl.asking import Metasrv
from metactl.cluster import Cluster
from metactl.faults import aim_of, strike
from metactl.inputs import TABLE, create_table_sql, files_under
from metactl.layout import Timing, plan_layout, ports_needed
from metactl.ledger import Row
from metactl.ports import PortHolder
from metactl.routing import moved_regions, served_elsewhere, site_of_acks, table_serves
from metactl.sql import read_back, run_sql
from metactl.timeline import Fault, Happening, writes_again
from metactl.verify import Verdict, check
from metactl.waiting import DrillFailed, go_on, until
from metactl.watching import Follower, Narrator
from metactl.workload import Workload
from metactl.zombie import Zombie
from protos.metasrv.v1 import admin_pb2, routes_pb2

LEADER_DEADLINE_S = 20.0
DECISIONS = frozenset({"suspect", "failover", "register"})
REPORTS_S = 0.3  # a region serves a moment before metasrv has committed that it does


@dataclass(frozen=True)
class Options:
    """What a drill is told. Times in seconds unless they say otherwise."""

    fault: str = "site"
    regions: int = 100
    rows_max: int = 100_000
    writers: int = 8
    interval_s: float = 1.0
    duration_s: float = 8.0
    seed: int = 1
    timing: Timing = field(default_factory=Timing)
    input_folder: Path = Path("/usr")
    folder: Path | None = None
    picture: Path | None = None
    keep: bool = False


class Drill:
    """One drill. run() does all of it; the cluster is gone when it returns, however it returns."""

    def __init__(self, options: Options, console: Console) -> None:
        aim_of(options.fault)
        self._options = options
        self._console = console
        self._folder = options.folder or Path(tempfile.mkdtemp(prefix="metasrv-demo-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ports = PortHolder()
        layout = plan_layout(self._folder, self._ports.take(ports_needed()), options.timing)
        self.cluster = Cluster(layout)
        # Those that survive a site first: the drill's own calls need not find out that the others are gone.
        addresses = [m.listen for m in sorted(layout.of("metasrv"), key=lambda m: m.site == 1)]
        self._metasrv = Metasrv(addresses, layout.cluster_id)
        self._events = Metasrv(addresses, layout.cluster_id)
        self._frontends = [m.http for m in layout.of("frontend")]
        self._narrator = Narrator(console)
        self._rows: list[Row] = []

    def run(self) -> report.Result:
        """The whole drill. Raises a MetasrvError where it cannot be brought to its end."""
        keep = self._options.keep or self._options.folder is not None
        try:
            with self.cluster:
                outcome = self._run()
            keep = keep or not outcome.clean
        except MetasrvError:
            keep = True
            raise
        else:
            return outcome
        finally:
            self._metasrv.close()
            self._events.close()
            self._ports.close()
            if keep:
                self._console.print(f"configuration, logs and data of this drill: {self._folder}", markup=False)
            else:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> report.Result:
        lease_ms = self._start()
        table = self._create_table()
        load = Workload(table, self._frontends, self._options.writers, self._options.seed)
        follower = Follower(self._events)
        try:
            self._bulk(load)
            follower.start()
            self._go_live(load)
            before = self._routes()
            self._narrator.skip(follower.happenings)
            fault = self._strike(before)
            recovery = self._recover(load, follower, fault)
            zombie_acks = self._wake(fault, before, load) if fault.name == "pause" else 0
            go_on(self._options.duration_s / 2, load.check)
        finally:
            load.stop()
            follower.stop()
        load.check()
        after = self._routes()
        verdict = self._verify(load)
        moved = moved_regions(before, after, fault)
        outcome = report.result(verdict, load.acks, recovery, fault, lease_ms, moved, zombie_acks)
        self._explain(fault, recovery)
        self._show(outcome, verdict)
        self._draw(outcome, load, before, after, fault)
        return outcome

    def _say(self, text: str) -> None:
        self._narrator.line("set-up", text)

    def _start(self) -> int:
        self._say(f"3 metasrv, 4 datanodes, 2 frontends start in {self._folder}")
        self.cluster.start()
        self._rows = list(files_under(self._options.input_folder, self._options.rows_max))
        self.cluster.wait_ready()
        status = self._metasrv.status()
        self._say(f"all ready; leader {status.leader_id}, lease {status.lease_ms} ms")
        return status.lease_ms

    def _create_table(self) -> TableInfo:
        statement = create_table_sql(TABLE, self._options.regions)
        run_sql(self._frontends[0], statement)
        self._say(statement)
        until("every region serves", lambda: table_serves(self._routes))
        return table_from_wire(self._routes().table)

    def _bulk(self, load: Workload) -> None:
        rows = self._rows
        began_ms = boottime_ms()
        load.bulk_load(rows)
        took_s = (boottime_ms() - began_ms) / 1000
        self._say(f"bulk load: {len(rows):,} files of {self._options.input_folder} in {took_s:.1f} s, "
                  f"{len(rows) / took_s:,.0f} rows/s")  # fmt: skip

    def _go_live(self, load: Workload) -> None:
        regions = len(load.table.region_ids)
        bulk = len(load.acks)
        load.start_live(self._options.interval_s)
        if aim_of(self._options.fault).leader_first:
            self._move_leader("metasrv-1")
        until("every region takes live writes", lambda: len({a.region_id for a in load.acks[bulk:]}) == regions,
              load.check)  # fmt: skip
        self._say(f"live: {self._options.writers} writers sample this machine's processes into {regions} regions")
        go_on(self._options.duration_s / 2, load.check)

    def _move_leader(self, to: str) -> None:
        request = admin_pb2.TransferLeaderRequest(sender=self._metasrv.sender, to=to, who="demo")

        def leads() -> bool:
            if self._metasrv.status().leader_id == to:
                return True
            self._metasrv.ask(lambda r: r.admin.TransferLeader, request)  # again where another one took it meanwhile
            return False

        until(f"{to} leads", leads, deadline_s=LEADER_DEADLINE_S)
        self._say(f"leadership is at {to}, in the site that will be hit")

    def _strike(self, before: routes_pb2.RoutesReply) -> Fault:
        fault = strike(self.cluster, self._options.fault, before)
        self._narrator.origin_ms = fault.began_ms
        self._narrator.line("fault", f"{aim_of(fault.name).text}: {len(fault.regions)} regions hit", fault.began_ms)
        return fault

    def _recover(self, load: Workload, follower: Follower, fault: Fault) -> list[Happening]:
        def look() -> None:
            load.check()
            self._narrator.catch_up(follower.happenings, load.acks, fault)

        regions = set(load.table.region_ids)
        try:
            until("every region takes writes again", lambda: regions <= writes_again(list(load.acks), fault), look)
        except DrillFailed as error:
            missing = regions - writes_again(list(load.acks), fault)
            stuck = [f"{r.region_id:#x} at {r.node_id}" for r in self._routes().routes if r.region_id in missing]
            raise DrillFailed(f"{error}; {len(missing)} do not: {', '.join(stuck[:5])}") from error
        look()
        self._narrator.line("recovered", f"all of {len(regions)} regions take writes again")
        if fault.name == "restart":
            until("the node is back", lambda: self._is_back(fault), load.check)
            self._narrator.line("back", f"{fault.nodes[0]} is registered under a new incarnation")
        go_on(REPORTS_S, load.check)
        return list(follower.happenings)

    def _is_back(self, fault: Fault) -> bool:
        return any(n.node_id in fault.nodes and n.status == "up" for n in self._metasrv.status().nodes)

    def _wake(self, fault: Fault, before: routes_pb2.RoutesReply, load: Workload) -> int:
        node = fault.nodes[0]
        until("the regions are served elsewhere", lambda: served_elsewhere(self._routes(), fault), load.check)
        zombie = Zombie(self._metasrv, node, before, load.table)
        zombie.tempt(load.ledger)
        self.cluster.signal([node], signal.SIGCONT)
        self._narrator.line("SIGCONT", f"{node} wakes; {zombie.tempted} writes to its old regions wait at its door")
        zombie_acks, answered = zombie.answers()
        self._narrator.line("zombie", f"{zombie_acks} of {zombie.tempted} acknowledged: {answered}")
        region_id = zombie.give_back(lambda what, done: until(what, done, load.check))
        since_ms = boottime_ms()
        until("the woken node acknowledges", lambda: any(
            a.region_id == region_id and a.sent_ms > since_ms for a in load.acks[-2_000:]), load.check)  # fmt: skip
        self._narrator.line("useful", f"{node} is back: region {region_id:#x} was moved to it and takes writes there")
        return zombie_acks

    def _verify(self, load: Workload) -> Verdict:
        began_ms = boottime_ms()
        survivor = next(m for m in reversed(self.cluster.layout.of("frontend")) if self.cluster.running(m.name))
        rows = list(read_back(survivor.http, load.table.name))
        took_s = (boottime_ms() - began_ms) / 1000
        self._narrator.line("read back", f"{len(rows):,} rows by SQL through {survivor.name} in {took_s:.1f} s")
        return check(load.ledger, rows)

    def _routes(self) -> routes_pb2.RoutesReply:
        return self._metasrv.routes(TABLE)

    def _explain(self, fault: Fault, recovery: list[Happening]) -> None:
        """P6: what `metactl explain` says of the nodes that were hit: why they were failed over."""
        decided = {h.sentence for h in recovery if h.kind in DECISIONS and h.at_ms >= fault.began_ms}
        told: dict[str, None] = {}
        for node in fault.nodes:
            request = admin_pb2.ExplainRequest(sender=self._metasrv.sender, node_id=node)
            sentences = self._metasrv.ask(lambda r: r.admin.Explain, request).sentences
            told.update(dict.fromkeys(s for s in sentences if any(why in s for why in decided)))
        for sentence in sorted(told):  # each begins with its time
            self._console.print(f"why: {sentence}", markup=False, highlight=False, soft_wrap=True)

    def _show(self, outcome: report.Result, verdict: Verdict) -> None:
        self._console.print()
        report.show_phases(self._console, outcome)
        report.show(self._console, outcome, verdict)
        report.show_next(self._console, outcome.fault)

    def _draw(self, outcome: report.Result, load: Workload, before: routes_pb2.RoutesReply,
              after: routes_pb2.RoutesReply, fault: Fault) -> None:  # fmt: skip
        if self._options.picture is None:
            return
        began_ms = fault.began_ms - self._options.duration_s * 500
        ended_ms = max((ack.at_ms for ack in load.acks), default=fault.ended_ms)
        series = picture.rates(load.acks, site_of_acks(before, after, fault), began_ms, ended_ms, fault.began_ms)
        title = f"{aim_of(fault.name).text}: {outcome.acked:,} rows acknowledged, {outcome.lost} lost"
        picture.draw(self._options.picture, title, *series, dict(outcome.phases_ms))
        self._console.print(f"picture: {self._options.picture}", markup=False)
