"""The faces of the frontend over real HTTP, before a real metasrv; the one datanode is unreachable here."""

import asyncio
import gzip
import io
from typing import Any

import pyarrow as pa
import pytest

from tests.integration.frontend.harness import SHORT, World, world


def test_a_bad_line_applies_nothing() -> None:
    """400 with the line and the reason, and no table is made."""

    async def story() -> None:
        async with world() as w:
            answer = await w.write("cpu,host=a v=1 1\ncpu,host=a v=oops 2\n")
            assert answer.status_code == 400
            body = answer.json()
            assert body["line"] == 2
            assert "'oops'" in body["error"]
            assert body["code"] == "invalid"
            assert "nothing of this request was applied" in body["message"]
            assert await w.rows("SHOW TABLES") == []

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/v1/influxdb/write", "/v1/influxdb/api/v2/write", "/api/v2/write", "/write"])
def test_every_path_makes_tables(path: str) -> None:
    """All write paths lead to one place. With no datanode to be reached, 503 names the regions without the rows."""

    async def story() -> None:
        async with world() as w:
            answer = await w.write("cpu,host=a v=1,n=2i 1", path, params={"db": "public", "bucket": "b"}, headers=SHORT)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            body = answer.json()
            assert body["regions_undone"] == 1
            assert body["regions"][0]["table"] == "cpu"
            assert body["regions"][0]["reason"] == "UNREACHABLE"
            assert "can be sent again" in body["error"]
            assert await w.rows("SHOW TABLES") == [["cpu"]]

    asyncio.run(story())


def test_gzip_and_limits() -> None:
    """Unpacked within the limit; over it 413, packed or not; what is not gzip is 415 or named."""

    async def story() -> None:
        async with world(request_bytes_max=10_000) as w:
            packed = {"content-encoding": "gzip"}
            bad = b"cpu v=oops"
            assert (await w.write(gzip.compress(bad), headers=packed)).json()["line"] == 1
            assert (await w.write(gzip.compress(b"#\n") + gzip.compress(bad), headers=packed)).json()["line"] == 2
            assert (await w.write(gzip.compress(b" " * 10_001), headers=packed)).status_code == 413
            assert (await w.write(b" " * 10_001)).status_code == 413
            assert (await w.write(_chunks(101), headers={})).status_code == 413
            assert (await w.write(b"not gzip", headers=packed)).status_code == 415
            assert (await w.write(gzip.compress(bad)[:-9], headers=packed)).status_code == 415
            assert (await w.write(bad, headers={"content-encoding": "br"})).status_code == 415
            assert (await w.write(b"")).status_code == 204

    asyncio.run(story())


def test_an_oversized_batch_is_413_and_nothing_of_it_is_kept() -> None:
    """HTTP 413 for a batch over request_bytes_max, by either write path, before any row of it is looked at."""

    async def story() -> None:
        async with world(request_bytes_max=1_000) as w:
            batch = "\n".join(f"cpu,host=h{n} v={n}" for n in range(200))
            for path in ("/v1/influxdb/write", "/v1/influxdb/api/v2/write"):
                answer = await w.write(batch, path)
                assert answer.status_code == 413 and "1000" in answer.json()["error"]
            assert await w.rows("SHOW TABLES") == []

    asyncio.run(story())


async def _chunks(count: int) -> Any:
    for _ in range(count):
        yield b" " * 100


def test_in_flight_limit() -> None:
    """Bodies together over the limit are turned away with 503 and a time to come back; one alone never is."""

    async def story() -> None:
        async with world(in_flight_bytes_max=1_000) as w:
            slow = asyncio.create_task(w.write("cpu,host=a v=1 1" + " " * 1_500, headers={"x-deadline-ms": "4000"}))
            while b"frontend_in_flight_bytes 1516" not in (await w.http.get("/metrics")).content:
                assert not slow.done()
            answer = await w.write("cpu,host=a v=1 1")
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "bytes are being written" in answer.json()["error"]
            assert (await slow).status_code == 503
            assert b"frontend_in_flight_bytes 0" in (await w.http.get("/metrics")).content

    asyncio.run(story())


def test_wrong_requests_are_named() -> None:
    """Precision and deadlines that are none."""

    async def story() -> None:
        async with world() as w:
            answer = await w.write("m f=1", params={"precision": "day"})
            assert (answer.status_code, "precision" in answer.json()["error"]) == (400, True)
            answer = await w.write("m f=1", headers={"x-deadline-ms": "soon"})
            assert (answer.status_code, "x-deadline-ms" in answer.json()["error"]) == (400, True)
            answer = await w.write("m f=1", headers={"x-greptime-timeout": "soon"})
            assert (answer.status_code, "x-greptime-timeout" in answer.json()["error"]) == (400, True)

    asyncio.run(story())


def test_what_clients_ask_before_they_write() -> None:
    """Ping, health, readiness and metrics."""

    async def story() -> None:
        async with world() as w:
            for path in ("/ping", "/v1/influxdb/ping"):
                answer = await w.http.get(path)
                assert answer.status_code == 204
                assert "x-influxdb-version" in answer.headers
            assert (await w.http.get("/v1/influxdb/health")).json()["status"] == "pass"
            assert (await w.http.get("/health")).json()["status"] == "pass"
            assert (await w.http.get("/ready")).json()["ready"] is True
            assert b"frontend_requests_total" in (await w.http.get("/metrics")).content

    asyncio.run(story())


def test_schema_conflicts() -> None:
    """A new tag, a changed type and a tag used as a field are refused by name; new fields widen the table."""

    async def story() -> None:
        async with world() as w:
            await w.write("cpu,host=a v=1 1", headers=SHORT)
            for line, words in [
                ("cpu,host=a,dc=b v=1 1", "no tag 'dc'"),
                ("cpu,host=a v=1i 1", "field type conflict: 'v' of table 'cpu' is float64"),
                ("cpu,v=a x=1 1", "'v' of table 'cpu' is a field"),
                ("cpu host=1 1", "'host' of table 'cpu' is a tag"),
                ("cpu,host=a greptime_timestamp=1 1", "name of the time column"),
            ]:
                answer = await w.write(line, headers=SHORT)
                assert answer.status_code == 400, line
                assert words in answer.json()["error"]
            await w.write('cpu,host=a v=2,note="x",n=3u 2', headers=SHORT)
            assert [row[:2] for row in await w.rows("DESC TABLE cpu")] == [
                ["host", "String"], ["greptime_timestamp", "TimestampNanosecond"], ["v", "Float64"],
                ["note", "String"], ["n", "UInt64"],
            ]  # fmt: skip

    asyncio.run(story())


def test_many_first_writes_at_once() -> None:
    """Concurrent first writes of one table, with different fields, make one table that has them all."""

    async def story() -> None:
        async with world() as w:
            lines = [f"cpu,host=a f{i % 5}=1 {i}" for i in range(30)]
            answers = await asyncio.gather(*(w.write(line, headers={"x-deadline-ms": "4000"}) for line in lines))
            assert {a.status_code for a in answers} == {503}
            assert {row[0] for row in await w.rows("DESC TABLE cpu")} == {
                "host", "greptime_timestamp", *(f"f{i}" for i in range(5)),
            }  # fmt: skip

    asyncio.run(story())


CREATE = (
    "CREATE TABLE IF NOT EXISTS t (host STRING, ts TIMESTAMP(9) TIME INDEX, v DOUBLE, PRIMARY KEY(host)) "
    "PARTITION BY HASH (host) PARTITIONS 3"
)


def test_catalog_statements() -> None:
    """The shapes of answers, exactly, for statements that need no datanode."""

    async def story() -> None:
        async with world() as w:
            created = (await w.sql(CREATE)).json()
            assert created["output"] == [{"affectedrows": 0}]
            assert isinstance(created["execution_time_ms"], int)
            assert (await w.sql(CREATE)).status_code == 200
            again = await w.sql(CREATE.replace("IF NOT EXISTS", ""))
            assert (again.status_code, again.json()["code"]) == (400, 4000)
            shown = (await w.sql("SHOW TABLES LIKE 't%'; DESCRIBE TABLE t")).json()["output"]
            assert shown[0] == {
                "records": {
                    "schema": {"column_schemas": [{"name": "Tables", "data_type": "String"}]},
                    "rows": [["t"]],
                    "total_rows": 1,
                }
            }
            assert shown[1]["records"]["rows"] == [
                ["host", "String", "PRI", "NO", "", "TAG"],
                ["ts", "TimestampNanosecond", "PRI", "NO", "", "TIMESTAMP"],
                ["v", "Float64", "", "YES", "", "FIELD"],
            ]
            table = w.frontend.routes.table("t")
            assert table is not None
            assert (len(table.region_ids), table.partition_columns) == (3, ("host",))
            assert (await w.sql("DROP TABLE t")).json()["output"] == [{"affectedrows": 0}]
            gone = await w.sql("DESC TABLE t")
            assert (gone.status_code, gone.json()["code"]) == (400, 4001)
            assert (await w.sql("DROP TABLE t")).json()["code"] == 4001
            assert (await w.sql("DROP TABLE IF EXISTS t")).status_code == 200

    asyncio.run(story())


def test_queries_without_tables() -> None:
    """As form, as query string, as Arrow; several statements in one text."""

    async def story() -> None:
        async with world() as w:
            answer = await w.sql("SELECT 1 AS one, 'x' AS x")
            assert answer.json()["output"][0]["records"] == {
                "schema": {
                    "column_schemas": [{"name": "one", "data_type": "Int64"}, {"name": "x", "data_type": "String"}]
                },
                "rows": [[1, "x"]],
                "total_rows": 1,
            }
            assert (await w.http.get("/v1/sql", params={"sql": "SELECT 2"})).json()["output"][0]["records"]["rows"] == [
                [2]
            ]
            arrow = await w.sql("SELECT 3 AS three", format="arrow")
            assert arrow.headers["content-type"] == "application/vnd.apache.arrow.stream"
            with pa.ipc.open_stream(io.BytesIO(arrow.content)) as stream:
                assert stream.read_all().to_pydict() == {"three": [3]}
            assert len((await w.sql("SELECT 1; SELECT 2;")).json()["output"]) == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    ("sql", "status", "code", "words"),
    [
        ("SELECT * FROM nope", 400, 4001, "Table not found: nope"),
        ("SELEC 1", 400, 2000, "SELEC is not supported"),
        ("SELECT 1 +", 400, 2000, "ParserError"),
        ("SELECT 1/0", 400, 3001, "Divide by zero"),
        ("SELECT CAST('x' AS BIGINT)", 400, 3001, "Cannot cast string 'x'"),
        ("DELETE FROM t", 400, 1001, "DELETE is not supported"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, v BLOB)", 400, 1001, "type 'BLOB' is not one of STRING"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, PRIMARY KEY (a))", 400, 4002, "there is no column 'a'"),
        (
            "CREATE TABLE t (a STRING PRIMARY KEY, ts TIMESTAMP TIME INDEX) PARTITION BY HASH (a) PARTITIONS 0",
            400,
            1004,
            "PARTITIONS 0: not 1 to",
        ),
        ("", 400, 1004, "form field"),
        ("CREATE TABLE t (a STRING)", 400, 2000, "TIME INDEX"),
        ("INSERT INTO nope VALUES (1)", 400, 4001, "Table not found: nope"),
    ],
)
def test_sql_refusals(sql: str, status: int, code: int, words: str) -> None:
    """A code, the words, and the time it took."""

    async def story() -> None:
        async with world() as w:
            answer = await w.sql(sql)
            body = answer.json()
            assert (answer.status_code, body["code"]) == (status, code)
            assert words in body["error"]
            assert "\n" not in body["error"]
            assert "execution_time_ms" in body
            assert answer.headers["x-greptime-err-code"] == str(code)

    asyncio.run(story())


def test_wrong_sql_requests_are_named() -> None:
    """Formats, consistency and bodies that are none."""

    async def story() -> None:
        async with world() as w:
            assert "format" in (await w.sql("SELECT 1", format="xml")).json()["error"]
            assert "consistency" in (await w.sql("SELECT 1", consistency="maybe")).json()["error"]
            answer = await w.http.post("/v1/sql", json={"sql": "SELECT 1"})
            assert (answer.status_code, "content-type" in answer.json()["error"]) == (400, True)

    asyncio.run(story())


def test_a_region_that_cannot_be_read() -> None:
    """After the deadline: 503, the region and why."""

    async def story() -> None:
        async with world() as w:
            await w.sql(CREATE)
            answer = await w.http.post(
                "/v1/sql", data={"sql": "SELECT * FROM t WHERE host = 'a'"}, headers={"x-greptime-timeout": "2000ms"}
            )
            assert (answer.status_code, answer.json()["code"]) == (503, 5000)
            assert "UNREACHABLE" in answer.json()["error"]
            assert await _count_of_nothing(w) == 503

    asyncio.run(story())


async def _count_of_nothing(w: World) -> int:
    """A query over an empty time range asks no region."""
    assert await w.rows("SELECT count(*) FROM t WHERE ts > '2024-01-01' AND ts < '2023-01-01'") == [[0]]
    answer = await w.http.post("/v1/sql", data={"sql": "SELECT count(*) FROM t"}, headers={"x-deadline-ms": "200"})
    return answer.status_code
