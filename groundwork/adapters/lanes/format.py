"""The objects of a lane: a header that says which place in which lane it is, and the entries of one group commit.

offset  bytes  field
0       4      magic "MLO" and the format version
4       1      kind
5       3      not used, 0
8       4      lane index
12      4      body length in bytes
16      8      lane incarnation
24      8      seq
32      16     nonce of the attempt that made it
48      4      CRC-32 of the 48 bytes above and the body
52      4      not used, 0
56             body: entries back to back
"""

import enum
import struct
import zlib
from typing import NamedTuple

from groundwork.core.errors import NewerFormat
from groundwork.core.ids import Lane

FORMAT_VERSION = 1
NONCE_BYTES = 16
_MAGIC = int.from_bytes(b"MLO", "little")
_MARK = _MAGIC | FORMAT_VERSION << 24
_HEAD = struct.Struct("<IB3xIIQQ16s")
HEADER_BYTES = 56


class ObjectKind(enum.IntEnum):
    """What an object of a lane is."""

    OPEN = 1
    DATA = 2
    SEAL = 3


class LaneObject(NamedTuple):
    """A decoded object. With `damage` set, nothing else of it is to be believed."""

    kind: ObjectKind | None
    body: bytes | memoryview
    damage: str | None = None


def encode_object(kind: ObjectKind, lane: Lane, seq: int, nonce: bytes, parts: list[bytes]) -> bytes:
    """The bytes of an object."""
    length = sum(map(len, parts))
    head = _HEAD.pack(_MARK, kind, lane.index, length, lane.incarnation, seq, nonce)
    crc = zlib.crc32(head)
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join((head, crc.to_bytes(4, "little"), b"\0\0\0\0", *parts))


def decode_object(raw: bytes, lane: Lane, seq: int) -> LaneObject:
    """Check everything that can be checked of the object found at this place. Damage is returned, not raised.

    Raises NewerFormat: such an object is whole, and to take it for damage would lose it.
    """
    if len(raw) < HEADER_BYTES:
        return LaneObject(None, raw, f"{len(raw)} bytes are too few for a header")
    mark, kind, index, length, incarnation, found, _ = _HEAD.unpack_from(raw)
    if mark & 0xFFFFFF == _MAGIC and mark >> 24 > FORMAT_VERSION:
        raise NewerFormat(
            f"object {seq} of lane {lane} has format {mark >> 24}, and this release knows {FORMAT_VERSION}:"
            " run the newer release"
        )
    view = memoryview(raw)
    if mark != _MARK:
        return LaneObject(None, view, "no object of a lane")
    if length != len(raw) - HEADER_BYTES:
        return LaneObject(None, view, f"{len(raw) - HEADER_BYTES} bytes of body, the header says {length}")
    body = view[HEADER_BYTES:]
    if zlib.crc32(body, zlib.crc32(view[:48])) != int.from_bytes(view[48:52], "little"):
        return LaneObject(None, body, "fails its checksum")
    if (incarnation, index, found) != (lane.incarnation, lane.index, seq):
        return LaneObject(None, body, f"belongs to {incarnation:016x}/{index} at {found}: it was moved or copied")
    return LaneObject(ObjectKind(kind), body)
