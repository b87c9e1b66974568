"""Channels to datanodes, and the writes to each: what waits for a node at the same moment travels in one request.

A region that may make its node wait (it is opening, or was refused before) travels alone, so that it holds no other
region's answer back. Everything is bounded: requests under way for each node, bytes and regions of one request.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import grpc.aio

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel
from groundwork.core.route_cache import Phase, Route
from metasrv_frontend.core.outcomes import Refusal, Then, refusal_of
from metasrv_frontend.core.rows import Piece
from protos.datanode.v1 import datanode_pb2, datanode_pb2_grpc

ATTEMPT_MS_MAX = 5_000
REQUEST_BYTES_MAX = 16 << 20
REQUEST_REGIONS_MAX = 1_000
TOGETHER_MAX = 8  # requests under way to one node, those with many regions
ALONE_MAX = 1_000  # those with one region that may wait there
Who = tuple[str, str, int]  # address, node id, incarnation


@dataclass(eq=False)
class _Item:
    piece: Piece
    epoch: int
    within_ms: float
    answer: "asyncio.Future[Refusal | None]"


def unreachable(node_id: str, error: grpc.aio.AioRpcError) -> Refusal:
    """What a broken call means: whether the rows are kept is not known."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Refusal("NO_ANSWER", Then.NEWER_ROUTE, f"{node_id} did not answer in time")
    return Refusal("UNREACHABLE", Then.NEWER_ROUTE, f"{node_id}: {error.code().name}: {error.details() or ''}")


class _Link:
    """One incarnation of one datanode."""

    def __init__(self, stub: "datanode_pb2_grpc.DatanodeAsyncStub", target: datanode_pb2.Target) -> None:
        self.stub = stub
        self.target = target
        self._together: deque[_Item] = deque()
        self._alone: deque[_Item] = deque()
        self._running_together = 0
        self._running_alone = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_due = False
        self.scans = 0  # under way

    @property
    def idle(self) -> bool:
        """Whether nothing waits here or is under way."""
        return not (self._tasks or self._together or self._alone or self.scans)

    def submit(self, item: _Item, alone: bool) -> None:
        """Queue an item. It leaves after the callers that are ready now have queued theirs too."""
        (self._alone if alone else self._together).append(item)
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    async def stop(self) -> None:
        """Cancel what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pump(self) -> None:
        self._pump_due = False
        while self._alone and self._running_alone < ALONE_MAX:
            item = self._alone.popleft()
            if not item.answer.done():
                self._running_alone += 1
                self._start([item], alone=True)
        while self._together and self._running_together < TOGETHER_MAX:
            items = self._take()
            if items:
                self._running_together += 1
                self._start(items, alone=False)

    def _take(self) -> list[_Item]:
        """The next request, in queue order."""
        items: list[_Item] = []
        size = 0
        while self._together and len(items) < REQUEST_REGIONS_MAX:
            item = self._together[0]
            if items and size + len(item.piece.batch) > REQUEST_BYTES_MAX:
                break
            self._together.popleft()
            if not item.answer.done():
                items.append(item)
                size += len(item.piece.batch)
        return items

    def _start(self, items: list[_Item], alone: bool) -> None:
        task = asyncio.create_task(self._send(items, alone))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, items: list[_Item], alone: bool) -> None:
        try:
            answers = await self._call(items)
        finally:
            if alone:
                self._running_alone -= 1
            else:
                self._running_together -= 1
            if self._together or self._alone:
                self._pump()
        for item, answer in zip(items, answers, strict=True):
            if not item.answer.done():
                item.answer.set_result(answer)

    async def _call(self, items: list[_Item]) -> list[Refusal | None]:
        """One answer an item: outcomes come in the order of the writes."""
        request = datanode_pb2.WriteRequest(
            target=self.target,
            writes=[
                datanode_pb2.RegionWrite(
                    region_id=i.piece.region_id,
                    epoch=i.epoch,
                    schema_version=i.piece.schema_version,
                    rows=i.piece.rows,
                    batch=i.piece.batch,
                )
                for i in items
            ],
        )
        timeout_s = max(1.0, min(ATTEMPT_MS_MAX, max(i.within_ms for i in items))) / 1000
        try:
            reply = await self.stub.Write(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            refusal = unreachable(self.target.node_id, error)
            return [refusal] * len(items)
        if [o.region_id for o in reply.outcomes] != [i.piece.region_id for i in items]:
            return [Refusal("UNKNOWN_OUTCOME", Then.NEWER_ROUTE, f"{self.target.node_id} answered for others")] * len(
                items
            )
        return [refusal_of(o) for o in reply.outcomes]


class Datanodes:
    """All links. One channel an address; those that nobody uses any more are closed when another is opened."""

    def __init__(self, cluster_id: str, tls: TlsConfig | None) -> None:
        self._cluster_id = cluster_id
        self._tls = tls
        self._links: dict[Who, _Link] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def write(self, route: Route, piece: Piece, within_ms: float, retried: bool) -> "asyncio.Future[Refusal | None]":
        """Hand a piece to the route's owner. The answer is None when its rows are kept; cancel it to give up."""
        item = _Item(piece, route.epoch, within_ms, asyncio.get_running_loop().create_future())
        self._link(route).submit(item, alone=retried or route.phase is not Phase.SERVING)
        return item.answer

    @contextmanager
    def scanning(self, route: Route) -> "Iterator[tuple[datanode_pb2_grpc.DatanodeAsyncStub, datanode_pb2.Target]]":
        """The owner's calls, and to whom to address them, for one scan. Its channel stays open meanwhile.

        A channel that is closed under a call ends it as if the caller had been cancelled.
        """
        link = self._link(route)
        link.scans += 1
        try:
            yield link.stub, link.target
        finally:
            link.scans -= 1

    async def stop(self) -> None:
        """Cancel what is under way and close the channels."""
        for link in self._links.values():
            await link.stop()
        for channel in self._channels.values():
            await channel.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
        self._links.clear()
        self._channels.clear()

    def _link(self, route: Route) -> _Link:
        who = (route.address, route.node_id, route.incarnation)
        link = self._links.get(who)
        if link is None:
            self._forget([w for w, old in self._links.items() if w[1] == route.node_id and old.idle])
            channel = self._channels.get(route.address)
            if channel is None:
                channel = self._channels[route.address] = aio_channel(route.address, self._tls)
            target = datanode_pb2.Target(
                cluster_id=self._cluster_id, node_id=route.node_id, incarnation=route.incarnation
            )
            stub: datanode_pb2_grpc.DatanodeAsyncStub = datanode_pb2_grpc.DatanodeStub(channel)
            link = self._links[who] = _Link(stub, target)
        return link

    def _forget(self, idle: Iterable[Who]) -> None:
        """Earlier incarnations of a node: their channels stay only where another link uses the address."""
        for who in idle:
            del self._links[who]
            address = who[0]
            if not any(w[0] == address for w in self._links):
                channel = self._channels.pop(address)
                task = asyncio.create_task(channel.close(grace=1.0))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
