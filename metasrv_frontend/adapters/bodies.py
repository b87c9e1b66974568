"""Reading request bodies: bounded one by one and all together, gzip unpacked within the same bound."""

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from groundwork.core.errors import MetasrvError

MEMBERS_MAX = 10_000  # of one gzip body: those who pack in parallel make one for 64 KiB or more
PART_BYTES = 64 << 10  # unpacked at a time: what follows a member is copied at its end


class TooLarge(MetasrvError):
    """One body is over its limit."""


class TooSlow(MetasrvError):
    """A body that did not come within its request's deadline: what it holds is others' to use."""


class Overloaded(MetasrvError):
    """The bodies being handled are together over their limit: try again a little later."""


class UnknownEncoding(MetasrvError):
    """A content encoding that is not gzip."""


class InFlight:
    """Counts the bytes of all bodies that are being handled."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.held = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """A share that is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.held

    def take(self, size: int, own: int) -> None:
        """Count in, for a request that holds `own` already: one alone is never turned away. Raises Overloaded."""
        if self.held > own and self.held + size > self._bytes_max:
            raise Overloaded(f"{self.held} bytes are being written, of at most {self._bytes_max}; send it again")
        self.held += size


class Share:
    """What one request holds of it."""

    def __init__(self, whole: InFlight) -> None:
        self._whole = whole
        self.held = 0

    def take(self, size: int) -> None:
        """Count in. Raises Overloaded."""
        self._whole.take(size, self.held)
        self.held += size


async def read_body(request: Request, bytes_max: int, share: Share, within_ms: float) -> bytes:
    """The body, unpacked. Raises TooLarge, TooSlow, Overloaded, UnknownEncoding."""
    try:
        async with asyncio.timeout(max(0.0, within_ms) / 1000):
            return await _read(request, bytes_max, share)
    except TimeoutError as error:
        raise TooSlow(f"the body was not here within {within_ms:.0f} ms, the deadline of its request") from error


async def _read(request: Request, bytes_max: int, share: Share) -> bytes:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", ""):
        raise UnknownEncoding(f"content-encoding {encoding!r} is not gzip")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise TooLarge(f"the body has {announced} bytes, of at most {bytes_max}")
    pieces = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > bytes_max:
            raise TooLarge(f"the body has more than {bytes_max} bytes")
        share.take(len(piece))
        pieces.append(piece)
    body = b"".join(pieces)
    if encoding == "gzip":
        body = unzip(body, bytes_max)
        share.take(max(0, len(body) - size))
    return body


def unzip(body: bytes, bytes_max: int) -> bytes:
    """Unpack gzip, of several members too. Raises TooLarge; UnknownEncoding for what is not gzip."""
    found = []
    size = at = members = 0
    whole = memoryview(body)
    while at < len(whole):
        members += 1
        if members > MEMBERS_MAX:
            raise TooLarge(f"the body has more than {MEMBERS_MAX} gzip members")
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            packed = whole[at : at + PART_BYTES]
            if not packed:
                raise UnknownEncoding("the gzip body is cut short")
            try:
                part = member.decompress(packed, bytes_max - size + 1)
            except zlib.error as error:
                raise UnknownEncoding(f"the body is not gzip: {error}") from error
            size += len(part)
            if size > bytes_max:
                raise TooLarge(f"the unpacked body has more than {bytes_max} bytes")
            at += len(packed)
            found.append(part)
        at -= len(member.unused_data)
    return b"".join(found)
