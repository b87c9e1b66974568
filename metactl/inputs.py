"""Real input for drills: the files of this machine, and its processes as they run. And their line protocol."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from metactl.ledger import Row

TABLE = "machine"
ESCAPES = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
SUFFIX_BYTES_MAX = 32


def files_under(folder: Path, limit: int) -> Iterator[Row]:
    """One row for each regular file below a folder, at most `limit`: time = mtime, tags = path and suffix, size."""
    left = limit
    folders = [str(folder)]
    while folders and left > 0:
        try:
            with os.scandir(folders.pop()) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            continue  # gone, or not ours to look into
        folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            row = _file_row(entry)
            if row is not None and left > 0:
                left -= 1
                yield row


def _file_row(entry: "os.DirEntry[str]") -> Row | None:
    """The row of one file; None for what is not a regular file or has a name that is not text."""
    if not entry.is_file(follow_symlinks=False) or not entry.path.isprintable() or entry.path.endswith("\\"):
        return None
    try:
        stat = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    if stat.st_mtime_ns <= 0:
        return None
    _, dot, suffix = entry.name.rpartition(".")
    known = dot and suffix.isascii() and suffix.isalnum() and len(suffix) < SUFFIX_BYTES_MAX
    return Row(entry.path, f".{suffix}" if known else "", stat.st_mtime_ns, stat.st_size)


def processes() -> list[tuple[int, str, int, int]]:
    """pid, name, resident bytes and CPU milliseconds of every process that we may look at, now."""
    sampled = []
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                cpu = process.cpu_times()
                sampled.append((pid, process.name(), process.memory_info().rss, int((cpu.user + cpu.system) * 1000)))
        except psutil.Error:
            continue  # gone, or not ours to look at
    return sampled


class Paths:
    """Tag values for one writer's processes: `/proc/PID/WRITER-N`, N chosen so that the row falls into a region."""

    def __init__(self, writer: str, region_of: Callable[[Mapping[str, str]], int]) -> None:
        self._writer = writer
        self._region_of = region_of
        self._known: dict[tuple[int, int], str] = {}

    def path(self, pid: int, region_id: int) -> str:
        """The path of this process for this region."""
        known = self._known.get((pid, region_id))
        if known is None:
            number = 0
            while True:
                known = f"/proc/{pid}/{self._writer}-{number}"
                if self._region_of({"path": known}) == region_id:
                    break
                number += 1
            self._known[pid, region_id] = known
        return known


def sample(paths: Paths, region_ids: list[int]) -> dict[int, list[Row]]:
    """One row a process, spread over the regions; every region gets one even where processes are few."""
    now_ns = time.time_ns()
    running = processes()
    rows: dict[int, list[Row]] = {region_id: [] for region_id in region_ids}
    for index in range(max(len(running), len(region_ids))):
        pid, name, rss, cpu_ms = running[index % len(running)]
        region_id = region_ids[index % len(region_ids)]
        suffix = "." + "".join(c for c in name if c.isalnum() and c.isascii())[:SUFFIX_BYTES_MAX]
        rows[region_id].append(Row(paths.path(pid, region_id), suffix, now_ns, rss, cpu_ms))
    return rows


def to_line(table: str, row: Row) -> str:
    """One line of InfluxDB line protocol; an empty suffix is an absent tag, no cpu_ms an absent field."""
    suffix = f",suffix={row.suffix.translate(ESCAPES)}" if row.suffix else ""
    cpu = f",cpu_ms={row.cpu_ms}i" if row.cpu_ms is not None else ""
    return f"{table},path={row.path.translate(ESCAPES)}{suffix} size={row.size}i{cpu} {row.time_ns}"


def create_table_sql(table: str, regions: int) -> str:
    """The DDL of the drill's table."""
    return (
        f"CREATE TABLE {table} (path STRING, suffix STRING, greptime_timestamp TIMESTAMP(9) TIME INDEX, "
        f"size BIGINT, cpu_ms BIGINT, PRIMARY KEY (path, suffix)) PARTITION BY HASH (path) PARTITIONS {regions}"
    )
