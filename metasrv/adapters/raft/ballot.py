"""Asking before an election: no replica starts a new term unless a quorum would vote for it now.

So a replica that was cut off comes back without deposing anyone (its term did not grow), and a replica that hears a
live leader, or has only just started, helps nobody to depose that leader. Real votes are not refused for this reason:
a handed-over leadership and a replica whose term did grow must be able to get through.

A cluster without any history forms only when all of its replicas are there: see Ballot.needed().
"""

import structlog

from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.core import Core
from metasrv.adapters.raft.journal import Journal, Standing
from metasrv.adapters.raft.library import now_s
from protos.raft.v1 import raft_pb2 as pb

log = structlog.get_logger()
_TELL_AGAIN_S = 5.0


class Ballot:
    """The pre-vote of one replica: what it asks of others, and what it answers them."""

    def __init__(self, config: RaftConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._led_s: dict[str, float] = {}
        self._heard_s = now_s()  # having started counts as having heard: what was promised before is not known here
        self._asked_term = 0
        self._granted: set[str] = set()
        self._abstaining: set[str] = set()
        self._won_term = 0
        self._told_s = self._heard_s
        self.may_elect = False

    def needed(self) -> int:
        """How many of the other replicas must vote for this one.

        All of them while its log is empty, but for those that rejoin. So a replica that has never voted, and meets a
        history, has certainly lost its disk: had the cluster formed without it, that could not be told apart, and the
        first failure would either stop the cluster or let two empty disks begin another history.
        """
        majority = self._config.quorum - 1
        if self._journal.last_index > 1:
            return majority
        return max(majority, len(self._config.others) - len(self._abstaining))

    def heard_leader(self, peer: str) -> None:
        """The leader of the current term spoke. To be told before anything is answered to it."""
        self._heard_s = self._led_s[peer] = now_s()
        self._won_term = 0

    def led_ago_ms(self) -> dict[str, float]:
        """How long ago each peer was last heard as the leader, ms."""
        now = now_s()
        return {peer: (now - heard_s) * 1000 for peer, heard_s in self._led_s.items()}

    def before_tick(self, core: Core) -> pb.Message | None:
        """Decide `may_elect` for this turn; the question to send to every peer, if it is time to ask."""
        self.may_elect = False
        if not core.election_due:
            return None
        if self._journal.standing is Standing.REJOINING:
            core.postpone_election()
            return None
        if not self._config.others or core.asked_to_take_over or self._won_term == core.term + 1:
            self._won_term = 0
            self.may_elect = True
            return None
        core.postpone_election(self._config.append_period_ms / 1000)
        self._tell_who_is_missing(core)
        self._asked_term, self._granted = core.term + 1, set()
        last = self._journal.last_index
        return pb.Message(
            pre_vote=pb.PreVote(
                term=self._asked_term, last_log_index=last, last_log_term=self._journal.term_of(last) or 0
            )
        )

    def answer(self, core: Core, asked: pb.PreVote) -> pb.Message:
        """Whether this replica would vote for the asker now."""
        last = self._journal.last_index
        mine = (self._journal.term_of(last) or 0, last)
        granted = (
            asked.term > core.term
            and not core.leads
            and (asked.last_log_term, asked.last_log_index) >= mine
            and now_s() - self._heard_s >= self._config.election_ms_min / 1000
            and may_vote(self._journal.standing, asked.last_log_index)
        )
        return pb.Message(
            pre_vote_reply=pb.PreVoteReply(
                asked_term=asked.term,
                term=core.term,
                granted=granted,
                abstains=self._journal.standing is Standing.REJOINING,
            )
        )

    def answered(self, core: Core, peer: str, reply: pb.PreVoteReply) -> None:
        """Count one answer; enough grants start the election."""
        (self._abstaining.add if reply.abstains else self._abstaining.discard)(peer)
        if reply.asked_term != self._asked_term or self._asked_term != core.term + 1:
            return
        if reply.granted:
            self._granted.add(peer)
        if len(self._granted) >= self.needed() and not core.leads:
            self._won_term = self._asked_term
            core.start_election()

    def _tell_who_is_missing(self, core: Core) -> None:
        missing = [peer for peer in self._config.others if peer not in self._granted | self._abstaining]
        again = self._asked_term == core.term + 1
        if again and missing and self._journal.last_index <= 1 and now_s() - self._told_s >= _TELL_AGAIN_S:
            self._told_s = now_s()
            log.info("new_cluster_waits_for_all_replicas", missing=missing)


def may_vote(standing: Standing, last_log_index: int) -> bool:
    """Whether a vote may go to a candidate: a blank replica votes only among others as blank as itself."""
    return standing is Standing.JOINED or (standing is Standing.BLANK and last_log_index <= 1)
