"""Configurations and processes of the agent, for its integration tests."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_ports

CLUSTER_ID = "6f1c0d4e8a7b4c2f9d3e5a6b7c8d9e0f"


def write_config(folder: Path, metasrv: list[str], objects: Path | None = None, **changes: object) -> Path:
    """A datanode.toml in `folder` with free ports; `changes` replace top-level values, None drops one."""
    grpc_port, http_port = free_ports(2)
    values: dict[str, object] = {
        "cluster_id": CLUSTER_ID,
        "node_id": "dn-1",
        "locality": "site-1/zone-a",
        "data_dir": str(folder / "data"),
        "listen": f"127.0.0.1:{grpc_port}",
        "http_listen": f"127.0.0.1:{http_port}",
        "metasrv": metasrv,
        **changes,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    objects = objects or folder / "objects"
    lines += ["[object_store]", f"directory = {_toml(str(objects))}"]
    folder.mkdir(parents=True, exist_ok=True)
    objects.mkdir(exist_ok=True)
    path = folder / "datanode.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run_agent(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "datanode_agent", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def hung_server() -> Iterator[str]:
    """An address where the kernel accepts and nobody answers, as with a stopped process."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
