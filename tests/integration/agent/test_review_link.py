"""Replicas of other releases: one that cannot do what it is asked is left; what one does not know is told."""

import asyncio

from structlog.testing import capture_logs

from datanode_agent.adapters.reporter import Reporter
from groundwork.adapters.rpc import aio_server, listen
from protos.metasrv.v1 import nodes_pb2
from tests.integration.agent.replica import replica
from tests.integration.agent.test_link import _link, _request
from tests.ports import free_ports


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
            reporter = Reporter(link, token)
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


def test_a_report_that_an_older_metasrv_does_not_know_is_told_and_not_repeated() -> None:
    """It is logged with its region by the agent that sent it; what went with it is delivered."""

    async def story() -> None:
        async with replica() as one, _link(one.address) as link:
            reporter = Reporter(link, (await link.register(_request())).incarnation)
            reporter.add(nodes_pb2.RegionReport(region_id=7, epoch=1))  # of no kind that is known
            closed = nodes_pb2.RegionReport(region_id=8, epoch=1)
            closed.closed.SetInParent()
            reporter.add(closed)
            before = one.consensus.revision
            with capture_logs() as logs:
                running = asyncio.create_task(reporter.run())
                drained = asyncio.create_task(reporter.drained())
                await asyncio.wait({running, drained}, return_when=asyncio.FIRST_COMPLETED)
            assert drained.done() and not running.done()
            assert one.consensus.revision == before + 1, "the other one was committed, once"
            assert [
                (e["kind"], e["region_id"]) for e in logs if e["event"] == "report_refused" and "region_id" in e
            ] == [("unknown_report", 7)]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
