"""The operator's program: look at a cluster, change it, run one locally, and drill it."""

import os

# Read when gRPC is first imported: its core must not write lines of its own beside ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
