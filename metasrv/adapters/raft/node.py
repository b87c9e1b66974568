"""EmbeddedRaft: the consensus port on a Replica, turned by the event loop, talking over gRPC streams."""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry

from groundwork.core import marks
from groundwork.core.errors import BadInput, MetasrvError, NewerFormat, NotLeader, Unknown
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.library import now_s
from metasrv.adapters.raft.metrics import RaftMetrics
from metasrv.adapters.raft.network import Network
from metasrv.adapters.raft.replica import Replica
from metasrv.core.ports import Applied, Leadership, StateMachine
from protos.raft.v1 import raft_pb2 as pb
from protos.raft.v1 import raft_pb2_grpc as pb_grpc

log = structlog.get_logger()
_TICKS_PER_PERIOD = 5
T = TypeVar("T")


def exit_at_once(reason: str) -> NoReturn:
    """End the process: what it holds in memory may not be what is on its disk."""
    log.critical("raft_fatal", reason=reason)
    os._exit(1)


class EmbeddedRaft:
    """One replica. Construct, register() on the server before it starts, then start().

    `fatal` is called, with a reason, when nothing this process says can be trusted any more (a failed sync, a broken
    invariant); it must not return.
    """

    def __init__(
        self,
        config: RaftConfig,
        machine: StateMachine,
        *,
        registry: CollectorRegistry | None = None,
        disk: Disk | None = None,
        fatal: Callable[[str], None] = exit_at_once,
    ) -> None:
        self.config = config.check()
        self._machine = machine
        self._disk = disk
        self._fatal = fatal
        self._metrics = RaftMetrics(registry or CollectorRegistry())
        self._network = Network(config, self._linked, self._unlinked, self._received, self._end)
        self._replica: Replica | None = None
        self._callbacks: list[Callable[[Leadership], None]] = []
        self._leadership = Leadership(0, None, False)
        self._changed = asyncio.Event()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._began_s = 0.0

    def register(self, server: grpc.aio.Server) -> None:
        """Serve raft.v1 on this server. Call it before the server starts."""
        pb_grpc.add_RaftServicer_to_server(self._network, server)

    async def start(self) -> None:
        """Recover from disk and join. Raises Damaged or ForeignCluster with what to do, BadInput for a used folder."""
        network = self._network
        self._replica = Replica(self.config, self._machine, network.send, self._metrics, self._disk, network.backlog)
        self._network.start()
        self._tick()
        self._wake()  # the first turn says which term is on disk

    async def stop(self) -> None:
        """Hand leadership over where there is a follower to take it, then leave."""
        replica = self._replica
        best = replica.best_follower() if replica is not None else None
        if self._leadership.is_leader and best is not None:
            try:
                await self.transfer(best)
            except MetasrvError as error:
                log.info("leadership_not_handed_over", to=best, reason=str(error))
        if self._timer is not None:
            self._timer.cancel()
        await self._network.stop()
        self._replica = None
        if replica is not None:
            replica.close()
        self._notify(Leadership(self._leadership.term, None, False))

    # ---------------------------------------------------------------- the port

    async def propose(self, command: bytes, deadline_ms: float = 5_000) -> Applied:
        """Commit one command. Raises NotLeader (it is certainly not applied), Unknown, BadInput when too large."""
        replica = self._require()
        answered: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()

        def answer(result: Applied | MetasrvError) -> None:
            if answered.done():
                return
            if isinstance(result, Applied):
                answered.set_result(result)
            else:
                answered.set_exception(result)

        replica.propose(command, answer)
        self._wake()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                return await answered
        except TimeoutError:
            raise Unknown(f"no quorum answered within {deadline_ms:.0f} ms: the command may still commit") from None

    def leadership(self) -> Leadership:
        """Who leads, as known here after the last turn."""
        return self._leadership

    async def confirm(self) -> int:
        """The term, once a quorum has answered a round that began after this call. Raises NotLeader."""
        replica = self._require()
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(confirmed: bool) -> None:
            if answered.done():
                return
            if confirmed:
                answered.set_result(replica.core.term)
            else:
                marks.mark("confirm_lost_leadership")
                answered.set_exception(NotLeader(replica.core.leader_id))

        replica.confirm(answer)
        self._wake()
        return await answered

    def led_ago_ms(self) -> dict[str, float]:
        """How long ago this replica last heard each other one as the leader, since this process began."""
        return {} if self._replica is None else self._replica.led_ago_ms()

    async def transfer(self, to: str) -> None:
        """Hand leadership to a follower. Raises NotLeader, BadInput, or Unknown when it did not take it in time."""
        replica = self._require()
        if to not in self.config.peers:
            raise BadInput("to", f"{to!r} is not a replica; replicas: {', '.join(sorted(self.config.peers))}")
        if not self._leadership.is_leader:
            raise NotLeader(self._leadership.leader_id)
        if to == self.config.node_id:
            return
        replica.paused = True
        asked = False
        try:
            async with asyncio.timeout(2 * self.config.election_ms_max / 1000):
                while self._leadership.is_leader:
                    if not asked and replica.hand_over(to):
                        asked = True
                        self._wake()  # else the next turn comes by itself: asking for it here would turn without rest
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Unknown(f"{to} did not take over in time; this replica still leads") from None
        finally:
            replica.paused = False

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """Call back on the loop at every change of leadership()."""
        self._callbacks.append(callback)

    # ---------------------------------------------------------------- turns

    def _require(self) -> Replica:
        if self._replica is None:
            raise NotLeader(None)
        return self._replica

    def _linked(self, peer: str) -> None:
        if self._replica is not None:
            self._replica.link(peer)
            self._wake()

    def _unlinked(self, peer: str) -> None:
        if self._replica is not None:
            self._replica.unlink(peer)

    def _received(self, peer: str, messages: Sequence[pb.Message]) -> None:
        if self._replica is not None:
            self._replica.receive(peer, messages)
            self._wake()

    def _tick(self) -> None:
        if self._replica is None:
            return
        period_s = self.config.append_period_ms / 1000 / _TICKS_PER_PERIOD
        self._timer = asyncio.get_running_loop().call_later(period_s, self._tick)
        if not self._replica.idle:
            self._wake()

    def _wake(self) -> None:
        if not self._scheduled and self._replica is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        replica = self._replica
        if replica is None:
            self._scheduled = False
            return
        self._began_s = now_s()
        if self._survives(replica.begin):
            # The senders' tasks run before the next callback: followers write while this replica syncs.
            asyncio.get_running_loop().call_soon(self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        replica = self._replica
        self._scheduled = False
        if replica is None:
            return
        self._survives(replica.finish)
        self._metrics.turned(now_s() - self._began_s)
        self._notify(replica.leadership())
        self._changed.set()
        if replica.busy:
            self._wake()

    def _survives(self, step: Callable[[], T]) -> T | None:
        """Run half a turn. Whatever it raises is fatal: memory and disk may disagree from then on."""
        try:
            return step()
        except Exception as error:
            meaning = "the disk failed" if isinstance(error, OSError) else "an invariant is broken"
            if isinstance(error, NewerFormat):
                meaning = "this release is older than what the cluster speaks, install the newer one here"
            log.exception("raft_turn_failed")
            self._end(f"{meaning}: {error!r}")
            return None

    def _end(self, reason: str) -> None:
        """Say nothing any more, not even that this replica leads."""
        self._replica = None
        self._leadership = Leadership(self._leadership.term, None, False)
        self._fatal(f"{reason}; ending the process so that nothing unproven leaves it")

    def _notify(self, leadership: Leadership) -> None:
        if leadership != self._leadership:
            self._leadership = leadership
            log.debug("leadership_changed", **leadership._asdict())
            for callback in self._callbacks:
                callback(leadership)
