"""For all tests: as in the programs, gRPC's core writes no lines of its own, and a logged traceback is plain text.

gRPC reads its setting when it is first imported. A traceback drawn by rich, with the values of every frame, takes so
long that it starves the event loop that a whole cluster shares in one test process.
"""

import os

import structlog

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
