"""Calls to replicas of which one hangs, is gone, or does not lead."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.replica_calls import ReplicaCalls
from groundwork.adapters.rpc import aio_server
from groundwork.core.errors import MetasrvError, Unknown
from metactl.asking import Metasrv
from protos.metasrv.v1 import admin_pb2
from protos.metasrv.v1.admin_pb2_grpc import AdminServicer, AdminStub, add_AdminServicer_to_server

REQUEST = admin_pb2.StatusRequest()


class Replica(AdminServicer):
    """Says its name."""

    def __init__(self, name: str, code: grpc.StatusCode | None = None, hangs: bool = False) -> None:
        self.name, self.code, self.hangs, self.asked = name, code, hangs, 0

    async def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusReply:
        """Or refuses, or says nothing, as a process does that is stopped."""
        self.asked += 1
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.code is not None:
            await context.abort(self.code, "told by a test")
        return admin_pb2.StatusReply(cluster_id=self.name)


@contextlib.asynccontextmanager
async def served(replica: Replica) -> AsyncIterator[str]:
    """Its address."""
    server = aio_server()
    add_AdminServicer_to_server(replica, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def ask(calls: ReplicaCalls, deadline_ms: float = 20_000, **more: Any) -> str:
    """Whoever answered."""
    reply = await calls.call(lambda c: AdminStub(c).Status, REQUEST, admin_pb2.StatusReply, deadline_ms, **more)
    return reply.cluster_id


def test_a_stopped_replica_holds_no_call() -> None:
    """SIGSTOP: another is asked beside it, and is asked first from then on."""

    async def story() -> None:
        good = Replica("good")
        async with served(Replica("hung", hangs=True)) as hung, served(good) as address:
            calls, clock = ReplicaCalls([hung, address], "c"), SystemClock()
            began = clock.now_ms()
            assert await ask(calls) == "good"
            first = clock.now_ms()
            assert [await ask(calls) for _ in range(20)] == ["good"] * 20
            print(f"first {first - began:.0f} ms, then {(clock.now_ms() - first) / 20:.1f} ms a call")
            assert good.asked == 21
            await calls.close()

    asyncio.run(story())


def test_what_must_not_be_done_twice_is_not_hedged() -> None:
    """Without a request id, another is asked only when the first has failed."""

    async def story() -> None:
        good = Replica("good")
        async with served(Replica("hung", hangs=True)) as hung, served(good) as address:
            calls = ReplicaCalls([hung, address], "c")
            with pytest.raises(Unknown):
                await ask(calls, 1_000, hedged=False)
            assert good.asked == 0
            await calls.close()

    asyncio.run(story())


def test_one_that_is_away_is_passed_over_and_a_refusal_is_an_answer() -> None:
    """A passing fault goes to the next replica at once; a refusal for good comes from the first that says so."""

    async def story() -> None:
        away, good = Replica("away", grpc.StatusCode.UNAVAILABLE), Replica("good")
        no = Replica("no", grpc.StatusCode.FAILED_PRECONDITION)
        async with served(away) as one, served(good) as two, served(no) as three:
            calls = ReplicaCalls([one, two], "c")
            assert await ask(calls) == "good" and away.asked == 1
            assert await ask(calls) == "good" and away.asked == 1
            await calls.close()
            calls = ReplicaCalls([three, two], "c")
            before = good.asked
            with pytest.raises(MetasrvError, match="told by a test"):
                await ask(calls)
            assert good.asked == before
            await calls.close()

    asyncio.run(story())


def test_an_operators_command_does_not_wait_for_a_stopped_replica() -> None:
    """metactl: the next replica is asked after a second, and first from then on."""

    async def story() -> None:
        async with served(Replica("hung", hangs=True)) as hung, served(Replica("good")) as address:
            client, clock = Metasrv([hung, address]), SystemClock()
            began = clock.now_ms()
            assert (await asyncio.to_thread(client.status)).cluster_id == "good"
            print(f"{clock.now_ms() - began:.0f} ms")
            assert client.replicas[0].address == address
            await asyncio.to_thread(client.close)

    asyncio.run(story())
