"""The embedded home of the consensus port: pysyncobj as a Raft core, with our own journal, wire and snapshots.

`EmbeddedRaft` in node.py is the way in. Nothing outside this package may import pysyncobj. docs/consensus.md says
what each file replaces, and why.
"""

from metasrv.adapters.raft.config import RaftConfig, RaftLimits
from metasrv.adapters.raft.node import EmbeddedRaft

__all__ = ["EmbeddedRaft", "RaftConfig", "RaftLimits"]
