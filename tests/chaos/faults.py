"""What happens to a cluster of processes, at random, from a seed: killed, stopped, started again, regions moved."""

import random
import signal
import time
from collections.abc import Sequence

from groundwork.core.errors import MetasrvError
from metactl.asking import Metasrv
from metactl.cluster import Cluster
from protos.metasrv.v1 import admin_pb2

# Never two of metasrv at once (there are three), always one datanode and one frontend.
AWAY_MAX = {"metasrv": 1, "datanode": 3, "frontend": 1}
WEIGHTS = {"metasrv": 3, "datanode": 5, "frontend": 1}
PAUSE_S_MIN, PAUSE_S_MAX = 0.2, 3.0


class Nemesis:
    """Does one random thing at a time, and knows who is away because of it."""

    def __init__(self, cluster: Cluster, metasrv: Metasrv, region_ids: Sequence[int], seed: int) -> None:
        self._cluster = cluster
        self._metasrv = metasrv
        self._region_ids = region_ids
        self._random = random.Random(seed)
        self._away: dict[str, str] = {}  # member -> "killed" or "stopped"
        self.crashed: list[str] = []
        self.done: dict[str, int] = {}

    def act(self) -> str:
        """One thing; what it was. Also notes every process that has ended by itself."""
        self.note_crashes()
        roll = self._random.random()
        if self._away and roll < 0.45:
            return self._bring_back(self._random.choice(sorted(self._away)))
        if roll > 0.85:
            return self._count("migrate", self._migrate())
        return self._take_away()

    def pause_s(self) -> float:
        """How long to wait until the next one: sometimes hardly at all."""
        return self._random.uniform(PAUSE_S_MIN, PAUSE_S_MAX) if self._random.random() < 0.8 else 0.05

    def heal(self) -> None:
        """Everything runs again."""
        for name in sorted(self._away):
            self._bring_back(name)
        self.note_crashes()

    def note_crashes(self) -> None:
        """A process that is not there and was not killed here has ended by itself: noted, and started again."""
        for member in self._cluster.layout.members:
            if self._away.get(member.name) != "killed" and not self._cluster.running(member.name):
                self.crashed.append(f"{member.name} ended by itself: {self._cluster.tail(member.name)}")
                self._away.pop(member.name, None)
                self._cluster.spawn(member.name)

    def _count(self, kind: str, what: str) -> str:
        self.done[kind] = self.done.get(kind, 0) + 1
        return what

    def _take_away(self) -> str:
        members = self._cluster.layout.members
        kinds = {m.name: m.kind for m in members}
        gone = [kinds[name] for name in self._away]
        free = [m for m in members if m.name not in self._away and gone.count(m.kind) < AWAY_MAX[m.kind]]
        if not free:
            return self._bring_back(self._random.choice(sorted(self._away)))
        member = self._random.choices(free, [WEIGHTS[m.kind] for m in free])[0]
        fate = self._random.choice(("kill", "kill", "stop", "restart", "term"))
        if fate == "stop":
            self._cluster.signal([member.name], signal.SIGSTOP)
            self._away[member.name] = "stopped"
            return self._count("stop", f"SIGSTOP {member.name}")
        if fate == "term":
            self._cluster.signal([member.name], signal.SIGTERM)
            self._away[member.name] = "killed"
            return self._count("term", f"SIGTERM {member.name}")
        self._cluster.kill([member.name])
        if fate == "restart":
            self._cluster.spawn(member.name)
            return self._count("restart", f"kill -9 and start {member.name}")
        self._away[member.name] = "killed"
        return self._count("kill", f"kill -9 {member.name}")

    def _bring_back(self, name: str) -> str:
        if self._away.pop(name) == "stopped":
            self._cluster.signal([name], signal.SIGCONT)
            return f"SIGCONT {name}"
        self._cluster.kill([name])  # one that was asked to end may not have done so yet
        self._cluster.spawn(name)
        return f"start {name}"

    def _migrate(self) -> str:
        region_id = self._random.choice(self._region_ids)
        request = admin_pb2.MigrateRequest(
            sender=self._metasrv.sender, region_ids=[region_id], who="chaos", request_id=f"chaos-{time.monotonic_ns()}"
        )
        try:
            reply = self._metasrv.ask(lambda r: r.admin.Migrate, request, 1.0)
        except MetasrvError as error:
            return f"migrate {region_id:#x}: {type(error).__name__}"
        return f"migrate {region_id:#x}: {reply.summary}"
