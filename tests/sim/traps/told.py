"""`@told(...)` makes a test of an async story; each worker of pytest has one child process that runs its stories.

In the child, sets of strings have one order (PYTHONHASHSEED=0), so that a story is the same history on each run.
`python -m tests.sim.traps.told tests/sim/traps/test_x.py test_name` tells one again and prints its trace.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from tests.sim.traps.stage import Stage, Story

ROOT = Path(__file__).resolve().parents[3]
HASHED = {"PYTHONHASHSEED": "0"}


class Told(msgspec.Struct):
    """How a story ended."""

    failures: list[str]
    faults: dict[str, int]
    writes: int
    virtual_s: float


class Test(Protocol):
    """A test function of pytest that carries its story; `teller` is a fixture."""

    story: Story
    setting: dict[str, Any]

    def __call__(self, teller: "Teller") -> None:
        """Have it told, and fail where anything was found."""
        ...


def told(**setting: Any) -> Callable[[Story], Test]:
    """The arguments of Stage."""

    def decorated(story: Story) -> Test:
        def test(teller: "Teller") -> None:
            file, name = module.replace(".", "/") + ".py", story.__name__
            result = teller.tell(file, name)
            told_again = f"python -m tests.sim.traps.told {file} {name}"
            assert result.failures == [], f"told again by: {told_again}\n" + "\n".join(result.failures)
            assert result.writes > 0 and result.faults, "the story must be about something"

        module = story.__module__
        test.__name__, test.__doc__, test.__module__ = story.__name__, story.__doc__, module
        found = cast("Test", test)
        found.story, found.setting = story, setting
        return found

    return decorated


def tell(file: str, name: str) -> Stage:
    """Run one story in this process."""
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    test: Test = getattr(module, name)
    return Stage(**test.setting).tell(test.story)


class Teller:
    """A child process that tells stories, one after another."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.sim.traps.told"],
            cwd=ROOT, env={**os.environ, **HASHED}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, file: str, name: str) -> Told:
        """Run one story there."""
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        print(file, name, file=stdin, flush=True)
        line = stdout.readline()
        assert line.startswith("{"), f"the child ended: {line}"
        return msgspec.json.decode(line, type=Told)

    def close(self) -> None:
        """End the child."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(10)
        assert self._child.stdout is not None
        self._child.stdout.close()


def _serve() -> None:
    for line in sys.stdin:
        stage = tell(*line.split())
        result = Told(stage.failures, dict(stage.trace.faults), stage.clients.history.writes, round(stage.virtual_s, 3))
        print(msgspec.json.encode(result).decode(), flush=True)


def _main() -> None:
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.sim.traps.told", *sys.argv[1:]], {**os.environ, **HASHED}
        )
    if len(sys.argv) != 3:
        _serve()
        return
    stage = tell(*sys.argv[1:])
    print("\n".join(stage.trace.lines))
    print("\n".join(stage.failures) or "nothing failed")


if __name__ == "__main__":
    _main()
