"""The LogStore port on files of a standalone's own disk.

Fencing is the lock on the lane's folder, which the kernel frees when its process is gone, and not before: a stopped
process keeps it, so nobody can seal under a zombie. Only the owner's successor, on the same disk, can seal. Positions
are byte offsets; a group commit is one frame, and one frame at a time is being written and synced.
"""

import asyncio
import errno
import fcntl
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from groundwork.adapters.lanes.appends import Appends, Batch
from groundwork.adapters.lanes.places import Limits
from groundwork.adapters.lanes.segments import (
    Frame,
    FrameKind,
    encode_frame,
    frames,
    make_folder,
    read_file,
    segments,
    sync_folder,
    trim_point,
    write_all,
)
from groundwork.core.errors import Damaged, Sealed, StoreUnavailable, Trimmed
from groundwork.core.ids import Lane
from groundwork.core.ports import Chunk, Clock, Sink, Workers

log = structlog.get_logger()
SEGMENT_BYTES = 64 << 20


class FileLog:
    """One process's view of the lanes under a folder."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        workers: Workers,
        limits: Limits | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._root = root
        self._clock = clock
        self._workers = workers
        self._limits = limits or Limits()
        self._segment_bytes = segment_bytes
        self._writers: dict[Lane, FileWriter] = {}
        self._sealing = asyncio.Lock()  # sealers of one process do not take each other for the writer

    def _folder(self, lane: Lane) -> Path:
        return self._root / str(lane)

    async def open_writer(self, lane: Lane, sink: Sink) -> "FileWriter":
        """Take the lock and put the OPEN mark. Raises Sealed, Damaged, StoreUnavailable."""
        folder = self._folder(lane)

        def prepare() -> tuple[int, "_Tail"]:
            make_folder(folder, self._root)
            lock = _lock(folder)
            try:
                tail = _Tail(folder, lane, self._segment_bytes)
                tail.begin()
            except BaseException:
                os.close(lock)
                raise
            return lock, tail

        try:
            lock, tail = await self._workers.run(prepare)
        except OSError as error:
            raise StoreUnavailable(f"cannot open lane {lane}: {error.strerror}") from error
        writer = FileWriter(lane, sink, self._clock, self._workers, self._limits, tail, lock)
        self._writers[lane] = writer
        return writer

    async def seal(self, lane: Lane) -> int:
        """End the lane; its end. Raises StoreUnavailable while its process lives, also when that one is stopped."""
        folder = self._folder(lane)

        def end_it() -> int:
            make_folder(folder, self._root)
            lock = _lock(folder)
            try:
                tail = _Tail(folder, lane, self._segment_bytes)
                end, seal = tail.recover()
                if seal is None:
                    tail.write(encode_frame(FrameKind.SEAL, lane, end, []))
                tail.close()
                return end if seal is None else seal
            finally:
                os.close(lock)

        try:
            async with self._sealing:
                end = await self._workers.run(end_it)
        except OSError as error:
            raise StoreUnavailable(f"cannot seal lane {lane}: {error.strerror}") from error
        log.debug("seal_settled", lane=str(lane), end=end)  # lane_sealed is said by who asked for it
        return end

    async def read(self, lane: Lane, start: int, end: int | None) -> AsyncIterator[Chunk]:
        """Chunks whose position is in [start, end). Raises Trimmed, NewerFormat."""
        folder = self._folder(lane)
        files = await self._workers.run(lambda: segments(folder))
        writer = self._writers.get(lane)
        live = writer.durable_position if writer else None
        first = max([s for s, _ in files if s <= start], default=None)
        low = await self._workers.run(lambda: trim_point(folder))
        if start < low or (files and first is None):
            raise Trimmed(f"position {start} of lane {lane} lies below the trim point {low}")
        expected = None
        for position, path in files:
            if first is not None and position < first:
                continue
            if expected is not None and position != expected:
                yield Chunk(expected, b"", f"positions {expected} to {position} are missing")
            raw = await self._workers.run(lambda path=path: read_file(path))  # type: ignore[misc]
            is_last = path == files[-1][1]
            for frame in await self._workers.run(lambda r=raw, p=position: list(frames(r, p, lane))):  # type: ignore[misc]
                stop = end if live is None else min(live, end if end is not None else live)
                if stop is not None and frame.position >= stop:
                    return
                torn = frame.damage is not None and is_last and frame.position + frame.size == position + len(raw)
                if frame.kind is FrameKind.SEAL or torn:
                    return
                reaches = frame.position >= start or (frame.damage is not None and frame.position + frame.size > start)
                if frame.kind is not FrameKind.OPEN and reaches:
                    yield Chunk(frame.position, frame.body, frame.damage)
            expected = position + len(raw)

    async def trim(self, lane: Lane, below: int) -> None:
        """Delete whole segments below a position. The last segment, and with it the SEAL, stays."""
        folder = self._folder(lane)

        def cut() -> None:
            marker = folder / f"trim-{below:020d}"
            if trim_point(folder) < below:
                marker.touch()
                sync_folder(folder)
            low = trim_point(folder)
            files = segments(folder)
            for (_, path), (behind, _) in itertools.pairwise(files):
                if behind <= low:
                    path.unlink(missing_ok=True)
            for old in folder.glob("trim-*"):
                if int(old.name[5:]) < low:
                    old.unlink(missing_ok=True)
            sync_folder(folder)

        try:
            await self._workers.run(cut)
        except OSError as error:
            raise StoreUnavailable(f"cannot trim lane {lane}: {error.strerror}") from error


class _Tail:
    """The end of a lane, where frames are added. Blocking; under the lane's lock."""

    def __init__(self, folder: Path, lane: Lane, segment_bytes: int) -> None:
        self.end = 0
        self._folder = folder
        self._lane = lane
        self._segment_bytes = segment_bytes
        self._first = 0
        self._descriptor = -1

    def recover(self) -> tuple[int, int | None]:
        """Find the end, and the SEAL where there is one. A torn tail is cut; damage before it stays, to be reported."""
        files = segments(self._folder)
        if not files:
            return 0, None
        self._first, path = files[-1]
        raw = read_file(path)
        found = list(frames(raw, self._first, self._lane))
        self.end = self._first + len(raw)
        if found and found[-1].damage is not None:
            self._cut(path, found[-1])
        seal = next((f.position for f in found if f.kind is FrameKind.SEAL), None)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        return self.end, seal

    def begin(self) -> None:
        """Put the OPEN mark, unless it is there already from an attempt that failed afterwards."""
        end, seal = self.recover()
        mark = encode_frame(FrameKind.OPEN, self._lane, 0, [])
        if seal is not None:
            raise Sealed(f"lane {self._lane} is sealed at {seal}: this incarnation is over")
        if end > len(mark):
            raise Damaged(f"lane {self._lane} holds entries already: register again for lanes of one's own")
        if end == 0:
            self.write(mark)

    def _cut(self, path: Path, torn: Frame) -> None:
        log.warning(
            "lane_tail_cut", lane=str(self._lane), position=torn.position, bytes=torn.size, reason=torn.damage,
            meaning="the last group commit was never acknowledged, unless the disk damaged what it had synced",
        )  # fmt: skip
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, torn.position - self._first)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.end = torn.position

    def write(self, frame: bytes) -> None:
        """Add one frame durably."""
        if self._descriptor < 0 or self.end - self._first >= self._segment_bytes:
            self.close()
            path = self._folder / f"{self.end:020d}.log"
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            sync_folder(self._folder)
            self._first = self.end
        try:
            write_all(self._descriptor, frame)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # nothing of it is promised yet: take it back, and go on when there is room
                os.ftruncate(self._descriptor, self.end - self._first)
            raise
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # Also when the disk is full: the frame is in the file, and another one behind it would be out of place.
            raise OSError(errno.EIO, f"the sync failed: {error.strerror}") from error
        self.end += len(frame)

    def close(self) -> None:
        """Close the segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileWriter:
    """The LaneWriter port. Holds the lane's lock until close."""

    def __init__(
        self, lane: Lane, sink: Sink, clock: Clock, workers: Workers, limits: Limits, tail: _Tail, lock: int
    ) -> None:
        self.lane = lane
        self._sink = sink
        self._workers = workers
        self._limits = limits
        self._tail = tail
        self._lock = lock
        self._admitted = False
        self._durable = tail.end
        self._handed = tail.end
        self._appends = Appends(lane, clock, self._launch, limits.queue_bytes, limits.append_ms)
        self._puts: set[asyncio.Task[None]] = set()
        self._work: asyncio.Future[None] | None = None  # a worker has the files, also when nobody waits for it any more

    @property
    def next_position(self) -> int:
        """No entry appended from now on will lie below; all below were handed to the disk."""
        return self._handed

    @property
    def durable_position(self) -> int:
        """All below are durable and went to the sink."""
        return self._durable

    def admit(self) -> None:
        """The grant that names this lane has come: writing may begin."""
        self._admitted = True
        self._appends.schedule()

    async def append(self, entry: bytes) -> int:
        """Make one entry durable; its position. Raises StoreUnavailable, also for good after a failed sync."""
        return await self._appends.append(entry)

    async def close(self) -> None:
        """Wait for what is in flight, stop, and free the lock: now, or when a worker that the disk holds is back."""
        await self._appends.drain(self._puts, self._admitted)
        if self._work is not None and not self._work.done():
            log.warning("lane_writer_hangs", lane=str(self.lane), means="the lane stays locked until its disk answers")
            self._work.add_done_callback(lambda _: self._free())
            return
        self._free()

    def _free(self) -> None:
        if self._work is not None and not self._work.cancelled():
            self._work.exception()  # its outcome was told to be unknown
        self._tail.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _launch(self) -> None:
        if not self._admitted or self._puts:
            return
        batch = self._appends.take(self._limits.object_bytes)
        if batch.entries:
            task = asyncio.get_running_loop().create_task(self._write(batch))
            self._puts.add(task)
            task.add_done_callback(self._done)

    async def _write(self, batch: Batch) -> None:
        position = self._durable
        frame = encode_frame(FrameKind.DATA, self.lane, position, batch.entries)
        self._handed = position + len(frame)
        try:
            self._work = asyncio.ensure_future(self._workers.run(lambda: self._tail.write(frame)))
            await asyncio.shield(self._work)
        except OSError as error:
            broken = StoreUnavailable(f"lane {self.lane} cannot be written: {error.strerror}; the outcome is not known")
            if error.errno == errno.ENOSPC:
                self._handed = position
                self._appends.refuse(batch, broken)
            else:
                log.error("lane_writer_failed", lane=str(self.lane), reason=error.strerror)  # noqa: TRY400 - typed
                self._appends.fail(broken)
            return
        self._durable = self._handed
        self._sink(position, batch.entries)
        self._appends.durable(batch, position)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._puts.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("lane_writer_failed", lane=str(self.lane), exc_info=error)
            self._appends.fail(Damaged(f"the writer of lane {self.lane} failed: {error!r}"))
        self._appends.schedule()


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreUnavailable(
            f"{folder} is locked: the process that writes this lane still lives, or is stopped. It must end first"
        ) from error
    return descriptor
