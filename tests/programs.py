"""Programs that a test starts: ended with it, however it stands, and with a test run that is killed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from metactl import child


@contextlib.contextmanager
def running(*command: str, stderr: int = subprocess.PIPE) -> "Iterator[subprocess.Popen[str]]":
    """A process for the length of a block, its stderr as text. A test ends it as it wants; else it is killed."""
    with_us = [sys.executable, "-I", "-S", str(child.__file__), str(os.getpid())]
    with subprocess.Popen([*with_us, *command], stdin=subprocess.DEVNULL, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
