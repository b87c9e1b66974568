"""The woken datanode of the `pause` drill: tempted to acknowledge writes of regions that are not its own any more."""

import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import grpc
import pyarrow as pa

from groundwork.adapters.rpc import sync_channel
from groundwork.core.arrow import arrow_schema, encode_batch
from groundwork.core.errors import BadInput, Refused
from groundwork.core.table import TableInfo
from metactl.asking import Metasrv
from metactl.inputs import Paths
from metactl.ledger import Ledger, Row
from protos.datanode.v1 import datanode_pb2, datanode_pb2_grpc
from protos.metasrv.v1 import admin_pb2, routes_pb2, types_pb2

ANSWER_DEADLINE_S = 20.0
TEMPTED_MAX = 16


class Zombie:
    """One stopped datanode, addressed under the incarnation and epochs that it had when it was stopped."""

    def __init__(self, metasrv: Metasrv, node_id: str, before: routes_pb2.RoutesReply, table: TableInfo) -> None:
        self._metasrv = metasrv
        self._node_id = node_id
        self._table = table
        self._old = [r for r in before.routes if r.node_id == node_id]
        self._channel = sync_channel(self._old[0].address, None)
        self._pool = ThreadPoolExecutor(TEMPTED_MAX, thread_name_prefix="tempt")
        self._asked: list[Future[str]] = []

    @property
    def tempted(self) -> int:
        """How many writes wait for it to wake."""
        return len(self._asked)

    def tempt(self, ledger: Ledger) -> None:
        """Send straight to its address one write for each of its old regions (at most so many), noted as attempts."""
        paths = Paths("zombie", self._table.region_of)
        for route in self._old[:TEMPTED_MAX]:
            row = Row(paths.path(1, route.region_id), "", time.time_ns(), 1)
            ledger.regions[route.region_id].attempt([row])
            self._asked.append(self._pool.submit(self._write, route, row))

    def _write(self, route: types_pb2.Route, row: Row) -> str:
        schema = self._table.schema
        values = {"path": row.path, "suffix": row.suffix, schema.time.name: row.time_ns, "size": row.size}
        fields = arrow_schema(schema)
        batch = pa.record_batch([pa.array([values.get(f.name)], f.type) for f in fields], schema=fields)
        request = datanode_pb2.WriteRequest(
            target=datanode_pb2.Target(
                cluster_id=self._metasrv.sender.cluster_id, node_id=route.node_id, incarnation=route.incarnation
            ),
            writes=[
                datanode_pb2.RegionWrite(
                    region_id=route.region_id,
                    epoch=route.epoch,
                    schema_version=schema.version,
                    rows=1,
                    batch=encode_batch(batch),
                )
            ],
        )
        stub = datanode_pb2_grpc.DatanodeStub(self._channel)
        try:
            reply = stub.Write(request, timeout=ANSWER_DEADLINE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            return cast(grpc.Call, error).code().name
        return ", ".join(datanode_pb2.Outcome.Name(o.outcome) for o in reply.outcomes) or "no outcome"

    def answers(self) -> tuple[int, str]:
        """After it woke: how many of the writes it acknowledged (none may be), and what it answered."""
        outcomes = Counter(asked.result() for asked in self._asked)
        self._pool.shutdown()
        self._channel.close()
        return outcomes["DONE"], ", ".join(f"{count} x {name}" for name, count in sorted(outcomes.items()))

    def give_back(self, until: Callable[[str, Callable[[], bool]], None]) -> int:
        """Wait until it is registered again, move one of its old regions to it; that region, served by it."""
        old_incarnation = self._old[0].incarnation
        region_id = self._old[0].region_id

        def back() -> bool:
            nodes = self._metasrv.status().nodes
            return any(
                n.node_id == self._node_id and n.incarnation > old_incarnation and n.status == "up" for n in nodes
            )

        until(f"{self._node_id} registers under a new incarnation", back)
        move = Move(self._metasrv, region_id, self._node_id)
        until(f"region {region_id:#x} is moved to {self._node_id} and served there", move.done)
        return region_id


class Move:
    """One region's way to a node, asked for again until it is served there.

    A request id stands for one attempt: a repeat of it is answered by what it began, so that one accepted and then
    cancelled would be waited for in vain. The next attempt gets an id of its own, once the outcome is known.
    """

    def __init__(self, metasrv: Metasrv, region_id: int, to_node: str) -> None:
        self._metasrv = metasrv
        self._region_id = region_id
        self._to_node = to_node
        self._attempt = 0  # in flight when last seen; 0: none
        self._request_id = uuid.uuid4().hex

    def done(self) -> bool:
        """Whether it is there; asks for the move where none is in flight. Raises Unreachable."""
        route = next(r for r in self._metasrv.routes(region_ids=[self._region_id]).routes)
        if route.node_id == self._to_node:
            return route.phase == types_pb2.SERVING
        if not (self._attempt and self._in_flight()):
            self._attempt = self._ask()
        return False

    def _in_flight(self) -> bool:
        request = admin_pb2.ProceduresRequest(sender=self._metasrv.sender)
        found = self._metasrv.ask(lambda r: r.admin.Procedures, request).procedures
        if any(p.procedure_id == self._attempt and p.region_id == self._region_id for p in found):
            return True
        self._request_id = uuid.uuid4().hex  # it ended: handed over, or cancelled
        return False

    def _ask(self) -> int:
        """The attempt, or 0: a node that has just registered is not well before its lanes are open."""
        request = admin_pb2.MigrateRequest(
            sender=self._metasrv.sender, region_ids=[self._region_id], to_node=self._to_node, who="demo",
            request_id=self._request_id,
        )  # fmt: skip
        try:
            return self._metasrv.ask(lambda r: r.admin.Migrate, request).procedure_id
        except (BadInput, Refused):
            self._request_id = uuid.uuid4().hex
            return 0
