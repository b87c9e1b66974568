"""The data path over gRPC: who is meant, how long there is, how much at once; then the engine."""

import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc.aio

from datanode_agent.adapters.metrics import Metrics
from datanode_agent.engine.engine import Engine
from groundwork.core.errors import BadInput
from groundwork.core.ports import Clock
from protos.datanode.v1 import datanode_pb2, datanode_pb2_grpc

DEADLINE_MS_DEFAULT = 30_000.0
DEADLINE_MS_MAX = 300_000.0
REGIONS_A_REQUEST_MAX = 10_000
RETRY_AFTER_MS = 50
ANSWER_MS = 50.0
Context = grpc.aio.ServicerContext[Any, Any]


def check_free(address: str) -> None:
    """Raise BadInput when somebody listens on that address. The RPC library says it too, with a line of its own."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise BadInput("listen", f"cannot listen on {address}: {error.strerror}") from error


class Identity:
    """Whom requests must be addressed to. The incarnation is 0 while the agent is not registered."""

    def __init__(self, cluster_id: str, node_id: str, left_ms: Callable[[], float]) -> None:
        self.cluster_id = cluster_id
        self.node_id = node_id
        self.incarnation = 0
        self.left_ms = left_ms

    def refuse(self, target: datanode_pb2.Target, any_incarnation: bool = False) -> str:
        """Why a request is not for this process, or an empty string. An address may be reused, so all three count."""
        if (target.cluster_id, target.node_id) != (self.cluster_id, self.node_id):
            return (
                f"this is datanode {self.node_id} of cluster {self.cluster_id}, "
                f"not {target.node_id} of {target.cluster_id}: ask for the route again"
            )
        if target.incarnation == self.incarnation != 0 or (any_incarnation and target.incarnation == 0):
            return ""
        return (
            f"{self.node_id} is registered as incarnation {self.incarnation}, not {target.incarnation}: "
            "ask for the route again"
        )


class DatanodeServicer(datanode_pb2_grpc.DatanodeServicer):
    """See the module docstring. Tools may leave the incarnation out (0) in Flush and Regions."""

    def __init__(
        self, engine: Engine, identity: Identity, clock: Clock, metrics: Metrics, writes_max: int, scans_max: int
    ) -> None:
        self._engine = engine
        self._identity = identity
        self._clock = clock
        self._metrics = metrics
        self._free = {"write": writes_max, "scan": scans_max, "flush": 16}

    async def Write(self, request: datanode_pb2.WriteRequest, context: Context) -> datanode_pb2.WriteReply:
        """Rows for some regions; each has its own outcome."""
        began_ms = self._clock.now_ms()
        region_ids = [w.region_id for w in request.writes]
        refused = self._refuse("write", request.target, region_ids)
        if refused is not None:
            return datanode_pb2.WriteReply(outcomes=refused)
        self._enter("write")
        try:
            outcomes = await self._engine.write(request.writes, _left_ms(context))
        finally:
            self._leave("write")
        self._count("write", outcomes)
        for write, outcome in zip(request.writes, outcomes, strict=True):
            if outcome.outcome == datanode_pb2.DONE:
                self._metrics.write_rows.inc(write.rows)
                self._metrics.write_bytes.inc(len(write.batch))
        self._metrics.write_seconds.observe((self._clock.now_ms() - began_ms) / 1000)
        return datanode_pb2.WriteReply(outcomes=outcomes)

    async def Scan(self, request: datanode_pb2.ScanRequest, context: Context) -> AsyncIterator[datanode_pb2.ScanReply]:
        """Rows of one region as pieces of one Arrow IPC stream, or a refusal."""
        refused = self._refuse("scan", request.target, [request.region_id])
        if refused is not None:
            yield datanode_pb2.ScanReply(refused=refused[0])
            return
        self._enter("scan")
        try:
            async for reply in self._engine.scan(request, _left_ms(context)):
                if reply.HasField("refused"):
                    self._count("scan", [reply.refused])
                self._metrics.scan_bytes.inc(len(reply.ipc))
                yield reply
        finally:
            self._leave("scan")

    async def Flush(self, request: datanode_pb2.FlushRequest, context: Context) -> datanode_pb2.FlushReply:
        """Flush the regions named, or all."""
        refused = self._refuse("flush", request.target, request.region_ids or [0], any_incarnation=True)
        if refused is not None:
            return datanode_pb2.FlushReply(outcomes=refused)
        self._enter("flush")
        try:
            outcomes = await self._engine.flush(list(request.region_ids))
        finally:
            self._leave("flush")
        self._count("flush", outcomes)
        return datanode_pb2.FlushReply(outcomes=outcomes)

    async def Regions(self, request: datanode_pb2.RegionsRequest, context: Context) -> datanode_pb2.RegionsReply:
        """What this node holds, for operators."""
        self._metrics.requests.labels("regions").inc()
        why = self._identity.refuse(request.target, any_incarnation=True)
        if why:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, why)
        return datanode_pb2.RegionsReply(
            regions=self._engine.regions(),
            node_id=self._identity.node_id,
            incarnation=self._identity.incarnation,
            lease_left_ms=int(self._identity.left_ms()),
        )

    def _refuse(
        self, method: str, target: datanode_pb2.Target, region_ids: Iterable[int], any_incarnation: bool = False
    ) -> list[datanode_pb2.RegionOutcome] | None:
        self._metrics.requests.labels(method).inc()
        ids = list(region_ids)
        why = self._identity.refuse(target, any_incarnation)
        outcome, retry_after_ms = datanode_pb2.WRONG_NODE, 0
        if not why and len(ids) > REGIONS_A_REQUEST_MAX:
            outcome, why = datanode_pb2.BAD_REQUEST, f"{len(ids)} regions; at most {REGIONS_A_REQUEST_MAX} a request"
        elif not why and not self._free[method]:
            outcome, retry_after_ms = datanode_pb2.OVERLOADED, RETRY_AFTER_MS
            why = f"too many requests at once ({method}): try again in {RETRY_AFTER_MS} ms"
        if not why:
            return None
        refused = [
            datanode_pb2.RegionOutcome(region_id=i, outcome=outcome, message=why, retry_after_ms=retry_after_ms)
            for i in ids[:REGIONS_A_REQUEST_MAX]
        ]
        self._count(method, refused)
        return refused

    def _enter(self, method: str) -> None:
        self._free[method] -= 1
        self._metrics.requests_in_flight.labels(method).inc()

    def _leave(self, method: str) -> None:
        self._free[method] += 1
        self._metrics.requests_in_flight.labels(method).dec()

    def _count(self, method: str, outcomes: Iterable[datanode_pb2.RegionOutcome]) -> None:
        for outcome in outcomes:
            name = datanode_pb2.Outcome.Name(outcome.outcome)
            self._metrics.region_outcomes.labels(method, name).inc()


def _left_ms(context: Context) -> float:
    """What is left of the caller's patience, less what it takes to tell the outcome."""
    left_s = context.time_remaining()
    left_ms = DEADLINE_MS_DEFAULT if left_s is None else min(max(0.0, left_s * 1000), DEADLINE_MS_MAX)
    return left_ms - min(ANSWER_MS, left_ms / 10)
