"""Text that is small and costs without bound: queries too deep for the engine's stack, patterns, long statements."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metasrv_frontend.core.query_depth import OPERATORS_MAX, SELECTS_MAX, check_depth
from metasrv_frontend.core.sql_words import Unsupported, statements
from metasrv_frontend.query import _like

N = OPERATORS_MAX
PLANNED = """
import sys, threading
from metasrv_frontend.adapters.engine import Engine, QueryFailed
def plan():
    try:
        Engine(1 << 28).run(sys.stdin.read(), {}, {}, lambda size: None)
    except QueryFailed:
        pass
threading.Thread(target=plan).start()
"""


def check(sql: str) -> None:
    """Of one statement."""
    (statement,) = statements(sql)
    check_depth(statement)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1" + " + 1" * (N + 1),
        "SELECT (1" + " + 1" * (N // 2) + ")" + " + 1" * (N // 2 + 1),
        "SELECT 1" + " + coalesce(1, 2)" * (N + 1),
        "SELECT f(2, 1" + "::int" * (N + 1) + ", 2)",
        "SELECT * FROM t WHERE " + " OR ".join(["a"] * (N + 2)),
        "SELECT * FROM t WHERE " + " AND ".join(["a BETWEEN 1 AND 2"] * (N + 2)),
        "SELECT * FROM t WHERE a" + " BETWEEN 1 AND 2 = b" * (N // 2),
        "SELECT CASE WHEN " + "a = b AND " * (N // 2 + 1) + "a THEN 1 END",
        "SELECT 1"
        + " = 1" * (N // 2)
        + " = CASE WHEN a"
        + " = 1" * (N // 4)
        + " AND b"
        + " = 1" * (N // 4)
        + " THEN 1 END",
        *("SELECT 'a'" + f" {word} 'a'" * (N + 1) for word in ("XOR", "RLIKE", "REGEXP", "OVERLAPS", "NOT RLIKE")),
        "SELECT 1" + " MEMBER OF (1)" * (N + 1),
        "SELECT " + "INTERVAL " * (N + 1) + "'1 day'",
        "EXPLAIN " * (N + 1) + "SELECT 1",
        "SELECT [1]" + "[1]" * (N + 1),
        "SELECT 1::int" + "[]" * (N + 1),
        "SELECT * FROM t MATCH_RECOGNIZE(PATTERN " + "(" * N + "A" + ")" * N + " DEFINE A AS true)",
        "SELECT 'a'" + " || 'a'" * (N + 1),
        " UNION ALL ".join(["SELECT a, b FROM t"] * (SELECTS_MAX // 2 + 2)),
        " EXCEPT ".join(["VALUES (1)"] * (SELECTS_MAX + 2)),
        "SELECT * FROM t" + " JOIN t USING (a)" * (SELECTS_MAX + 1),
        "SELECT * FROM " + ", ".join(["t"] * (SELECTS_MAX + 1)),
        "SELECT * FROM t JOIN (SELECT 1, 2) u ON a = b" + ", t" * SELECTS_MAX + " WHERE a",
        "WITH c0 AS (SELECT 1)"
        + "".join(f", c{n + 1} AS (SELECT * FROM c{n})" for n in range(SELECTS_MAX))
        + " SELECT 1",
    ],
)
def test_what_could_end_the_process_is_refused(sql: str) -> None:
    """A query of 20 KB ended the frontend with a segmentation fault, and all requests that were under way in it."""
    with pytest.raises(Unsupported, match="more than"):
        check(sql)


@pytest.mark.parametrize("quote", ["E'\\''", "$$'$$", "$a$'$a$", "q'[']'", "U&'\\0041''", "x$$'$$", "N'a'", "_utf8'a'"])
def test_operators_cannot_be_hidden_in_what_the_engine_reads_as_two_strings(quote: str) -> None:
    """To the engine these are whole strings; to the check a string began there, and with it all up to the next."""
    with pytest.raises(Unsupported):
        check(f"SELECT {quote}" + " || 'a'" * 10 + f" || {quote}")


def test_strings_of_every_plain_kind_are_let_through() -> None:
    """Also those that hold what is refused outside of them."""
    check("SELECT 'it''s $5', \"a$b\", ('a'), 'a'||'b', DATE '2024-01-01', a='b' FROM t -- $ E'")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1" + " + 1" * (N - 1),
        "SELECT a - b AS c" + ", a - b AS c" * (2 * N),
        "SELECT * FROM t WHERE a IN (" + "-1, " * (5 * N) + "1)",
        "VALUES " + ", ".join(["(-1, 1 + 1)"] * (5 * N)),
        "SELECT * FROM t WHERE " + " OR ".join(f"a = {n}" for n in range(N - 2)),
        "SELECT * FROM t WHERE " + " OR ".join(f"(a = {n} AND b >= 1 AND c < 2)" for n in range(N // 2)),
        "SELECT * FROM t WHERE " + " AND ".join(["a BETWEEN 1 AND 2"] * (N // 2)),
        "SELECT [1, 2]" + ", [1, 2]" * N,
        " UNION ALL ".join(["SELECT 1"] * (SELECTS_MAX // 2)),
        "SELECT a FROM t WHERE a GROUP BY a" + ", a" * N + " ORDER BY a" + ", a" * N,
        "SELECT extract(day FROM a)" + ", f(a, b)" * N,
        "SELECT CASE " + "WHEN a THEN 1 " * N + "END FROM t",
    ],
)
def test_what_is_long_and_flat_is_not(sql: str) -> None:
    """Lists, columns and rows may be as many as the text has room for."""
    check(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a" + " + a" * (N - 1) + " FROM (VALUES (1)) t(a)",
        "SELECT a" + "::int" * (N - 1) + " FROM (VALUES (1)) t(a)",
        "SELECT a FROM (VALUES (1, 2)) t(a, b) WHERE " + " OR ".join(["(a = 1 AND b = 2)"] * (N - 5)),
        "SELECT a FROM (VALUES (true)) t(a) WHERE a" + " = a" * (N // 2) + " AND a" * (N // 2),
        " EXCEPT ".join(["SELECT a FROM (VALUES (1)) t(a)"] * (SELECTS_MAX // 2)),
    ],
)
def test_what_is_let_through_ends_no_process(sql: str) -> None:
    """The deepest that is allowed, planned and run by the engine itself on a thread as a frontend's."""
    check(sql)
    ran = subprocess.run([sys.executable, "-c", PLANNED], input=sql.encode(), capture_output=True, check=False)
    assert ran.returncode == 0, (ran.returncode, ran.stderr[-500:])


def test_a_pattern_of_many_wildcards_is_matched_at_once() -> None:
    """Each way to share the name out was tried: SHOW TABLES with such a pattern stopped the frontend for hours."""
    assert not _like("a" * 255, "%a" * 100 + "%b")
    assert _like("a" * 255 + "b", "%a" * 100 + "%b")


@given(st.text("ab%_", max_size=8), st.text("ab%_", max_size=8))
def test_a_pattern_matches_what_it_says(name: str, pattern: str) -> None:
    """Held against the definition: % is any text, _ any character, all else itself."""

    def matches(rest: str, left: str) -> bool:
        if not left:
            return not rest
        if left[0] == "%":
            return any(matches(rest[n:], left[1:]) for n in range(len(rest) + 1))
        return bool(rest) and left[0] in ("_", rest[0]) and matches(rest[1:], left[1:])

    assert _like(name, pattern) == matches(name, pattern)
