"""pysyncobj's SyncObj, driven by hand: what it may do is Raft's log, terms and votes, and nothing else.

Replaced here: applying commands (no pickle, nothing poisons the log), taking and sending snapshots (snapshot.py,
transfer.py), and how much one turn applies. The private names used are listed and asserted in guard.py.
"""

from collections.abc import Callable
from typing import Any

from groundwork.core.check import require
from metasrv.adapters.raft import guard
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.journal import Journal
from metasrv.adapters.raft.library import SyncObj, SyncObjConf, Transport, named, now_s

FOLLOWER, LEADER = 0, 2
COMMAND = 0
# Called with index, term and command of each committed entry that is a command.
Apply = Callable[[int, int, bytes], None]


class _NoSnapshots:
    """In place of the library's serializer: it never takes, loads or sends one."""

    def cancelTransmisstion(self, peer: Any) -> None:
        """Nothing to cancel."""

    def getTransmissionData(self, peer: Any) -> None:
        """The core must not come here: before_append takes such peers away from it."""
        require(False, "the core wanted to send a snapshot of its own")


class _NoSockets:
    """In place of the library's poller: every socket is ours."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


class Core(SyncObj):  # type: ignore[misc]
    """One replica's Raft state. Single-threaded, synchronous; the journal must be synced before anything leaves."""

    _SyncObj__raftCommitIndex: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftState: int
    _SyncObj__raftElectionDeadline: float

    def __init__(self, config: RaftConfig, journal: Journal, transport: Transport, apply: Apply, applied: int) -> None:
        self._journal = journal
        self._apply_entry = apply
        self._apply_turn_max = config.limits.apply_turn_max
        self.before_append: Callable[[], None] = lambda: None
        super().__init__(
            named(config.node_id),
            [named(peer) for peer in config.others],
            SyncObjConf(
                autoTick=False,
                journalFile=journal,
                appendEntriesPeriod=config.append_period_ms / 1000,
                raftMinTimeout=config.election_ms_min / 1000,
                raftMaxTimeout=config.election_ms_max / 1000,
                leaderFallbackTimeout=config.election_ms_max / 1000,
                connectionTimeout=config.election_ms_max / 1000 + 1,
                # An entry as big as a batch would take the library's pickled way: none ever is.
                appendEntriesBatchSizeBytes=2 * config.limits.command_bytes_max,
                dynamicMembershipChange=False,
                pollerType="select",
                useFork=False,
            ),
            transport=transport,
        )
        guard.check_instance(self)
        self._SyncObj__serializer = _NoSnapshots()
        self._poller = _NoSockets()
        self._SyncObj__raftLastApplied = applied

    # ---------------------------------------------------------------- overridden

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        if command[0] == COMMAND:
            index = self.raftLastApplied + 1
            term = self._journal.term_of(index)
            require(term is not None, f"entry {index} is being applied and is not in the log")
            self._apply_entry(index, term or 0, command[1:])

    def _SyncObj__applyLogEntries(self) -> None:
        committed = self._SyncObj__raftCommitIndex
        self._SyncObj__raftCommitIndex = min(committed, self.raftLastApplied + self._apply_turn_max)
        super()._SyncObj__applyLogEntries()
        self._SyncObj__raftCommitIndex = committed

    def _SyncObj__sendAppendEntries(self) -> None:
        self.before_append()
        super()._SyncObj__sendAppendEntries()

    def _SyncObj__tryLogCompaction(self) -> None:
        """Compaction is ours (compaction.py)."""

    def _checkCommandsToApply(self) -> None:
        """The library's queue of commands stays empty: they come by append()."""

    # ---------------------------------------------------------------- what this package asks

    @property
    def leads(self) -> bool:
        """Whether this replica believes to be the leader; its no-op may not be applied yet."""
        return self._SyncObj__raftState == LEADER

    @property
    def leads_and_applied(self) -> bool:
        """Whether it leads and has applied the first entry of its own term."""
        return self.leads and self.raftLastApplied >= (self._SyncObj__noopIDx or 0)

    @property
    def waits_for_quorum(self) -> bool:
        """Whether it leads, and no quorum is known to hold the first entry of its own term."""
        return self.leads and self.raftCommitIndex < (self._SyncObj__noopIDx or 0)

    @property
    def leader_id(self) -> str | None:
        """The last known leader."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def term(self) -> int:
        """The current term."""
        return self._SyncObj__raftCurrentTerm

    @property
    def behind(self) -> bool:
        """Whether committed entries wait to be applied."""
        return bool(self._SyncObj__raftCommitIndex > self.raftLastApplied)

    @property
    def election_due(self) -> bool:
        """Whether the next tick would start an election."""
        return not self.leads and self._SyncObj__raftElectionDeadline < now_s()

    @property
    def asked_to_take_over(self) -> bool:
        """Whether the leader handed its leadership to this replica."""
        return bool(self._SyncObj__transferInProgress)

    def tick(self, may_elect: bool) -> None:
        """Let the core work. A deadline that passes between two looks at the clock begins no election by itself."""
        if self.leads or may_elect:
            self.doTick(0)
        elif self.behind:
            self._SyncObj__applyLogEntries()

    def postpone_election(self, for_s: float | None = None) -> None:
        """By `for_s`, or as if the leader had just been heard."""
        wait_s = self._SyncObj__generateRaftTimeout() if for_s is None else for_s
        self._SyncObj__raftElectionDeadline = now_s() + wait_s

    def start_election(self) -> None:
        """With the next tick."""
        self._SyncObj__raftElectionDeadline = 0.0

    def next_index(self, peer: str) -> int:
        """The index that a leader sends next to `peer`."""
        return int(self._SyncObj__raftNextIndex.get(named(peer), self._journal.last_index + 1))

    def match_index(self, peer: str) -> int:
        """Up to where the leader knows `peer` to hold its log."""
        return int(self._SyncObj__raftMatchIndex.get(named(peer), 0))

    def append(self, command: bytes) -> int:
        """Put a command into the leader's log; its index."""
        require(self.leads, "only a leader appends")
        index = self._journal.last_index + 1
        self._journal.add(bytes((COMMAND,)) + command, index, self.term)
        return index

    def send_entries(self) -> None:
        """Send what each peer has not been sent, or a heartbeat, now."""
        self._SyncObj__sendAppendEntries()

    def reply_reset(self, peer: str, next_index: int, holds: bool = False) -> None:
        """Tell the leader to go on at `next_index`; with `holds`, that everything below it is the leader's."""
        self._SyncObj__sendNextNodeIdx(named(peer), reset=True, nextNodeIdx=next_index, success=holds)

    def step_down(self) -> None:
        """Stop leading without a new term."""
        if self.leads:
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None
            self.postpone_election()

    def installed(self, index: int) -> None:
        """A snapshot up to `index` has been restored and the journal starts over behind it."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = index
