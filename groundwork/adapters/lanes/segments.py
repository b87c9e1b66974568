"""Files of a lane on a local disk: segments of frames, each frame one group commit. Everything here blocks.

    {lane}/lock                   held by the lane's one writer while its process lives
    {lane}/{position:020d}.log    a segment; its name is the position of its first frame
    {lane}/trim-{below:020d}      trim markers: the highest counts

A frame's position is its byte offset in the lane; it names its own position, so after damage the next whole frame can
be found. Frame: mark, kind, body length, body CRC, position, incarnation, CRC of these; then the body.
"""

import enum
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from groundwork.core.errors import NewerFormat
from groundwork.core.ids import Lane

FORMAT_VERSION = 1
_MAGIC = int.from_bytes(b"MFR", "little")
_MARK = _MAGIC | FORMAT_VERSION << 24
_MARK_BYTES = _MARK.to_bytes(4, "little")
_HEAD = struct.Struct("<IB3xIIQQ")
HEADER_BYTES = 40


class FrameKind(enum.IntEnum):
    """What a frame is."""

    OPEN = 1
    DATA = 2
    SEAL = 3


class Frame(NamedTuple):
    """A frame as found. With `damage` set `size` reaches to the next whole frame."""

    position: int
    size: int
    kind: FrameKind | None
    body: memoryview
    damage: str | None = None


def encode_frame(kind: FrameKind, lane: Lane, position: int, parts: list[bytes]) -> bytes:
    """The bytes of a frame."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    head = _HEAD.pack(_MARK, kind, sum(map(len, parts)), crc, position, lane.incarnation)
    return b"".join((head, zlib.crc32(head).to_bytes(4, "little"), b"\0\0\0\0", *parts))


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The segments of a lane by their first position."""
    return sorted((int(p.stem), p) for p in folder.glob("*.log"))


def trim_point(folder: Path) -> int:
    """The highest trim marker, 0 where there is none."""
    return max((int(p.name[5:]) for p in folder.glob("trim-*")), default=0)


def frames(raw: memoryview, first: int, lane: Lane) -> Iterator[Frame]:
    """The frames of one segment, which begins at position `first`. Bytes that are no whole frame come as damage.

    What is damaged at the very end, with no whole frame behind it, is a torn tail: the last frame that was never
    acknowledged (one at a time is in flight). Its `kind` is None and it reaches to the end.
    """
    at = 0
    while at < len(raw):
        size, why = _check(raw, at, first + at, lane)
        if why is None:
            kind = FrameKind(raw[at + 4])
            yield Frame(first + at, size, kind, raw[at + HEADER_BYTES : at + size])
        else:
            behind = _next_whole(raw, at + 1, first, lane)
            size = (len(raw) if behind is None else behind) - at
            yield Frame(first + at, size, None, raw[at : at + size], why)
        at += size


def _check(raw: memoryview, at: int, position: int, lane: Lane) -> tuple[int, str | None]:
    """The size of the frame at an offset, or why there is none."""
    if at + HEADER_BYTES > len(raw):
        return 0, "too few bytes for a frame's header"
    mark, kind, length, crc, found, incarnation = _HEAD.unpack_from(raw, at)
    if zlib.crc32(raw[at : at + 32]) != int.from_bytes(raw[at + 32 : at + 36], "little"):
        return 0, "no frame begins here"
    if mark & 0xFFFFFF == _MAGIC and mark >> 24 > FORMAT_VERSION:
        raise NewerFormat(f"lane {lane} has format {mark >> 24} at {position}: run the newer release")
    if mark != _MARK or (found, incarnation) != (position, lane.incarnation) or kind not in list(FrameKind):
        return 0, "a frame of another place"
    body = raw[at + HEADER_BYTES : at + HEADER_BYTES + length]
    if len(body) < length:
        return 0, f"{len(body)} bytes of body, the header says {length}"
    if zlib.crc32(body) != crc:
        return 0, "a frame fails its checksum"
    return HEADER_BYTES + length, None


def _next_whole(raw: memoryview, start: int, first: int, lane: Lane) -> int | None:
    whole = bytes(raw[start:])
    at = whole.find(_MARK_BYTES)
    while at >= 0:
        if _check(raw, start + at, first + start + at, lane)[1] is None:
            return start + at
        at = whole.find(_MARK_BYTES, at + 1)
    return None


def read_file(path: Path) -> memoryview:
    """A whole segment."""
    return memoryview(path.read_bytes())


def write_all(descriptor: int, body: bytes) -> None:
    """os.write until all is written."""
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, root: Path) -> None:
    """Create a folder below root; every name on the way is durable."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder, *folder.parents):
        if part == root.parent:
            break
        sync_folder(part.parent if part != root else part)
