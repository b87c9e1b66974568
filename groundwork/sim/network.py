"""A network between simulated processes that carries the real stubs and servicers, as serialised messages.

A connection is what one process has to one address: each direction delivers in order, after a delay; different
connections do not wait for each other. A blocked direction keeps what is sent back; a connection that is kept back for
longer than the keep-alive time breaks at both ends, as does one whose process is gone (at once where its machine says
so, after the keep-alive time where the machine is gone as well).
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from groundwork.core.check import require
from groundwork.core.errors import BadInput
from groundwork.sim.calls import ClientCall, Metadata, MultiCallable, ServerCall
from groundwork.sim.processes import PAUSED, ClusterLoop, SimProcess, current_process

KEEPALIVE_S = 4.0
CONNECT_S = 0.5


class Fabric:
    """All hosts, links and connections. Delays are drawn from `chance`; faults are set from outside."""

    def __init__(self, loop: ClusterLoop, chance: random.Random, delay_s: tuple[float, float]) -> None:
        self.loop = loop
        self.delay_s = delay_s
        self.slow_s: dict[str, float] = {}  # host -> what every packet to or from it takes more
        self.servers: dict[str, SimServer] = {}
        self.packets = 0
        self._chance = chance
        self._blocked: set[tuple[str, str]] = set()
        self._connections: list[Connection] = []
        self._silent: set[str] = set()

    def host(self, process: SimProcess) -> "Host":
        """The Transport of one process (groundwork.adapters.rpc.use_transport)."""
        process.on_crash.append(lambda: self._gone(process))
        return Host(self, process)

    def block(self, source: str, target: str) -> None:
        """Nothing from `source` reaches `target` any more."""
        self._blocked.add((source, target))

    def unblock(self, source: str, target: str) -> None:
        """Heal one direction of one link; what was kept back arrives."""
        self._blocked.discard((source, target))
        for connection in list(self._connections):
            connection.release()

    def unblock_all(self) -> None:
        """Heal every link; what was kept back arrives."""
        self._blocked.clear()
        for connection in list(self._connections):
            connection.release()

    def is_blocked(self, source: str, target: str) -> bool:
        """Whether packets are kept back in that direction."""
        return (source, target) in self._blocked

    def links(self) -> set[tuple[str, str]]:
        """Who has a connection to whom."""
        return {(c.client.name, c.server.process.name) for c in self._connections}

    def blocked_links(self) -> frozenset[tuple[str, str]]:
        """Every (source, target) whose packets are kept back."""
        return frozenset(self._blocked)

    def vanish(self, host: str) -> None:
        """The machine is gone with its processes: nobody is told, keep-alives will notice."""
        self._silent.add(host)

    def break_some(self, share: float) -> int:
        """Break so many of the connections; how many."""
        broken = [c for c in self._connections if self._chance.random() < share]
        for connection in broken:
            connection.break_now("the connection was reset")
        return len(broken)

    def delay(self, source: str, target: str) -> float:
        """Seconds that a packet takes."""
        return self._chance.uniform(*self.delay_s) + self.slow_s.get(source, 0.0) + self.slow_s.get(target, 0.0)

    def opened(self, connection: "Connection") -> None:
        """Remember it."""
        self._connections.append(connection)

    def closed(self, connection: "Connection") -> None:
        """Forget it."""
        if connection in self._connections:
            self._connections.remove(connection)

    def hangs(self, process: SimProcess) -> None:
        """A paused process answers no keep-alives: its peers give its connections up."""
        for connection in [c for c in self._connections if process in (c.client, c.server.process)]:
            self.loop.call_later(KEEPALIVE_S, connection.give_up_on, process)

    def _gone(self, process: SimProcess) -> None:
        for address in [a for a, s in self.servers.items() if s.process is process]:
            del self.servers[address]
        silent = process.name in self._silent
        self._silent.discard(process.name)
        for connection in [c for c in self._connections if process in (c.client, c.server.process)]:
            if silent:
                self.loop.call_later(KEEPALIVE_S, connection.break_now, "keep-alives were not answered")
            else:
                connection.break_now("the connection was reset by its peer")


class Connection:
    """From one process to one server."""

    def __init__(self, fabric: Fabric, client: SimProcess, server: "SimServer") -> None:
        self.fabric, self.client, self.server = fabric, client, server
        self.broken = False
        self.calls: dict[int, ClientCall] = {}
        self.handled: dict[int, ServerCall] = {}
        self._last_s = [0.0, 0.0]
        self._held: list[deque[tuple[Callable[..., None], tuple[Any, ...]]]] = [deque(), deque()]
        self._numbers = 0
        fabric.opened(self)

    def number(self) -> int:
        """For the next call."""
        self._numbers += 1
        return self._numbers

    def send(self, forward: bool, arrive: Callable[..., None], *args: Any) -> None:
        """Deliver in the other process, in order."""
        source, target = self._ends(forward)
        source.effect()
        if self.broken:
            return
        if source.state == PAUSED:
            source.withhold(self.send, forward, arrive, *args)
            return
        held = self._held[forward]
        if held or self.fabric.is_blocked(source.name, target.name):
            held.append((arrive, args))
            if len(held) == 1:
                self.fabric.loop.call_later(KEEPALIVE_S, self._still_held, forward, held[0])
            return
        self._deliver(forward, source, target, arrive, args)

    def release(self) -> None:
        """The links are whole again."""
        for forward in (False, True):
            source, target = self._ends(forward)
            if self.fabric.is_blocked(source.name, target.name):
                continue
            held, self._held[forward] = self._held[forward], deque()
            for arrive, args in held:
                self._deliver(forward, source, target, arrive, args)

    def break_now(self, why: str) -> None:
        """Both ends learn that it is over."""
        if self.broken:
            return
        self.broken = True
        self.fabric.closed(self)
        loop = self.fabric.loop
        for call in self.calls.values():
            loop.call_soon(call.end, grpc.StatusCode.UNAVAILABLE, why, (), context=self.client.context)
        for handled in self.handled.values():
            loop.call_soon(handled.cancelled_by_peer, context=self.server.process.context)
        self.calls, self.handled = {}, {}

    def give_up_on(self, process: SimProcess) -> None:
        """The peers of a paused process have waited long enough."""
        if process.state == "paused":
            self.break_now("keep-alives were not answered")

    def _still_held(self, forward: bool, first: Any) -> None:
        held = self._held[forward]
        if held and held[0] is first:
            self.break_now("keep-alives were not answered")

    def _ends(self, forward: bool) -> tuple[SimProcess, SimProcess]:
        ends = (self.client, self.server.process)
        return ends if forward else (ends[1], ends[0])

    def _deliver(
        self, forward: bool, source: SimProcess, target: SimProcess, arrive: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        loop = self.fabric.loop
        at_s = max(self._last_s[forward] + 1e-6, loop.time() + self.fabric.delay(source.name, target.name))
        self._last_s[forward] = at_s
        self.fabric.packets += 1
        loop.call_at(at_s, self._arrive, arrive, args, context=target.context)

    def _arrive(self, arrive: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.broken:
            arrive(*args)


class Host:
    """One process on the network: the Transport of groundwork.adapters.rpc."""

    def __init__(self, fabric: Fabric, process: SimProcess) -> None:
        self._fabric, self._process = fabric, process

    def channel(self, address: str) -> Any:
        """A channel to an address."""
        return SimChannel(self._fabric, self._process, address)

    def server(self, interceptors: Sequence[Any]) -> Any:
        """A server that is not bound yet."""
        return SimServer(self._fabric, self._process, interceptors)

    def bind(self, server: Any, address: str) -> int:
        """Bind it; the port. Raises BadInput when the address is in use."""
        if address in self._fabric.servers:
            raise BadInput("listen", f"cannot listen on {address}: the port is in use")
        server.address = address
        return int(address.rpartition(":")[2])


class SimChannel:
    """Behaves as a grpc.aio.Channel. It connects when it is first used, and again after its connection broke."""

    def __init__(self, fabric: Fabric, process: SimProcess, address: str) -> None:
        self.fabric, self.process, self.address = fabric, process, address
        self._connection: Connection | None = None
        self._closed = False

    def connect(self) -> Connection | float:
        """The connection, or after how many seconds the attempt to make one fails."""
        if self._closed:
            raise ValueError("the channel is closed")
        connection = self._connection
        if connection is not None and not connection.broken:
            return connection
        host = self.address.rpartition(":")[0]
        server = self.fabric.servers.get(self.address)
        blocked = self.fabric.is_blocked(self.process.name, host) or self.fabric.is_blocked(host, self.process.name)
        if blocked:
            return CONNECT_S
        if server is None or not server.process.alive:
            return 2 * self.fabric.delay(self.process.name, host)
        self._connection = Connection(self.fabric, self.process, server)
        return self._connection

    def unary_unary(self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> MultiCallable:
        """A stub's method."""
        return MultiCallable(self, method, request_serializer, response_deserializer, False, False)

    def unary_stream(self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> MultiCallable:
        """A stub's method."""
        return MultiCallable(self, method, request_serializer, response_deserializer, False, True)

    def stream_stream(
        self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> MultiCallable:
        """A stub's method."""
        return MultiCallable(self, method, request_serializer, response_deserializer, True, True)

    async def close(self, grace: float | None = None) -> None:
        """End every call on it."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            for call in list(connection.calls.values()):
                call.cancel()

    async def __aenter__(self) -> "SimChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class SimServer:
    """Behaves as a grpc.aio.Server with the program's own interceptors and servicers."""

    def __init__(self, fabric: Fabric, process: SimProcess, interceptors: Sequence[Any]) -> None:
        self.fabric, self.process = fabric, process
        self.address = ""
        self._interceptors = list(interceptors)
        self._methods: dict[str, Any] = {}
        self._guarded: dict[str, Any] = {}
        self._calls: list[ServerCall] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Registered handlers are the ones that count."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """What a generated add_...Servicer_to_server calls."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler

    async def start(self) -> None:
        """Listen."""
        self.fabric.servers[self.address] = self

    async def stop(self, grace: float | None) -> None:
        """Stop listening; what is open is ended."""
        if self.fabric.servers.get(self.address) is self:
            del self.fabric.servers[self.address]
        for call in self._calls:
            call.abandon(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        await asyncio.sleep(0)

    async def handler(self, method: str, metadata: Metadata) -> Any:
        """The handler of a method behind all interceptors, or None."""
        if method not in self._guarded:
            details = _Details(method, metadata)

            async def innermost(_: Any) -> Any:
                return self._methods.get(method)

            chain = innermost
            for interceptor in reversed(self._interceptors):
                chain = _intercepted(interceptor, chain)
            self._guarded[method] = await chain(details)
        return self._guarded[method]

    def accept(self, call: ServerCall) -> None:
        """A call has arrived: run its handler as a task of this process."""
        require(current_process() is self.process, "a call is handled in the process that serves it")
        self._calls = [c for c in self._calls if not c.done]
        self._calls.append(call)
        call.start(self.fabric.loop)


class _Details:
    """grpc.HandlerCallDetails."""

    def __init__(self, method: str, metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = metadata


def _intercepted(interceptor: Any, inner: Any) -> Any:
    async def chain(details: Any) -> Any:
        return await interceptor.intercept_service(inner, details)

    return chain
