"""For all tests: as in the programs, gRPC's core writes no lines of its own. Read when gRPC is first imported."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
