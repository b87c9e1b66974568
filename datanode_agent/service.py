"""The agent: one registration after another, and the engine that serves under it.

A registration gives an incarnation. Under it the agent beats, opens its lanes, follows its orders and reports what it
did, until a refusal says that the incarnation is over: then every region is closed, and it registers again by itself.
Metasrv being away ends nothing: the lease runs out, requests are refused, memtables stay, and a grant resumes it (P7).
"""

import asyncio
import contextlib
import functools
import signal
from pathlib import Path

import structlog

from datanode_agent.adapters.beating import Heard
from datanode_agent.adapters.folder import DataFolder
from datanode_agent.adapters.metasrv_link import MetasrvLink
from datanode_agent.adapters.metrics import Metrics
from datanode_agent.adapters.pages import Readiness, pages
from datanode_agent.adapters.server import DatanodeServicer, Identity, check_free
from datanode_agent.config import DatanodeConfig
from datanode_agent.engine.engine import Engine
from datanode_agent.incarnation import CurrentLease, Incarnation
from datanode_agent.surroundings import Surroundings, of_this_machine
from groundwork.adapters import generations
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.objects import open_object_store
from groundwork.adapters.rpc import aio_server, listen
from groundwork.adapters.systemd import notify
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.errors import BadInput, ForeignCluster, MetasrvError, Refused
from groundwork.core.ports import Clock, LogStore, ObjectStore, Workers
from protos.datanode.v1 import datanode_pb2_grpc
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()

EXIT_OK = 0
EXIT_DEFECT = 1
EXIT_TAKEN_OVER = 3  # another data folder holds the node id: systemd must not start this one again
WATCH_MS = 100.0
REGISTER_PAUSE_MS_FIRST = 100.0
REGISTER_PAUSE_MS_MAX = 5_000.0
SERVED_WELL_MS = 10_000.0
RELEASE_MS = 5_000.0
REPORTS_MS = 3_000.0
DRAIN_LOOK_MS = 50.0
STORE_THREADS = 32


class Agent:
    """One datanode process. `run()` is its life."""

    def __init__(
        self,
        config: DatanodeConfig,
        fast: bool = False,
        takeover: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._config = config
        self._fast = fast or config.stop == "fast"
        self._takeover = takeover
        self._around = surroundings or of_this_machine(config)
        self._clock = self._around.clock
        self._metrics = Metrics()
        self._folder = self._around.folder
        self._lease = CurrentLease()
        self._identity = Identity(config.cluster_id, config.node_id, self._lease.left_ms)
        self._link = MetasrvLink(config.metasrv, config.tls, config.cluster_id, config.node_id, self._clock)
        self._incarnation: Incarnation | None = None
        self._registered_before = False
        self._stops_asked = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._crash: asyncio.Future[None] | None = None

    async def run(self) -> int:
        """Serve until a signal or the end of the registration for good; the exit status. Raises BadInput."""
        check_free(self._config.listen)
        self._folder.open()
        workers = ThreadWorkers("work", self._config.worker_threads)
        # Apart from the work: its threads only wait for the disk, and a takeover claims many regions at a time.
        syncs = ThreadWorkers("object-store", STORE_THREADS)
        try:
            store = open_object_store(self._config.object_store, syncs)
            logs = open_logs(self._config, store, self._clock, workers)
            return await self.serve(store, logs, workers)
        finally:
            workers.close()
            syncs.close()
            self._folder.close()

    async def serve(self, store: ObjectStore, logs: LogStore, workers: Workers) -> int:
        """As run(), over stores that are open, in a data folder that is."""
        config = self._config
        self._store = store
        loop = asyncio.get_running_loop()
        self._crash = loop.create_future()
        self._engine = Engine(
            node_id=config.node_id, store=store, logs=logs, clock=self._clock, workers=workers, config=config.engine,
            lease=self._lease, report=self._report, registry=self._metrics.registry, crashed=self._crashed,
        )  # fmt: skip
        self._heartbeats = self._around.beats(self._heard, self._crashed)
        http = self._around.http(
            pages(self._readiness, self._metrics.registry, self._refresh_gauges), config.http_listen
        )
        server = aio_server()
        servicer = DatanodeServicer(
            self._engine, self._identity, self._clock, self._metrics,
            config.writes_in_flight_max, config.scans_in_flight_max,
        )  # fmt: skip
        datanode_pb2_grpc.add_DatanodeServicer_to_server(servicer, server)
        listen(server, config.listen, config.tls)
        await http.start()
        try:
            await server.start()
            self._heartbeats.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            return await self._live_until_stopped()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await workers.run(self._heartbeats.stop)
            await server.stop(0.5)
            await http.stop()
            await self._link.close()

    def stop(self) -> None:
        """Stop gracefully; asked a second time, without waiting for the drain."""
        self._stops_asked += 1
        self._stop.set()
        if self._stops_asked > 1:
            self._hurry.set()

    async def _live_until_stopped(self) -> int:
        assert self._crash is not None
        watch = asyncio.create_task(self._watch_lease(), name="lease")
        life = asyncio.create_task(self._live(), name="life")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait((life, stop, watch, self._crash), return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._crash, watch):
                if ended.done():
                    ended.result()
            if life.done():
                return life.result()
            await self._stop_gracefully(life)
            return EXIT_OK
        finally:
            for task in (life, stop, watch):
                task.cancel()
            await asyncio.gather(life, stop, watch, return_exceptions=True)

    async def _live(self) -> int:
        """Register and serve, again and again; an exit status when that has an end."""
        pause_ms = REGISTER_PAUSE_MS_FIRST
        while True:
            began_ms = self._clock.now_ms()
            try:
                reply = await self._register()
            except Refused as error:
                if self._registered_before:
                    log.error("taken_over", why=str(error))  # noqa: TRY400 (one line, no traceback: an operator's act)
                    return EXIT_TAKEN_OVER
                raise BadInput("node_id", str(error)) from error
            self._incarnation = incarnation = Incarnation(
                reply, self._config.lanes, self._engine, self._link, self._heartbeats, self._clock, self._metrics,
                functools.partial(generations.check_begun, self._store, self._config.cluster_id),
            )  # fmt: skip
            self._lease.lease = incarnation.lease
            self._identity.incarnation = incarnation.token
            self._registered_before = True
            notify("READY=1")
            try:
                await incarnation.serve()
            finally:
                self._lease.lease = None
                self._identity.incarnation = 0
                self._heartbeats.pause()
            await self._engine.abandon()
            self._incarnation = None
            served_well = self._clock.now_ms() - began_ms > SERVED_WELL_MS
            pause_ms = REGISTER_PAUSE_MS_FIRST if served_well else min(2 * pause_ms, REGISTER_PAUSE_MS_MAX)
            await self._clock.sleep(pause_ms)

    async def _register(self) -> nodes_pb2.RegisterReply:
        config = self._config
        request = nodes_pb2.RegisterRequest(
            address=config.address, locality=config.locality, lanes=config.lanes,
            capacity_regions=config.capacity_regions, folder_id=self._folder.folder_id,
            takeover=self._takeover and not self._registered_before, request_id=self._around.random_id(),
        )  # fmt: skip
        try:
            reply = await self._link.register(request)
        except ForeignCluster as error:
            self._folder.forget()
            raise ForeignCluster(f"cluster_id: {error}: correct cluster_id or metasrv") from error
        self._folder.registered(reply.incarnation)
        self._metrics.registrations.inc()
        self._metrics.incarnation.set(reply.incarnation)
        log.info("registered", incarnation=reply.incarnation, lease_ms=reply.lease_ms, beat_ms=reply.beat_ms)
        return reply

    def _report(self, report: nodes_pb2.RegionReport) -> None:
        if self._incarnation is not None:
            self._incarnation.reporter.add(report)

    def _heard(self, heard: Heard) -> None:
        self._metrics.beats_answered.labels("grant" if heard.refusal is None else heard.refusal.value).inc()
        if heard.granted:
            self._metrics.beat_round_trip_seconds.observe(heard.round_trip_ms / 1000)
        if self._incarnation is not None:
            self._incarnation.heard(heard)

    def _crashed(self, error: BaseException) -> None:
        if self._crash is not None and not self._crash.done():
            self._crash.set_exception(error)

    def _refresh_gauges(self) -> None:
        incarnation = self._incarnation
        self._metrics.lease_left_seconds.set(self._lease.left_ms() / 1000)
        self._metrics.beats_sent.set(self._heartbeats.beats_sent)
        self._metrics.reports_waiting.set(len(incarnation.reporter) if incarnation is not None else 0)
        self._engine.refresh_gauges()

    async def _watch_lease(self) -> None:
        """A log line whenever the lease is lost or there again."""
        valid = False
        while True:
            left_ms = self._lease.left_ms()
            if (left_ms > 0) is not valid:
                valid = left_ms > 0
                log.log(20 if valid else 30, "lease_granted" if valid else "lease_lost", left_ms=round(left_ms))
                if not valid:
                    self._metrics.leases_lost.inc()
            await self._clock.sleep(WATCH_MS)

    def _readiness(self) -> Readiness:
        incarnation, left_ms = self._incarnation, self._lease.left_ms()
        why = ""
        if incarnation is None:
            why = "not registered: no metasrv replica has taken the registration yet"
        elif not incarnation.started:
            why = "its lanes are not open yet"
        elif not incarnation.admitted:
            why = "no grant names its lanes yet"
        elif left_ms <= 0:
            why = "it has no lease: metasrv does not grant"
        elif self._stop.is_set():
            why = "it is stopping"
        return Readiness(not why, why, self._config.node_id, self._identity.incarnation, int(left_ms))

    async def _stop_gracefully(self, life: asyncio.Task[int]) -> None:
        """Drain, or flush; deliver the last reports; release."""
        notify("STOPPING=1")
        incarnation = self._incarnation
        log.info("stopping", fast=self._fast, registered=incarnation is not None)
        if incarnation is None:
            return
        if not self._fast:
            await self._drain()
        try:
            async with asyncio.timeout(self._config.stop_deadline_ms / 1000):
                await self._engine.stop(flush=True)
        except (TimeoutError, MetasrvError) as error:
            log.warning("not_all_flushed", why=str(error) or "the deadline is over")
        try:
            async with asyncio.timeout(REPORTS_MS / 1000):
                await incarnation.reporter.drained()
        except TimeoutError:
            log.warning("reports_left", reports=len(incarnation.reporter))
        life.cancel()
        await asyncio.wait({life})
        try:
            await self._link.release(incarnation.token, f"{self._config.node_id} stopped gracefully", RELEASE_MS)
        except MetasrvError as error:
            log.warning("not_released", why=str(error))
            return
        self._folder.released()
        log.info("released", incarnation=incarnation.token)

    async def _drain(self) -> None:
        """Have all regions moved away, within the deadline; what is left is flushed."""
        until_ms = self._clock.now_ms() + self._config.stop_deadline_ms
        before = len(self._engine.regions())
        try:
            plan = await self._link.drain(self._around.random_id(), RELEASE_MS)
        except MetasrvError as error:
            log.warning("not_drained", why=str(error))
            return
        log.info("draining", regions=before, moves=len(plan.steps), plan=plan.summary)
        moving = {step.region_id for step in plan.steps}
        while not self._hurry.is_set() and self._clock.now_ms() < until_ms:
            if not moving & {region.region_id for region in self._engine.regions()}:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_LOOK_MS / 1000):
                    await self._hurry.wait()
        log.info("drained", regions_left=len(self._engine.regions()))


def open_logs(config: DatanodeConfig, store: ObjectStore, clock: Clock, workers: Workers) -> LogStore:
    """The log store that `log_store` names. Raises BadInput for one that cannot be used here."""
    if config.log_store == "objects":
        return ObjectsLog(store, clock, workers)
    raise BadInput("log_store", f'{config.log_store!r} cannot be used by a datanode of a cluster yet: use "objects"')


async def release(config: DatanodeConfig) -> str:
    """Release the incarnation that the data folder names, once no process holds the folder; one line that says so.

    Run by the service manager when every process of the unit is gone: a witnessed death, so the failover starts at
    once. Raises BadInput, and MetasrvError when no replica took it.
    """
    folder = DataFolder(Path(config.data_dir), config.cluster_id, config.node_id)
    folder.open()
    link = MetasrvLink(config.metasrv, config.tls, config.cluster_id, config.node_id, SystemClock())
    try:
        token = folder.incarnation()
        if token is None:
            return f"{config.node_id} has nothing to release: its last incarnation was released already"
        try:
            await link.release(
                token, f"every process of {config.node_id} is gone; its data folder is unlocked", RELEASE_MS
            )
        except Refused as error:
            folder.released()
            return f"{config.node_id} has nothing to release: {error}"
        folder.released()
        return f"released incarnation {token} of {config.node_id}"
    finally:
        await link.close()
        folder.close()
