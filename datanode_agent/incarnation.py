"""One registration, from its reply until a refusal says that it is over, or none of its lanes takes appends any more.

Order of things: beat at once (so that a slow store does not make a live node look dead), put the OPEN marks, beat again
(the answer may admit the lanes), then follow orders. A lane acknowledges nothing, and nothing is served, before the
grants that the lease keeper demands (T8).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from datanode_agent.adapters.beating import Beats, Heard, Lease
from datanode_agent.adapters.metasrv_link import MetasrvLink, Orders
from datanode_agent.adapters.metrics import Metrics
from datanode_agent.adapters.reporter import Reporter
from datanode_agent.core.beats import LaneVital, Vitals
from datanode_agent.core.lease import Standing
from datanode_agent.core.links import StallWatch
from datanode_agent.engine.engine import Engine
from groundwork.core.errors import BadInput, ForeignCluster, LaneError, MetasrvError, StoreUnavailable
from groundwork.core.ports import Clock
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()
RELEASE_MS = 2_000.0


class CurrentLease:
    """The LeaseView of the engine: the lease of the incarnation in force, if any."""

    def __init__(self) -> None:
        self.lease: Lease | None = None

    def valid(self) -> bool:
        """Whether the datanode may serve now."""
        return self.lease is not None and self.lease.valid()

    def left_ms(self) -> float:
        """How long it still may."""
        return self.lease.left_ms() if self.lease is not None else 0.0


class Incarnation:
    """See the module docstring. Driven on the loop."""

    def __init__(
        self, reply: nodes_pb2.RegisterReply, lanes: int, engine: Engine, link: MetasrvLink, heartbeats: Beats,
        clock: Clock, metrics: Metrics, check_store: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.token = reply.incarnation
        self.reporter = Reporter(link, self.token)
        self.started = False
        self._lanes = lanes
        self._engine = engine
        self._link = link
        self._heartbeats = heartbeats
        self._clock = clock
        self._metrics = metrics
        self._check_store = check_store
        self._registered_ms = clock.now_ms()
        self._over = asyncio.Event()
        self._why_over: ForeignCluster | BadInput | None = None
        self._stall = StallWatch(float(reply.beat_ms))
        self._orders = Orders(link, self.token, clock, self._apply, self._superseded, metrics)
        self._admitted: frozenset[int] = frozenset()
        self.lease = heartbeats.enrol(self.token, reply.lease_ms, reply.beat_ms, self._vitals)

    @property
    def admitted(self) -> bool:
        """Whether every lane is open and may acknowledge."""
        return self.started and len(self._admitted) == self._lanes

    async def serve(self) -> None:
        """Serve until the incarnation is over. Raises ForeignCluster when metasrv, or the object store, is another
        cluster's, and BadInput when the store is nobody's.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._open_and_follow(), name="orders"),
                group.create_task(self.reporter.run(), name="reports"),
            ]
            await self._over.wait()
            for task in tasks:
                task.cancel()
        if self._why_over is not None:
            raise self._why_over

    def heard(self, heard: Heard) -> None:
        """An answer to a beat arrived."""
        if heard.incarnation != self.token:
            return
        if heard.standing is not Standing.REGISTERED:
            self._end(heard.standing, heard.replica)
            return
        if self.started and self._engine.out_of_lanes:
            self._end(Standing.REGISTER_AGAIN, heard.replica)
            return
        self._admit(heard.admitted)
        if heard.leader_address and self._link.leader_is(heard.leader_address, heard.term):
            self._orders.switch("another replica leads")
            self.reporter.send_again()
        elif self._stall.stalled(heard.awaited_revision, self._clock.now_ms()):
            self._link.chooser.failed(self._link.chooser.current)
            self._orders.switch(f"revision {heard.awaited_revision} was granted but its orders did not arrive")

    def _superseded(self, replica: str) -> None:
        self.lease.superseded()
        self._end(Standing.REGISTER_AGAIN, replica)

    def _end(self, standing: Standing, replica: str) -> None:
        if self._over.is_set():
            return
        log.warning("incarnation_over", incarnation=self.token, standing=standing.value, replica=replica)
        if standing is Standing.FOREIGN:
            self._why_over = ForeignCluster(f"metasrv at {replica} belongs to another cluster: correct `metasrv`")
        self._over.set()

    async def _open_and_follow(self) -> None:
        try:
            await self._check_store()
            await self._engine.start(self.token, self._lanes)
        except (BadInput, ForeignCluster) as error:
            self._why_over = error
            with contextlib.suppress(MetasrvError):  # else its lease runs out
                await self._link.release(self.token, f"its configuration is wrong: {error}", RELEASE_MS)
            self._over.set()
            return
        except (StoreUnavailable, LaneError) as error:
            log.warning("lanes_not_opened", incarnation=self.token, why=str(error))
            self._over.set()
            return
        self.started = True
        log.info("lanes_open", incarnation=self.token, lanes=self._lanes)
        self._heartbeats.nudge()
        self._admit(self.lease.keeper.admitted)
        await self._orders.run()

    def _apply(self, reply: nodes_pb2.OrdersReply) -> None:
        """Take what a replica ordered, unless that replica is behind what is applied already."""
        keeper = self.lease.keeper
        if reply.revision < keeper.applied_revision:
            log.debug("orders_behind", revision=reply.revision, applied=keeper.applied_revision)
            return
        self._engine.apply(reply)
        self._stall.applied(reply.revision)
        self.lease.applied(reply.revision)
        self._admit(keeper.admitted)
        for order in reply.orders:
            self._metrics.orders_applied.labels(nodes_pb2.OrderKind.Name(order.kind).lower()).inc()
        self._metrics.orders_revision.set(reply.revision)

    def _admit(self, lanes: frozenset[int]) -> None:
        if self.started and lanes - self._admitted:
            self._admitted = lanes
            log.info("lanes_admitted", incarnation=self.token, lanes=sorted(lanes))
            self._engine.admit(sorted(lanes))

    def _vitals(self) -> Vitals:
        """Called on the heartbeat thread: reads plain numbers only."""
        engine = self._engine
        if not self.started:
            age_ms = self._clock.now_ms() - self._registered_ms
            return Vitals(tuple(LaneVital(i, False, age_ms) for i in range(self._lanes)), age_ms)
        return Vitals(
            tuple(LaneVital(health.lane_index, health.open, health.append_age_ms) for health in engine.lanes_health()),
            engine.store_probe_age_ms(),
            engine.unflushed_bytes(),
            engine.memory_bytes(),
            engine.write_rows_per_s(),
        )
