"""One replica as a process: commands in by lines on stdin, what was acknowledged out by lines on stdout.

python -m tests.integration.raft.process FOLDER NAME NAME=ADDRESS...
"""

import asyncio
import sys
from pathlib import Path

from groundwork.adapters import rpc
from groundwork.core.errors import MetasrvError
from metasrv.adapters.raft import EmbeddedRaft
from metasrv.adapters.raft.config import RaftConfig
from tests.integration.raft.cluster import CLUSTER, Ledger


async def _answer(node: EmbeddedRaft, machine: Ledger, word: str) -> str:
    if word == "?":
        leads = node.leadership().is_leader
        return f"{'leads' if leads else 'follows'} {' '.join(c.decode() for c in machine.commands)}"
    try:
        await node.propose(word.encode())
    except MetasrvError as error:
        return f"failed {error}"
    return f"acknowledged {word}"


async def main(folder: Path, name: str, peers: dict[str, str]) -> None:
    """Until it is killed."""
    server = rpc.aio_server()
    rpc.listen(server, peers[name], None)
    machine = Ledger()
    config = RaftConfig(
        cluster_id=CLUSTER, node_id=name, peers=peers, data_dir=folder / name,
        election_ms_min=300, election_ms_max=600, append_period_ms=50,
    )  # fmt: skip
    node = EmbeddedRaft(config, machine)
    node.register(server)
    await server.start()
    await node.start()
    loop = asyncio.get_running_loop()
    while word := await loop.run_in_executor(None, sys.stdin.readline):
        print(await _answer(node, machine, word.strip()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], dict(pair.split("=", 1) for pair in sys.argv[3:])))
