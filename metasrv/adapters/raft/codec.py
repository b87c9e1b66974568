"""Between the core's message dictionaries and raft.v1: a schema'd codec, so that nothing foreign is ever executed.

Only the five kinds that Raft itself needs exist here. Forwarded commands, the library's administration messages and
its way of sending oversized entries have no encoding: they cannot arrive, and an attempt to send one is a defect.
"""

from typing import Any

from groundwork.core.check import require
from groundwork.core.errors import BadInput, ForeignCluster
from protos.raft.v1 import raft_pb2 as pb

FORMAT = 1
_KINDS = (0, 1)  # a command, a no-op: all that an entry may be

Message = dict[str, Any]


def encode(message: Message) -> pb.Message:
    """One message of the core. Raises InvariantViolated for a kind that must not leave a replica."""
    kind = message["type"]
    if kind == "append_entries":
        return _append_entries(message)
    if kind == "next_node_idx":
        return pb.Message(
            next_index=pb.NextIndex(
                term=message["term"],
                next_index=message["next_node_idx"],
                reset=message["reset"],
                success=message["success"],
                sequence=message["sequence"],
            )
        )
    if kind == "request_vote":
        return pb.Message(
            request_vote=pb.RequestVote(
                term=message["term"],
                last_log_index=message["last_log_index"],
                last_log_term=message["last_log_term"],
            )
        )
    if kind == "response_vote":
        return pb.Message(response_vote=pb.ResponseVote(term=message["term"]))
    require(kind == "timeout_now", f"a message of kind {kind!r} must not leave a replica")
    return pb.Message(timeout_now=pb.TimeoutNow(term=message["term"]))


def _append_entries(message: Message) -> pb.Message:
    require("entries" in message and message["prevLogIdx"] is not None, "append_entries without a place in the log")
    return pb.Message(
        append_entries=pb.AppendEntries(
            term=message["term"],
            commit_index=message["commit_index"],
            prev_log_index=message["prevLogIdx"],
            prev_log_term=message["prevLogTerm"],
            entries=[pb.Entry(payload=payload, index=index, term=term) for payload, index, term in message["entries"]],
            sequence=message["sequence"],
        )
    )


def decode(message: pb.Message) -> Message:
    """The core's dictionary for one of its five kinds. Raises BadInput for bytes that no replica of ours sends."""
    kind = message.WhichOneof("kind")
    if kind == "append_entries":
        return _decode_append(message.append_entries)
    if kind == "next_index":
        reply = message.next_index
        return {
            "type": "next_node_idx",
            "term": reply.term,
            "next_node_idx": reply.next_index,
            "reset": reply.reset,
            "success": reply.success,
            "sequence": reply.sequence,
        }
    if kind == "request_vote":
        vote = message.request_vote
        return {
            "type": "request_vote",
            "term": vote.term,
            "last_log_index": vote.last_log_index,
            "last_log_term": vote.last_log_term,
        }
    if kind == "response_vote":
        return {"type": "response_vote", "term": message.response_vote.term}
    if kind == "timeout_now":
        return {"type": "timeout_now", "term": message.timeout_now.term}
    raise BadInput("message", f"{kind!r} is not for the core")


def _decode_append(append: pb.AppendEntries) -> Message:
    entries = [(entry.payload, entry.index, entry.term) for entry in append.entries]
    expected = append.prev_log_index
    for payload, index, term in entries:
        expected += 1
        if index != expected or not payload or payload[0] not in _KINDS or term > append.term:
            raise BadInput("entries", f"entry {index} of term {term} cannot follow index {expected - 1}")
    return {
        "type": "append_entries",
        "term": append.term,
        "commit_index": append.commit_index,
        "prevLogIdx": append.prev_log_index,
        "prevLogTerm": append.prev_log_term,
        "entries": entries,
        "sequence": append.sequence,
    }


def frame(cluster_id: str, from_id: str, to_id: str, messages: list[pb.Message]) -> pb.Frame:
    """Everything one turn has for one peer."""
    return pb.Frame(cluster_id=cluster_id, from_id=from_id, to_id=to_id, format=FORMAT, messages=messages)


def check_frame(received: pb.Frame, cluster_id: str, from_id: str | None, to_id: str) -> None:
    """Raise ForeignCluster or BadInput unless a frame is from `from_id` (where known) of this cluster, for `to_id`."""
    if received.format > FORMAT:
        raise BadInput("format", f"{received.from_id} speaks format {received.format}; this replica knows {FORMAT}")
    if received.cluster_id != cluster_id:
        raise ForeignCluster(f"{received.from_id} belongs to cluster {received.cluster_id}, this replica {cluster_id}")
    if received.to_id != to_id:
        raise BadInput("to_id", f"{received.to_id} was meant, this is {to_id}: is an address used again?")
    if from_id is not None and received.from_id != from_id:
        raise BadInput("from_id", f"{received.from_id} speaks where {from_id} was expected")
