"""Rows in and rows out through real agents, held against an oracle over the same lines; and through failures."""

import asyncio
import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from influxdb_client import InfluxDBClient, Point
from influxdb_client.client.write_api import SYNCHRONOUS

from datanode_agent.engine.config import EngineConfig
from groundwork.adapters.clock import SystemClock
from protos.datanode.v1 import datanode_pb2
from protos.metasrv.v1 import types_pb2
from tests.integration.agent.replica import until
from tests.integration.frontend.harness import SHORT, Cluster, Context, cluster


def test_rows_come_back_as_an_oracle_has_them(tmp_path: Path) -> None:
    """Duplicates, absent tags and fields, a widened table, several regions: SQL answers as DuckDB over the rows."""

    async def story() -> None:
        async with cluster(tmp_path, ("dn-1", "dn-2"), auto_partitions=4) as c:
            chance = random.Random(11)
            kept: dict[tuple[str, str, int], dict[str, Any]] = {}
            for round_ in range(8):
                lines = []
                for _ in range(60):
                    host, dc, time = f"h{chance.randrange(9)}", chance.choice(["", "a", "b"]), chance.randrange(200)
                    fields: dict[str, Any] = {"v": chance.randrange(1000) / 8}
                    if chance.random() < 0.7:
                        fields["n"] = chance.randrange(-5, 5)
                    if round_ > 3 and chance.random() < 0.5:
                        fields["note"] = f'say "{time}"'
                    kept[host, dc, time] = fields
                    text = ",".join(
                        f'{k}="{v.replace(chr(34), chr(92) + chr(34))}"' if isinstance(v, str)
                        else f"{k}={v}i" if isinstance(v, int) else f"{k}={v}"
                        for k, v in fields.items()
                    )  # fmt: skip
                    lines.append(f"cpu,host={host}{',dc=' + dc if dc else ''} {text} {time}")
                # The first body has every tag, so that the table is made with both.
                answer = await c.world.write("\n".join(lines) + "\n")
                assert answer.status_code == 204, answer.text
            await _compare(c, kept)

    asyncio.run(story())


async def _compare(c: Cluster, kept: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    oracle = pa.table(
        {
            "host": [k[0] for k in kept],
            "dc": [k[1] for k in kept],
            "greptime_timestamp": pa.array([k[2] for k in kept], pa.timestamp("ns")),
            "v": pa.array([f.get("v") for f in kept.values()], pa.float64()),
            "n": pa.array([f.get("n") for f in kept.values()], pa.int64()),
            "note": pa.array([f.get("note") for f in kept.values()], pa.string()),
        }
    )
    queries = [
        "SELECT host, dc, CAST(greptime_timestamp AS BIGINT), v, n, note FROM cpu ORDER BY 1, 2, 3",
        "SELECT count(*), sum(v), count(n), min(note) FROM cpu",
        "SELECT host, max(v) FROM cpu WHERE dc = 'a' GROUP BY host ORDER BY host",
        "SELECT v FROM cpu WHERE host = 'h3' AND dc = 'b' ORDER BY greptime_timestamp",
        "SELECT count(*) FROM cpu WHERE greptime_timestamp >= '1970-01-01 00:00:00.000000050' AND "
        "greptime_timestamp < '1970-01-01 00:00:00.000000120'",
        "SELECT a.host, count(*) FROM cpu a JOIN cpu b ON a.host = b.host AND a.v > b.v GROUP BY 1 ORDER BY 1",
    ]
    with duckdb.connect() as connection:
        connection.register("cpu", oracle)
        for query in queries:
            theirs_sql = query.replace("CAST(greptime_timestamp AS BIGINT)", "epoch_ns(greptime_timestamp)")
            theirs = [list(row) for row in connection.sql(theirs_sql).fetchall()]
            for strong in ("lease", "strong"):
                assert await c.world.rows(query, consistency=strong) == theirs, query


def test_the_public_client(tmp_path: Path) -> None:
    """influxdb-client itself, gzip and all, before and behind the path that GreptimeDB's users give it."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            base = str(c.world.http.base_url).rstrip("/")
            for number, url in enumerate((base, f"{base}/v1/influxdb")):
                await asyncio.to_thread(_use_client, url, number)
            assert await c.world.rows('SELECT "host name", v, n, s FROM "my cpu" ORDER BY n') == [
                ["a,b", 1.5, 0, 'x "y"'],
                ["a,b", 1.5, 1, 'x "y"'],
            ]

    asyncio.run(story())


def _use_client(url: str, number: int) -> None:
    with InfluxDBClient(url=url, token="t", org="o", enable_gzip=True) as client:
        assert client.ping() or url.endswith("influxdb")
        point = Point("my cpu").tag("host name", "a,b").field("v", 1.5).field("n", number).field("s", 'x "y"')
        with client.write_api(write_options=SYNCHRONOUS) as api:
            api.write(bucket="public", record=point.time(1_700_000_000_000_000_000 + number))


def test_insert_and_select(tmp_path: Path) -> None:
    """The SQL way in: a partitioned table, rows by INSERT, the exact answer."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            await c.world.sql(
                "CREATE TABLE m (host STRING, ts TIMESTAMP(9) TIME INDEX, v DOUBLE, PRIMARY KEY(host)) "
                "PARTITION BY HASH (host) PARTITIONS 3"
            )
            done = await c.world.sql("INSERT INTO m VALUES ('a', 1, 0.5), ('b', 2, NULL), ('a', 1, 0.75)")
            assert done.json()["output"] == [{"affectedrows": 3}]
            answer = (await c.world.sql("SELECT * FROM m ORDER BY host")).json()
            assert answer["output"] == [
                {
                    "records": {
                        "schema": {
                            "column_schemas": [
                                {"name": "host", "data_type": "String"},
                                {"name": "ts", "data_type": "TimestampNanosecond"},
                                {"name": "v", "data_type": "Float64"},
                            ]
                        },
                        "rows": [["a", 1, 0.75], ["b", 2, None]],
                        "total_rows": 2,
                    }
                }
            ]
            assert len(await c.world.rows("SELECT host FROM m LIMIT 1")) == 1

    asyncio.run(story())


def test_a_lost_reply_is_the_same_rows_again(tmp_path: Path) -> None:
    """The rows were kept and the reply lost: the same bytes, the same time, go again, and the row is there once."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            wire = c.nodes["dn-1"].wire
            assert (await c.world.write("m,t=a v=1")).status_code == 204
            before = len(wire.writes)
            wire.lose_write_replies = 2
            assert (await c.world.write("m,t=b v=2")).status_code == 204
            sent = [bytes(r.writes[0].batch) for r in wire.writes[before:]]
            assert len(sent) == 3
            assert len(set(sent)) == 1
            assert await c.world.rows("SELECT t, v FROM m ORDER BY t") == [["a", 1.0], ["b", 2.0]]

    asyncio.run(story())


def test_refusals_that_pass(tmp_path: Path) -> None:
    """Every outcome that can pass is tried again; READ_ONLY is not, and says why."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            wire = c.nodes["dn-1"].wire
            assert (await c.world.write("m,t=a v=1 1")).status_code == 204
            passing = [
                datanode_pb2.NO_LEASE, datanode_pb2.STOPPED, datanode_pb2.NOT_OWNER, datanode_pb2.STALE_EPOCH,
                datanode_pb2.OPENING, datanode_pb2.UNKNOWN_OUTCOME, datanode_pb2.WRONG_NODE,
                datanode_pb2.UNKNOWN_SCHEMA,
            ]  # fmt: skip
            wire.refuse_writes = [datanode_pb2.RegionOutcome(outcome=o) for o in passing]
            wire.refuse_writes.append(datanode_pb2.RegionOutcome(outcome=datanode_pb2.OVERLOADED, retry_after_ms=40))
            assert (await c.world.write("m,t=a v=2 2")).status_code == 204
            assert wire.refuse_writes == []
            metrics = (await c.world.http.get("/metrics")).text
            assert 'frontend_retries_total{outcome="OVERLOADED"} 1.0' in metrics
            wire.refuse_writes = [datanode_pb2.RegionOutcome(outcome=datanode_pb2.READ_ONLY, message="damaged")]
            answer = await c.world.write("m,t=a v=3 3")
            assert answer.status_code == 503
            assert answer.json()["regions"][0]["reason"] == "READ_ONLY"
            assert "damaged" in answer.json()["error"]

    asyncio.run(story())


def test_p4_the_former_owner_sends_a_write_on(tmp_path: Path) -> None:
    """P4: a refusal that names the new owner is followed at once, without news of the route from metasrv."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            wire = c.nodes["dn-1"].wire
            assert (await c.world.write("m,t=a v=1 1")).status_code == 204
            table = c.world.frontend.routes.table("m")
            assert table is not None
            route = c.world.frontend.routes.route(table.region_ids[0])
            assert route is not None
            told = types_pb2.Route(
                region_id=route.region_id, table_id=route.table_id, node_id="dn-1", incarnation=route.incarnation,
                address=route.address, epoch=route.epoch + 1, phase=types_pb2.OPENING,
            )  # fmt: skip
            wire.refuse_writes = [
                datanode_pb2.RegionOutcome(outcome=datanode_pb2.NOT_OWNER, moved_to=told),
                datanode_pb2.RegionOutcome(outcome=datanode_pb2.READ_ONLY, message="there"),
            ]
            before = len(wire.writes)
            answer = await c.world.write("m,t=a v=2 2")
            assert answer.status_code == 503 and "there" in answer.json()["error"]
            assert [r.writes[0].epoch for r in wire.writes[before:]] == [route.epoch, route.epoch + 1]

    asyncio.run(story())


def test_what_the_deadline_cuts_tells_the_refusal_before_it(tmp_path: Path) -> None:
    """Refused once, then no answer until the deadline, whichever clock says so: the client is told what is known."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            assert (await c.world.write("m,t=a v=1 1")).status_code == 204
            wire = c.nodes["dn-1"].wire

            async def before(request: datanode_pb2.WriteRequest, context: Context) -> None:
                if not wire.refuse_writes:
                    await asyncio.Event().wait()

            for _ in range(3):
                wire.refuse_writes = [datanode_pb2.RegionOutcome(outcome=datanode_pb2.NO_LEASE)]
                wire.before_write = before
                answer = await c.world.write("m,t=a v=2 2", headers=SHORT)
                if not wire.refuse_writes:  # else the machine was too slow for the first attempt
                    assert (answer.status_code, answer.json()["regions"][0]["reason"]) == (503, "NO_LEASE")

    asyncio.run(story())


def test_a_slow_region_delays_no_other(tmp_path: Path) -> None:
    """One region of a request hangs; the rows of the others are there meanwhile, and the answer waits for all."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            await c.world.write("slow,t=a v=1 1\nfast,t=a v=1 1")
            slow = c.world.frontend.routes.table("slow")
            assert slow is not None
            hold = asyncio.Event()

            async def before(request: datanode_pb2.WriteRequest, context: Context) -> None:
                if slow.region_ids[0] in [w.region_id for w in request.writes] and len(request.writes) == 1:
                    await hold.wait()

            wire = c.nodes["dn-1"].wire
            wire.before_write = before
            refused = datanode_pb2.RegionOutcome(outcome=datanode_pb2.NO_LEASE)
            wire.refuse_writes = [refused]  # both are refused once, and then travel alone
            writing = asyncio.create_task(c.world.write("slow,t=a v=2 2\nfast,t=a v=2 2"))
            while await c.world.rows("SELECT count(*) FROM fast") != [[2]]:
                assert not writing.done()
            hold.set()
            assert (await writing).status_code == 204
            assert await c.world.rows("SELECT count(*) FROM slow") == [[2]]

    asyncio.run(story())


def test_a_write_and_a_query_outlast_a_failover(tmp_path: Path) -> None:
    """The owner hangs, the region is failed over: what waits goes to the new owner as soon as the route is known."""

    async def story() -> None:
        async with cluster(tmp_path, ("dn-1", "dn-2")) as c:
            assert (await c.world.write("m,t=a v=1 1")).status_code == 204
            table = c.world.frontend.routes.table("m")
            assert table is not None
            route = c.world.frontend.routes.route(table.region_ids[0])
            assert route is not None
            heir = "dn-2" if route.node_id == "dn-1" else "dn-1"
            hung = asyncio.Event()

            async def never(request: datanode_pb2.WriteRequest, context: Context) -> None:
                hung.set()
                await asyncio.Event().wait()

            c.nodes[route.node_id].wire.before_write = never
            writing = asyncio.create_task(c.world.write("m,t=a v=2 2"))
            await hung.wait()
            await c.fail_over(route.node_id, heir)
            assert (await writing).status_code == 204
            assert await c.world.rows("SELECT v FROM m ORDER BY v") == [[1.0], [2.0]]
            moved = c.world.frontend.routes.route(table.region_ids[0])
            assert moved is not None
            assert (moved.node_id, moved.epoch > route.epoch) == (heir, True)

    asyncio.run(story())


def test_a_broken_scan_is_read_again(tmp_path: Path) -> None:
    """Pieces that came before the stream broke are thrown away: no row is there twice."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            await c.world.write("\n".join(f"m,t=a v={i} {i}" for i in range(500)))
            wire = c.nodes["dn-1"].wire
            wire.cut_scans = 2
            assert await c.world.rows("SELECT count(*), sum(v) FROM m") == [[500, 124750.0]]
            assert len(wire.scans) == 3
            assert list(wire.scans[0].columns) == ["v"]

    asyncio.run(story())


def test_a_query_over_its_budget(tmp_path: Path) -> None:
    """Too much to read is refused with what to do, and the frontend goes on."""

    async def story() -> None:
        async with cluster(tmp_path, query_bytes_max=20_000, query_rows_max=100) as c:
            await c.world.write("\n".join(f"m,t=a v={i} {i}" for i in range(5_000)))
            answer = await c.world.sql("SELECT * FROM m")
            assert (answer.status_code, answer.json()["code"]) == (400, 6000)
            assert "query_bytes_max" in answer.json()["error"]
            narrow = "SELECT v FROM m WHERE greptime_timestamp < to_timestamp_nanos(200)"
            answer = await c.world.sql(narrow)
            assert (answer.status_code, "query_rows_max" in answer.json()["error"]) == (400, True)
            assert (await c.world.sql(narrow, format="arrow")).status_code == 200

    asyncio.run(story())


def test_past_the_memory_budget(tmp_path: Path) -> None:
    """A datanode over its budget answers OVERLOADED: the frontend waits and goes on; what it acknowledged is there."""

    async def story() -> None:
        engine = EngineConfig(memory_budget_bytes=2 << 20, flush_bytes=512 << 10, tick_ms=20)
        async with cluster(tmp_path, engine=engine) as c:
            bodies = [
                "\n".join(f'm,t=a v={i}i,s="{"x" * 50}" {n * 2_000 + i}' for i in range(2_000)) for n in range(40)
            ]
            answers = await asyncio.gather(*(c.world.write(body) for body in bodies))
            done = sum(a.status_code == 204 for a in answers)
            [[count]] = await c.world.rows("SELECT count(*) FROM m")
            retried = [
                line for line in (await c.world.http.get("/metrics")).text.splitlines() if "retries_total{" in line
            ]
            print(f"{done} of 40 bodies acknowledged, {count} rows; {retried}")
            assert count >= 2_000 * done
            assert done == 40

    asyncio.run(story())


def test_metasrv_away_and_back(tmp_path: Path) -> None:
    """P7 as a client sees it: without metasrv the lease runs out and a write waits; with it back, the write is done."""

    async def story() -> None:
        async with cluster(tmp_path, lease_ms=1_000) as c:
            assert (await c.world.write("m,t=a v=1 1")).status_code == 204
            await c.world.replica.stop()
            agent = c.nodes["dn-1"].agent
            await until(lambda: not agent._readiness().ready, SystemClock(), "the lease is over")
            asked = len(c.nodes["dn-1"].wire.writes)
            writing = asyncio.create_task(c.world.write("m,t=a v=2 2"))
            await until(
                lambda: len(c.nodes["dn-1"].wire.writes) > asked + 1, SystemClock(),
                "the write was refused and repeated",
            )  # fmt: skip
            assert not writing.done()
            answer = await c.world.write("m,t=a v=3 3", headers=SHORT)
            assert (answer.status_code, answer.json()["regions"][0]["reason"]) == (503, "NO_LEASE")
            await c.world.replica.start()
            assert (await writing).status_code == 204
            assert await c.world.rows("SELECT v FROM m ORDER BY v") == [[1.0], [2.0]]

    asyncio.run(story())


def test_untimed_rows_of_two_requests_are_two_rows(tmp_path: Path) -> None:
    """Requests in one millisecond do not replace each other's rows."""

    async def story() -> None:
        async with cluster(tmp_path) as c:
            await c.world.write("m,t=a v=0 0")
            answers = await asyncio.gather(*(c.world.write(f"m,t=a v={i}") for i in range(1, 30)))
            assert {a.status_code for a in answers} == {204}
            assert await c.world.rows("SELECT count(*) FROM m") == [[30]]

    asyncio.run(story())
