"""Who makes the faults: what, to whom and when, drawn from the seed."""

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World

REMEMBERED_S = 14.0  # how long after its end a fault may still be the cause of a suspicion


class Nemesis:
    """Acts between start() and stop(); then everything heals."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed}/nemesis")
        self._until_s = 0.0
        self._causes: list[tuple[str, float]] = []  # (node or "*", until when it explains)

    def start(self, active_s: float) -> None:
        """Begin."""
        self._until_s = self._world.loop.time() + active_s
        self._next()

    def had_cause(self, node_id: str) -> bool:
        """Whether something that could silence a datanode happened to it lately."""
        now_s = self._world.loop.time()
        return any(who in (node_id, "*") and until_s >= now_s for who, until_s in self._causes)

    def _befell(self, who: str, for_s: float = 0.0) -> None:
        self._causes.append((who, self._world.loop.time() + for_s + REMEMBERED_S))

    def _next(self) -> None:
        self._world.later(self._chance.expovariate(0.4), self._act)

    def _act(self) -> None:
        if self._world.loop.time() >= self._until_s:
            return
        host = self._chance.choice(self._world.datanodes)
        self._crash(host)
        self._next()

    def _crash(self, host: "Host") -> None:
        if host.up:
            self._world.trace.fault("kill", host.name)
            self._befell(host.name)
            host.crash()

    def stop(self) -> None:
        """Heal everything."""
        self._world.fabric.unblock_all()
        for host in self._world.hosts:
            if not host.up:
                host.start()
