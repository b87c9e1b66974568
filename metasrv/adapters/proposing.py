"""Commands on their way into the log: encoded, timed, counted, and their refusals turned into typed errors."""

import structlog

from groundwork.core.errors import Refused, Unknown
from groundwork.core.ports import Clock
from metasrv.adapters.metrics import Metrics
from metasrv.core.commands import AnyCommand, encode
from metasrv.core.events import Outcome
from metasrv.core.ports import Consensus

log = structlog.get_logger()
PROPOSE_DEADLINE_MS = 5_000


class Proposer:
    """The one way by which anything in this program changes the replicated state."""

    def __init__(self, consensus: Consensus, clock: Clock, metrics: Metrics) -> None:
        self.consensus = consensus
        self.clock = clock
        self._metrics = metrics

    async def propose(self, command: AnyCommand, deadline_ms: float = PROPOSE_DEADLINE_MS) -> Outcome:
        """The outcome, refused or not. Raises NotLeader, Unknown, BadInput (too large)."""
        began_ms = self.clock.now_ms()
        with self._metrics.in_flight.track_inprogress():
            applied = await self.consensus.propose(encode(command), deadline_ms)
        self._metrics.propose_ms.observe(self.clock.now_ms() - began_ms)
        outcome = applied.outcome
        if not isinstance(outcome, Outcome):
            raise Unknown(
                f"the state machine answered {type(outcome).__name__}: this replica restored a snapshot since"
            )
        if outcome.refused:
            self._metrics.command_refusals.labels(type(command).__name__).inc()
            log.info("command_refused", kind=outcome.kind, reason=outcome.refused, revision=outcome.revision)
        return outcome

    async def commit(self, command: AnyCommand, deadline_ms: float = PROPOSE_DEADLINE_MS) -> Outcome:
        """As propose, but a refusal raises Refused("conflict")."""
        outcome = await self.propose(command, deadline_ms)
        if outcome.refused:
            raise Refused("conflict", outcome.refused)
        return outcome
