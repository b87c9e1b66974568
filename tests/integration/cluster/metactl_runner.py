"""Runs the real `metactl` as a process."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from metactl.main import main

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


def in_process(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The same without the time that a process takes to load its libraries: main() with its exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    before = (sys.argv, dict(os.environ), Path.cwd())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = ["metactl", *arguments]
    os.environ.update(environment(folder))
    os.chdir(folder)
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before[0]
        os.environ.clear()
        os.environ.update(before[1])
        os.chdir(before[2])
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def last_json(output: str) -> dict[str, Any]:
    """The JSON object on the last line."""
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found
