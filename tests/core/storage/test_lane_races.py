"""A zombie writer against sealers and trimmers, stopped at every single call that it makes to the store."""

import asyncio
import random

import pytest

from groundwork.core.errors import Sealed
from groundwork.sim.clock import run_sim
from groundwork.sim.objects import Faults, Gate
from tests.core.storage.lane_world import LANE, World

ENTRIES = 12
STOPS = 44  # more than the writer has calls; a test below checks it


def _stop_at(n: int, then: "asyncio.Future[None]", go: asyncio.Event) -> tuple[Gate, list[int]]:
    """A gate that stops its process at its n-th moment until `go`; the counter says how many there were."""
    count = [0]

    async def gate(operation: str, key: str, moment: str) -> None:
        count[0] += 1
        if count[0] - 1 == n:
            if not then.done():
                then.set_result(None)
            await go.wait()

    return gate, count


async def _run_stopped(n: int, faults: Faults, sealers: int = 1, trims: bool = False) -> tuple[World, int]:
    """Stop the writer at its n-th moment, seal (and trim) meanwhile, then let it go on."""
    world = World()
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()
    go = asyncio.Event()
    gate, count = _stop_at(n, stopped, go)
    life = loop.create_task(world.write(world.process(faults, seed=n, gate=gate), ENTRIES))
    await asyncio.wait([life, stopped], return_when=asyncio.FIRST_COMPLETED)
    if trims and world.sunk:
        await world.trim(world.process(), max(world.sunk) + 1)
    await asyncio.gather(*(world.seal(world.process(seed=s)) for s in range(sealers)))
    if trims:
        await world.process().trim(LANE, world.ends[0])
        world.covered = max(world.covered, world.ends[0])
    go.set()
    await life
    await world.check()
    return world, count[0]


def test_the_stops_reach_the_end_of_the_writers_life() -> None:
    """A sweep over stops that ended too early would prove nothing."""
    _, calls = run_sim(_run_stopped(10_000, Faults()))
    assert 20 < calls < STOPS


@pytest.mark.parametrize("n", range(STOPS))
def test_a_writer_stopped_anywhere_is_fenced_by_the_seal(n: int) -> None:
    """P2: wherever a zombie was stopped, nothing at or above the end is acknowledged, and nothing below is missing."""
    run_sim(_run_stopped(n, Faults()))


@pytest.mark.parametrize("n", range(0, STOPS, 2))
def test_the_same_with_lost_replies(n: int) -> None:
    """Hole 16: a put that landed without its reply is taken for one's own by its nonce, and for no one else's."""
    run_sim(_run_stopped(n, Faults(lose_replies=5)))


@pytest.mark.parametrize("n", range(0, STOPS, 2))
def test_the_same_with_puts_that_land_after_their_time_out(n: int) -> None:
    """Hole 2: a put that landed late, after the same name was tried again, is the same body."""
    run_sim(_run_stopped(n, Faults(late_puts=4, late_ms=700)))


@pytest.mark.parametrize("n", range(STOPS))
def test_two_sealers_and_a_trim_of_all_that_was_sealed(n: int) -> None:
    """Hole 2: trimming frees names; the marks stay, so a zombie finds no name below or at the end to put into."""
    run_sim(_run_stopped(n, Faults(), sealers=2, trims=True))


@pytest.mark.parametrize("n", range(24))
def test_a_sealer_stopped_anywhere_never_seals_below_an_acknowledged_entry(n: int) -> None:
    """Holes 1 and 2, second pass 4: while a sealer sleeps the writer writes on, and what is covered is trimmed."""

    async def main() -> None:
        world = World()
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[None] = loop.create_future()
        go = asyncio.Event()
        gate, _ = _stop_at(n, stopped, go)
        writer = await world.process().open_writer(LANE, world._sink)
        writer.admit()
        for k in range(4):
            await world._append(writer, f"a{k}".encode())
        sealer = loop.create_task(world.seal(world.process(gate=gate)))
        await asyncio.wait([sealer, stopped], return_when=asyncio.FIRST_COMPLETED)
        for k in range(4):
            await world._append(writer, f"b{k}".encode())
            if k == 1 and not sealer.done():
                await world.trim(world.process(), max(world.sunk))
        go.set()
        await sealer
        for k in range(4):
            await world._append(writer, f"c{k}".encode())
        with pytest.raises(Sealed):
            await writer.append(b"out")
        await writer.close()
        await world.check()

    run_sim(main())


@pytest.mark.parametrize("seed", range(80))
def test_random_interleavings_of_all_faults(seed: int) -> None:
    """P1, P2: a writer, three sealers and a trimmer under latency, 503 and lost replies, in many orders."""

    async def main() -> None:
        dice = random.Random(seed)
        world = World()

        def faults() -> Faults:
            return Faults(
                latency_ms=(0.5, dice.choice([1, 5, 60])),
                unavailable=dice.choice([0, 0, 0.1, 0.3]),
                lost_reply=dice.choice([0, 0, 0.1, 0.3]),
                late_puts=dice.choice([0, 0, 2]),
                late_ms=dice.choice([30, 2_000]),
            )

        async def trimmer() -> None:
            log = world.process(faults(), seed=dice.randrange(1 << 30))
            for _ in range(4):
                await asyncio.sleep(dice.uniform(0.001, 0.1))
                durable = world.writer.durable_position if world.writer and not world.over else 1
                if durable > 1:
                    await world.trim(log, dice.randint(1, durable))

        async def sealer(delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            await world.seal(world.process(faults(), seed=dice.randrange(1 << 30)))

        delay_s = dice.uniform(0, 0.4)
        life = world.write(world.process(faults(), seed=seed), 60)
        await asyncio.gather(life, trimmer(), *(sealer(delay_s + dice.uniform(0, 0.05)) for _ in range(3)))
        await asyncio.sleep(10)  # puts that are still on their way
        await world.check()

    run_sim(main())
