"""Registration, orders and reports against the real Nodes service, with replicas that die and come back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from datanode_agent.adapters import metasrv_link
from datanode_agent.adapters.metasrv_link import MetasrvLink, Orders
from datanode_agent.adapters.metrics import Metrics
from datanode_agent.adapters.reporter import Reporter
from groundwork.adapters.clock import SystemClock
from groundwork.core.errors import ForeignCluster, Refused, Unknown
from metasrv.core.leases import Beat
from protos.metasrv.v1 import nodes_pb2
from tests.integration.agent.harness import CLUSTER_ID, hung_server
from tests.integration.agent.replica import replica, until
from tests.ports import free_ports

CLOCK = SystemClock()


@asynccontextmanager
async def _link(*addresses: str, cluster_id: str = CLUSTER_ID) -> AsyncIterator[MetasrvLink]:
    link = MetasrvLink(addresses, None, cluster_id, "dn-1", CLOCK)
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def _running(work: "asyncio.Future[None]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def _request(folder_id: str = "folder", takeover: bool = False) -> nodes_pb2.RegisterRequest:
    return nodes_pb2.RegisterRequest(
        address="127.0.0.1:9",
        locality="site-1/zone-a",
        lanes=2,
        capacity_regions=10,
        folder_id=folder_id,
        takeover=takeover,
    )


def _orders(
    link: MetasrvLink, incarnation: int, apply: Callable[[nodes_pb2.OrdersReply], None], over: list[str]
) -> Orders:
    return Orders(link, incarnation, CLOCK, apply, over.append, Metrics())


def _dead() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def test_registration_goes_on_until_a_replica_answers() -> None:
    """No replica is there at first: the agent neither fails nor exits; it registers when one is."""

    async def story() -> None:
        async with replica() as one, _link(_dead(), one.address) as link:
            await one.stop()
            waiting = asyncio.create_task(link.register(_request()))
            await CLOCK.sleep(300)
            assert not waiting.done()
            await one.start()
            reply = await waiting
            assert reply.incarnation == one.machine.state.nodes["dn-1"].incarnation
            assert (reply.lease_ms, reply.beat_ms) == (one.config.lease_ms, one.config.beat_ms)

    asyncio.run(story())


def test_the_same_folder_supersedes_and_another_is_refused_while_the_old_one_is_heard() -> None:
    """DESIGN §9 registration: succession is proved by the folder; anything else is a duplicate unless it takes over."""

    async def story() -> None:
        async with replica(lease_ms=60_000) as one, _link(one.address) as link:
            first = (await link.register(_request())).incarnation
            second = (await link.register(_request())).incarnation
            assert second > first
            one.book.heard(Beat("dn-1", second), one.clock.now_ms())
            with pytest.raises(Refused):
                await link.register(_request("elsewhere"))
            third = (await link.register(_request("elsewhere", takeover=True))).incarnation
            assert third > second

    asyncio.run(story())


def test_the_tries_of_one_registration_are_applied_once() -> None:
    """One that comes late, behind the answer to another try, supersedes nothing; a new registration does."""

    async def story() -> None:
        async with replica() as one, _link(one.address) as link:
            request = _request()
            request.request_id = "one registration"
            first = (await link.register(request)).incarnation
            assert (await link.register(request)).incarnation == first == one.machine.state.nodes["dn-1"].incarnation
            request.request_id = "another"
            assert (await link.register(request)).incarnation > first

    asyncio.run(story())


def test_a_foreign_cluster_is_refused_for_good() -> None:
    """T20: another cluster id is an error at once, not something to try again."""

    async def story() -> None:
        async with replica() as one, _link(_dead(), one.address, cluster_id="0" * 32) as link:
            with pytest.raises(ForeignCluster):
                await link.register(_request())

    asyncio.run(story())


def test_release_has_a_deadline() -> None:
    """A release that nobody takes gives up in time: the lease runs out anyway."""

    async def story() -> None:
        async with _link(_dead(), _dead()) as link:
            with pytest.raises(Unknown, match="release"):
                await link.release(5, "test", 200)

    asyncio.run(story())


def test_orders_go_on_at_another_replica_when_one_dies() -> None:
    """The stream breaks; the next replica begins with a snapshot."""

    async def story() -> None:
        async with replica() as one, replica() as two:
            for each in (one, two):
                incarnation = await each.register("dn-1")
            async with _link(one.address, two.address) as link:
                seen: list[nodes_pb2.OrdersReply] = []
                orders = _orders(link, incarnation, seen.append, [])
                async with _running(asyncio.ensure_future(orders.run())):
                    await until(lambda: len(seen) >= 1, CLOCK, "a snapshot")
                    assert seen[0].snapshot
                    assert seen[0].revision == one.machine.state.revision
                    await one.stop()
                    snapshots = lambda: sum(reply.snapshot for reply in seen)  # noqa: E731
                    await until(lambda: snapshots() == 2, CLOCK, "a snapshot of the other replica")
                    assert link.chooser.current == two.address

    asyncio.run(story())


def test_orders_follow_the_leader() -> None:
    """A beat's answer that names a new leader moves the stream there."""

    async def story() -> None:
        async with replica() as one, replica() as two:
            for each in (one, two):
                incarnation = await each.register("dn-1")
            async with _link(one.address, two.address) as link:
                seen: list[nodes_pb2.OrdersReply] = []
                orders = _orders(link, incarnation, seen.append, [])
                async with _running(asyncio.ensure_future(orders.run())):
                    await until(lambda: len(seen) >= 1, CLOCK, "a snapshot")
                    assert link.leader_is(two.address, 2)
                    orders.switch("another replica leads")
                    await until(lambda: len([r for r in seen if r.snapshot]) == 2, CLOCK, "the other's snapshot")

    asyncio.run(story())


def test_orders_say_that_the_incarnation_is_over() -> None:
    """A newer registration ends the stream of the older one with the word that makes the agent register again."""

    async def story() -> None:
        async with replica() as one, _link(one.address) as link:
            incarnation = await one.register("dn-1")
            over: list[str] = []
            orders = _orders(link, incarnation, lambda _: None, over)
            async with _running(asyncio.ensure_future(orders.run())):
                await one.register("dn-1")
                await until(lambda: bool(over), CLOCK, "the end of the incarnation")
                assert over[0] == one.address

    asyncio.run(story())


def test_reports_are_repeated_until_answered() -> None:
    """Metasrv is away when the report is made; it arrives when metasrv is back, and only then the queue is empty."""

    async def story() -> None:
        async with replica() as one, _link(_dead(), one.address) as link:
            incarnation = await one.register("dn-1")
            await one.stop()
            reporter = Reporter(link, incarnation)
            async with _running(asyncio.ensure_future(reporter.run())):
                revision = one.machine.state.revision
                for region in range(3):
                    reporter.add(nodes_pb2.RegionReport(region_id=1 << 32 | region, epoch=1, closed={}))
                await CLOCK.sleep(200)
                assert len(reporter) == 3
                await one.start()
                async with asyncio.timeout(20):
                    await reporter.drained()
                assert len(reporter) == 0
                assert one.machine.state.revision == revision + 1, "three reports, one command"

    asyncio.run(story())


def test_a_report_does_not_wait_for_a_replica_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was asked stops answering; when another leads, the report is sent there at once."""
    monkeypatch.setattr(metasrv_link, "ATTEMPT_S", 3_600.0)  # whoever waited for the attempt would never be done

    async def story() -> None:
        async with replica() as one:
            incarnation = await one.register("dn-1")
            with hung_server() as address:
                async with _link(address, one.address) as link:
                    reporter = Reporter(link, incarnation)
                    async with _running(asyncio.ensure_future(reporter.run())):
                        reporter.add(nodes_pb2.RegionReport(region_id=1 << 32, epoch=1, closed={}))
                        await CLOCK.sleep(100)
                        assert len(reporter) == 1
                        link.leader_is(one.address, 2)
                        reporter.send_again()
                        async with asyncio.timeout(20):
                            await reporter.drained()

    asyncio.run(story())
