"""What the nemesis does to the object store, as one node or as all of them see it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.nemesis import Nemesis

ALL = "*"


class StoreFaults:
    """Faults between nodes and the store."""

    def __init__(self, nemesis: "Nemesis") -> None:
        self._nemesis = nemesis
        self._chance = nemesis.chance
        self.kinds: list[Callable[[], None]] = [
            self.slow, self.refuses, self.unreachable, self.loses_replies, self.puts_late, self.hangs,
        ]  # fmt: skip

    def _befalls(self, kind: str, **values: object) -> None:
        nemesis = self._nemesis
        hosts = [nemesis.any()] if self._chance.random() < 0.7 else nemesis.world.hosts
        for_s = nemesis.for_s()
        for host in hosts:
            nemesis.fault(kind, host.name, for_s)
            for name, value in values.items():
                setattr(host.faults, name, value)
            nemesis.later(for_s, self.heal, host)
        if len(hosts) > 1:
            nemesis.befell(ALL, for_s)

    def heal(self, host: "Host") -> None:
        """The store is well as seen from here."""
        host.holds = None
        host.faults.heal()
        host.faults.latency_ms = self._nemesis.world.latency_ms

    def slow(self) -> None:
        """Every call takes long."""
        self._befalls("store_slow", latency_ms=(20.0, self._chance.choice((100.0, 800.0))))

    def refuses(self) -> None:
        """503 for some of the calls."""
        self._befalls("store_refuses", unavailable=self._chance.choice((0.1, 0.5, 1.0)))

    def unreachable(self) -> None:
        """T6: unreachable from one node, or from all."""
        self._befalls("store_unreachable", unreachable=True)

    def loses_replies(self) -> None:
        """Puts take effect and their callers do not learn it."""
        self._befalls("store_loses_replies", lost_reply=self._chance.choice((0.05, 0.3)))

    def puts_late(self) -> None:
        """Puts are reported as failed and take effect a while later."""
        self._befalls("store_puts_late", late_puts=self._chance.randint(1, 4), late_ms=self._chance.uniform(5, 6_000))

    def hangs(self) -> None:
        """T5: calls wait."""
        self._befalls("store_hangs", hang=True)
