"""The consensus port as a single replica in memory: always the leader, unless a test says otherwise."""

import asyncio
from collections.abc import Callable

from groundwork.core.errors import BadInput, NotLeader, Unknown
from metasrv.core.ports import Applied, Leadership, StateMachine


class SoloConsensus:
    """Applies what is proposed at once, in the order of the calls. Nothing survives it but what `machine` holds.

    `first_revision` is where its log begins. A real home counts its own entries too, so revisions may have gaps.
    """

    def __init__(
        self,
        machine: StateMachine,
        node_id: str = "metasrv-1",
        *,
        command_bytes_max: int = 4 << 20,
        first_revision: int = 2,
    ) -> None:
        self.node_id = node_id
        self._machine = machine
        self._command_bytes_max = command_bytes_max
        self._revision = first_revision - 1
        self._leadership = Leadership(0, None, False)
        self._started = False
        self._unknown_next = 0
        self._callbacks: list[Callable[[Leadership], None]] = []

    async def start(self) -> None:
        """Become the leader of term 1 (unless set_leader(False) was called before)."""
        self._started = True
        if self._leadership.term == 0:
            self.set_leader(True)

    async def stop(self) -> None:
        """Stop leading."""
        if self._leadership.is_leader:
            self.set_leader(False)
        self._started = False

    async def propose(self, command: bytes, deadline_ms: float = 5_000) -> Applied:
        """Apply one command. Raises NotLeader while set_leader(False), BadInput when it is too large."""
        if len(command) > self._command_bytes_max:
            raise BadInput("command", f"{len(command)} bytes; at most {self._command_bytes_max} are allowed")
        self._require_leader()
        self._revision += 1
        revision = self._revision
        outcome = self._machine.apply(revision, command)
        await asyncio.sleep(0)  # a real home answers on a later turn of the loop: callers must not rely on less
        if self._unknown_next:
            self._unknown_next -= 1
            raise Unknown("the command may or may not have been committed (asked for by the test)")
        return Applied(revision, outcome)

    def leadership(self) -> Leadership:
        """Who leads."""
        return self._leadership

    async def confirm(self) -> int:
        """The term. Raises NotLeader while set_leader(False), also when that comes while it waits."""
        self._require_leader()
        await asyncio.sleep(0)
        self._require_leader()
        return self._leadership.term

    def led_ago_ms(self) -> dict[str, float]:
        """There is no other replica."""
        return {}

    async def transfer(self, to: str) -> None:
        """There is no other replica: BadInput for any other than this one."""
        self._require_leader()
        if to != self.node_id:
            raise BadInput("to", f"{to!r} is not a replica; replicas: {self.node_id}")

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """Call back at every change of leadership()."""
        self._callbacks.append(callback)

    def set_leader(self, leads: bool, leader_id: str | None = None) -> None:
        """Test control: win a new term, or lose leadership to `leader_id` (in a new term where one is named)."""
        term = self._leadership.term + (1 if leads or leader_id is not None else 0)
        self._leadership = Leadership(term, self.node_id if leads else leader_id, leads)
        for callback in self._callbacks:
            callback(self._leadership)

    def answer_unknown(self, times: int = 1) -> None:
        """Test control: the next proposals are applied, but their callers are told Unknown."""
        self._unknown_next = times

    @property
    def revision(self) -> int:
        """The revision of the last applied command."""
        return self._revision

    def _require_leader(self) -> None:
        if not (self._started and self._leadership.is_leader):
            raise NotLeader(self._leadership.leader_id)
