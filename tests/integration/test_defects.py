"""A violated invariant ends a process, even where somebody catches everything."""

import subprocess
import sys

import pytest

from groundwork.core.check import InvariantViolated, on_violation, require

PROGRAM = """
import asyncio, threading
from groundwork.adapters.defects import end_on_violation
from groundwork.adapters.logs import configure_logs
from groundwork.core.check import require

configure_logs("dn-1")
end_on_violation()

def violate():
    try:
        require(False, "two owners")
    except BaseException:
        pass

async def main():
    if "{where}" == "task":
        await asyncio.gather(asyncio.to_thread(str), asyncio.create_task(asyncio.to_thread(violate)))
    elif "{where}" == "thread":
        thread = threading.Thread(target=violate)
        thread.start()
        thread.join()
    else:
        violate()

asyncio.run(main())
print("it went on")
"""


@pytest.mark.parametrize("where", ["loop", "task", "thread"])
def test_it_ends_the_process(where: str) -> None:
    """Exit status 1 and one log line with the reason and where; nothing behind it runs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(where=where)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "it went on" not in done.stdout
    [line] = done.stderr.splitlines()
    assert '"event": "invariant_violated"' in line and "two owners" in line and "in violate" in line


def test_without_a_watcher_it_raises() -> None:
    """Tests and simulators see the exception, and may watch for themselves."""
    seen: list[str] = []
    on_violation(seen.append)
    try:
        with pytest.raises(InvariantViolated, match="two owners"):
            require(False, "two owners")
    finally:
        on_violation(None)
    assert seen == ["two owners"]
