"""The leader's judgement of datanodes: silent, suspect, failed over; or not, and why not.

    up --silent for a lease--> Suspect committed --at once--> Failover committed     (heard again in between: Clear)
    released, superseded, unplaced --at once--> Failover committed

step() is pure in what it is given, but remembers (in memory, lost with the leader, rebuilt by the next) when it began
to doubt itself and what it said last, so that nothing is said twice. What must outlive a leader is replicated: a
suspect stays one, whoever leads, and gets no grant; so changing leaders cannot postpone its failover for ever (T2).
"""

from collections.abc import Iterable, Sequence

from groundwork.core.ids import Lane, Locality, token_text
from metasrv.core.commands import Clear, Ended, Note, Resume, Suspect
from metasrv.core.decisions import Decision
from metasrv.core.events import listed
from metasrv.core.leases import Inventory, LeaseBook
from metasrv.core.placement import Pool, dubious_ms, pause_of
from metasrv.core.planner import plan_failover
from metasrv.core.records import Node, NodeStatus
from metasrv.core.state import State


class Supervisor:
    """One per term of leadership: make a new one when this replica is elected."""

    def __init__(self, replica_id: str, replicas: Sequence[str]) -> None:
        """All replicas' node ids, this one included."""
        self._id = replica_id
        self._replicas = tuple(replicas)
        self._asked = False
        self._doubted: frozenset[str] = frozenset()  # losses that were put to the other replicas, and stood
        self._asking: frozenset[str] = frozenset()
        self._said: dict[str, str] = {}
        self._stuck: object = None  # what the last plan that changed nothing was made from
        self._shared_until_ms = float("-inf")  # what the unwell share was down, and its users may still show it

    def step(self, now_ms: float, wall_ms: int, state: State, book: LeaseBook) -> list[Decision]:
        """What to do now. Call every config.tick_ms while leading, and again at once after any proposal was applied."""
        if not state.cluster_id:
            return []
        out: list[Decision] = []
        credit = book.tick(now_ms, state.config)
        if credit:
            said = f"the leader {self._id} was away for {credit:,.0f} ms: every datanode is credited with it"
            out.append(Decision("credit", said, Note(kind="credit", sentence=said, wall_ms=wall_ms)))
        if not self._asked:
            self._asked = True
            out.append(Decision("ask", "a new leader asks the other replicas what they heard", ask_replicas=True))
            return out
        if not book.may_judge(now_ms, state.config, self._replicas):
            return out
        inventory = book.inventory(state, now_ms)
        out += [
            Decision(
                "resume", f"the pause of {p.scope} expired", Resume(scope=p.scope, who="its expiry", wall_ms=wall_ms)
            )
            for p in state.pauses.values()
            if 0 < p.expires_wall_ms <= wall_ms
        ]
        silent = self._silent(state, inventory)
        out += self._clear(now_ms, wall_ms, state, book, inventory)
        paused = self._paused(state, wall_ms, silent)
        out += [
            self._not("paused", n.node_id, said, wall_ms) for n, said in paused.items() if self._new(n.node_id, said)
        ]
        silent = [n for n in silent if n not in paused]
        doubt = self._doubt(now_ms, wall_ms, state, book, inventory, silent)
        if doubt is not None:
            return out + doubt
        fresh = [n for n in silent if n.status is NodeStatus.UP]
        if fresh:
            return out + [self._suspect(n, inventory, state, wall_ms) for n in fresh]
        return out + self._fail_over(now_ms, wall_ms, state, book, inventory, silent)

    # --- silence

    def _silent(self, state: State, inventory: Inventory) -> list[Node]:
        """Silent for a lease, or suspect already: a suspect that another leader named needs no second lease (T2)."""
        lease_ms = state.config.lease_ms
        found = []
        for node in sorted(state.nodes.values(), key=lambda n: n.node_id):
            long = inventory[node.node_id].silent_ms >= lease_ms
            if node.status is NodeStatus.SUSPECT or (node.status is NodeStatus.UP and long):
                found.append(node)
            else:
                self._said.pop(node.node_id, None)
        return found

    def _clear(
        self, now_ms: float, wall_ms: int, state: State, book: LeaseBook, inventory: Inventory
    ) -> list[Decision]:
        out = []
        for node in state.nodes.values():
            if node.status is NodeStatus.SUSPECT and book.was_heard(node.node_id, node.incarnation, now_ms):
                said = f"heard {inventory[node.node_id].silent_ms:,.0f} ms ago, before it was failed over"
                command = Clear(node_id=node.node_id, incarnation=node.incarnation, sentence=said, wall_ms=wall_ms)
                out.append(
                    Decision("clear", f"{node.node_id} is cleared: {said}", command, fields={"node_id": node.node_id})
                )
        return out

    def _paused(self, state: State, wall_ms: int, silent: Iterable[Node]) -> dict[Node, str]:
        found = {}
        for node in silent:
            pause = pause_of(state, wall_ms, node.node_id)
            if pause:
                left = max(0, pause.expires_wall_ms - wall_ms) / 1000
                reason = pause.reason or "no reason given"
                found[node] = (
                    f"{node.node_id} is silent and is not failed over: {pause.who or 'somebody'} paused {pause.scope} "
                    f"({reason}), for {left:.0f} s more"
                )
        return found

    def _suspect(self, node: Node, inventory: Inventory, state: State, wall_ms: int) -> Decision:
        silent_ms = int(inventory[node.node_id].silent_ms)
        said = f"silent for {silent_ms:,} ms, the lease is {state.config.lease_ms:,} ms"
        command = Suspect(
            node_id=node.node_id, incarnation=node.incarnation, silent_ms=silent_ms, sentence=said, wall_ms=wall_ms
        )
        return Decision("suspect", f"{node.node_id} is suspected: {said}", command, fields={"node_id": node.node_id})

    # --- the breaker

    def _doubt(
        self, now_ms: float, wall_ms: int, state: State, book: LeaseBook, inventory: Inventory, silent: list[Node]
    ) -> list[Decision] | None:
        """None: go on. A list: the leader doubts itself first, and does only that."""
        if self._asking:  # the answers are in
            self._doubted, self._asking = self._asking, frozenset()
            other, theirs, mine = book.hears_more(now_ms)
            if other:
                said = f"{other} hears {theirs} datanodes and {self._id} only {mine}: leadership goes to {other}"
                note = Note(kind="transfer", sentence=said, wall_ms=wall_ms)
                return [Decision("breaker", said, note), Decision("transfer", said, transfer_to=other)]
        if not silent:
            self._doubted = frozenset()
            return None
        alive = [n for n in state.nodes.values() if n.status <= NodeStatus.SUSPECT]
        names = {n.node_id for n in silent}
        shaky = {n.node_id for n in alive if inventory[n.node_id].silent_ms >= dubious_ms(state)} | names
        limit = state.config.breaker_fraction * len(alive)
        if len(shaky) <= limit or self._is_one_domain(state, inventory, shaky) or names <= self._doubted:
            return None
        self._asking = frozenset(shaky)
        said = (
            f"{len(shaky)} of {len(alive)} datanodes are silent at once, more than "
            f"{state.config.breaker_fraction:.0%} and not just one site or zone with room elsewhere: "
            f"the leader {self._id} doubts itself and asks the other replicas"
        )
        note = Note(kind="breaker", sentence=said, wall_ms=wall_ms)
        return [Decision("breaker", said, note), Decision("ask", "ask what the others hear", ask_replicas=True)]

    def _is_one_domain(self, state: State, inventory: Inventory, lost: set[str]) -> bool:
        """Exactly the datanodes of one site, or of one zone, with room for their regions elsewhere."""
        places = {n.node_id: Locality.parse(n.locality) for n in state.nodes.values() if n.status <= NodeStatus.SUSPECT}
        sites = {places[n].site for n in lost if n in places}
        zones = {places[n] for n in lost if n in places}
        whole = (len(sites) == 1 and lost == {n for n, p in places.items() if p.site in sites}) or (
            len(zones) == 1 and lost == {n for n, p in places.items() if p in zones}
        )
        if not whole:
            return False
        return Pool(state, inventory, without_nodes=lost).free() >= sum(state.node_region_count(n) for n in lost)

    # --- failing over

    def _fail_over(
        self, now_ms: float, wall_ms: int, state: State, book: LeaseBook, inventory: Inventory, silent: list[Node]
    ) -> list[Decision]:
        ended = [
            Ended(n.node_id, n.incarnation)
            for n in silent
            if n.status is NodeStatus.SUSPECT and not book.was_heard(n.node_id, n.incarnation, now_ms)
        ]
        unwell, hung, out = self._unwell(now_ms, wall_ms, state, inventory, {e.node_id for e in ended})
        if not ended and not unwell and not hung and not state.lost_lanes():
            self._said.pop("", None)
            return out
        lost = tuple((lane, state.owned(lane)) for lane in state.lost_lanes())
        made_from = (
            lost,
            tuple(ended),
            tuple(unwell),
            tuple(hung),
            tuple(state.pauses),
            Pool(state, inventory).fingerprint(),
        )
        if made_from == self._stuck:
            return out
        why = _why(state, inventory, ended, unwell, hung)
        plan = plan_failover(state, inventory, [*ended, *unwell], hung, why, wall_ms)
        if plan.unplaced and (unwell or hung):  # it lives: leave it what nobody else has room for
            plan = plan_failover(state, inventory, ended, (), _why(state, inventory, ended, (), ()), wall_ms)
        if ended and not plan.steps and any(state.node_region_count(e.node_id) for e in ended):
            self._stuck = made_from
            said = f"{why}: it is not failed over; {plan.why_unplaced}"
            return [*out, self._not("nowhere", "", said, wall_ms)] if self._new("", plan.why_unplaced) else out
        if plan.command is None:
            self._stuck = made_from  # a proposal may get lost, and is made again: only nothing is not repeated
        else:
            out.append(Decision("failover", plan.sentence, plan.command, fields={"unplaced": str(plan.unplaced)}))
        if plan.unplaced and self._new("", plan.why_unplaced):
            said = f"not every lost region has a new owner: {plan.why_unplaced}"
            out.append(self._not("nowhere", "", said, wall_ms))
        return out

    def _unwell(
        self, now_ms: float, wall_ms: int, state: State, inventory: Inventory, ended: set[str]
    ) -> tuple[list[Ended], list[Lane], list[Decision]]:
        """Those that live and do no work (T5, T6, T7), unless so many that what they share must be down.

        They do not come to be unwell at one instant: those that are half-way there count among the many (T17). Nor do
        they recover at one: for half of unwell_ms, within which the well prove their work, none is given up alone.
        """
        up = [n for n in state.nodes.values() if n.status is NodeStatus.UP and n.node_id not in ended]
        busy = [n for n in up if state.node_region_count(n.node_id)]
        sick = [n for n in busy if not inventory[n.node_id].well and not pause_of(state, wall_ms, n.node_id)]
        hung = [
            lane
            for n in busy
            for lane in state.open_lanes(n.node_id)
            if lane.index in inventory[n.node_id].hung_lanes and state.owned(lane)
        ]
        if not sick:
            self._said.pop("unwell", None)
        limit = state.config.breaker_fraction * len(up)
        all_sick = sum(inventory[n.node_id].doubtful for n in up)
        if all_sick > limit:
            self._shared_until_ms = now_ms + state.config.unwell_ms / 2
        if sick and all_sick > limit:
            said = (
                f"{all_sick} of {len(up)} datanodes are unwell at once, or soon will be, first {sick[0].node_id} "
                f"({inventory[sick[0].node_id].why_unwell}): what they share is down, so nothing is moved"
            )
            key = ",".join(n.node_id for n in sick)
            return [], [], [self._not("unwell", "", said, wall_ms)] if self._new("unwell", key) else []
        if now_ms < self._shared_until_ms:
            return [], [], []
        return [Ended(n.node_id, n.incarnation, "unwell") for n in sick], hung, []

    # --- saying things once

    def _new(self, key: str, said: str) -> bool:
        """Whether this has not been said of it yet, figures aside."""
        gist = "".join(c for c in said if not c.isdigit())
        fresh = self._said.get(key) != gist
        self._said[key] = gist
        return fresh

    def _not(self, kind: str, node_id: str, said: str, wall_ms: int) -> Decision:
        note = Note(kind="not_failed_over", sentence=said, node_id=node_id, wall_ms=wall_ms)
        return Decision("not_failed_over", said, note, fields={"why": kind})


def _why(
    state: State, inventory: Inventory, ended: Sequence[Ended], unwell: Sequence[Ended], hung: Sequence[Lane]
) -> str:
    lease_ms = state.config.lease_ms
    parts = []
    for end in ended:
        node = state.nodes[end.node_id]
        silent_ms = max(inventory[end.node_id].silent_ms, node.silent_ms)
        parts.append(f"{end.node_id} ({node.locality}) silent for {silent_ms:,.0f} ms of a {lease_ms:,} ms lease")
    parts += [f"{e.node_id} is unwell: {inventory[e.node_id].why_unwell}" for e in unwell]
    parts += [f"appends on lane {lane.index} of {lane.node_id} hang" for lane in hung]
    told = {e.node_id for e in (*ended, *unwell)} | {lane.node_id for lane in hung}
    for node_id in sorted({lane.node_id for lane in state.lost_lanes()} - told):
        node_now = state.nodes.get(node_id)
        if node_now is None:
            parts.append(f"{node_id} is gone")
        elif node_now.status <= NodeStatus.SUSPECT:
            parts.append(f"{node_id} restarted as incarnation {token_text(node_now.incarnation)}")
        else:
            parts.append(f"{node_id} was {node_now.why or node_now.status.name.lower()}")
    return listed(parts)
