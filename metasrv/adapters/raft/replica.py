"""One replica without a network or an event loop: messages and proposals in, turns of the crank, messages out.

A turn has two halves. begin() lets the core work and releases entries for followers, which may leave before this
replica's own sync, because no acknowledgement of them is looked at before finish() has synced. finish() syncs the
journal and releases everything else: nothing leaves before what it promises is on disk.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from groundwork.core.errors import BadInput, MetasrvError, NotLeader, Unknown
from metasrv.adapters.raft.ballot import Ballot
from metasrv.adapters.raft.compaction import Compaction
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.confirm import Rounds
from metasrv.adapters.raft.core import Core
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.filters import Filters
from metasrv.adapters.raft.journal import DiskFull, Standing
from metasrv.adapters.raft.library import now_s
from metasrv.adapters.raft.metrics import RaftMetrics
from metasrv.adapters.raft.snapshot import SnapshotInfo, slices
from metasrv.adapters.raft.storage import open_storage
from metasrv.adapters.raft.transfer import Receiver, Sender
from metasrv.core.ports import Applied, Leadership, StateMachine
from protos.raft.v1 import raft_pb2 as pb

log = structlog.get_logger()
Answer = Callable[[Applied | MetasrvError], None]
Send = Callable[[str, list[pb.Message]], None]
_FULL_RETRY_S = 0.25
_TELL_AGAIN_S = 5.0


class _Waiting(NamedTuple):
    term: int
    answer: Answer
    since_s: float


class Replica:
    """Drives one Core. `send(peer, messages)` must keep order and may drop; it is called from within a turn only."""

    def __init__(
        self,
        config: RaftConfig,
        machine: StateMachine,
        send: Send,
        metrics: RaftMetrics,
        disk: Disk | None = None,
        backlog: Callable[[str], int] = lambda peer: 0,
    ) -> None:
        self.config = config.check()
        self._machine, self._send, self._metrics = machine, send, metrics
        disk = disk or Disk()
        self._storage = open_storage(config, disk)
        self.journal = self._storage.journal
        snapshot = self._storage.snapshot
        if snapshot is not None:
            machine.restore(slices(self._storage.snapshot_path))
        self._ballot = Ballot(config, self.journal)
        self._filters = Filters(config, self.journal, self._ballot)
        self.core = Core(config, self.journal, self._filters, self._apply, snapshot.index if snapshot else 1)
        self._filters.core = self.core
        self._filters.backlog = backlog
        self._filters.after_next_index = self._after_next_index
        self.core.before_append = self._divert
        path = self._storage.snapshot_path
        self._sender = Sender(config, self.core, self._filters, path, disk)
        self._receiver = Receiver(config, self.core, self._filters, self.journal, path, disk, self._install)
        self._compaction = Compaction(config, self.core, self.journal, machine, path, disk, snapshot)
        others = config.others
        self._confirms = Rounds(others, config.quorum - 1, 0, len(others) + 1)
        self._rejoins = {
            peer: Rounds(tuple(set(others) - {peer}), len(others) - 1, channel, len(others) + 1)
            for channel, peer in enumerate(others, start=1)
        }
        self._rounds = (self._confirms, *self._rejoins.values())
        self._inbox: deque[tuple[str, pb.Message]] = deque()
        self._pending: deque[tuple[bytes, Answer]] = deque()
        self._waiting: dict[int, _Waiting] = {}
        self._sent = (0, 0)
        self._full_until_s: float | None = None
        self._seen = (0, False)
        self._gauged = (0, 0)
        self._served_s = now_s()
        self.paused = False

    # ---------------------------------------------------------------- what happens to a replica

    def link(self, peer: str) -> None:
        """A stream to `peer` is up."""
        if peer in self._filters.linked:
            self.unlink(peer)
        self._filters.link(peer)

    def unlink(self, peer: str) -> None:
        """The stream to `peer` broke."""
        self._sender.end(peer)
        self._filters.unlink(peer)

    def receive(self, peer: str, messages: Sequence[pb.Message]) -> None:
        """Messages from `peer`, in order; handled in the next turn."""
        self._inbox.extend((peer, message) for message in messages)

    def propose(self, command: bytes, answer: Answer) -> None:
        """Commit a command. `answer` gets Applied, NotLeader (certainly not applied) or Unknown, once."""
        limit = self.config.limits.command_bytes_max
        if len(command) > limit:
            answer(BadInput("command", f"{len(command)} bytes; at most {limit} are allowed"))
        elif not self.leadership().is_leader:
            answer(NotLeader(self.core.leader_id))
        else:
            self._pending.append((command, answer))

    def led_ago_ms(self) -> dict[str, float]:
        """How long ago each peer was last heard as the leader."""
        return self._ballot.led_ago_ms()

    def confirm(self, answer: Callable[[bool], None]) -> None:
        """Call back with True when a quorum answered a round that began after this call, else with False."""
        if not self.leadership().is_leader:
            answer(False)
        else:
            self._confirms.ask(answer)

    def leadership(self) -> Leadership:
        """Who leads, as known here."""
        return Leadership(self.core.term, self.core.leader_id, self.core.leads_and_applied and not self._full)

    def best_follower(self) -> str | None:
        """Who could take over soonest, of those with a stream."""
        candidates = sorted(self._filters.linked - self._filters.away, key=self.core.match_index)
        return candidates[-1] if candidates else None

    def hand_over(self, to: str) -> bool:
        """Ask a follower that has everything to take over; False where it has not, yet. Messages leave in the turn."""
        if self.core.match_index(to) != self.journal.last_index or self._waiting:
            return False
        self._filters.post(to, pb.Message(timeout_now=pb.TimeoutNow(term=self.core.term)))
        return True

    def close(self) -> None:
        """Let go of the files. What was not answered is unknown."""
        self._fail()
        self._sender.end_all()
        self._receiver.close()
        self._compaction.abort()
        self._storage.close()

    # ---------------------------------------------------------------- turns

    def turn(self) -> None:
        """Both halves at once. Raises OSError or InvariantViolated, either of which must end the process."""
        self.begin()
        self.finish()

    def begin(self) -> bool:
        """Let the core work; whether entries were released, so that finish() is better called a moment later."""
        if self._full and not self._retry():
            return False
        while self._inbox:
            peer, message = self._inbox.popleft()
            try:
                self._handle(peer, message)
            except BadInput as error:
                log.warning("raft_message_refused", peer=peer, reason=str(error))
        more = self._filters.begin_turn()
        question = self._ballot.before_tick(self.core)
        if question is not None:
            for peer in self.config.others:
                self._filters.post(peer, question)
        before = self.core.term
        self.core.tick(self._ballot.may_elect)
        if self.core.term > before:
            self._metrics.elections.inc()
        self._accept()
        known = (self.journal.last_index, self.core.raftCommitIndex)
        if self.core.leads and (more or known != self._sent):
            self._sent = known  # a follower serves reads, too: it hears of a commit at once, not with a heartbeat
            self.core.send_entries()
        self._ask_rounds()
        return self._release(early=True)

    def finish(self) -> None:
        """Sync, release the rest, and do a slice of background work."""
        if self._full:
            return
        try:
            if self.journal.dirty:
                began = now_s()
                self.journal.sync()
                self._metrics.sync_s.observe(now_s() - began)
            if self.core.leads:
                self._sender.pump()
            self._release(early=False)
            self._compaction.step(self._sender.lowest_index)
        except DiskFull as error:
            self._on_full(error)
        if not self.core.leads:
            self._fail()
        self._observe()

    @property
    def busy(self) -> bool:
        """Whether another turn is wanted at once."""
        return not self._full and bool(self._inbox or self.core.behind or self._compaction.running)

    @property
    def idle(self) -> bool:
        """Whether a turn now would do nothing: it follows, and has nothing to say, to write or to wait for."""
        moved = self.core.leads or self.core.election_due or self.busy or self._pending or self._filters.out
        return not moved and not self._full and not self.journal.dirty and self._compaction.idle

    def _handle(self, peer: str, message: pb.Message) -> None:
        kind = message.WhichOneof("kind")
        if kind == "pre_vote":
            self._filters.post(peer, self._ballot.answer(self.core, message.pre_vote))
        elif kind == "pre_vote_reply":
            if message.pre_vote_reply.term > self.core.term:
                self._filters.adopt(peer, message.pre_vote_reply.term)
            self._ballot.answered(self.core, peer, message.pre_vote_reply)
        elif kind == "term_ahead":
            if message.term_ahead.term > self.core.term:
                self._filters.adopt(peer, message.term_ahead.term)
        elif kind == "confirm_request":
            self._on_confirm(peer, message.confirm_request)
        elif kind == "confirm_reply":
            if message.confirm_reply.term == self.core.term and self.core.leads:
                for rounds in self._rounds:
                    rounds.answered(peer, message.confirm_reply.round)
        elif kind == "snapshot_chunk":
            self._receiver.receive(peer, message.snapshot_chunk)
        elif kind == "snapshot_ack":
            if message.snapshot_ack.term == self.core.term and self.core.leads:
                self._filters.alive(peer)
                self._sender.acknowledged(peer, message.snapshot_ack)
        elif kind == "rejoin_request":
            self._on_rejoin(peer, message.rejoin_request)
        elif kind == "rejoin_point":
            if message.rejoin_point.term == self.core.term and self.journal.standing is Standing.REJOINING:
                self._filters.rejoin_point = (message.rejoin_point.term, message.rejoin_point.index)
        elif kind != "hello":
            self._filters.receive(peer, message)

    def _on_confirm(self, peer: str, request: pb.ConfirmRequest) -> None:
        if request.term < self.core.term:
            self._filters.post(peer, pb.Message(term_ahead=pb.TermAhead(term=self.core.term)))
        elif request.term == self.core.term and not self.core.leads and self.journal.standing is Standing.JOINED:
            self._ballot.heard_leader(peer)  # before the answer: a later leader bounds by it what this one granted
            reply = pb.ConfirmReply(term=request.term, round=request.round)
            self._filters.post(peer, pb.Message(confirm_reply=reply))

    def _on_rejoin(self, peer: str, request: pb.RejoinRequest) -> None:
        rounds = self._rejoins.get(peer)
        if rounds is None or request.term != self.core.term or not self.core.leads_and_applied or not rounds.idle:
            return

        def answer(confirmed: bool) -> None:
            if confirmed:
                point = pb.RejoinPoint(term=self.core.term, index=self.journal.last_index)
                self._filters.post(peer, pb.Message(rejoin_point=point))

        rounds.ask(answer)

    def _accept(self) -> None:
        if self._pending and not self.core.leads:
            while self._pending:
                self._pending.popleft()[1](NotLeader(self.core.leader_id))
        if self.paused or not self._pending:
            return
        room = self.config.limits.in_flight_max - len(self._waiting)
        now = now_s()
        while self._pending and room > 0:
            command, answer = self._pending.popleft()
            self._waiting[self.core.append(command)] = _Waiting(self.core.term, answer, now)
            room -= 1

    def _ask_rounds(self) -> None:
        if not self.core.leads:
            return
        again_s = self.config.append_period_ms / 1000
        for rounds in self._rounds:
            if rounds.idle:
                continue
            number = rounds.to_send(now_s(), again_s)
            if number is not None:
                request = pb.ConfirmRequest(term=self.core.term, round=number)
                for peer in self.config.others:
                    self._filters.post(peer, pb.Message(confirm_request=request))

    def _release(self, early: bool) -> bool:
        if not self._filters.out:
            return False
        grouped: dict[str, list[pb.Message]] = {}
        kept: list[tuple[str, pb.Message]] = []
        for peer, message in self._filters.out:
            if early and message.WhichOneof("kind") != "append_entries":
                kept.append((peer, message))
            else:
                grouped.setdefault(peer, []).append(message)
        self._filters.out = kept
        for peer, messages in grouped.items():
            self._send(peer, messages)
        return bool(grouped)

    # ---------------------------------------------------------------- what the core calls

    def _apply(self, index: int, term: int, command: bytes) -> None:
        outcome = self._machine.apply(index, command)
        waiting = self._waiting.pop(index, None)
        if waiting is None:
            return
        if waiting.term == term:
            self._metrics.commit_s.observe(now_s() - waiting.since_s)
            waiting.answer(Applied(index, outcome))
        else:
            waiting.answer(NotLeader(self.core.leader_id))  # another leader's entry took its place for good

    def _divert(self) -> None:
        info = self._compaction.snapshot
        for peer in sorted(self._filters.linked - self._filters.away):
            if info is not None and self.core.next_index(peer) <= self.journal.first_index:
                self._sender.begin(peer, info)

    def _after_next_index(self, peer: str) -> None:
        # Where the journal was cut beyond the snapshot under way, the next send begins again with the newer one.
        served = self.core.next_index(peer) > self.journal.first_index
        if peer in self._filters.away and (served or self._sender.index_for(peer) < self.journal.first_index):
            self._sender.end(peer)

    def _install(self, info: SnapshotInfo) -> None:
        self._machine.restore(slices(self._storage.snapshot_path))
        self.journal.reset(info.index, info.term)
        self.core.installed(info.index)
        self._compaction.installed(info)
        self._fail()
        log.info("snapshot_installed", index=info.index, size_bytes=info.size_bytes)

    # ---------------------------------------------------------------- endings

    def _fail(self) -> None:
        """Leadership is over: what is in the log may or may not be committed by another leader."""
        self._sender.end_all()
        for rounds in self._rounds:
            rounds.fail()
        waiting, self._waiting = list(self._waiting.values()), {}
        for entry in waiting:
            entry.answer(Unknown("leadership was lost before a quorum answered: the command may still be committed"))
        while self._pending:
            self._pending.popleft()[1](NotLeader(self.core.leader_id))

    @property
    def _full(self) -> bool:
        return self._full_until_s is not None

    def _on_full(self, error: DiskFull) -> None:
        """No space: stop leading, promise nothing, hear nothing, until a sync succeeds again."""
        if self._full_until_s is None:
            log.warning("disk_full", reason=str(error), path=str(self.config.data_dir), effect="stopped leading")
            self._metrics.disk_full.set(1)
        self._full_until_s = now_s() + _FULL_RETRY_S
        self._filters.out.clear()
        self._inbox.clear()
        self.core.step_down()
        self._fail()

    def _retry(self) -> bool:
        self._inbox.clear()
        if now_s() < (self._full_until_s or 0):
            return False
        try:
            self.journal.sync()
        except DiskFull as error:
            self._on_full(error)
            return False
        log.info("disk_has_space_again", path=str(self.config.data_dir))
        self._metrics.disk_full.set(0)
        self._full_until_s = None
        return True

    def _observe(self) -> None:
        seen = (self.core.term, self.core.leads)
        if seen != self._seen:
            self._seen = seen
            self._metrics.term.set(seen[0])
            self._metrics.leads.set(seen[1])
            self._served_s = now_s()
        if self.core.waits_for_quorum and now_s() - self._served_s > _TELL_AGAIN_S:
            self._served_s = now_s()
            log.warning("leader_waits_for_quorum", term=self.core.term, followers=self._filters.standing())
        gauged = (self.core.raftLastApplied, self.journal.size_bytes)
        if gauged != self._gauged:
            self._gauged = gauged
            self._metrics.applied.set(gauged[0])
            self._metrics.journal_bytes.set(gauged[1])
