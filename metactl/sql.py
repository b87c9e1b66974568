"""SQL over HTTP at a frontend: POST /v1/sql with the form field `sql`."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from groundwork.core.errors import MetasrvError
from metactl.ledger import Row

DEADLINE_S = 60.0


class SqlFailed(MetasrvError):
    """The frontend answered a statement with an error."""


def run_sql(frontend: str, statement: str, deadline_s: float = DEADLINE_S) -> list[list[Any]]:
    """The rows of a query, or none for a statement that has no rows. Raises SqlFailed, which quotes the answer."""
    try:
        answer = httpx.post(f"http://{frontend}/v1/sql", data={"sql": statement}, timeout=deadline_s)
    except httpx.HTTPError as error:
        raise SqlFailed(f"{statement[:80]!r}: {type(error).__name__} {error}") from error
    if answer.status_code != 200:
        raise SqlFailed(f"{statement[:80]!r}: status {answer.status_code} {answer.text[:500]}")
    output = msgspec.json.decode(answer.content).get("output", [])
    return [row for part in output for row in part.get("records", {}).get("rows", [])]


def read_back(frontend: str, table: str) -> Iterator[Row]:
    """Every row of the drill's table."""
    statement = f"SELECT path, suffix, greptime_timestamp, size, cpu_ms FROM {table}"  # noqa: S608 - our own name
    for path, suffix, time_ns, size, cpu_ms in run_sql(frontend, statement):
        yield Row(path, suffix or "", time_ns, size, cpu_ms)
