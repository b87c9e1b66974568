"""Stories as tests. A scenario file is prose, then blocks: commands, `----`, what they printed, and a blank line.

Big numbers are printed short: tokens as t<generation>.<n>, regions as r<table>.<partition>. Times are virtual, in ms.
"""

import re
from collections.abc import Callable
from pathlib import Path

from groundwork.core.errors import BadInput
from groundwork.core.ids import Lane
from metasrv.core import commands as c
from metasrv.core.explain import explain_node, explain_region
from metasrv.core.orders import orders_of, trim_orders_of
from metasrv.core.planner import plan_drain, plan_migration
from metasrv.core.records import Config
from metasrv.core.routes import table_routes
from tests.core.metasrv.world import Agent, World

_BIG = re.compile(r"\b\d{10,}\b")
_TOKEN = re.compile(r"\b0x([0-9a-f]{9,16})\b")
_REGION = re.compile(r"([Rr]egion) (\d+\.\d+)\b")
_HEX = re.compile(r"/0*([0-9a-f]{9,16})/")


def short(text: str) -> str:
    """Tokens and region ids as people read them."""
    text = _HEX.sub(lambda m: f"/{_short(int(m.group(1), 16))}/", text)
    text = _TOKEN.sub(lambda m: _short(int(m.group(1), 16)), text)
    text = _REGION.sub(r"\1 r\2", text)
    return _BIG.sub(lambda m: _short(int(m.group())), text)


def _short(n: int) -> str:
    if n >> 40:
        return f"t{n >> 40}.{n & ((1 << 40) - 1)}"
    return f"r{n >> 32}.{n & ((1 << 32) - 1)}" if n >> 32 else str(n)


def _long(text: str) -> int:
    kind, rest = text[0], text[1:].split(".")
    return int(rest[0]) << (40 if kind == "t" else 32) | int(rest[1])


class Scenario:
    """One world and the commands that a file may use."""

    def __init__(self) -> None:
        self.world = World()
        self.attempt = 0

    def block(self, lines: list[str]) -> list[str]:
        """Run the commands of one block; what they printed, and what happened meanwhile."""
        out: list[str] = []
        for line in lines:
            words = line.split()
            options = dict(w.split("=", 1) for w in words[1:] if "=" in w)
            args = [w for w in words[1:] if "=" not in w]
            before = len(self.world.log)
            began = self.world.now_ms
            command: Callable[..., list[str]] = getattr(self, f"do_{words[0].replace('-', '_')}")
            try:
                printed = command(*args, **options)
            except BadInput as error:
                printed = [f"refused: {error}"]
            out += self._events(before, began) + printed
        return [short(line) for line in out] or ["ok"]

    def _events(self, before: int, began: float) -> list[str]:
        offset = self.world.now_ms - self.world.wall
        return [
            (f"+{max(0, e.wall_ms + offset - began):.0f} " if e.wall_ms else "") + f"{e.kind}: {e.sentence}"
            for e in self.world.log[before:]
        ]

    def _said(self, command: c.AnyCommand) -> list[str]:
        outcome = self.world.propose(command)
        return ([f"refused: {outcome.refused}"] if outcome.refused else []) + [
            f"rejected: {r}" for _, r in outcome.rejected
        ]

    def _agent(self, name: str) -> Agent:
        return self.world.zombies[-1] if name == "zombie" else self.world.agents[name]

    # --- the cluster

    def do_config(self, **fields: str) -> list[str]:
        """Configuration by field."""
        values = {k: float(v) if "." in v else int(v) for k, v in fields.items()}
        return self._said(c.SetConfig(config=Config(**values), who="ops", wall_ms=self.world.wall))  # type: ignore[arg-type]

    def do_bootstrap(self, cluster: str, generation: str) -> list[str]:
        """Begin (again)."""
        return self._said(c.Bootstrap(cluster_id=cluster, generation=int(generation)))

    def do_node(self, name: str, place: str, lanes: str = "1", capacity: str = "1000", folder: str = "") -> list[str]:
        """Start a datanode."""
        agent = self.world.add(name, place, int(lanes), int(capacity), folder)
        last = self.world.outcomes[-1]
        if last.refused:
            self.world.agents[name] = self.world.zombies.pop() if self.world.zombies else agent
        return [f"refused: {last.refused}"] if last.refused else []

    def do_table(self, name: str, partitions: str, priority: str = "0") -> list[str]:
        """Create a table."""
        refused = self.world.create_table(name, int(partitions), int(priority)).refused
        return [f"refused: {refused}"] if refused else []

    def do_drop(self, name: str) -> list[str]:
        """Drop a table."""
        return self._said(c.DropTable(name=name, who="ops", wall_ms=self.world.wall))

    def do_run(self, ms: str) -> list[str]:
        """Let time pass."""
        self.world.run(float(ms))
        return []

    # --- faults

    def do_crash(self, *names: str) -> list[str]:
        """The process is gone, or stopped: nobody can tell."""
        for name in names:
            self._agent(name).running = False
        return []

    def do_thaw(self, name: str) -> list[str]:
        """A stopped process goes on."""
        self._agent(name).running = True
        return []

    def do_restart(self, name: str) -> list[str]:
        """A new process with the same data folder."""
        agent = self._agent(name)
        agent.running = True
        refused = agent.register().refused
        return [f"refused: {refused}"] if refused else []

    def do_returns(self, name: str) -> list[str]:
        """From now on this agent registers again by itself when it is told that it was superseded."""
        self.world.reregister.add(name)
        return []

    def do_slow(self, name: str, **how: str) -> list[str]:
        """open_ms=, append_age_ms=, probe_age_ms= of an agent; lane0=, lane1= for one lane; obeys=0."""
        agent = self._agent(name)
        for key, value in how.items():
            if key.startswith("lane"):
                agent.lane_age_ms[int(key[4:])] = int(value)
            else:
                setattr(agent, key, int(value))
        return []

    def do_cut(self, name: str, *replicas: str) -> list[str]:
        """These replicas (or all) do not hear the agent."""
        self._agent(name).cut = set(replicas or self.world.replica_ids)
        return []

    def do_no_relays(self) -> list[str]:
        """Followers cannot pass on to the leader what they hear."""
        self.world.relays = False
        return []

    def do_heal(self, name: str) -> list[str]:
        """Everybody hears it again."""
        self._agent(name).cut = set()
        return []

    def do_elect(self, replica: str) -> list[str]:
        """Another leader."""
        self.world.deaf.discard(replica)
        self.world.elect(replica)
        return []

    def do_kill_leader(self) -> list[str]:
        """The leader dies with its memory."""
        self.world.kill_leader()
        return []

    def do_leader_sleeps(self, ms: str) -> list[str]:
        """The leader's process is stopped for so long."""
        self.world.asleep_until_ms = self.world.now_ms + float(ms)
        return []

    def do_release(self, name: str, witness: str = "systemd") -> list[str]:
        """The witness of a death."""
        agent = self._agent(name)
        agent.running = False
        inc = agent.incarnation
        return self._said(c.Release(node_id=name, incarnation=inc, witness=witness, wall_ms=self.world.wall))

    # --- operators

    def do_pause(self, scope: str, ms: str) -> list[str]:
        """Maintenance."""
        world = self.world
        return self._said(
            c.Pause(
                scope=scope, reason="new disks", who="ops", expires_wall_ms=world.wall + int(ms), wall_ms=world.wall
            )
        )

    def do_resume(self, scope: str) -> list[str]:
        """End maintenance."""
        return self._said(c.Resume(scope=scope, who="ops", wall_ms=self.world.wall))

    def do_move(self, *regions: str, to: str = "") -> list[str]:
        """Migrate, as an operator asks."""
        state, book = self.world.machine.state, self.world.book
        inventory = book.inventory(state, self.world.now_ms)
        ids = [_long(r) for r in regions]
        plan = plan_migration(state, inventory, ids, to, "ops", "asked for", self.world.wall)
        assert plan.command is not None
        out = self._said(plan.command)
        self.attempt = self.world.outcomes[-1].value or self.attempt
        return out

    def do_cancel(self, *regions: str) -> list[str]:
        """Cancel the last attempt."""
        ids = tuple(_long(r) for r in regions) or None
        return self._said(
            c.CancelMigration(attempt=self.attempt, region_ids=ids, who="ops", why="asked for", wall_ms=self.world.wall)
        )

    def do_drain(self, name: str) -> list[str]:
        """Drain a datanode."""
        state = self.world.machine.state
        plan = plan_drain(state, self.world.book.inventory(state, self.world.now_ms), name, "ops", self.world.wall)
        assert plan.command is not None
        return [f"plan: {plan.sentence}", *self._said(plan.command)]

    def do_undrain(self, name: str) -> list[str]:
        """End the drain."""
        return self._said(c.Undrain(node_id=name, who="ops", wall_ms=self.world.wall))

    # --- reports by hand: late, twice, from the dead

    def do_report(self, kind: str, name: str, region: str, **f: str) -> list[str]:
        """One report. Fields that are not given are those that would be right now."""
        agent, region_id = self._agent(name), _long(region)
        now = self.world.machine.state.regions.get(region_id)
        me = (agent.node_id, agent.incarnation)
        lane = Lane(*me, int(f.get("lane", "0")))
        epoch = _long(f["epoch"]) if "epoch" in f else (now.epoch if now else 1)
        attempt = _long(f["attempt"]) if "attempt" in f else self.attempt
        item: c.Report
        if kind == "stopped":
            stay = _long(f["stay"]) if "stay" in f else (now.stay_epoch if now else 1)
            item = c.Stopped(*me, region_id, epoch, attempt, lane, stay, int(f["position"]))
        elif kind == "prepared":
            item = c.Prepared(*me, region_id, attempt)
        elif kind == "failed":
            closed = int(f["position"]) if "position" in f else None
            reads = "read_only" in f
            item = c.RegionFailed(*me, region_id, epoch, f["what"], "told by a test", reads, closed_position=closed)
        elif kind == "serving":
            item = c.Serving(*me, region_id, epoch)
        else:
            raise AssertionError(kind)
        return self._said(c.Reports(items=(item,), wall_ms=self.world.wall))

    def do_covered(self, name: str, region: str, *stays: str, manifest: str) -> list[str]:
        """A committed manifest's stays: NODE:LANE_INCARNATION:STAY:COVERED[:done] each."""
        agent = self._agent(name)
        named = []
        for stay in stays:
            node, incarnation, epoch, covered, *done = stay.split(":")
            named.append(c.CoveredStay(Lane(node, _long(incarnation), 0), _long(epoch), int(covered), bool(done)))
        item = c.Covered(agent.node_id, agent.incarnation, _long(region), _long(manifest), 1, tuple(named))
        return self._said(c.Reports(items=(item,), wall_ms=self.world.wall))

    # --- looking

    def do_show(self, what: str, name: str = "") -> list[str]:
        """regions, nodes, stays, trims, orders NODE, explain NODE|REGION, routes TABLE, leader, next_token."""
        state = self.world.machine.state
        if what == "leader":
            return [f"leader {self.world.leader}"]
        if what == "next_token":
            return [f"the next token is {state.next_token}"]
        if what == "nodes":
            return [
                f"{n.node_id} {n.status.name.lower()} incarnation {n.incarnation} "
                f"regions {state.node_region_count(n.node_id)}"
                for n in sorted(state.nodes.values(), key=lambda n: n.node_id)
            ]
        if what == "regions":
            rows = sorted(state.regions.items())
            return [f"{i} {state.phase_of(r).name.lower()} on {r.lane} epoch {r.epoch}" for i, r in rows] or ["none"]
        if what == "stays":
            rows = sorted(state.regions.items())
            return [f"{i} in {s.lane} since {s.epoch} covered {s.covered}" for i, r in rows for s in r.stays] or [
                "none"
            ]
        if what == "trims":
            trims = [(n, t) for n in sorted(state.nodes) for t in trim_orders_of(state, n)]
            return [f"{n} trims {t.lane} below {t.below}" for n, t in trims] or ["none"]
        if what == "orders":
            return [_order(o) for o in orders_of(state, name)] or ["none"]
        if what == "routes":
            rows2 = table_routes(state, state.names.get(name, 0))
            return [f"{r.region_id} -> {r.node_id} {r.phase.name.lower()} epoch {r.epoch}" for r in rows2] or ["none"]
        if what == "explain":
            if name in state.nodes:
                return explain_node(state, name)
            return explain_region(state, _long(name))
        raise AssertionError(what)


def _order(o: object) -> str:
    from metasrv.core.orders import Order

    assert isinstance(o, Order)
    text = f"{o.kind.name} {o.region_id} epoch {o.epoch} lane {o.lane_index}"
    if o.attempt:
        text += f" attempt {o.attempt}"
    if o.ends:
        text += " ends " + ", ".join(f"{e.lane}@{e.stay_epoch}={e.position}" for e in o.ends)
    if o.over:
        text += " over " + ", ".join(str(lane) for lane in o.over)
    return text


def run_file(path: Path, rewrite: bool) -> list[tuple[int, str, list[str], list[str]]]:
    """Run a scenario; the blocks that differ: (line, commands, wanted, got). With `rewrite` the file is corrected."""
    scenario = Scenario()
    text: list[str] = []
    wrong = []
    lines = path.read_text().splitlines()
    at = 0
    while at < len(lines):
        if "----" not in _chunk(lines, at):
            text.append(lines[at])
            at += 1
            continue
        chunk = _chunk(lines, at)
        cut = chunk.index("----")
        asked, wanted = chunk[:cut], chunk[cut + 1 :]
        got = scenario.block([a for a in asked if not a.startswith("#")])
        if got != wanted:
            wrong.append((at + 1, " / ".join(asked), wanted, got))
        text += [*asked, "----", *got]
        at += len(chunk)
    if rewrite:
        path.write_text("\n".join(text) + "\n")
        return []
    return wrong


def _chunk(lines: list[str], at: int) -> list[str]:
    end = at
    while end < len(lines) and lines[end].strip():
        end += 1
    return lines[at:end]
