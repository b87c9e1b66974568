"""Lanes in files: torn tails, damage, locks, full disks."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from groundwork.adapters.lanes.file import FileLog
from groundwork.adapters.lanes.places import Limits
from groundwork.adapters.lanes.segments import HEADER_BYTES
from groundwork.core.errors import StoreUnavailable
from groundwork.core.ids import Lane, first_token
from groundwork.core.ports import Chunk
from groundwork.sim.clock import SimClock, run_sim
from groundwork.sim.workers import InlineWorkers

T = TypeVar("T")
LANE = Lane("dn-1", first_token(1) + 4, 0)


def _log(root: Path, segment_bytes: int = 1 << 20) -> FileLog:
    return FileLog(root, SimClock(), InlineWorkers(), segment_bytes=segment_bytes)


async def _written(root: Path, entries: int, segment_bytes: int = 1 << 20) -> list[int]:
    writer = await _log(root, segment_bytes).open_writer(LANE, lambda _p, _e: None)
    writer.admit()
    positions = [await writer.append(bytes([n]) * 100) for n in range(entries)]
    await writer.close()
    return positions


async def _read(log: FileLog, start: int, end: int | None) -> list[Chunk]:
    return [chunk async for chunk in log.read(LANE, start, end)]


def _only_segment(root: Path) -> Path:
    (path,) = (root / str(LANE)).glob("*.log")
    return path


@pytest.mark.parametrize("cut", [1, 50, 100, 101, 139])
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    """A frame that was never synced whole was never acknowledged: the seal cuts it and ends the lane there."""

    async def main() -> None:
        at = await _written(tmp_path, 5)
        path = _only_segment(tmp_path)
        os.truncate(path, path.stat().st_size - cut)
        assert [c.position for c in await _read(_log(tmp_path), 0, None)] == at[:4]
        assert await _log(tmp_path).seal(LANE) == at[4]
        assert [c.position for c in await _read(_log(tmp_path), 0, at[4])] == at[:4]
        assert await _log(tmp_path).seal(LANE) == at[4]

    run_sim(main())


def test_damage_in_the_middle_is_reported_in_its_place(tmp_path: Path) -> None:
    """P1: a whole frame behind the damage proves that it was synced: it is yielded as damage, and nothing is cut."""

    async def main() -> None:
        at = await _written(tmp_path, 5)
        path = _only_segment(tmp_path)
        raw = bytearray(path.read_bytes())
        for where in (at[1] + 3, at[3] + HEADER_BYTES + 7):
            raw[where] ^= 4
        path.write_bytes(bytes(raw))
        end = await _log(tmp_path).seal(LANE)
        assert end == len(raw)
        chunks = await _read(_log(tmp_path), 0, end)
        assert [c.position for c in chunks] == at
        assert [c.damage is None for c in chunks] == [True, False, True, False, True]
        inside = await _read(_log(tmp_path), at[1] + 5, end)
        assert inside[0].damage, "a read that begins inside the damage hears of it"

    run_sim(main())


def test_a_lost_segment_is_reported(tmp_path: Path) -> None:
    """Segments follow each other without a gap: a missing one is damage, not silence."""

    async def main() -> None:
        at = await _written(tmp_path, 12, segment_bytes=300)
        files = sorted((tmp_path / str(LANE)).glob("*.log"))
        assert len(files) > 3
        files[1].unlink()
        chunks = await _read(_log(tmp_path), 0, None)
        assert [c.damage for c in chunks if c.damage]
        assert {c.position for c in chunks if not c.damage} < set(at)

    run_sim(main())


def test_a_stopped_process_keeps_its_lock(tmp_path: Path) -> None:
    """P2: while the writer's process lives, even stopped, nobody seals; once it is gone its successor does."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from groundwork.adapters.clock import SystemClock\n"
        "from groundwork.adapters.lanes.file import FileLog\n"
        "from groundwork.core.ids import Lane\n"
        "from groundwork.sim.workers import InlineWorkers\n"
        "async def main():\n"
        "    log = FileLog(pathlib.Path(sys.argv[1]), SystemClock(), InlineWorkers())\n"
        "    writer = await log.open_writer(Lane.parse(sys.argv[2]), lambda p, e: None)\n"
        "    writer.admit()\n"
        "    await writer.append(b'kept')\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(LANE)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="locked"):
            asyncio.run(_log(tmp_path).seal(LANE))
        child.kill()
        child.wait()
        end = asyncio.run(_log(tmp_path).seal(LANE))
        chunks = asyncio.run(_read(_log(tmp_path), 0, end))
        assert [bytes(c.body) for c in chunks] == [b"kept"]
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def test_a_full_disk_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T10: a frame that did not fit is taken back; when there is room again the lane goes on in the same place."""

    async def main() -> None:
        writer = await _log(tmp_path).open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        first = await writer.append(b"a" * 100)
        write = os.write

        def torn(descriptor: int, data: memoryview) -> int:
            if len(data) <= 60:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data[: len(data) - 60])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", torn)
            with pytest.raises(StoreUnavailable, match="No space left"):
                await writer.append(b"b" * 100)
        second = await writer.append(b"c" * 100)
        await writer.close()
        chunks = await _read(_log(tmp_path), 0, None)
        assert [(c.position, bytes(c.body)[:1], c.damage) for c in chunks] == [
            (first, b"a", None),
            (second, b"c", None),
        ]

    run_sim(main())


def test_after_a_failed_sync_nothing_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5: the kernel may have dropped what it could not write, so this writer promises nothing any more."""

    async def main() -> None:
        writer = await _log(tmp_path).open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        await writer.append(b"a")

        def failing(descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", failing)
            with pytest.raises(StoreUnavailable, match="outcome is not known"):
                await writer.append(b"b")
        with pytest.raises(StoreUnavailable):
            await writer.append(b"c")
        await writer.close()

    run_sim(main())


def test_p1_a_disk_that_is_full_at_the_sync_ends_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: some file systems say only at the sync that they are full: the bytes are there, nothing may follow them."""

    async def main() -> None:
        log = _log(tmp_path)
        writer = await log.open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        real, full = os.fdatasync, [True]

        def sync(descriptor: int) -> None:
            if full:
                full.pop()
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fdatasync", sync)
        acknowledged = []
        for n in range(3):
            try:
                acknowledged.append((await writer.append(bytes([n]) * 100), bytes([n]) * 100))
            except StoreUnavailable:
                continue
        await writer.close()
        end = await _log(tmp_path).seal(LANE)
        found = [(c.position, bytes(c.body)) for c in await _read(_log(tmp_path), 0, end) if c.damage is None]
        assert set(acknowledged) <= set(found)

    run_sim(main())


class HungDisk:
    """The Workers port over a disk that takes no write while it hangs."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` once the disk answers, whether its caller still waits or not: a thread cannot be called back."""

        async def in_a_thread() -> T:
            await self.answers.wait()
            return work()

        return await asyncio.shield(asyncio.ensure_future(in_a_thread()))


def test_p2_a_writer_whose_disk_hangs_keeps_the_lock_until_its_write_is_over(tmp_path: Path) -> None:
    """P2: close() gives up waiting; the worker still has the file, so neither it nor the lock may be let go."""

    async def main() -> None:
        disk = HungDisk()
        log = FileLog(tmp_path, SimClock(), disk, Limits(append_ms=500))
        writer = await log.open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        first = await writer.append(b"one")
        disk.answers.clear()
        appending = asyncio.create_task(writer.append(b"two"))
        await asyncio.sleep(0.01)
        await writer.close()
        with pytest.raises(StoreUnavailable):
            await appending
        with pytest.raises(StoreUnavailable, match="is locked"):
            await _log(tmp_path).seal(LANE)
        disk.answers.set()
        await asyncio.sleep(0.01)
        end = await _log(tmp_path).seal(LANE)
        chunks = await _read(_log(tmp_path), 0, end)
        assert [c.position for c in chunks][:1] == [first] and len(chunks) == 2 and not any(c.damage for c in chunks)

    run_sim(main())
