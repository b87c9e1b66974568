"""The write path: a body of line protocol becomes tables, widened schemas, and rows in every region that they touch."""

import asyncio
import functools
import zlib
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import structlog

from groundwork.adapters.route_client import RouteClient
from groundwork.core.errors import MetasrvError, Refused
from groundwork.core.ids import region_text
from groundwork.core.ports import Clock, Workers
from groundwork.core.table import TableInfo
from metasrv_frontend.adapters.writer import Undone, Writer
from metasrv_frontend.config import FrontendConfig
from metasrv_frontend.core.line_protocol import TableLines, parse_lines
from metasrv_frontend.core.rows import Piece, columns_for, new_fields, pieces_of_lines

log = structlog.get_logger()
T = TypeVar("T")
IN_PLACE_BYTES_MAX = 16 << 10  # what is smaller is handled on the loop: a worker costs more than it saves
SCHEMA_ROUNDS_MAX = 8
NS_A_MS = 1_000_000


class NotWritten(MetasrvError):
    """Some regions have not all their rows. The same body can be sent again: the last write of a key and time wins."""

    def __init__(self, undone: list[Undone], regions: int, tables: dict[int, str]) -> None:
        first = undone[0]
        super().__init__(
            f"{len(undone)} of {regions} regions have not all rows of this request, the first is "
            f"{region_text(first.region_id)} of table {tables.get(first.region_id, '?')!r}: {first.refusal.code}: "
            f"{first.refusal.message}; the same request can be sent again"
        )
        self.undone = undone
        self.tables = tables


class Ingest:
    """See the module docstring."""

    def __init__(
        self, config: FrontendConfig, routes: RouteClient, writer: Writer, clock: Clock, workers: Workers
    ) -> None:
        self._config = config
        self._routes = routes
        self._writer = writer
        self._clock = clock
        self._workers = workers
        self._last_ns = 0
        self._own_ns = zlib.crc32(config.node_id.encode()) % NS_A_MS
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def write_lines(self, body: bytes, precision: str, until_ms: float) -> int:
        """Write a body; its rows. All lines are understood and all schemas fit before the first row leaves.

        Raises BadInput (BadLine names the line), Refused, NotWritten; Unknown when metasrv did not answer in time.
        """
        pieces, names = await self._pieces(body, precision, until_ms)
        await self.write_pieces(pieces, names, until_ms)
        return sum(piece.rows for queue in pieces.values() for piece in queue)

    def now_ns(self) -> int:
        """Wall time for rows without a time; no two requests get the same, or one's row would replace the other's.

        Also not two of different frontends in one millisecond: what is below it is the frontend's own.
        """
        self._last_ns = max(self._clock.wall_ms() * NS_A_MS + self._own_ns, self._last_ns + 1)
        return self._last_ns

    async def _pieces(
        self, body: bytes, precision: str, until_ms: float
    ) -> tuple[dict[int, list[Piece]], dict[int, str]]:
        """What to write to each region, and the table of each. The parsed lines, far bigger, are let go of here."""
        tables = await self.worked(len(body), functools.partial(_parsed, body, precision, self.now_ns()))
        infos = [await self._fitting_table(lines, until_ms) for lines in tables.values()]
        pieces: dict[int, list[Piece]] = {}
        names: dict[int, str] = {}
        for info, lines in zip(infos, tables.values(), strict=True):
            found = await self.worked(len(body), functools.partial(pieces_of_lines, info, lines))
            pieces.update(found)
            names.update(dict.fromkeys(found, info.name))
        return pieces, names

    async def write_pieces(self, pieces: dict[int, list[Piece]], names: dict[int, str], until_ms: float) -> None:
        """Write pieces to their regions. Raises NotWritten."""
        undone = await self._writer.write(pieces, until_ms)
        if undone:
            raise NotWritten(undone, len(pieces), names)

    async def worked(self, size: int, work: Callable[[], T]) -> T:
        """Do some of the work of a write of so many bytes: on a worker where it may take long."""
        return await self._workers.run(work) if size > IN_PLACE_BYTES_MAX else work()

    async def _fitting_table(self, lines: TableLines, until_ms: float) -> TableInfo:
        """The table of these lines with all their columns: as cached, as metasrv knows it, widened, or made now."""
        info = self._routes.table(lines.name)
        if info is not None and not new_fields(info, lines):
            return info
        lock = self._locks.get(lines.name)
        if lock is None:
            lock = self._locks[lines.name] = asyncio.Lock()
        async with lock:
            return await self._made_fitting(lines, until_ms)

    async def _made_fitting(self, lines: TableLines, until_ms: float) -> TableInfo:
        for _ in range(SCHEMA_ROUNDS_MAX):
            left_ms = max(1.0, until_ms - self._clock.now_ms())
            info = self._routes.table(lines.name) or await self._routes.refresh(lines.name, deadline_ms=left_ms)
            try:
                if info is None:
                    columns = columns_for(lines, self._config.time_column)
                    info = await self._routes.create_table(
                        lines.name,
                        columns,
                        partitions=self._config.auto_partitions,
                        if_not_exists=True,
                        deadline_ms=left_ms,
                    )
                    log.info("table_created", table=lines.name, columns=len(columns))
                added = new_fields(info, lines)
                if not added:
                    return info
                info = await self._routes.widen_table(lines.name, added, deadline_ms=left_ms)
                log.info("table_widened", table=lines.name, columns=[c.name for c in added])
            except Refused as refused:
                if refused.kind not in ("not_found", "exists"):
                    raise
                await self._routes.refresh(lines.name, deadline_ms=left_ms)  # dropped or made meanwhile: look again
            else:
                if not new_fields(info, lines):
                    return info
        raise Refused("busy", f"table {lines.name!r} was changed {SCHEMA_ROUNDS_MAX} times meanwhile; send it again")


def _parsed(body: bytes, precision: str, now_ns: int) -> dict[str, TableLines]:
    tables = parse_lines(body, precision)
    for lines in tables.values():
        lines.assign_now(now_ns)
    return tables
