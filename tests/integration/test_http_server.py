"""The HTTP server's end: nothing new comes in, what is under way gets a moment."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from groundwork.adapters.http import HttpServer
from tests.ports import free_ports


def test_requests_under_way_end_and_new_ones_are_refused() -> None:
    """stop(): the port is closed at once, and a request that was being answered is answered."""

    async def story() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> PlainTextResponse:
            began.set()
            await go_on.wait()
            return PlainTextResponse("whole")

        [port] = free_ports(1)
        server = HttpServer(Starlette(routes=[Route("/slow", slow)]), f"127.0.0.1:{port}")
        await server.start()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as one, httpx.AsyncClient() as two:
            answer = asyncio.create_task(one.get("/slow"))
            await began.wait()
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0)
            with pytest.raises(httpx.ConnectError):
                await two.get(f"http://127.0.0.1:{port}/slow")
            go_on.set()
            assert (await answer).text == "whole"
            await stopping

    asyncio.run(story())


def test_what_never_ends_is_cut_off() -> None:
    """A request that hangs does not keep the process from stopping."""

    async def story() -> None:
        began = asyncio.Event()

        async def hang(request: Request) -> PlainTextResponse:
            began.set()
            await asyncio.get_running_loop().create_future()
            return PlainTextResponse("never")

        [port] = free_ports(1)
        server = HttpServer(Starlette(routes=[Route("/hang", hang)]), f"127.0.0.1:{port}", grace_s=0.2)
        await server.start()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as one:
            answer = asyncio.create_task(one.get("/hang"))
            await began.wait()
            await server.stop()
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    asyncio.run(story())
