"""One metasrv and datanodes as processes: rows in, rows out, stops, deaths, zombies and takeovers."""

import asyncio
import signal
from pathlib import Path

from protos.datanode.v1 import datanode_pb2
from tests.integration.agent.cluster import Cluster, Process, cluster
from tests.integration.agent.harness import run_agent

ROWS = [("a", 1_000, 1.5), ("b", 2_000, 2.5)]


async def _one_datanode(one: Cluster, **changes: object) -> tuple[Path, Process]:
    config = one.configure("dn-1", **changes)
    process = one.start_datanode(config)
    await process.ready()
    return config, process


def test_rows_in_rows_out(tmp_path: Path) -> None:
    """Register, lease, orders, a table, an acknowledged write, a scan, a strong one; wrong targets refused."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            _, node = await _one_datanode(one)
            table = await one.create_table("cpu")
            route = await one.write_until_done(table, ROWS)
            for strong in (False, True):
                rows = await one.scan(table, route, strong)
                assert [(r["host"], r["usage"]) for r in rows] == [("a", 1.5), ("b", 2.5)]
            for wrong in ({"node_id": "dn-2"}, {"incarnation": route.incarnation + 1}):
                other = type(route)()
                other.CopyFrom(route)
                for name, value in wrong.items():
                    setattr(other, name, value)
                assert (await one.write(table, ROWS, other)).outcome == datanode_pb2.WRONG_NODE
            page = (await node.get("/metrics"))[1]
            assert "datanode_write_rows_total 2.0" in page
            assert (await node.get("/health"))[0] == 200

    asyncio.run(story())


def test_graceful_stop_and_restart_keep_every_row(tmp_path: Path) -> None:
    """SIGTERM flushes and releases, status 0; the next start takes its regions back, under a new incarnation."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            config, node = await _one_datanode(one)
            table = await one.create_table("cpu")
            before = await one.write_until_done(table, ROWS)
            node.signal(signal.SIGTERM)
            assert await node.ended() == 0
            assert node.events("released"), node.tail()
            assert "nothing to release" in run_agent("release", "--config", str(config)).stdout
            await one.start_datanode(config, "--fast").ready()
            after = await one.write_until_done(table, [("c", 3_000, 3.5)])
            assert after.incarnation > before.incarnation
            assert [r["host"] for r in await one.scan(table, after)] == ["a", "b", "c"]

    asyncio.run(story())


def test_witnessed_death(tmp_path: Path) -> None:
    """P3: kill -9, then `release` as the service manager does: a survivor takes over long before the lease ends."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            config, node = await _one_datanode(one)
            table = await one.create_table("cpu")
            await one.write_until_done(table, ROWS)
            await one.start_datanode(one.configure("dn-2")).ready()
            node.kill()
            done = run_agent("release", "--config", str(config))
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("released incarnation")
            route = await one.write_until_done(table, [("c", 3_000, 3.5)], patience_ms=40_000)
            assert route.node_id == "dn-2"
            assert [r["host"] for r in await one.scan(table, route)] == ["a", "b", "c"]

    asyncio.run(story())


def test_p7_metasrv_away_and_back(tmp_path: Path) -> None:
    """P7: metasrv dies; the datanode stops serving and does not exit; metasrv returns, and it serves as before."""

    async def story() -> None:
        async with cluster(tmp_path, lease_ms=3_000) as one:
            _, node = await _one_datanode(one)
            table = await one.create_table("cpu")
            before = await one.write_until_done(table, ROWS)
            one.metasrv.kill()
            await node.event("lease_lost")
            assert (await one.write(table, ROWS, before)).outcome == datanode_pb2.NO_LEASE
            assert (await node.get("/ready"))[0] == 503
            one.start_metasrv()
            await node.ready()
            after = await one.write_until_done(table, [("c", 3_000, 3.5)])
            assert [r["host"] for r in await one.scan(table, after)] == ["a", "b", "c"]
            assert (after.incarnation, after.epoch) == (before.incarnation, before.epoch)

    asyncio.run(story())


def test_zombie(tmp_path: Path) -> None:
    """P2, T8: SIGSTOP for longer than a lease, then SIGCONT: it acknowledges nothing, and becomes useful again."""

    async def story() -> None:
        async with cluster(tmp_path, lease_ms=3_000) as one:
            _, node = await _one_datanode(one)
            table = await one.create_table("cpu")
            before = await one.write_until_done(table, ROWS)
            survivor = one.start_datanode(one.configure("dn-2"))
            await survivor.ready()
            node.signal(signal.SIGSTOP)
            after = await one.write_until_done(table, [("c", 3_000, 3.5)])
            assert after.node_id == "dn-2"
            node.signal(signal.SIGCONT)
            stale = await one.write(table, [("z", 9_000, 9.5)], before)
            assert stale.outcome not in (datanode_pb2.DONE, datanode_pb2.UNKNOWN_OUTCOME)
            registered = await node.event("registered", 2)
            assert registered["incarnation"] > before.incarnation
            await node.ready()
            assert [r["host"] for r in await one.scan(table, after, strong=True)] == ["a", "b", "c"]

    asyncio.run(story())


def test_taken_over(tmp_path: Path) -> None:
    """A second process with another data folder is refused in one line; with --takeover the first one exits with 3."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            _, first = await _one_datanode(one)
            other = one.configure("dn-1", folder="elsewhere")
            refused = one.start_datanode(other, name="refused")
            assert await refused.ended() == 2
            assert "node_id" in refused.log.read_text().splitlines()[-1]
            second = one.start_datanode(other, "--takeover")
            assert await first.ended() == 3, first.tail()
            await second.ready()
            table = await one.create_table("cpu")
            await one.write_until_done(table, ROWS)

    asyncio.run(story())


def test_foreign_cluster_is_refused_in_one_line(tmp_path: Path) -> None:
    """T20: a datanode of another cluster exits with status 2, says why, and serves once its cluster id is right."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            node = one.start_datanode(one.configure("dn-1", cluster_id="0" * 32))
            assert await node.ended() == 2
            assert "error: cluster_id: this is cluster" in node.log.read_text().splitlines()[-1]
            await one.start_datanode(one.configure("dn-1")).ready()

    asyncio.run(story())


def test_a_store_that_is_not_the_clusters_is_refused_in_one_line(tmp_path: Path) -> None:
    """P1: a datanode with a mistyped object store acknowledges nothing that nobody else could read: it exits with 2."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            config = one.configure("dn-1")
            text = config.read_text()
            (tmp_path / "elsewhere").mkdir()
            config.write_text(text.replace(str(tmp_path / "objects"), str(tmp_path / "elsewhere")))
            node = one.start_datanode(config)
            assert await node.ended() == 2, node.tail()
            assert "error: object_store: it holds no " in node.log.read_text().splitlines()[-1]
            assert not any(path.is_file() for path in (tmp_path / "elsewhere").rglob("*"))
            config.write_text(text)
            await one.start_datanode(config).ready()

    asyncio.run(story())


def test_a_drain_moves_the_regions_and_is_undone_by_the_next_start(tmp_path: Path) -> None:
    """P4, DESIGN §6: SIGTERM moves every region to the other node; the node takes new regions once it is back."""

    async def story() -> None:
        async with cluster(tmp_path) as one:
            config, node = await _one_datanode(one)
            table = await one.create_table("cpu", partitions=3)
            before = await one.write_until_done(table, ROWS)
            await one.start_datanode(one.configure("dn-2")).ready()
            node.signal(signal.SIGTERM)
            assert await node.ended() == 0, node.tail()
            assert node.events("drained")[0]["regions_left"] == 0, node.tail()
            routes = [await one.route(region) for region in table.region_ids]
            assert {route.node_id for route in routes} == {"dn-2"}
            after = await one.write_until_done(table, [("c", 3_000, 3.5)])
            assert after.epoch > before.epoch
            assert [r["host"] for r in await one.scan(table, after)] == ["a", "b", "c"]
            await one.start_datanode(config).ready()
            other = await one.create_table("mem", partitions=4)
            assert "dn-1" in {(await one.route(region)).node_id for region in other.region_ids}

    asyncio.run(story())
