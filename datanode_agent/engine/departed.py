"""Regions that were here and are not any more: under which epoch, and where metasrv said they are now.

So a caller with an old route is sent on at once, instead of waiting until the news of the new route reaches it.
"""

from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2, types_pb2

KNOWN_MAX = 100_000


class Departed:
    """Bounded: the oldest are forgotten, and callers then wait for the route."""

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}
        self._routes: dict[int, types_pb2.Route] = {}

    def remember(self, region_id: int, epoch: int, order: nodes_pb2.Order | None = None) -> None:
        """The region went under this epoch; `order` may tell to whom."""
        if len(self._epochs) >= KNOWN_MAX:
            oldest = next(iter(self._epochs))
            del self._epochs[oldest]
            self._routes.pop(oldest, None)
        self._epochs[region_id] = max(epoch, self.epoch(region_id))
        if order is not None and order.HasField("moved_to"):
            self._routes[region_id] = order.moved_to

    def epoch(self, region_id: int) -> int:
        """The last epoch known of the region, 0 where none is."""
        return self._epochs.get(region_id, 0)

    def send_on(self, answer: pb.RegionOutcome, epoch: int) -> None:
        """Add to a refusal where the region is, if that is newer than the caller's epoch."""
        route = self._routes.get(answer.region_id)
        if route is not None and route.epoch > epoch:
            answer.moved_to.CopyFrom(route)

    def clear(self) -> None:
        """Another incarnation begins."""
        self._epochs.clear()
        self._routes.clear()
