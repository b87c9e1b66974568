"""The datanode: keeps leases, writes lanes, serves regions."""

import os

# Read when gRPC is first imported: its core must not write lines of its own beside ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
