"""Metrics from the applied state: counted as commands are applied, gauged when somebody looks."""

from groundwork.core.ports import Clock
from metasrv.adapters.metrics import Metrics
from metasrv.core.events import Outcome
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.ports import Consensus
from metasrv.core.records import NodeStatus

FAILOVERS_TIMED_MAX = 100


def count_outcomes(metrics: Metrics, machine: Machine, clock: Clock) -> None:
    """Subscribe the counters to the machine. A failover's phases: silent, then recover (from its commit to serving)."""
    began: dict[int, float] = {}  # a failover's epoch -> when it was applied here

    def applied(revision: int, outcome: Outcome) -> None:
        metrics.commands.labels(outcome.kind).inc()
        if outcome.refused:
            return
        if outcome.kind == "Failover":
            metrics.failovers.inc()
            began[outcome.value] = clock.now_ms()
            while len(began) > FAILOVERS_TIMED_MAX:
                del began[next(iter(began))]
        elif outcome.kind == "Suspect":
            metrics.suspects.inc()
        for event in outcome.events:
            if event.kind == "serving" and event.token in began:
                metrics.failover_ms.labels("recover").observe(clock.now_ms() - began[event.token])
            elif event.kind == "suspect":
                metrics.failover_ms.labels("silent").observe(float(event.fields.get("silent_ms", "0")))

    machine.subscribe(applied)


def refresh_gauges(metrics: Metrics, machine: Machine, consensus: Consensus, book: LeaseBook, now_ms: float) -> None:
    """Bring the gauges up to date. What only the leader can know is 0 elsewhere."""
    state = machine.state
    counts = dict.fromkeys(NodeStatus, 0)
    for node in state.nodes.values():
        counts[node.status] += 1
    for status, n in counts.items():
        metrics.nodes.labels(status.name.lower()).set(n)
    for phase, n in state.phases().items():
        metrics.regions.labels(phase.name.lower()).set(n)
    over = sum(lane.over for lane in state.lanes.values())
    metrics.lanes.labels("over").set(over)
    metrics.lanes.labels("open").set(sum(len(state.open_lanes(node_id)) for node_id in state.nodes))
    metrics.procedures.labels("migration").set(len(state.migrations))
    metrics.procedures.labels("drain").set(len(state.drains))
    metrics.procedures.labels("drop").set(sum(table.dropping > 0 for table in state.tables.values()))
    metrics.pauses.set(len(state.pauses))
    metrics.lease_ms.set(state.config.lease_ms)
    leadership = consensus.leadership()
    metrics.leader.set(1 if leadership.is_leader else 0)
    metrics.term.set(leadership.term)
    metrics.revision.set(state.revision)
    views = book.inventory(state, now_ms) if leadership.is_leader else {}
    alive = [n.node_id for n in state.nodes.values() if n.status <= NodeStatus.SUSPECT]
    metrics.silent_ms.set(max((views[n].silent_ms for n in alive if n in views), default=0.0))
    metrics.unwell.set(sum(bool(view.why_unwell) for view in views.values()))
