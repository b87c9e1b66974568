"""The state machine: one committed command in, one outcome out. Deterministic, total, pure.

Theory of operation. A command is decoded, looked up in the answers of past request ids, and given to its handler
(metasrv/core/apply/*). A handler judges all its preconditions first and only then writes, through a transaction that
keeps the indexes, the audit trail and the lists of what was touched. What does not hold is refused, with a reason for
people. Subscribers are called after the apply, on the loop, with the outcome; they must not raise and not propose.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from groundwork.core.errors import BadInput
from metasrv.core import apply, snapshots
from metasrv.core.commands import AnyCommand, decode
from metasrv.core.events import Event, Outcome, Subscriber
from metasrv.core.state import ANSWERS_MAX, Answer, State
from metasrv.core.transaction import Refused, Transaction

CHANGES_MAX = 4_096


class Machine:
    """Implements metasrv.core.ports.StateMachine. `state` is replaced by restore(): do not keep a reference to it."""

    def __init__(self) -> None:
        self.state = State()
        self._subscribers: list[Subscriber] = []
        self._recent: deque[Outcome] = deque(maxlen=CHANGES_MAX)

    def subscribe(self, callback: Subscriber) -> None:
        """Call back after every apply. After restore() it is called with an outcome of kind "restored"."""
        self._subscribers.append(callback)

    def apply(self, revision: int, command: bytes) -> Outcome:
        """Apply one committed command. Never raises on what the command says, but NewerFormat for one it cannot read.

        Nothing has changed then: this replica ends, and goes on from there once it runs that release.
        """
        try:
            decoded: AnyCommand = decode(command)
        except BadInput as error:
            self.state.revision = revision
            return self._publish(Outcome(revision, "garbage", refused=str(error)))
        self.state.revision = revision
        return self._publish(self._apply(revision, decoded))

    def _apply(self, revision: int, command: AnyCommand) -> Outcome:
        kind = type(command).__name__
        state = self.state
        known = state.answers.get(command.request_id) if command.request_id else None
        if known:
            return Outcome(revision, kind, value=known.value, duplicate=True)
        tx = Transaction(state, revision, command.wall_ms)
        try:
            value = apply.HANDLERS[type(command)](tx, command)
        except (Refused, BadInput) as refused:
            return Outcome(revision, kind, refused=str(refused), events=tx.told())  # a pause may have expired
        if command.request_id:
            while len(state.answers) >= ANSWERS_MAX:
                del state.answers[next(iter(state.answers))]
            state.answers[command.request_id] = Answer(revision, value)
        return tx.outcome(kind, value)

    def _publish(self, outcome: Outcome) -> Outcome:
        self._recent.append(outcome)
        for subscriber in self._subscribers:
            subscriber(outcome.revision, outcome)
        return outcome

    def changes_since(self, revision: int) -> list[Outcome] | None:
        """The outcomes after `revision`, in order, or None where some are forgotten: then start with a snapshot."""
        if revision == self.state.revision:
            return []
        if revision > self.state.revision or not self._recent or self._recent[0].revision > revision:
            return None
        return [o for o in self._recent if o.revision > revision]

    def events(self, from_revision: int = 0) -> list[Event]:
        """The audit trail from a revision on, oldest first."""
        return [e for e in self.state.audit if e.revision >= from_revision]

    def snapshot(self) -> Iterator[bytes]:
        """The state as of this call, in slices; applies may go on between two slices without showing in them."""
        return snapshots.encode(self.state)

    def restore(self, slices: Iterable[bytes]) -> None:
        """Replace the state by a snapshot's. Raises Damaged for one that is not ours, or of a newer format."""
        self.state = snapshots.decode(slices)
        self._recent.clear()
        self._publish(Outcome(self.state.revision, "restored"))
