"""A replica as a process that is asked for one vote, and that kill -9 may meet beside the fsync of it.

python -m tests.integration.raft.voter FOLDER CANDIDATE TERM before|after|never
"""

import os
import signal
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.metrics import RaftMetrics
from metasrv.adapters.raft.replica import Replica
from protos.raft.v1 import raft_pb2 as pb
from tests.integration.raft.cluster import CLUSTER, Ledger

NAMES = ("a", "b", "c")


class DyingDisk(Disk):
    """Plain files, until it is armed."""

    def __init__(self) -> None:
        self.die = "never"

    def sync(self, descriptor: int) -> None:
        """Wait for the medium; the process ends right before or right after."""
        if self.die == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().sync(descriptor)
        if self.die == "after":
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, candidate: str, term: int, die: str) -> None:
    """Print every message that leaves."""

    def send(peer: str, messages: list[pb.Message]) -> None:
        for message in messages:
            print(f"to {peer}: {message.WhichOneof('kind')}", flush=True)

    peers = {name: f"unused:{port}" for port, name in enumerate(NAMES, 1)}
    config = RaftConfig(cluster_id=CLUSTER, node_id="a", peers=peers, data_dir=folder)
    disk = DyingDisk()
    replica = Replica(config, Ledger(), send, RaftMetrics(CollectorRegistry()), disk)
    for peer in NAMES[1:]:
        replica.link(peer)
    disk.die = die
    vote = pb.RequestVote(term=term, last_log_index=1, last_log_term=0)
    replica.receive(candidate, [pb.Message(request_vote=vote)])
    replica.turn()
    replica.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
