"""Runs the real `metactl` as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

METACTL = Path(sys.executable).parent / "metactl"


def environment(folder: Path) -> dict[str, str]:
    """An environment whose context file, and whose choice of cluster, is this test's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("METASRV_", "METACTL_"))}
    return {**kept, "METACTL_CONTEXT": str(folder / "context.json"), "TMPDIR": str(folder)}


def metactl(folder: Path, *arguments: str, timeout_s: float = 110.0) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    return subprocess.run(
        [METACTL, *arguments], env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=timeout_s,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def last_json(output: str) -> dict[str, Any]:
    """The JSON object on the last line."""
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found
