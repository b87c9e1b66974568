"""What stands between the core and its peers: every cure that is a matter of messages. One rule, one comment.

The core sees the library's Transport. Outgoing messages wait in `out` until the journal is synced; incoming ones are
checked, corrected or dropped before the core acts on them. docs/consensus.md lists the rules with what they prevent.
"""

from collections.abc import Callable

from groundwork.core.check import require
from metasrv.adapters.raft import codec
from metasrv.adapters.raft.ballot import Ballot, may_vote
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.core import Core
from metasrv.adapters.raft.journal import Journal, Standing
from metasrv.adapters.raft.library import Peer, Transport, named
from protos.raft.v1 import raft_pb2 as pb

Handler = Callable[[str, pb.Message], None]


class Filters(Transport):  # type: ignore[misc]
    """The core's transport. `extra` handles the messages that are not the core's (replica.py)."""

    def __init__(self, config: RaftConfig, journal: Journal, ballot: Ballot) -> None:
        super().__init__(None, None, [])
        self._config = config
        self._journal = journal
        self._ballot = ballot
        self.core: Core
        self.out: list[tuple[str, pb.Message]] = []
        self.linked: set[str] = set()
        self.away: set[str] = set()
        self.backlog: Callable[[str], int] = lambda peer: 0
        self._throttled: set[str] = set()
        self._turn_bytes: dict[str, int] = {}
        self.after_next_index: Callable[[str], None] = lambda peer: None
        self.rejoin_point: tuple[int, int] | None = None
        self.sequence = 0
        self._answering = 0
        self._fence: dict[str, int] = {}
        self._voters: set[tuple[int, str]] = set()
        self._conflict: int | None = None

    # ---------------------------------------------------------------- links

    def link(self, peer: str) -> None:
        """A stream to `peer` is up."""
        self.linked.add(peer)
        self.show(peer)

    def unlink(self, peer: str) -> None:
        """It broke: whatever was not sent is dropped with it."""
        self.linked.discard(peer)
        self.away.discard(peer)
        self._throttled.discard(peer)
        self.out = [(to, message) for to, message in self.out if to != peer]
        self._onNodeDisconnected(named(peer))

    def hide(self, peer: str) -> None:
        """The core must not send entries to `peer` while it receives a snapshot."""
        self.away.add(peer)
        self._onNodeDisconnected(named(peer))

    def show(self, peer: str) -> None:
        """The core may send entries to `peer` (again)."""
        self.away.discard(peer)
        if peer in self.linked and peer not in self._throttled:
            self._onNodeConnected(named(peer))

    def begin_turn(self) -> bool:
        """Let the core send again to peers that have taken what they were sent; whether there were any."""
        self._turn_bytes.clear()
        if not self._throttled:
            return False
        window = self._config.limits.peer_window_bytes
        ready = [peer for peer in sorted(self._throttled) if self.backlog(peer) <= window // 2]
        for peer in ready:
            self._throttled.discard(peer)
            if peer not in self.away:
                self.show(peer)
        return bool(ready)

    def _throttle(self, peer: str, size_bytes: int) -> None:
        # The core would send a whole journal at once. It stops at a peer that is not connected (any more).
        self._turn_bytes[peer] = self._turn_bytes.get(peer, 0) + size_bytes
        if self._turn_bytes[peer] + self.backlog(peer) > self._config.limits.peer_window_bytes:
            self._throttled.add(peer)
            self._onNodeDisconnected(named(peer))

    def standing(self) -> dict[str, str]:
        """What a leader knows of each follower, for its log."""
        told = {}
        for peer in self._config.others:
            how = (
                "receives a snapshot" if peer in self.away else "is held back" if peer in self._throttled else "linked"
            )
            place = f"holds {self.core.match_index(peer)}, next {self.core.next_index(peer)}"
            told[peer] = f"{how if peer in self.linked else 'no stream'}; {place}"
        return told

    # ---------------------------------------------------------------- out

    def send(self, node: Peer, message: codec.Message) -> bool:
        """Queue one of the core's messages until the journal is synced."""
        if node.id not in self.linked:
            return False
        kind = message["type"]
        if kind == "append_entries":
            message = {**message, "sequence": self.next_sequence()}
        elif kind == "next_node_idx":
            message = self._outgoing_next_index(message)
        elif kind in ("request_vote", "response_vote"):
            self._voted()
        encoded = codec.encode(message)
        self.out.append((node.id, encoded))
        if kind == "append_entries":
            self._throttle(node.id, encoded.ByteSize())
        return True

    def post(self, peer: str, message: pb.Message) -> None:
        """Queue one message that is not the core's."""
        if peer in self.linked:
            self.out.append((peer, message))

    def next_sequence(self) -> int:
        """Number what this replica sends to followers: their answers name it."""
        self.sequence += 1
        return self.sequence

    def _outgoing_next_index(self, message: codec.Message) -> codec.Message:
        # A reply names the term it was made in, so that a later leadership never takes it for its own (E3).
        message = {**message, "term": self.core.term, "sequence": self._answering}
        if message["reset"] and not message["success"] and self._conflict is not None:
            # Step back over a whole conflicting term at once, not over one entry a round trip.
            message["next_node_idx"] = min(message["next_node_idx"], self._conflict)
        if message["success"] and self._journal.standing is not Standing.JOINED:
            message["success"] = self._caught_up(message["next_node_idx"] - 1)
        return message

    def _caught_up(self, index: int) -> bool:
        """Whether a rejoining replica holds everything it may ever have promised; from then on it counts again."""
        if self.rejoin_point is None or self.rejoin_point[0] != self.core.term or index < self.rejoin_point[1]:
            return False
        self._journal.set_standing(Standing.JOINED)
        self.rejoin_point = None
        return True

    def _voted(self) -> None:
        standing = self._journal.standing
        require(standing is not Standing.REJOINING, "a replica that rejoins took part in an election")
        if standing is Standing.BLANK:
            self._journal.set_standing(Standing.JOINED)

    # ---------------------------------------------------------------- in

    def receive(self, peer: str, message: pb.Message) -> None:
        """Handle one message for the core. Raises BadInput for one that no replica of ours sends."""
        decoded = codec.decode(message)
        kind, term = decoded["type"], decoded["term"]
        if kind == "append_entries":
            self._append_entries(peer, decoded)
        elif kind == "request_vote":
            self._request_vote(peer, decoded)
        elif term > self.core.term:
            self.adopt(peer, term)
        elif term < self.core.term:
            return  # an answer to an older leadership or candidacy proves nothing now (E3)
        elif kind == "next_node_idx":
            self._next_index(peer, decoded)
        elif kind == "response_vote":
            self._vote(peer, decoded)
        elif self._journal.standing is Standing.JOINED:
            self.deliver(peer, decoded)  # timeout_now; the core checks that its leader sent it

    def deliver(self, peer: str, message: codec.Message) -> None:
        """Hand a message to the core. Only a conflict inside this very message truncates the log (E2)."""
        self._onMessageReceived(named(peer), message)
        self._journal.settle()

    def adopt(self, peer: str, term: int) -> None:
        """Take over a newer term and stop leading: a vote request that cannot win does just this in the core."""
        self.deliver(peer, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1})

    def from_leader(self, peer: str, term: int, sequence: int) -> bool:
        """Whether to listen to a leader's message; the sender of an older term is told of the newer one."""
        if term < self.core.term:
            self.post(peer, pb.Message(term_ahead=pb.TermAhead(term=self.core.term)))
            return False
        require(not (self.core.leads and term == self.core.term), f"{peer} and this replica both lead term {term}")
        self._answering = sequence
        self._ballot.heard_leader(peer)
        if self._journal.standing is Standing.BLANK:
            # There is a history and this disk is empty: whatever it promised before may be lost with it.
            self._journal.set_standing(Standing.REJOINING)
        return True

    def alive(self, peer: str) -> None:
        """A follower that receives a snapshot answered: a leader with such followers has a quorum, too."""
        self.deliver(peer, {"type": "next_node_idx", "reset": False, "success": False, "next_node_idx": 0})

    def heartbeat(self, peer: str, term: int) -> None:
        """A leader's message without entries: term and election time-out, never a commit (E1)."""
        self.deliver(
            peer,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": self.core.raftCommitIndex,
                "serialized": None,
            },
        )

    def _append_entries(self, peer: str, message: codec.Message) -> None:
        if not self.from_leader(peer, message["term"], message["sequence"]):
            return
        before = message["prevLogIdx"]
        # Commit no further than what this message proves to be the leader's log (Raft 5.3; E1).
        message["commit_index"] = min(message["commit_index"], before + len(message["entries"]))
        here = self._journal.term_of(before)
        self._conflict = None
        if here is not None and here != message["prevLogTerm"]:
            require(before > self._journal.commit_index, f"{peer} contradicts the committed entry {before}")
            self._conflict = self._journal.first_of_term(before)
        self.deliver(peer, message)
        self._conflict = None
        known = self.rejoin_point is not None and self.rejoin_point[0] == self.core.term
        if self._journal.standing is Standing.REJOINING and not known:
            self.post(peer, pb.Message(rejoin_request=pb.RejoinRequest(term=self.core.term)))

    def _request_vote(self, peer: str, message: codec.Message) -> None:
        if not may_vote(self._journal.standing, message["last_log_index"]):
            return
        if message["term"] < self.core.term:
            self.post(peer, pb.Message(term_ahead=pb.TermAhead(term=self.core.term)))
            return
        self.deliver(peer, message)

    def _vote(self, peer: str, message: codec.Message) -> None:
        vote = (message["term"], peer)
        if vote in self._voters:
            return  # the core counts votes, not voters
        self._voters = {other for other in self._voters if other[0] == vote[0]} | {vote}
        # The core leads with a majority. Where more are needed, the first votes wait here for the last.
        if len(self._voters) == self._ballot.needed():
            for _, voter in sorted(self._voters):
                self.deliver(voter, message)

    def _next_index(self, peer: str, message: codec.Message) -> None:
        if not self.core.leads:
            return
        if not message["reset"] and not message["success"]:
            return  # it rejoins: what does not count for a commit does not keep a leader leading either
        if message["reset"]:
            # A reset that answers something sent before the last reset was acted upon is stale: acting on it again
            # would send everything twice, and for ever when there is much to send (E2, E15).
            if message["sequence"] <= self._fence.get(peer, 0):
                return
            self._fence[peer] = self.sequence
            message["next_node_idx"] = min(message["next_node_idx"], self._journal.last_index + 1)
        if message["success"]:
            held = message["next_node_idx"] - 1
            require(held <= self._journal.last_index, f"{peer} acknowledges {held}, which this leader never sent")
        self.deliver(peer, message)
        self.after_next_index(peer)
