"""The ObjectStore port in memory, with faults on demand: latency, 503, one node cut off, lost replies, hangs.

One Bucket is the store; each node sees it through a SimObjectStore of its own, with Faults of its own. A call has
three moments: it leaves the node, it takes effect at the store, its reply reaches the node. Faults happen between them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from groundwork.adapters.objects.keys import check_key, check_prefix
from groundwork.core.errors import AlreadyExists, NotFound, StoreUnavailable

# Called before and after a call takes effect: (operation, key, "before" | "after"). Awaiting in it delays the node.
Gate = Callable[[str, str, str], Awaitable[None]]


class Bucket:
    """What the store holds."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.creates = 0
        self.gets = 0
        self.lists = 0
        self.on_put: Callable[[str, bytes], None] | None = None  # the moment a new object takes effect

    def put(self, key: str, body: bytes) -> bool:
        """Put-if-absent, now; whether it was absent."""
        if key in self.objects:
            return False
        self.objects[key] = bytes(body)
        if self.on_put is not None:
            self.on_put(key, self.objects[key])
        return True


@dataclass
class Faults:
    """What befalls one node's calls. Probabilities are of 1; changed at any time."""

    latency_ms: tuple[float, float] = (0.0, 0.0)  # each way, uniform
    unreachable: bool = False  # nothing leaves the node
    unavailable: float = 0.0  # refused by the store, without effect
    lost_reply: float = 0.0  # takes effect, and the caller does not learn it
    hang: bool = False  # calls wait until it is false again
    lose_replies: int = 0  # exactly so many of the next creates take effect and lose their reply
    late_puts: int = 0  # so many of the next creates report failure and take effect `late_ms` afterwards
    late_ms: float = 1_000.0
    healed: asyncio.Event = field(default_factory=asyncio.Event)

    def heal(self) -> None:
        """Make it a healthy node again; what hung goes on."""
        self.latency_ms = (0.0, 0.0)
        self.unreachable = self.hang = False
        self.unavailable = self.lost_reply = 0.0
        self.lose_replies = self.late_puts = 0
        self.healed.set()


class SimObjectStore:
    """One node's view of a bucket."""

    def __init__(self, bucket: Bucket, faults: Faults | None = None, seed: int = 0, gate: Gate | None = None) -> None:
        self.bucket = bucket
        self.faults = faults or Faults()
        self.gate = gate
        self._random = random.Random(seed)
        self._late: set[asyncio.Task[None]] = set()

    async def create(self, key: str, body: bytes) -> None:
        """Put-if-absent."""
        check_key(key)
        self.bucket.creates += 1
        await self._leave("create", key)
        if self.faults.late_puts:
            self.faults.late_puts -= 1
            task = asyncio.get_running_loop().create_task(self._put_late(key, bytes(body)))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            raise StoreUnavailable(f"create {key}: timed out; its outcome is not known")
        exists = not self.bucket.put(key, body)
        await self._reply("create", key)
        if self.faults.lose_replies:
            self.faults.lose_replies -= 1
            raise StoreUnavailable(f"create {key}: the reply was lost; its outcome is not known")
        if exists:
            raise AlreadyExists(f"{key} exists")

    async def get(self, key: str) -> bytes:
        """The whole body."""
        check_key(key)
        self.bucket.gets += 1
        await self._leave("get", key)
        body = self.bucket.objects.get(key)
        await self._reply("get", key)
        if body is None:
            raise NotFound(f"{key} does not exist")
        return body

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The bodies, None where there is none, asked for at once."""
        return await asyncio.gather(*(self._find(key) for key in keys))

    async def _find(self, key: str) -> bytes | None:
        try:
            return await self.get(key)
        except NotFound:
            return None

    async def list(self, prefix: str, start_after: str = "") -> list[str]:
        """The keys under a folder."""
        check_prefix(prefix)
        self.bucket.lists += 1
        await self._leave("list", prefix)
        found = sorted(k for k in self.bucket.objects if k.startswith(prefix) and k > start_after)
        await self._reply("list", prefix)
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what is there, one at a time, in any order."""
        for key in self._random.sample(list(keys), len(keys)):
            check_key(key)
            await self._leave("delete", key)
            self.bucket.objects.pop(key, None)
            await self._reply("delete", key)

    # ---------------------------------------------------------------- faults

    async def _leave(self, operation: str, key: str) -> None:
        if self.gate:
            await self.gate(operation, key, "before")
        while self.faults.hang:
            self.faults.healed.clear()
            await self.faults.healed.wait()
        await self._travel()
        if self.faults.unreachable:
            raise StoreUnavailable(f"{operation} {key}: the store is unreachable from here")
        if self.faults.unavailable and self._random.random() < self.faults.unavailable:
            raise StoreUnavailable(f"{operation} {key}: 503, slow down")

    async def _reply(self, operation: str, key: str) -> None:
        if self.gate:
            await self.gate(operation, key, "after")
        await self._travel()
        if self.faults.unreachable or (self.faults.lost_reply and self._random.random() < self.faults.lost_reply):
            raise StoreUnavailable(f"{operation} {key}: the reply was lost; its outcome is not known")

    async def _travel(self) -> None:
        low, high = self.faults.latency_ms
        await asyncio.sleep(self._random.uniform(low, high) / 1000 if high else 0)

    async def _put_late(self, key: str, body: bytes) -> None:
        await asyncio.sleep(self.faults.late_ms / 1000)
        self.bucket.put(key, body)
