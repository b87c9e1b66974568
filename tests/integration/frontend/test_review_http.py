"""Requests that no client sends, and one that keeps others waiting: each is answered, and holds nobody up."""

import asyncio
import gzip
import threading
import zlib

import pytest

from groundwork.core.errors import BadInput
from groundwork.core.table import Column, Role
from metasrv_frontend.adapters.bodies import MEMBERS_MAX, TooLarge, UnknownEncoding, unzip
from metasrv_frontend.service import QUERY_THREADS
from tests.integration.frontend.harness import World, world


def test_p1_no_client_of_metasrv_can_make_a_column_that_rows_keep_their_order_in() -> None:
    """P1: neither by creating a table nor by widening one; the same through a line is 400 with the line."""

    async def story() -> None:
        async with world() as w:
            time = Column("ts", "timestamp_ns", Role.TIME)
            own = Column("_metasrv_epoch", "int64", Role.FIELD)
            with pytest.raises(BadInput, match="datanodes' own"):
                await w.frontend.routes.create_table("cpu", [time, own])
            await w.frontend.routes.create_table("cpu", [time, Column("v", "float64", Role.FIELD)])
            with pytest.raises(BadInput, match="datanodes' own"):
                await w.frontend.routes.widen_table("cpu", [own])
            refused = await w.write("cpu v=1 1\ncpu v=1,_metasrv_epoch=1i 2")
            assert (refused.status_code, refused.json()["line"]) == (400, 2)

    asyncio.run(story())


def test_writes_and_deadlines_do_not_wait_for_queries_that_take_long() -> None:
    """Four such queries had all threads: no big body was even parsed, and no deadline of a query was kept."""
    held = threading.Event()

    async def story(w: World) -> None:
        loop = asyncio.get_running_loop()
        long = [loop.create_task(w.frontend._query_workers.run(held.wait)) for _ in range(QUERY_THREADS)]
        try:
            big = await w.write(b"cpu v=1 1\n" * 4_000 + b"cpu v=oops")
            assert (big.status_code, big.json()["line"]) == (400, 4_001)
            late = await w.http.post("/v1/sql", data={"sql": "SELECT 1"}, headers={"x-deadline-ms": "50"})
            assert (late.status_code, late.json()["error"]) == (400, "the deadline of the request is over")
            assert len(w.frontend._queries._running) == 1  # it goes on being counted while it waits for a thread
            shown = await w.http.post("/v1/sql", data={"sql": "SHOW DATABASES"})  # nor does what is no query
            assert shown.json()["output"][0]["records"]["rows"] == [["public"]]
        finally:
            held.set()
            await asyncio.gather(*long)
        assert await w.rows("SELECT 1") == [[1]]

    async def run() -> None:
        async with world() as w:
            await story(w)

    asyncio.run(run())


def test_the_answers_of_many_statements_are_bounded_together() -> None:
    """Each alone was small enough, and all were kept until the last: one request could fill the memory."""

    async def story() -> None:
        async with world(query_bytes_max=100_000, query_rows_max=15_000) as w:
            one = "SELECT value FROM generate_series(1, 5000)"
            assert (await w.sql(";".join([one] * 2))).status_code == 200
            much = await w.sql(";".join([one] * 3))
            assert (much.status_code, much.json()["code"]) == (400, 6000)
            assert "together bigger than 100000 bytes" in much.json()["error"]
            assert (await w.sql(";".join([one] * 3), format="arrow")).status_code == 200
            shown = await w.sql(";".join(["SHOW DATABASES"] * 1_000))
            assert (shown.status_code, shown.json()["code"]) == (400, 6000)
        async with world(query_rows_max=15_000) as w:
            many = await w.sql(";".join([one] * 4))
            assert (many.status_code, many.json()["code"]) == (400, 6000)
            assert "20000 rows, of at most 15000" in many.json()["error"]

    asyncio.run(story())


def test_numbers_that_are_none_are_refused_and_not_stumbled_over() -> None:
    """A header or a literal that only looks like a number was answered with 500, as if it were our fault."""

    async def story() -> None:
        async with world() as w:
            for header in ("²", "9" * 5_000):
                answer = await w.write("cpu v=1", headers={"x-deadline-ms": header.encode("latin-1")})
                assert answer.status_code == 400, answer.text
                assert "x-deadline-ms" in answer.json()["error"]
            await w.sql("CREATE TABLE cpu (ts TIMESTAMP TIME INDEX, v DOUBLE)")
            for literal in ("1e", "9" * 5_000, "1e999", "-1e999"):
                refused = await w.sql(f"INSERT INTO cpu VALUES (1, {literal})")
                assert (refused.status_code, refused.json()["code"]) == (400, 1004), refused.text
            last = await w.sql(f"INSERT INTO cpu VALUES ({(1 << 63) - 1}, 1.5)")
            assert (last.status_code, last.json()["code"]) == (400, 1004)
            assert "outside the years 1677 to 2262" in last.json()["error"]

    asyncio.run(story())


def test_a_body_of_very_many_gzip_members_is_refused() -> None:
    """Each was copied with all that follows: 8 MB of empty members stopped the whole frontend for a minute."""
    empty = gzip.compress(b"")
    assert unzip(empty * MEMBERS_MAX, 10) == b""
    with pytest.raises(TooLarge, match="members"):
        unzip(empty * (MEMBERS_MAX + 1), 10)


def test_gzip_members_of_any_size_are_put_together() -> None:
    """Also across the parts in which they are unpacked; what is cut short or follows them is refused."""
    parts = [b"", b"x" * 200_000, bytes(range(256)) * 1_000, b"y"]
    packed = b"".join(gzip.compress(part, level) for part, level in zip(parts, (1, 0, 0, 9), strict=True))
    assert unzip(packed, 1 << 20) == b"".join(parts)
    with pytest.raises(TooLarge, match="more than"):
        unzip(packed, len(b"".join(parts)) - 1)
    for cut in (1, 10, 70_000):
        with pytest.raises(UnknownEncoding, match="cut short"):
            unzip(packed[:-cut], 1 << 20)
    with pytest.raises(UnknownEncoding, match="not gzip"):
        unzip(packed + zlib.compress(b"z"), 1 << 20)


@pytest.mark.parametrize("path", ["/write", "/v1/sql"])
def test_a_body_that_never_ends_holds_nothing_beyond_its_deadline(path: str) -> None:
    """A client that was cut off in the middle of its body held its bytes for ever; a few, and no write was taken."""

    async def story() -> None:
        async with world() as w:
            url = w.http.base_url
            reader, writer = await asyncio.open_connection(url.host, url.port)
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nx-deadline-ms: 100\r\n\r\n"
            writer.write(head.encode() + b"cpu v=1 1")
            async with asyncio.timeout(30):
                answer = await reader.read()  # to the end: it is closed, too
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            writer.close()
            assert "frontend_in_flight_bytes 0.0" in (await w.http.get("/metrics")).text

    asyncio.run(story())


def test_a_query_too_deep_for_the_engine_is_refused_before_it_is_planned() -> None:
    """It ended the process; and the text of an INSERT that is long is no query, and is not held to that."""

    async def story() -> None:
        async with world() as w:
            deep = await w.sql("SELECT 1" + " + 1" * 20_000)
            assert (deep.status_code, deep.json()["code"]) == (400, 1001), deep.text
            explained = await w.sql("EXPLAIN SELECT 1" + " + 1" * 20_000)
            assert (explained.status_code, explained.json()["code"]) == (400, 1001)
            await w.sql("CREATE TABLE cpu (ts TIMESTAMP TIME INDEX, v DOUBLE)")
            long = await w.sql("INSERT INTO cpu VALUES " + ", ".join(["(-1, -1.5)"] * 2_000) + ", (1, TRUE)")
            assert (long.status_code, long.json()["code"]) == (400, 1004)

    asyncio.run(story())
