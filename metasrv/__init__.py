"""The metadata service: a replicated state machine that keeps region-to-datanode leases and hands lost regions over."""

import os

# Read when gRPC is first imported: its core must not write lines of its own beside ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
