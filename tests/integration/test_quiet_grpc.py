"""What goes wrong in gRPC is said by us, in one line: its core is silent."""

import socket
import subprocess
import sys

import pytest

BIND = """
import asyncio, sys
import {program}.main
from groundwork.adapters.rpc import aio_server, listen
from groundwork.core.errors import BadInput

async def main():
    try:
        listen(aio_server(), "127.0.0.1:{port}", None)
    except BadInput as error:
        print(error, file=sys.stderr)

asyncio.run(main())
"""


@pytest.mark.parametrize("program", ["metasrv", "datanode_agent", "metasrv_frontend", "metactl"])
def test_a_taken_port_is_one_line(program: str) -> None:
    """Every program sets it before anything of it imports gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = BIND.format(program=program, port=taken.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    [line] = done.stderr.splitlines()
    assert line.startswith("listen: cannot listen on 127.0.0.1:")
