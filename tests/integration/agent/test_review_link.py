"""A replica that cannot do what it is asked, for a reason of its own, is left for the next."""

import asyncio

from datanode_agent.adapters.metasrv_link import Reporter
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.rpc import aio_server, listen
from protos.metasrv.v1 import nodes_pb2
from tests.integration.agent.replica import replica
from tests.integration.agent.test_link import _link, _request
from tests.ports import free_ports

CLOCK = SystemClock()


def test_p7_a_status_without_a_reason_of_ours_ends_no_agent() -> None:
    """P7: something at a replica's address has no such service (UNIMPLEMENTED): register and report ask another."""

    async def story() -> None:
        strange = f"127.0.0.1:{free_ports(1)[0]}"
        server = aio_server([])
        listen(server, strange, None)
        await server.start()
        try:
            await asked(strange)
        finally:
            await server.stop(None)

    async def asked(strange: str) -> None:
        async with replica() as one, _link(strange, one.address) as link:
            token = (await link.register(_request())).incarnation
            link._calls_chooser.failed(one.address)  # the strange one is asked first again
            reporter = Reporter(link, token, CLOCK)
            running = asyncio.create_task(reporter.run())
            report = nodes_pb2.RegionReport(region_id=1, epoch=1)
            report.closed.SetInParent()
            reporter.add(report)
            drained = asyncio.create_task(reporter.drained())
            await asyncio.wait({running, drained}, return_when=asyncio.FIRST_COMPLETED)
            assert drained.done() and not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
