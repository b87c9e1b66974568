"""T11, T12 and T23 on real processes: kill -9 beside an fsync, torn files, cold restarts of all replicas."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metasrv.adapters.raft.journal import MARK
from tests.integration.raft.voter import NAMES
from tests.ports import free_ports

ROUNDS = 10
LEADER_S = 60.0  # only so that a defect ends the test: how long it took is printed


def _ask_vote(folder: Path, candidate: str, term: int, die: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.integration.raft.voter", str(folder), candidate, str(term), die]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    votes = [line for line in done.stdout.splitlines() if line.endswith("response_vote")]
    return done.returncode, " ".join(votes)


def test_t11_kill_before_the_fsync_of_a_vote_told_nobody(tmp_path: Path) -> None:
    """T11: killed between vote and fsync, nothing left; restarted, at most one candidate gets a vote of the term."""
    assert _ask_vote(tmp_path / "a", "b", 5, "before") == (-signal.SIGKILL, "")
    answers = [_ask_vote(tmp_path / "a", candidate, 5, "never")[1] for candidate in ("c", "b")]
    assert sum(bool(answer) for answer in answers) <= 1, answers
    assert _ask_vote(tmp_path / "a", "c", 6, "never") == (0, "to c: response_vote"), "it can vote in the next term"


def test_t11_kill_after_the_fsync_of_a_vote_keeps_it(tmp_path: Path) -> None:
    """T11: killed right after, nothing has left either, and the vote is the candidate's: no other one gets it."""
    assert _ask_vote(tmp_path / "a", "b", 5, "after") == (-signal.SIGKILL, "")
    assert _ask_vote(tmp_path / "a", "c", 5, "never") == (0, "")
    assert _ask_vote(tmp_path / "a", "c", 6, "never") == (0, "to c: response_vote")
    assert _ask_vote(tmp_path / "a", "b", 6, "never") == (0, ""), "a vote with nothing else to write is kept as well"


class Replicas:
    """Three replicas as processes on one set of ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._peers = [f"{n}=127.0.0.1:{port}" for n, port in zip(NAMES, free_ports(3), strict=True)]
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.repeated: set[str] = set()

    def start(self, *names: str) -> None:
        """Begin processes on what is on disk."""
        for name in names:
            command = [sys.executable, "-m", "tests.integration.raft.process", str(self.folder), name, *self._peers]
            with (self.folder / f"{name}.log").open("a") as errors:
                self.running[name] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
                )

    def ask(self, name: str, word: str) -> str:
        """One line in, one line out; log lines are no answers."""
        process = self.running[name]
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()
        while line := process.stdout.readline():
            if line.split(" ")[0] in ("leads", "follows", "acknowledged", "failed"):
                return line.strip()
        raise AssertionError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-2000:]}")

    def leader(self) -> str:
        """Wait for it."""
        until_s = time.monotonic() + LEADER_S
        while time.monotonic() < until_s:
            for name in self.running:
                if self.ask(name, "?").startswith("leads"):
                    return name
            time.sleep(0.02)
        raise AssertionError(f"no leader among {sorted(self.running)} after {LEADER_S:.0f} s")

    def acknowledge(self, word: str) -> None:
        """Commit it through whoever leads; proposed again until it is acknowledged, it may be in the log twice."""
        while (answer := self.ask(self.leader(), word)) != f"acknowledged {word}":
            assert answer.startswith("failed "), answer
            self.repeated.add(word)

    def commands(self, name: str) -> list[str]:
        """What a replica has applied; of a word that was proposed again the first time counts."""
        told = self.ask(name, "?").split(" ")[1:]
        return [word for at, word in enumerate(told) if word not in self.repeated or word not in told[:at]]

    def kill(self) -> None:
        """kill -9 all of them at once."""
        for process in self.running.values():
            os.kill(process.pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        continue  # its reader was killed with a line in between
        self.running.clear()


@pytest.mark.timeout(300)
def test_t23_t12_cold_restarts_of_all_replicas(tmp_path: Path) -> None:
    """T23, T12: ten times kill -9 of all, a torn tail in every journal, and all that was acknowledged is there."""
    replicas = Replicas(tmp_path)
    acknowledged: list[str] = []
    took_s: list[float] = []
    try:
        for round_ in range(ROUNDS):
            began_s = time.monotonic()
            replicas.start(*NAMES)
            leader = replicas.leader()
            took_s.append(time.monotonic() - began_s)
            assert replicas.commands(leader) == acknowledged
            for n in range(5):
                replicas.acknowledge(f"{round_}-{n}")
                acknowledged.append(f"{round_}-{n}")
            replicas.kill()
            for name in NAMES:  # as a power cut leaves a frame whose sync had not begun
                with (tmp_path / name / "journal").open("ab") as journal:
                    journal.write(MARK + b"\x00\x10\x00\x00 half a frame")
        print("from nothing to a leader, s:", [round(s, 2) for s in took_s])
        replicas.start("a")
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            # T12: it held a commit index once; alone it commits nothing, leads nobody, and says nothing of its log
            assert replicas.ask("a", "?") == "follows"
            time.sleep(0.1)
        replicas.start("b", "c")
        assert replicas.commands(replicas.leader()) == acknowledged
    finally:
        replicas.kill()
