"""The entry: what a write is in a lane. A fixed header and a schema-less Arrow record batch, padded to 8 bytes.

One append of a lane (a chunk) holds the entries of many regions back to back. The log store verifies a chunk as a
whole, so reading the entries of a verified chunk parses headers only and never touches a payload; the checksum in
each header is for a chunk that fails: it tells the whole entries from the damaged one.

    offset  bytes  field
    0       4      magic "MEN" and the format version
    4       1      kind
    5       1      not used, 0
    6       2      lane index
    8       4      schema version
    12      4      rows
    16      8      lane incarnation
    24      8      region id
    32      8      epoch
    40      8      sequence of the first row
    48      4      payload length in bytes, without padding
    52      4      CRC-32 of the 52 bytes above and the payload
    56             payload, zeros up to a multiple of 8
"""

import enum
import struct
import zlib
from collections.abc import Container, Iterator
from typing import NamedTuple

from groundwork.core.check import require
from groundwork.core.ids import Lane

FORMAT_VERSION = 1
ENTRY_BYTES_MAX = 16 << 20
_MAGIC = int.from_bytes(b"MEN", "little")
_MARK = _MAGIC | FORMAT_VERSION << 24
_HEADER = struct.Struct("<IBBHIIQQQQII")
_CHECKED = struct.Struct("<IBBHIIQQQQI")
HEADER_BYTES = _HEADER.size
require(HEADER_BYTES == 56, "the header of an entry is 56 bytes, for ever")

Bytes = bytes | memoryview


class Kind(enum.IntEnum):
    """What an entry is for."""

    DATA = 1
    BARRIER = 2  # a strong read waits for its own to come back
    CANARY = 3  # a heartbeat's proof that the lane takes appends


class Entry(NamedTuple):
    """One region's rows in one append. Row i has the order (epoch, sequence + i): the last write wins by it.

    `payload` is a view into the chunk when read: keep it no longer than the chunk may live in memory.
    """

    kind: int
    region: int
    epoch: int
    sequence: int
    rows: int
    schema_version: int
    payload: Bytes
    incarnation: int = 0  # of the lane; filled in when read
    lane_index: int = 0


class BadEntry(NamedTuple):
    """Bytes in a chunk that are not a whole entry. `region` is a guess, and None where the header says nothing.

    When `framed` is false the entries behind it cannot be found, and the iteration ends here.
    """

    offset: int
    reason: str
    framed: bool
    region: int | None


def encode(entry: Entry, lane: Lane) -> bytes:
    """The bytes of an entry for this lane."""
    payload = entry.payload
    length = len(payload)
    require(length <= ENTRY_BYTES_MAX, f"an entry of {length} bytes; at most {ENTRY_BYTES_MAX}: split the write")
    head = _CHECKED.pack(
        _MARK, entry.kind, 0, lane.index, entry.schema_version, entry.rows,
        lane.incarnation, entry.region, entry.epoch, entry.sequence, length,
    )  # fmt: skip
    crc = zlib.crc32(payload, zlib.crc32(head))
    return b"".join((head, crc.to_bytes(4, "little"), payload, bytes(-length % 8)))


def iter_entries(
    body: Bytes, wanted: Container[int] | None = None, *, verify: bool = False
) -> Iterator[Entry | BadEntry]:
    """The entries of a chunk in order, those of the `wanted` regions only; their payloads are views, not copies.

    `verify` checks each wanted entry's own checksum: for chunks that carry damage. Damage is yielded, never raised.
    """
    view = memoryview(body)
    total, at = len(view), 0
    unpack, header_bytes, mark = _HEADER.unpack_from, HEADER_BYTES, _MARK
    while at < total:
        if at + header_bytes > total:
            yield BadEntry(at, f"{total - at} bytes are too few for an entry's header", False, None)
            return
        found, kind, _, index, schema_version, rows, incarnation, region, epoch, sequence, length, crc = unpack(
            view, at
        )
        start = at + header_bytes
        if found != mark or length > total - start:
            yield BadEntry(at, _why(found, length, total - start), False, None)
            return
        if wanted is None or region in wanted:
            payload = view[start : start + length]
            if verify and zlib.crc32(payload, zlib.crc32(view[at : start - 4])) != crc:
                yield BadEntry(at, "an entry fails its checksum", True, region)
            else:
                yield Entry(kind, region, epoch, sequence, rows, schema_version, payload, incarnation, index)
        at = start + length + (-length & 7)


def _why(found: int, length: int, left: int) -> str:
    version = found >> 24
    if found & 0xFFFFFF == _MAGIC and version > FORMAT_VERSION:
        return f"an entry of format {version}, and this release knows {FORMAT_VERSION}: run the newer release"
    if found != _MARK:
        return "no entry begins here"
    return f"an entry of {length} bytes where only {left} are left"
