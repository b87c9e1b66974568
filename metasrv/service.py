"""One replica of metasrv: the parts put together, and the one loop that turns decisions into commands.

Only commands decide. What the leader remembers beside the state (who was heard when, what it said last) is lost with
it and rebuilt by the next one. Order: consensus persists, then sends, then applies; streams are told after the apply.
"""

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from groundwork.adapters import generations
from groundwork.adapters.http import HttpFace, HttpServer
from groundwork.adapters.rpc import aio_server, listen
from groundwork.core.errors import BadInput, ForeignCluster, NotLeader, StoreUnavailable, Unknown
from groundwork.core.ports import Clock, ObjectStore
from metasrv.adapters.faces import Faces
from metasrv.adapters.forward import Peers
from metasrv.adapters.gauges import count_outcomes
from metasrv.adapters.guard import Guard
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.proposing import Proposer
from metasrv.config import MetasrvConfig, replicated
from metasrv.core import commands
from metasrv.core.decisions import Decision
from metasrv.core.events import Outcome
from metasrv.core.leases import Heard, LeaseBook, Past
from metasrv.core.machine import Machine
from metasrv.core.ports import Consensus, Leadership, StateMachine
from metasrv.core.procedures import Procedures
from metasrv.core.supervisor import Supervisor
from protos.metasrv.v1 import replica_pb2
from protos.metasrv.v1.replica_pb2_grpc import ReplicasStub

log = structlog.get_logger()
ConsensusFactory = Callable[[StateMachine, grpc.aio.Server, CollectorRegistry], Consensus]
HttpFactory = Callable[[Starlette, str], HttpFace]
HEARD_TIMEOUT_MS_MAX = 300
STORE_RETRY_MS = 500
AWAKE_A_LEASE = 8  # how often in a lease a replica notes that it is awake; half a lease without that was an absence
# After these the supervisor may have something to do at once.
_POKES = frozenset(
    {"Register", "Release", "Suspect", "Clear", "Failover", "Drain", "Undrain", "StartMigration", "Resume", "restored"}
)


class Service:
    """See the module docstring. `consensus` builds the port's home on this replica's gRPC server."""

    def __init__(
        self,
        config: MetasrvConfig,
        clock: Clock,
        store: ObjectStore,
        consensus: ConsensusFactory,
        http: HttpFactory = HttpServer,
    ) -> None:
        self.config = config
        self.clock = clock
        self.metrics = Metrics()
        self.machine = Machine()
        self.book = LeaseBook(config.node_id, config.peers, config.timing.lease_ms)
        self._store = store
        self._peers = Peers(config.node_id, config.peers, config.tls)
        guard = Guard(
            config.cluster_id,
            config.peers,
            lambda why: self.metrics.refusals.labels(why).inc(),
            lambda: self.machine.state.nodes,
        )
        self._server = aio_server([guard])
        self.consensus = consensus(self.machine, self._server, self.metrics.registry)
        self._proposer = Proposer(self.consensus, clock, self.metrics)
        self._poke = asyncio.Event()
        count_outcomes(self.metrics, self.machine, clock)
        self._faces = Faces(
            config=config,
            clock=clock,
            machine=self.machine,
            book=self.book,
            proposer=self._proposer,
            peers=self._peers,
            metrics=self.metrics,
            poke=self._poke.set,
        )
        self._http = http(self._faces.http_app(), config.http_listen)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Recover, listen, and begin. Raises BadInput, Damaged, ForeignCluster: one line for the operator each."""
        try:
            await generations.newest(self._store, self.config.cluster_id)
        except StoreUnavailable as error:
            log.warning("object_store_unavailable", reason=str(error), means="checked again before a bootstrap")
        self._faces.add_to(self._server)
        listen(self._server, self.config.listen, self.config.tls)
        self.machine.subscribe(self._applied)
        self.consensus.on_leadership(self._leadership_changed)
        await self.consensus.start()
        held = self.machine.state.cluster_id
        if held and held != self.config.cluster_id:
            raise ForeignCluster(
                f"cluster_id: the data folder holds cluster {held}, the configuration says {self.config.cluster_id}"
            )
        await self._server.start()
        await self._http.start()
        self._faces.relay.start()
        self._tasks = [
            asyncio.create_task(self._run(), name="leader-loop"),
            asyncio.create_task(self._stay_awake(), name="awake"),
        ]
        log.info("started", listen=self.config.listen, http=self.config.http_listen, replicas=len(self.config.peers))

    async def failed(self) -> None:
        """Returns never; raises what ended the loop or the relay: a defect, or a state that is another cluster's."""
        if not self._tasks:
            return
        parts = [asyncio.ensure_future(asyncio.shield(task)) for task in self._tasks]
        parts.append(asyncio.ensure_future(self._faces.relay.failed()))
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
        finally:
            for part in parts:
                part.cancel()

    async def stop(self) -> None:
        """Hand leadership over where there is a follower to take it, then stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._faces.close_streams()
        await self._faces.relay.stop()
        await self.consensus.stop()
        await self._server.stop(0.1)
        await self._http.stop()
        await self._peers.close()

    # ---------------------------------------------------------------- what wakes the loop

    def _applied(self, revision: int, outcome: Outcome) -> None:
        if outcome.kind == "Register" and not outcome.refused and self.consensus.leadership().is_leader:
            for node_id in outcome.nodes:
                self.book.registered(node_id, outcome.value, self.clock.now_ms())
        if outcome.kind in _POKES:
            self._poke.set()

    def _leadership_changed(self, leadership: Leadership) -> None:
        self.book.led_by(leadership.leader_id)
        log.info("leadership", term=leadership.term, leader_id=leadership.leader_id, mine=leadership.is_leader)
        self._poke.set()

    # ---------------------------------------------------------------- the loop

    async def _run(self) -> None:
        while True:
            leadership = self.consensus.leadership()
            if leadership.is_leader:
                await self._lead(leadership.term)
            else:
                await self._poke.wait()
            self._poke.clear()

    def _leads(self, term: int) -> bool:
        leadership = self.consensus.leadership()
        return leadership.is_leader and leadership.term == term

    async def _lead(self, term: int) -> None:
        """Judge nodes and carry procedures on until leadership ends."""
        self.book.awake(self.clock.now_ms())  # it may have been elected on waking
        self.book.elected(self.clock.now_ms(), self._faces.replicas.past())
        await self._judge(term)

    async def _stay_awake(self) -> None:
        """Whoever slept heard nobody, and blames nobody for it (T3): also a follower, which is asked or elected next.

        A leader that waits for a commit is not away: else slow commits would put off every failover.
        """
        while True:
            self.book.awake(self.clock.now_ms())
            await self.clock.sleep(self.config.timing.lease_ms / AWAKE_A_LEASE)

    async def _judge(self, term: int) -> None:
        supervisor = Supervisor(self.config.node_id, sorted(self.config.peers))
        procedures = Procedures()
        while self._leads(term):
            try:
                if not await self._prepare():
                    continue
                if await self._step(supervisor, procedures):
                    continue
            except NotLeader:
                return
            except BadInput as error:
                log.exception("decision_too_large", reason=str(error), means="decided anew at the next tick")
            except Unknown as error:
                log.warning("decision_not_committed", reason=str(error), means="decided anew at the next tick")
            await self._rest()

    async def _rest(self) -> None:
        """Until poked, or for one tick."""
        began_ms = self.clock.now_ms()
        tick_ms = self.config.timing.tick_ms
        try:
            async with asyncio.timeout(tick_ms / 1000):
                await self._poke.wait()
        except TimeoutError:
            self.metrics.loop_lag_ms.set(max(0.0, self.clock.now_ms() - began_ms - tick_ms))
        self._poke.clear()

    async def _step(self, supervisor: Supervisor, procedures: Procedures) -> bool:
        """One look at everything; whether something was applied, so that it is worth looking again at once."""
        now_ms, wall_ms = self.clock.now_ms(), self.clock.wall_ms()
        applied = await self._carry_out(supervisor.step(now_ms, wall_ms, self.machine.state, self.book))
        now_ms = self.clock.now_ms()
        return await self._carry_out(procedures.step(now_ms, wall_ms, self.machine.state, self.book)) or applied

    async def _carry_out(self, decisions: list[Decision]) -> bool:
        applied = False
        for decision in decisions:
            self.metrics.decisions.inc()
            log.info(f"{decision.kind}_decided", sentence=decision.sentence, fields=decision.fields)
            if decision.command is not None:
                outcome = await self._proposer.propose(decision.command)
                applied = applied or not outcome.refused
            if decision.ask_replicas:
                await self._ask_replicas()
            if decision.transfer_to:
                await self.consensus.transfer(decision.transfer_to)
        return applied

    async def _ask_replicas(self) -> None:
        """What did the other replicas hear, and how long ago?"""
        await asyncio.gather(*(self._ask_replica(node_id) for node_id in self._peers.others))

    async def _ask_replica(self, node_id: str) -> None:
        request = replica_pb2.HeardRequest(cluster_id=self.config.cluster_id)
        # Well below half a lease, or the leader would take its own patience for an absence (T3).
        timeout_s = min(HEARD_TIMEOUT_MS_MAX, self.config.timing.lease_ms / 8) / 1000
        try:
            reply = await ReplicasStub(self._peers.channel(node_id)).Heard(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            log.info("replica_did_not_say", replica_id=node_id, code=error.code().name)
            return
        heard = [Heard(n.node_id, n.incarnation, n.age_ms) for n in reply.nodes]
        past = Past(reply.term, {led.replica_id: led.age_ms for led in reply.leaders}, reply.listening_ms)
        self.book.reported(node_id, heard, self.clock.now_ms(), past)

    # ---------------------------------------------------------------- bootstrap

    async def _prepare(self) -> bool:
        """Whether the state is this cluster's and begun. Begins it (generation 1) where it is empty."""
        state = self.machine.state
        wanted = replicated(self.config)
        if state.cluster_id:
            if state.config != wanted:
                await self._proposer.propose(
                    commands.SetConfig(config=wanted, who=self.config.node_id, wall_ms=self.clock.wall_ms())
                )
            return True
        try:
            await generations.begin_first(self._store, self.config.cluster_id)
        except BadInput as error:
            raise ForeignCluster(str(error)) from error  # ends the process: nobody else can begin this cluster either
        except StoreUnavailable as error:
            log.warning("bootstrap_waits", reason=str(error), means="the object store must say whose it is first")
            await self.clock.sleep(STORE_RETRY_MS)
            return False
        outcome = await self._proposer.propose(
            commands.Bootstrap(
                cluster_id=self.config.cluster_id, generation=1, config=wanted, wall_ms=self.clock.wall_ms()
            )
        )
        log.info("bootstrapped", cluster_id=self.config.cluster_id, generation=1, revision=outcome.revision)
        return not outcome.refused
