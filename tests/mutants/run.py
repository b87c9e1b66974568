"""`make mutants`: plants each defect in a copy of the tree and runs the tests that should notice it.

Stops at the first test that fails, and prints who caught what. A defect that nobody catches is a finding: exit 1.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import ROOT, Mutant, load

TEST_S, RUN_S, SEEDS = 30, 120, 500
_CAUGHT, _PASSED, _WRONG = "caught", "survived", "wrong"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", re.MULTILINE)


class Verdict(NamedTuple):
    """How one mutant fared."""

    mutant: Mutant
    how: str
    by: str
    took_s: float


def copy_tree(root: Path) -> None:
    """The sources as they are now, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(source.read_bytes())


def ask(root: Path, command: list[str], limit_s: float) -> tuple[int | None, str]:
    """Run in the copy; exit code (None: it hung) and output. Whatever it started dies with it."""
    env = {**os.environ, "PYTHONPATH": str(root), "MUTANT_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    else:
        return process.returncode, output


def pytest_of(tests: tuple[str, ...], test_s: int = TEST_S) -> list[str]:
    """Those tests, in that order, up to the first that fails."""
    options = ["-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-p", "tests.mutants.witness", "--tb=line"]
    return [sys.executable, "-m", "pytest", *options, f"--timeout={test_s}", *tests]


def judge(root: Path, mutant: Mutant, seeds: int, only_seeds: bool = False) -> Verdict:
    """Plant, ask, take out again. `only_seeds` asks the simulator alone: whether its checkers can fail."""
    began = time.monotonic()
    before = {edit.file: (root / edit.file).read_bytes() for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            edit.apply(root)
        code, output = (0, "") if only_seeds else ask(root, pytest_of(mutant.by), RUN_S)
        failed = _FAILED.search(output)
        if code is None:
            how, by = _CAUGHT, f"{mutant.by[0]} (hangs)"
        elif code == 1 and failed:
            how, by = _CAUGHT, failed.group(1)
        elif code == 0:
            how, by = _ask_seeds(root, seeds) if seeds and (mutant.seeds or only_seeds) else (_PASSED, "")
        else:
            how, by = _WRONG, output[-2000:]
    except LookupError as error:
        how, by = _WRONG, str(error)
    finally:
        for name, text in before.items():
            (root / name).write_bytes(text)
    return Verdict(mutant, how, by, time.monotonic() - began)


def _ask_seeds(root: Path, seeds: int) -> tuple[str, str]:
    """One after another, up to the first that goes wrong, for as long as the tests of a defect may take."""
    until_s = time.monotonic() + RUN_S
    for seed in range(1, seeds + 1):
        code, _ = ask(root, [sys.executable, "-m", "tests.sim.run", "--seed", str(seed)], RUN_S)
        if code != 0:
            return _CAUGHT, f"python -m tests.sim.run --seed {seed}"
        if time.monotonic() > until_s:
            break
    return _PASSED, ""


def check_unchanged(root: Path, mutants: list[Mutant]) -> str:
    """Every catcher passes on the tree as it is, or failing would prove nothing. What is wrong, or an empty string."""
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.by))
    code, output = ask(root, [word for word in pytest_of(tests, 10 * TEST_S) if word != "-x"], 20 * RUN_S)
    return "" if code == 0 else "\n".join(_FAILED.findall(output)) or output[-4000:]


def table(verdicts: list[Verdict]) -> str:
    """Markdown, as docs/mutants.md shows it."""
    lines = ["| planted defect | rule | caught by | s |", "| --- | --- | --- | ---: |"]
    for v in verdicts:
        by = v.by.removeprefix("tests/") if v.how == _CAUGHT else f"**{v.how}** {v.by[:200]!r}"
        lines.append(f"| {v.mutant.name} | {v.mutant.rule} | {by} | {v.took_s:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run")
    parser.add_argument(
        "names", nargs="*", help="only areas of these names, and defects whose name contains one of them"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the simulator, where no test fails")
    parser.add_argument("--only-seeds", action="store_true", help="ask the simulator instead of the tests")
    parser.add_argument("--no-baseline", action="store_true", help="trust that the tests pass on the unchanged tree")
    options = parser.parse_args()
    mutants = [m for m in load() if not options.names or any(n == m.area or n in m.name for n in options.names)]
    if not mutants:
        parser.error(f"no planted defect and no area is called {' or '.join(options.names)}: see tests/mutants/planted")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder)
        copy_tree(root)
        wrong = "" if options.no_baseline else check_unchanged(root, mutants)
        if wrong:
            sys.exit(f"the tests do not pass on the unchanged tree, so nothing can be proved:\n{wrong}")
        verdicts = []
        for mutant in mutants:
            verdicts.append(judge(root, mutant, options.seeds, options.only_seeds))
            last = verdicts[-1]
            print(f"{last.how:8} {last.took_s:5.1f} s  {mutant.name}: {last.by}", flush=True)
    print("\n" + table(verdicts))
    caught = sum(v.how == _CAUGHT for v in verdicts)
    print(f"\n{caught} of {len(verdicts)} caught in {time.monotonic() - began:.0f} s")
    sys.exit(0 if caught == len(verdicts) else 1)


if __name__ == "__main__":
    main()
