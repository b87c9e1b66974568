"""A cancellation that meets the status of a call: grpc.aio swallows it, and no loop may outlive its end by that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from datanode_agent.adapters.metasrv_link import MetasrvLink
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.rpc import aio_channel, aio_server, raise_if_cancelled
from protos.metasrv.v1 import admin_pb2
from protos.metasrv.v1.admin_pb2_grpc import AdminServicer, AdminStub, add_AdminServicer_to_server

Ask = Callable[[grpc.aio.Channel], Awaitable[admin_pb2.StatusReply]]


class Away(AdminServicer):
    """A replica that has nothing to say now."""

    async def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusReply:
        """Never answers for good."""
        await context.abort(grpc.StatusCode.UNAVAILABLE, "told by a test")


@contextlib.asynccontextmanager
async def away() -> AsyncIterator[str]:
    """Its address."""
    server = aio_server()
    add_AdminServicer_to_server(Away(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def asking(cancelled: "list[asyncio.Task[Any]]") -> Ask:
    """A call that cancels the task in the turn of the loop in which the status of the call arrives."""

    def ask(channel: grpc.aio.Channel) -> Awaitable[admin_pb2.StatusReply]:
        call = AdminStub(channel).Status(admin_pb2.StatusRequest())
        call.add_done_callback(lambda _: cancelled[0].cancel())
        return call

    return ask


def test_the_library_swallows_such_a_cancellation_and_we_ask() -> None:
    """The call raises its status, not CancelledError; raise_if_cancelled() makes up for it."""

    async def call(ask: Ask, address: str) -> None:
        async with aio_channel(address, None) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(channel)
        raise_if_cancelled()

    async def story() -> None:
        raise_if_cancelled()  # nobody was
        async with away() as address:
            tasks: list[asyncio.Task[Any]] = []
            tasks.append(asyncio.create_task(call(asking(tasks), address)))
            await asyncio.wait(tasks, timeout=20)
            assert tasks[0].cancelled()

    asyncio.run(story())


def test_an_agent_that_is_told_to_end_does_not_ask_on() -> None:
    """P7: registering and reporting go on for ever while no replica answers, but not past their own cancellation."""

    async def story() -> None:
        async with away() as address:
            link = MetasrvLink((address,), None, "c", "dn-1", SystemClock())
            tasks: list[asyncio.Task[Any]] = []
            tasks.append(asyncio.create_task(link._ask("status", asking(tasks), None)))
            await asyncio.wait(tasks, timeout=20)
            assert tasks[0].cancelled()
            await link.close()

    asyncio.run(story())
