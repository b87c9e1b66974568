"""Unary calls to any replica of metasrv: tried in turn, again after passing faults, inside the caller's deadline.

The replica that answered last is asked first; one that hangs is not waited for.

Changes carry a request id that stays the same over all tries, so that metasrv applies them once.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel, raise_if_cancelled
from groundwork.adapters.rpc_errors import RETRIABLE, leader_hint, typed
from groundwork.core.errors import BadInput, Unknown
from groundwork.core.ports import Clock
from protos.metasrv.v1 import types_pb2

R = TypeVar("R")
ATTEMPT_MS_MAX = 6_000
HEDGE_MS = 400
RETRY_MS_MIN = 25
RETRY_MS_MAX = 400

# Which method of which stub, given a channel: lambda channel: CatalogStub(channel).CreateTable
Method = Callable[[grpc.aio.Channel], Callable[..., Any]]


class ReplicaCalls:
    """Channels to every replica, opened when first used, and the replica that answered last."""

    def __init__(
        self,
        addresses: Sequence[str],
        cluster_id: str,
        tls: TlsConfig | None = None,
        clock: Clock | None = None,
        node_id: str = "",
    ) -> None:
        if not addresses:
            raise BadInput("metasrv", "at least one address of a metasrv replica is needed")
        self.addresses = list(dict.fromkeys(addresses))
        self.clock: Clock = clock or SystemClock()
        self.sender = types_pb2.Sender(cluster_id=cluster_id, node_id=node_id)
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._preferred = 0

    def channel(self, address: str) -> grpc.aio.Channel:
        """The one channel to that replica."""
        if address not in self._channels:
            self._channels[address] = aio_channel(address, self._tls)
        return self._channels[address]

    async def call(
        self, method: Method, request: Any, answer: type[R], deadline_ms: float, *, hedged: bool = True
    ) -> R:
        """Call until a replica answers. Raises BadInput, Refused, ForeignCluster; Unknown at the deadline.

        A replica that is silent for HEDGE_MS, stopped or overloaded, holds no call: the next is asked beside it. Not
        `hedged`, for what must not be done twice and has no request id: then only when it has failed.
        """
        until = self.clock.now_ms() + deadline_ms
        pause_ms = float(RETRY_MS_MIN)
        while True:
            try:
                reply = await self._ask_all(method, request, until, HEDGE_MS if hedged else ATTEMPT_MS_MAX)
            except grpc.aio.AioRpcError as error:
                raise_if_cancelled()
                if error.code() not in RETRIABLE:
                    raise typed(error) from error
                if until - self.clock.now_ms() <= pause_ms:
                    raise Unknown(
                        f"no metasrv replica of {', '.join(self.addresses)} answered within {deadline_ms:.0f} ms: "
                        f"{error.details() or error.code().name}; whether it was done is not known, "
                        "ask again under the same request id"
                    ) from error
                await self.clock.sleep(pause_ms)
                pause_ms = min(2 * pause_ms, RETRY_MS_MAX)
            else:
                if not isinstance(reply, answer):
                    raise TypeError(f"{type(reply).__name__} is not the answer expected, {answer.__name__}")
                return reply

    async def _ask_all(self, method: Method, request: Any, until: float, hedge_ms: float) -> Any:
        """The first answer of any replica, the last good one first. Raises the last failure, or the first for good."""
        count = len(self.addresses)
        turns = [(self._preferred + n) % count for n in range(count)]
        asked: dict[asyncio.Task[Any], int] = {}
        timer: asyncio.Task[None] | None = None
        failure: grpc.aio.AioRpcError | None = None
        try:
            while turns or asked:
                if failure is not None and self.clock.now_ms() >= until:
                    break
                if turns and (timer is None or timer.done() or not asked):
                    index = turns.pop(0)
                    asked[asyncio.create_task(self._ask(method, request, index, until))] = index
                    if timer is not None:
                        timer.cancel()
                    timer = asyncio.create_task(self.clock.sleep(hedge_ms))
                assert timer is not None
                watched = [*asked, timer] if turns else [*asked]
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in [t for t in asked if t.done()]:
                    index = asked.pop(task)
                    error = task.exception()
                    if error is None:
                        self._preferred = index
                        return task.result()
                    if not isinstance(error, grpc.aio.AioRpcError) or error.code() not in RETRIABLE:
                        raise error
                    failure = error
                    leader = leader_hint(error)
                    turns.sort(key=lambda turn: self.addresses[turn] != leader)
        finally:
            await _cancelled([*asked, *([timer] if timer is not None else [])])
        assert failure is not None
        self.prefer_next()
        raise failure

    async def _ask(self, method: Method, request: Any, index: int, until: float) -> Any:
        timeout_ms = max(1.0, min(until - self.clock.now_ms(), ATTEMPT_MS_MAX))
        return await method(self.channel(self.addresses[index]))(request, timeout=timeout_ms / 1000)

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def prefer_next(self) -> None:
        """Ask another replica next time: the one that answered last may be behind."""
        self._preferred = (self._preferred + 1) % len(self.addresses)


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
