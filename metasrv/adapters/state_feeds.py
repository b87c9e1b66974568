"""From applied commands to open streams: which nodes' orders, which routes, whether the audit trail changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from metasrv.adapters.feeds import Feed, Feeds
from metasrv.core.events import Outcome
from metasrv.core.machine import Machine

# What changed: an order or route of a region, a table, a node's trim orders, a node's record, the audit trail.
Key = tuple[Literal["region", "table", "trim", "node", "audit"], int]
TRIM: Key = ("trim", 0)
NODE: Key = ("node", 0)
AUDIT: Key = ("audit", 0)


class StateFeeds:
    """Subscribed to the machine; marks only, so an apply costs little however many streams are open."""

    def __init__(self, machine: Machine) -> None:
        self.routes: Feeds[Key] = Feeds()
        self.audit: Feeds[Key] = Feeds()
        self._orders: dict[str, Feeds[Key]] = {}
        self.closing = False  # streams end by themselves, so that nothing has to be cut off
        machine.subscribe(self._applied)

    @contextmanager
    def orders(self, node_id: str) -> Iterator[Feed[Key]]:
        """A feed of one node's orders."""
        feeds = self._orders.setdefault(node_id, Feeds())
        with feeds.reader() as feed:
            yield feed
        if not len(feeds):
            self._orders.pop(node_id, None)

    def close(self) -> None:
        """Let every stream end at its next turn, which is now."""
        self.closing = True
        for feeds in (self.routes, self.audit, *self._orders.values()):
            feeds.mark_everything()

    @property
    def orders_open(self) -> int:
        """Open streams of orders."""
        return sum(len(feeds) for feeds in self._orders.values())

    def _applied(self, revision: int, outcome: Outcome) -> None:
        if outcome.kind == "restored":
            for feeds in (self.routes, self.audit, *self._orders.values()):
                feeds.mark_everything()
            return
        tables: list[Key] = [("table", t) for t in outcome.tables]
        self.routes.mark([*tables, *(("region", r) for r in outcome.regions)])
        if outcome.events:
            self.audit.mark([AUDIT])
        for node_id, region_ids in outcome.orders.items():
            self._mark(node_id, [("region", r) for r in region_ids])
        for node_id in outcome.trims:
            self._mark(node_id, [TRIM])
        for node_id in outcome.nodes:
            self._mark(node_id, [NODE])
        if tables:
            for feeds in self._orders.values():
                feeds.mark(tables)

    def _mark(self, node_id: str, keys: list[Key]) -> None:
        feeds = self._orders.get(node_id)
        if feeds is not None:
            feeds.mark(keys)
