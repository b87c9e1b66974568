"""A frontend in the test's own loop, before one real metasrv replica, spoken to over real HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from metasrv_frontend.config import FrontendConfig, check_config
from metasrv_frontend.service import Frontend
from tests.integration.agent.harness import CLUSTER_ID
from tests.integration.agent.replica import Replica, replica
from tests.ports import free_ports


class World(NamedTuple):
    """A replica, a frontend that has its routes, and a client of it."""

    replica: Replica
    frontend: Frontend
    http: httpx.AsyncClient

    async def write(self, lines: str | bytes, path: str = "/v1/influxdb/write", **options: Any) -> httpx.Response:
        """Send line protocol."""
        return await self.http.post(path, content=lines, **options)

    async def sql(self, text: str, **parameters: str) -> httpx.Response:
        """Send SQL in a form."""
        return await self.http.post("/v1/sql", data={"sql": text}, params=parameters)

    async def rows(self, text: str, **parameters: str) -> list[list[Any]]:
        """The rows of a query that must succeed."""
        answer = await self.sql(text, **parameters)
        assert answer.status_code == 200, answer.text
        rows: list[list[Any]] = answer.json()["output"][-1]["records"]["rows"]
        return rows


@asynccontextmanager
async def frontend_of(one: Replica, **settings: Any) -> AsyncIterator[World]:
    """A frontend of that replica, ready, with a client; both are stopped at the end."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = FrontendConfig(
        cluster_id=CLUSTER_ID,
        node_id="fe-1",
        locality="site-1/zone-a",
        http_listen=address,
        metasrv=[one.address],
        **{"deadline_ms": 20_000, **settings},
    )
    frontend = Frontend(check_config(config))
    await frontend.start()
    try:
        await frontend.routes.ready()
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as http:
            yield World(one, frontend, http)
    finally:
        await frontend.stop()


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """A replica that knows one datanode, at an address where nobody answers, and a frontend."""
    async with replica(lease_ms=60_000) as one:
        await one.register("dn-1")
        async with frontend_of(one, **settings) as found:
            yield found
