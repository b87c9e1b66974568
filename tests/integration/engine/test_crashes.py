"""P1: a crash at every single step of opening, writing, flushing, merging and cleaning loses nothing acknowledged."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from groundwork.core.ids import Lane
from groundwork.sim.objects import Bucket
from tests.integration.engine.cluster import QUIET, Node, R, Row, simulate

STEPS_MAX = 400
BUSY = msgspec.structs.replace(QUIET, files_max=1, delete_grace_ms=0, manifests_kept=2)


class Crash:
    """Stops a node for good at its n-th step: a call to the store on its way there, or its reply on the way back."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.dead = asyncio.Event()

    async def __call__(self, operation: str, key: str, when: str) -> None:
        """The Gate of a SimObjectStore."""
        self.left -= 1
        if self.left <= 0:
            self.dead.set()
            await asyncio.Event().wait()


class Told:
    """What a client knows: rows acknowledged, and the values whose outcome it did not learn."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], float] = {}
        self.unknown: dict[tuple[str, int], set[float]] = {}

    async def put(self, node: Node, epoch: int, *rows: tuple[str, int, float]) -> None:
        """Write, and remember what was learned."""
        for host, ts, value in rows:
            self.unknown.setdefault((host, ts), set()).add(value)
        await node.put(epoch, list(rows))
        for host, ts, value in rows:
            self.rows[host, ts] = value
            self.unknown[host, ts] = set()

    def check(self, got: list[Row]) -> None:
        """Nothing acknowledged is missing, and nothing is there that nobody wrote."""
        found = {(host, ts): value for host, ts, value in got}
        assert len(found) == len(got), "a key and time twice"
        for key in self.rows.keys() | found.keys():
            allowed = self.unknown.get(key, set()) | {self.rows[key]} if key in self.rows else self.unknown[key]
            assert found.get(key) in allowed, (key, found, self.rows)


async def _live(a: Node, told: Told, clean: bool = True) -> None:
    """The life of an owner: it writes, flushes, merges files, cleans up."""
    await a.start()
    await a.open(10)
    for n in range(3):
        await told.put(a, 10, ("h1", n, float(n)), ("h0", 0, float(n)))
        await a.engine.flush([])
    await told.put(a, 10, ("h1", 1, 50.0))
    region = a.engine._regions[R]
    await a.engine._orders.flusher.compact(region)
    if clean:
        await a.engine._orders.flusher.clean(region)
    await told.put(a, 10, ("h1", 2, 60.0))
    await a.engine.flush([])
    await told.put(a, 10, ("h1", 1, 70.0))


async def _until_dead(work: Awaitable[None], crash: Crash) -> bool:
    """Whether it ended by itself."""
    task = asyncio.ensure_future(work)
    dead = asyncio.create_task(crash.dead.wait())
    await asyncio.wait([task, dead], return_when=asyncio.FIRST_COMPLETED)
    ended = task.done()
    task.cancel()
    dead.cancel()
    if ended:
        task.result()
    return ended


def _at_every_step(run: Callable[[Bucket, int], Awaitable[bool]]) -> int:
    for step in range(1, STEPS_MAX):
        if simulate(lambda bucket, step=step: run(bucket, step)):  # type: ignore[misc]
            return step - 1
    raise AssertionError("more steps than this test looks at")


def test_p1_a_crash_at_every_step_of_an_owner() -> None:
    """P1: wherever the owner dies, the next one has every acknowledged row and serves."""

    async def run(bucket: Bucket, step: int) -> bool:
        crash, told = Crash(step), Told()
        a = Node(bucket, "a", 1, BUSY, gate=crash)
        ended = await _until_dead(_live(a, told), crash)
        b = await Node(bucket, "b", 2, BUSY).start()
        await b.open(20, over=[a.lane])
        told.check(await b.rows(20))
        await told.put(b, 20, ("h1", 1, 99.0))
        await b.engine.flush([])
        told.check(await b.rows(20))
        await b.kill()
        return ended

    steps = _at_every_step(run)
    print(f"{steps} steps")
    assert steps > 60


def test_p1_a_crash_at_every_step_of_opening() -> None:
    """P1: wherever a new owner dies while it seals, claims, replays and flushes, a third one has everything."""

    async def run(bucket: Bucket, step: int) -> bool:
        told = Told()
        a = Node(bucket, "a", 1, BUSY)
        await _live(a, told)
        await a.kill()
        crash = Crash(step)
        b = Node(bucket, "b", 2, BUSY, gate=crash)

        async def open_and_flush() -> None:
            await b.start()
            await b.open(20, over=[a.lane])
            await told.put(b, 20, ("h1", 1, 99.0))
            await b.engine.flush([])

        ended = await _until_dead(open_and_flush(), crash)
        c = await Node(bucket, "c", 3, BUSY).start()
        await c.open(30, over=[a.lane, Lane("b", 2, 0)])
        told.check(await c.rows(30))
        await c.kill()
        return ended

    steps = _at_every_step(run)
    print(f"{steps} steps")
    assert steps > 20


def test_hole16_a_lost_reply_fences_nobody() -> None:
    """Hole 16: every reply of every put is lost once; claims, flushes and appends know their own by the nonce."""

    async def main(bucket: Bucket) -> None:
        told = Told()
        a = Node(bucket, "a", 1, BUSY)
        a.faults.lost_reply = 0.4
        await _live(a, told, clean=False)
        a.faults.heal()
        told.check(await a.rows(10))
        assert a.state() == "serving" and not any(r.HasField("failed") for r in a.reports)
        await a.kill()

    simulate(main)
